"""Check an output folder against its plan, manifest and input.

The status comes from a listing, the proof from every byte.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import CorruptOutput, PipelineError, UsageError, listed
from pipeline.inputs.files import check_same_content
from pipeline.inputs.read import read_rows
from pipeline.inputs.texts import read_texts
from pipeline.output.commit import (
    PLAN_SHA256,
    SIGNATURE,
    ShardMetadata,
    counts_of,
    make_manifest,
    parse_column_digests,
    parse_json_object,
    parse_manifest,
    parse_run_config,
    parse_shard_metadata,
    read_columns,
    success_marker,
)
from pipeline.output.digests import FileDigest, column_digest, digest_of, rows_sha256
from pipeline.output.store import Store
from pipeline.planning.document_ids import document_ids
from pipeline.planning.duplicates import find_duplicates, hash_ids
from pipeline.planning.plan import MANIFEST, PLAN, SUCCESS, Plan, Shard, remaining
from pipeline.schema import DOC_ID, FLAGS, STATUSES, TRUNCATED, first_rows
from pipeline.versions import stored_names, with_current_names

# File names shown of one kind of problem.
_SHOWN = 5

_FILES_AT_ONCE = 16  # reading a file is mostly waiting for the store

# Files up to this size, in bytes, are read at once.
_IN_MEMORY = 16 << 20

# Rows of a column in memory at a time. They may be whole documents.
_ROWS_AT_ONCE = 64

_COUNTED = (
    DOC_ID.name,
    "status",
    "stage",
    "reason",
    "input_tokens",
    *TRUNCATED,
    "reused_from",
    "output_tokens",
    FLAGS.name,
)


@dataclass(frozen=True)
class Status:
    """The progress of a run, from a listing: documents and shards in total and committed, and whether it is
    finished."""

    documents: int
    documents_committed: int
    shards: int
    shards_committed: int
    finished: bool

    def __str__(self) -> str:
        state = "finished" if self.finished else "unfinished: rerun the same command to resume"
        return (
            f"{self.documents_committed}/{self.documents} documents, {self.shards_committed}/{self.shards} "
            f"shards committed; {state}"
        )


@dataclass
class Verification:
    """What the bytes hold: documents, rows by status, duplicate IDs (their number and some of them), the
    problems, and the warnings.

    `bound_to` says what the content was compared with. Output of earlier versions has counts alone.
    """

    documents: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    duplicate_ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    bound_to: Literal["files", "rows", "counts"] = "files"

    def __str__(self) -> str:
        text = f"{self.rows.total()} rows = " + " + ".join(f"{self.rows[name]} {name}" for name in STATUSES)
        return f"{text}; {self.describe_duplicates()}" if self.duplicates else text

    def describe_duplicates(self) -> str:
        """The duplicate IDs, in words."""
        examples = ", ".join(self.duplicate_ids[:3])
        return f"{self.duplicates} document IDs occur more than once, such as {examples}"


class _VerifiedShard(NamedTuple):
    """A committed file without problems: its metadata, its digest, and a hash of each document ID."""

    metadata: ShardMetadata
    digest: FileDigest
    hashes: np.ndarray


def read_plan(store: Store) -> Plan:
    """The plan of the run in this folder.

    Raises:
        UsageError: the folder holds no run.
    """
    if not store.exists(PLAN):
        raise UsageError(
            f"{store.url} holds no run (no {PLAN}); name the folder that was given as --output. A run writes "
            "its plan with its first shard."
        )
    return Plan.from_json(store.read(PLAN))


def status(store: Store) -> Status:
    """The progress of the run in this folder. Reads the plan and a listing, nothing else.

    Raises:
        UsageError: the folder holds no run.
    """
    plan, names = read_plan(store), store.names()
    todo = remaining(plan, names)
    missing = sum(shard.documents for shard in todo)
    return Status(
        plan.documents,
        plan.documents - missing,
        len(plan.shards),
        len(plan.shards) - len(todo),
        SUCCESS in names,
    )


def verify(store: Store, *, key: bytes | None = None, against_input: bool = False) -> Verification:
    """Check every committed byte against the footers, the plan, the manifest and the success marker.

    Several files are read in parallel. Eight bytes of every document ID are kept. Duplicate IDs are a problem
    unless the run had --on-duplicate-id keep. With a `key`, the manifest must be signed with it. With
    `against_input`, the input is read again, and its document IDs and texts must be those of the rows.

    Raises:
        UsageError: the folder holds no run.
        PipelineError: the folder or the input cannot be read now.
    """
    plan, names = read_plan(store), store.names()
    result = Verification()
    _check_names(store, plan, names, result)
    committed = [shard for shard in plan.shards if shard.part in names]
    manifest = _read_manifest(store, result) if MANIFEST in names else {}
    digests = _digests_in(manifest, result)
    checks = _Checks(store, plan, hashlib.sha256(store.read(PLAN)).hexdigest(), digests)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        checked = list(pool.map(checks.shard, committed))
        if against_input:
            units: dict[str, list[Shard]] = {}
            for shard in committed:
                units.setdefault(shard.path, []).append(shard)
            for problems in pool.map(checks.against_input, units.values()):
                result.problems += problems
    result.problems += [problem for problem in checked if isinstance(problem, str)]
    pairs = zip(committed, checked, strict=True)
    verified = {shard.part: shard_ for shard, shard_ in pairs if isinstance(shard_, _VerifiedShard)}
    shards_metadata = {shard.metadata.shard_id: shard.metadata for shard in verified.values()}
    for metadata in shards_metadata.values():
        result.documents += metadata.documents
        result.rows.update({name: getattr(metadata, name) for name in STATUSES})
    if digests is None:
        bound = shards_metadata and all(each.rows_sha256 for each in shards_metadata.values())
        result.bound_to = "rows" if bound else "counts"
    hashes = [shard.hashes for shard in verified.values()]
    result.duplicates, result.duplicate_ids = find_duplicates(
        hashes, [partial(_read_ids, store, part, plan.task.number) for part in verified]
    )
    if result.duplicates and not plan.config.get("duplicates_kept"):
        result.problems.append(result.describe_duplicates())
    complete = len(shards_metadata) == len(plan.shards)
    if MANIFEST in names and complete and manifest != make_manifest(plan, shards_metadata, digests):
        result.problems.append(f"{MANIFEST} does not match the files")
    if SUCCESS in names:
        written = store.read(MANIFEST) if MANIFEST in names else b""
        _check_marker(_read_marker(store, result), plan, written, key, result)
        if result.documents != plan.documents:
            result.problems.append(
                f"there are rows of {result.documents} documents; the plan has {plan.documents}"
            )
    return result


def _check_names(store: Store, plan: Plan, names: set[str], result: Verification) -> None:
    """Check the names in the folder: every planned file of a finished run, and none that a reader of the
    results would take for one."""
    planned = {shard.part for shard in plan.shards}
    todo = remaining(plan, names)
    if todo and SUCCESS in names:
        _add_problems(
            result, [shard.part for shard in todo], "is missing, though the run is marked as finished"
        )
    others = sorted(name for name in names - planned if not name.startswith("_"))
    rows = [name for name in others if name.lower().endswith((".parquet", ".parq", ".pq"))]
    _add_problems(result, rows, "is not in the plan, but readers of the folder would read its rows")
    result.warnings += [f"{name} is not a file of this run" for name in others if name not in rows][:_SHOWN]
    for name, kind in sorted(store.unusual_entries().items())[:_SHOWN]:
        result.warnings.append(f"{name} is a {kind}; a run writes only plain files")


def _digests_in(manifest: Mapping[str, Any], result: Verification) -> dict[str, FileDigest] | None:
    """The digests of files in a manifest. None if there is none, or it is of a version without digests."""
    if "files" not in manifest:
        return None
    try:
        return {name: FileDigest(**digest) for name, digest in manifest["files"].items()}
    except (AttributeError, TypeError) as error:
        result.problems.append(f"the digests in {MANIFEST} are malformed ({error})")
        return None


def _check_marker(
    marker: Mapping[str, Any], plan: Plan, manifest: bytes, key: bytes | None, result: Verification
) -> None:
    if key is None:
        marker = {name: value for name, value in marker.items() if name != SIGNATURE}
    elif SIGNATURE not in marker:
        result.problems.append(f"{SUCCESS} has no signature; the run that finished it had no --sign-key")
        key = None
    elif success_marker(plan, manifest, key)[SIGNATURE] != marker[SIGNATURE]:
        result.problems.append(f"the signature in {SUCCESS} is not that of the manifest with this key")
        return
    if marker != success_marker(plan, manifest, key):
        result.problems.append(f"{SUCCESS} does not match {MANIFEST}")


def _read_manifest(store: Store, result: Verification) -> dict[str, Any]:
    try:
        return parse_manifest(store.read(MANIFEST), MANIFEST)
    except CorruptOutput as error:
        result.problems.append(str(error))
        return {}


def _read_marker(store: Store, result: Verification) -> dict[str, Any]:
    try:
        return parse_json_object(store.read(SUCCESS), SUCCESS)
    except CorruptOutput as error:
        result.problems.append(str(error))
        return {}


class _Checks(NamedTuple):
    """The checks of single files: the folder and its plan with the SHA-256 of the plan, and the digests of
    all files if the manifest has them."""

    store: Store
    plan: Plan
    plan_sha256: str
    digests: Mapping[str, FileDigest] | None

    def shard(self, shard: Shard) -> _VerifiedShard | str:
        """The verified shard, or what is wrong with it."""
        path = f"{self.store.url}/{shard.part}"
        try:
            verified = _verify_shard(self.store, shard, self.plan, self.plan_sha256)
            if self.digests is not None and self.digests.get(shard.part) != verified.digest:
                raise CorruptOutput(f"{path} is not the file that was committed: its SHA-256 differs")
            return verified
        except CorruptOutput as error:
            return str(error)

    def against_input(self, shards: Sequence[Shard]) -> list[str]:
        """How the shards of one input file differ from it. They are compared in its order, so that it is read
        once."""
        check_same_content(shards[0].path, shards[0].content)
        problems = []
        for shard in sorted(shards, key=lambda shard: shard.start):
            try:
                _compare_with_input(self.store, shard, self.plan)
            except CorruptOutput as error:
                problems.append(str(error))
        return problems


def _verify_shard(store: Store, shard: Shard, plan: Plan, plan_sha256: str) -> _VerifiedShard:
    """Read a committed file to its last byte.

    Raises:
        CorruptOutput: its rows do not match the plan or its footer.
        PipelineError: it cannot be read now.
    """
    path = f"{store.url}/{shard.part}"
    try:
        with store.open(shard.part) as opened:
            # A small file is fetched by one request. Each column and the digest are read from it.
            size = opened.seek(0, io.SEEK_END)
            opened.seek(0)
            file = io.BytesIO(opened.read()) if size <= _IN_MEMORY else opened
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            footer = parquet.schema_arrow.metadata or {}
            # One column after the other, since a copied one may hold whole documents.
            digests = {
                field.name: column_digest(
                    field.type,
                    (batch.column(0) for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=[field.name])),
                )
                for field in parquet.schema_arrow
            }
            number = plan.task.number
            counted = stored_names([*_COUNTED, *([number] if number else [])], parquet.schema_arrow)
            table = with_current_names(parquet.read(columns=counted))
            file.seek(0)
            digest = digest_of(file)
        expected = parse_column_digests(footer)
        metadata, config, counts = (
            parse_shard_metadata(footer),
            parse_run_config(footer),
            counts_of(table, number),
        )
        ids = table["doc_id"].cast(DOC_ID.type)
    except OSError as error:
        if error.errno is None:  # pyarrow raises it for malformed bytes
            raise CorruptOutput(f"{path} cannot be read ({error!r})") from error
        raise PipelineError(f"{path} cannot be read now ({error}); run verify again.") from error
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise CorruptOutput(f"{path} cannot be read ({error!r})") from error
    if config.get("plan") != plan.fingerprint or metadata.shard_id != shard.shard_id:
        raise CorruptOutput(f"{path} was written for another plan or shard")
    if config.get(PLAN_SHA256, plan_sha256) != plan_sha256:
        raise CorruptOutput(f"{path} was written for a {PLAN} with another content")
    changed = [name for name, value in plan.config.items() if config.get(name) != value]
    if PLAN_SHA256 in config and changed:
        raise CorruptOutput(f"{path} was written with another configuration: {', '.join(changed)}")
    if counts["documents"] != shard.documents:
        raise CorruptOutput(
            f"{path} has rows of {counts['documents']} documents; the plan has {shard.documents}"
        )
    if sum(counts[name] for name in STATUSES) != len(table):
        raise CorruptOutput(f"{path} has rows whose status is none of {', '.join(STATUSES)}")
    if ids.null_count:
        raise CorruptOutput(f"{path} has rows without a doc_id")
    wrong = [
        f"{name} {n}, not {getattr(metadata, name)}"
        for name, n in counts.items()
        if n != getattr(metadata, name)
    ]
    if wrong:
        raise CorruptOutput(f"{path} does not match its footer: {', '.join(wrong)}")
    if metadata.rows_sha256 and (
        expected != digests or list(expected) != list(digests) or rows_sha256(digests) != metadata.rows_sha256
    ):
        raise CorruptOutput(
            f"{path} does not have the rows that were committed: {_difference(expected, digests)}"
        )
    table = table.set_column(table.column_names.index(DOC_ID.name), DOC_ID, ids)
    settings = plan.config.get("settings", {})
    if settings.get("id_column", "") is None and settings.get("group_by") is None:
        expected_ids = document_ids(None, shard.source, shard.start, shard.stop)
        if first_rows(table, number)[DOC_ID.name].to_pylist() != expected_ids:
            raise CorruptOutput(
                f"{path} has other doc_ids than {expected_ids[0]} to {expected_ids[-1]}, which its rows must "
                "have"
            )
    return _VerifiedShard(metadata, digest, hash_ids(_ids_in(first_rows(table, number))))


def _difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    """How the columns of a file differ from those that were committed, in words."""
    parts = [
        (f"column {listed(names, 5)} {what}")
        for names, what in (
            ([name for name in expected if name in found and found[name] != expected[name]], "differs"),
            ([name for name in expected if name not in found], "is missing"),
            ([name for name in found if name not in expected], "was added"),
        )
        if names
    ]
    return "; ".join(parts) or "the columns are in another order, or the digests were changed"


def _compare_with_input(store: Store, shard: Shard, plan: Plan) -> None:
    """Compare the document IDs and texts of a shard with the input.

    Raises:
        CorruptOutput: they differ.
        PipelineError: the input cannot be read, or has changed.
    """
    path = f"{store.url}/{shard.part}"
    rows = _read_first_rows(store, shard.part, plan.task.number, "text_hash")
    if "skipped" in rows["status"].to_pylist():  # the shard could not be read
        return
    settings = plan.config["settings"]
    text, most, lists = settings["text_column"], settings["max_document_bytes"], _joins_documents(settings)
    columns = [text, *([plan.id_column] if plan.id_column else [])]
    read = read_rows(shard.path, shard.split, text, columns, most, lists=lists)
    column = read.table[plan.id_column] if plan.id_column else None
    ids = document_ids(column, shard.source, shard.start, shard.stop)
    found = rows[DOC_ID.name].to_pylist()
    wrong = [f"{a!r} for {b!r}" for a, b in zip(found, ids, strict=True) if a != b]
    if wrong:
        raise CorruptOutput(f"{path} has other document IDs than the input: {listed(wrong, 3)}")
    if not plan.task.hashes_text_alone:
        return
    hashes = [each.text_hash for each in read_texts(read.table[text], most, lists=lists)]
    wrong = [
        doc_id for doc_id, a, b in zip(ids, rows["text_hash"].to_pylist(), hashes, strict=True) if a != b
    ]
    if wrong:
        raise CorruptOutput(f"{path} has rows of other texts than the input: {listed(wrong, 3)}")


def _joins_documents(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("multi_document") or settings.get("group_by"))


def _ids_in(rows: pa.Table) -> list[str]:
    """The document IDs. A skipped row has no ID of its own, only its position."""
    return rows.filter(pc.not_equal(rows["status"], "skipped"))[DOC_ID.name].cast(DOC_ID.type).to_pylist()


def _read_first_rows(store: Store, part: str, number: str | None, *columns: str) -> pa.Table:
    """The ID, the status and these columns of the first row of each document."""
    numbers = [number] if number else []
    return first_rows(read_columns(store, part, [DOC_ID.name, "status", *columns, *numbers]), number)


def _read_ids(store: Store, part: str, number: str | None) -> list[list[str]]:
    return [_ids_in(_read_first_rows(store, part, number))]


def _add_problems(result: Verification, names: list[str], problem: str) -> None:
    result.problems += [f"{name} {problem}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        result.problems.append(f"and {len(names) - _SHOWN} more of these")
