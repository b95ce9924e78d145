"""The commit of a shard: its rows as one Parquet file, written once. The manifest, and the success marker.

The file is the commit. Its footer holds the metadata of the shard, a digest of each column and the name of
the attempt that wrote it, so the state of a run can be read from the files alone. The manifest holds the
SHA-256 of every file, and the success marker that of the manifest.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import CorruptOutput, PipelineError, UsageError, first_problem
from pipeline.output.digests import FileDigest, column_digests, digest_of, file_digest, rows_sha256
from pipeline.output.store import Outcome, Store, plain_name
from pipeline.output.truncated import truncated_rows
from pipeline.planning.plan import MANIFEST, SUCCESS, Plan, Shard, remaining
from pipeline.schema import CHUNKED_ROWS, FLAGS, INTERNAL, MEASURED, STATUSES, first_rows
from pipeline.versions import (
    RUN_CONFIG_0_1,
    SHARD_METADATA_0_1,
    stored_names,
    upgrade_manifest,
    upgrade_shard_metadata,
    with_current_names,
)

MANIFEST_VERSION = 3

# The field of the success marker with the signature of the manifest.
SIGNATURE = "hmac_sha256"

# The key of a run config for the SHA-256 of the plan in the folder.
PLAN_SHA256 = "plan_sha256"

# Files read at once.
_READERS = 32

_SHARD_METADATA, _RUN_CONFIG = b"led.shard_metadata", b"led.run_config"
_COLUMN_DIGESTS = b"led.column_digests"

# Fields of the shard metadata that earlier versions did not record.
_OPTIONAL = ("hardware", "rows_sha256")

_NUMBER = re.compile(r"(?<![\w-])(0x[0-9a-f]+|[0-9]+)\b")


@dataclass(frozen=True)
class ShardMetadata:
    """What a committed shard holds. `attempt` identifies the write. Prediction ended at `finished_at` (Unix
    time, seconds).

    A document may have several rows. It counts in `failed_documents` if one of them failed.
    `reused` rows come from an earlier run and are part of the other counts. `failures` are counts by stage
    and reason, with `#` for numbers. `flags` are counts by quality flag. `seconds` is the time of prediction.
    `measured` holds further measurements by name. `hardware` names the processor or GPU and the dtype in
    force. `rows_sha256` is a digest of the rows. Both are empty in shards of versions that did not record
    them.
    """

    shard_id: str
    attempt: str
    documents: int
    rows: int
    ok: int
    failed: int
    skipped: int
    failed_documents: int
    reused: int
    input_tokens: int
    truncated: int
    output_tokens: int
    failures: dict[str, int]
    flags: dict[str, int]
    finished_at: float
    seconds: float
    measured: dict[str, float]
    hardware: dict[str, str] = field(default_factory=dict)
    rows_sha256: str = ""

    @property
    def part(self) -> str:
        """The name of its file."""
        return Shard(self.shard_id, "", 0, 0).part


@dataclass(frozen=True)
class _Manifest:
    """The fields of a manifest, to validate it."""

    version: int
    plan: str
    documents: int
    rows: int
    ok: int
    failed: int
    skipped: int
    failed_documents: int
    reused: int
    truncated: int
    input_tokens: int
    output_tokens: int
    failures: dict[str, int]
    flags: dict[str, int]
    since: list[dict[str, Any]] | None
    shards: dict[str, ShardMetadata]
    files: dict[str, FileDigest] = field(default_factory=dict)


_MANIFEST = TypeAdapter(_Manifest)


class Committed(NamedTuple):
    """A committed shard: its metadata, and the digest of its file if this attempt has written it."""

    metadata: ShardMetadata
    digest: FileDigest | None


def hardware_of(shards: Iterable[ShardMetadata]) -> dict[tuple[str, str], int]:
    """The number of shards by (processor, dtype in force), most shards first."""
    found = (shard.hardware for shard in shards if shard.hardware)
    return dict(Counter((each["processor"], each["dtype"]) for each in found).most_common())


def commit(store: Store, block: pa.Table, config: Mapping[str, Any], number: str | None = None) -> Committed:
    """Write one shard's rows under the shard's name, create-only. `number` is the column that numbers the
    rows of a document, if there is one.

    If another attempt wrote the shard first, its file stays and its metadata is returned.

    Raises:
        PipelineError: the block is not one whole shard.
    """
    shard_ids = pc.unique(block["_shard"]).to_pylist()
    expected = block["_rows"][0].as_py()
    if len(shard_ids) != 1 or len(block) != expected:
        raise PipelineError(
            f"the commit received a block of {len(block)} rows of shards {shard_ids}; it must be one whole "
            "shard."
        )
    measured = json.loads(block[MEASURED.name][0].as_py())
    hardware = measured.pop("hardware", {})
    measured = {name: round(value, 3) for name, value in measured.items()}
    shard_metadata = ShardMetadata(
        shard_id=shard_ids[0],
        attempt=uuid.uuid4().hex,
        finished_at=measured.pop("finished_at", round(time.time(), 3)),
        seconds=measured.pop("predict_seconds", 0.0),
        measured=measured,
        hardware=hardware,
        **counts_of(block, number),
    )
    table = block.drop_columns(INTERNAL)
    # The digests are those of the rows as they are read back, since Parquet does not have all types of Arrow.
    digests = column_digests(pq.ParquetFile(pa.BufferReader(_encode(table, {}, "none"))).read())
    shard_metadata = replace(shard_metadata, rows_sha256=rows_sha256(digests))
    footer = {
        _SHARD_METADATA: json.dumps(asdict(shard_metadata)),
        _RUN_CONFIG: json.dumps(dict(config)),
        _COLUMN_DIGESTS: json.dumps(digests),
    }
    data = _encode(table, footer)
    name = shard_metadata.part
    if store.create(name, data) is Outcome.CREATED:
        return Committed(shard_metadata, file_digest(data))
    return Committed(read_shard_metadata(store, name), None)


def _encode(table: pa.Table, footer: Mapping[bytes, str], compression: str = "zstd") -> bytes:
    """A Parquet file with these rows, and texts in its footer."""
    buffer = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(dict(footer)), buffer, compression=compression, write_page_checksum=True
    )
    return buffer.getvalue()


def _as_dict(shard: ShardMetadata) -> dict[str, Any]:
    """The values of a shard. What its version did not record is left out."""
    return {name: value for name, value in asdict(shard).items() if value or name not in _OPTIONAL}


def counts_of(rows: pa.Table, number: str | None = None) -> dict[str, Any]:
    """The counts of `ShardMetadata`, from the rows themselves. `number` is the column that numbers the rows
    of a document, if there is one."""
    return {
        "documents": len(first_rows(rows, number)),
        "rows": len(rows),
        **{name: _total(pc.equal(rows["status"], name)) for name in STATUSES},
        "failed_documents": _failed_documents(rows, number),
        "reused": len(rows) - rows["reused_from"].null_count,
        "input_tokens": _total(rows["input_tokens"]),
        "truncated": _total(truncated_rows(rows)),
        "output_tokens": _total(rows["output_tokens"]) if "output_tokens" in rows.column_names else 0,
        "failures": _failures(rows),
        "flags": _flags(rows),
    }


def read_shard_metadata(store: Store, name: str) -> ShardMetadata:
    """The shard metadata in the footer of a committed file.

    Raises:
        CorruptOutput: the file was not written by this system.
    """
    try:
        with store.open(name) as file:
            return parse_shard_metadata(pq.read_schema(file).metadata or {})
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise CorruptOutput(
            f"{store.url}/{name} was not written by this system ({error!r}); choose another folder."
        ) from error


def read_columns(store: Store, name: str, columns: Sequence[str]) -> pa.Table:
    """The columns of a committed file among `columns` that it has.

    `pq.read_table` is not used: threads of its scanner may outlive the interpreter, and then a short command
    ends by SIGABRT.
    """
    with store.open(name) as opened:
        file = pq.ParquetFile(opened)
        return with_current_names(file.read(columns=stored_names(columns, file.schema_arrow)))


def parse_shard_metadata(footer: Mapping[bytes, bytes]) -> ShardMetadata:
    """The shard metadata in a footer.

    Raises:
        KeyError, TypeError, ValueError: there is none, or it is malformed.
    """
    if SHARD_METADATA_0_1 in footer:
        return ShardMetadata(**upgrade_shard_metadata(json.loads(footer[SHARD_METADATA_0_1])))
    return ShardMetadata(**json.loads(footer[_SHARD_METADATA]))


def parse_column_digests(footer: Mapping[bytes, bytes]) -> dict[str, str]:
    """The digest of each column in a footer. Empty for a file of a version that had none.

    Raises:
        TypeError, ValueError: it is malformed.
    """
    return dict(json.loads(footer.get(_COLUMN_DIGESTS, b"{}")))


def parse_run_config(footer: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The run config in a footer.

    Raises:
        KeyError, TypeError, ValueError: there is none, or it is malformed.
    """
    return dict(json.loads(footer[RUN_CONFIG_0_1 if RUN_CONFIG_0_1 in footer else _RUN_CONFIG]))


def read_all_shard_metadata(store: Store, shards: Sequence[Shard]) -> dict[str, ShardMetadata]:
    """The metadata of these shards by shard ID. Footers are read in parallel, since each read waits for the
    store.

    Raises:
        CorruptOutput: a file was not written by this system.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        read = pool.map(lambda shard: read_shard_metadata(store, shard.part), shards)
        return {metadata.shard_id: metadata for metadata in read}


def finish(
    store: Store,
    plan: Plan,
    written: Mapping[str, Committed] | None = None,
    key: bytes | None = None,
) -> dict[str, Any]:
    """Write the manifest and then the success marker, each create-only. Returns the manifest.

    `written` are the files that this run has written, by name. The digests of other files are read. A `key`
    signs the manifest.

    Raises:
        PipelineError: shards are missing, their number of documents differs from the plan, or a file that
            this run has written was replaced.
        CorruptOutput: the folder has a manifest of other files.
        UsageError: the folder has a success marker without a signature of this key.
    """
    written = written or {}
    shards_metadata = _check_committed(store, plan, written)
    before = _stored_manifest(store) if store.exists(MANIFEST) else None
    if before is None:
        manifest = make_manifest(plan, shards_metadata, _all_digests(store, plan, written))
        store.create(MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        before = _stored_manifest(store)
    content, manifest = before
    files = manifest.get("files")
    digests = None if files is None else {name: FileDigest(**digest) for name, digest in files.items()}
    if json.loads(json.dumps(make_manifest(plan, shards_metadata, digests))) != manifest:
        raise CorruptOutput(
            f"{store.url}/{MANIFEST} does not match the files; run verify to see what differs, and choose "
            "another folder."
        )
    marker = success_marker(plan, content, key)
    store.create(SUCCESS, (json.dumps(marker) + "\n").encode())
    if key is not None and parse_json_object(store.read(SUCCESS), SUCCESS) != marker:
        raise UsageError(
            f"{store.url}/{SUCCESS} was written without this --sign-key, and is never replaced; leave the "
            "key out, or choose another folder."
        )
    return manifest


def _stored_manifest(store: Store) -> tuple[bytes, dict[str, Any]]:
    """The manifest in the folder, as bytes and parsed."""
    content = store.read(MANIFEST)
    return content, parse_manifest(content, f"{store.url}/{MANIFEST}")


def _check_committed(store: Store, plan: Plan, written: Mapping[str, Committed]) -> dict[str, ShardMetadata]:
    """The metadata of all shards of a plan by shard ID.

    Raises:
        PipelineError: as `finish`.
    """
    missing = [shard for shard in remaining(plan, store.names()) if not store.exists(shard.part)]
    if missing:
        raise PipelineError(
            f"{len(missing)} of {len(plan.shards)} shards are not in {store.url}, though all were processed: "
            "the folder is not the same on all machines. Use a folder that all machines mount, or s3://."
        )
    shards_metadata = read_all_shard_metadata(store, plan.shards)
    replaced = [
        each.metadata.part
        for each in written.values()
        if shards_metadata[each.metadata.shard_id].attempt != each.metadata.attempt
    ]
    if replaced:
        raise PipelineError(
            f"{len(replaced)} files that this run has written were replaced by another run, such as "
            f"{replaced[0]}, although {store.url} refused that when it was probed. Let no other run write "
            "there, and run again with another --output, or on another store."
        )
    wrong = [
        shard.part
        for shard in plan.shards
        if shard.shard_id not in shards_metadata
        or shards_metadata[shard.shard_id].documents != shard.documents
    ]
    if wrong:
        listed = ", ".join(wrong[:5])
        raise PipelineError(
            f"{len(wrong)} of {len(plan.shards)} shards are not committed as planned: {listed}."
        )
    return shards_metadata


def _all_digests(store: Store, plan: Plan, written: Mapping[str, Committed]) -> dict[str, FileDigest]:
    """The digest of every file of a plan."""
    parts = [shard.part for shard in plan.shards]

    def digest(part: str) -> FileDigest:
        known = written[part].digest if part in written else None
        return known or read_digest(store, part)

    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(parts, pool.map(digest, parts), strict=True))


def read_digest(store: Store, name: str) -> FileDigest:
    """The digest of a committed file."""
    with store.open(name) as opened:
        return digest_of(opened)


def success_marker(plan: Plan, manifest: bytes, key: bytes | None = None) -> dict[str, Any]:
    """The content of the success marker: the hash of the manifest, the number of documents, and with a `key`
    the HMAC-SHA256 of the manifest."""
    marker = {"manifest_sha256": hashlib.sha256(manifest).hexdigest(), "documents": plan.documents}
    if key is None:
        return marker
    return marker | {SIGNATURE: hmac.new(key, manifest, hashlib.sha256).hexdigest()}


def parse_json_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in a manifest or success marker.

    Raises:
        CorruptOutput: it is not a JSON object.
    """
    try:
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
        return values
    except (ValueError, RecursionError) as error:
        raise CorruptOutput(
            f"{name} was not written by this system ({error!r}); choose another folder."
        ) from error


def parse_manifest(data: bytes, name: str) -> dict[str, Any]:
    """The manifest of a finished run, of this version or an earlier one.

    Raises:
        CorruptOutput: it is not a manifest.
    """
    manifest = parse_json_object(data, name)
    try:
        if manifest.get("version") == 1:
            manifest = upgrade_manifest(manifest)
        checked = _MANIFEST.validate_json(json.dumps(manifest), strict=True)
        for part in (*checked.shards, *checked.files):
            plain_name(part)
        return manifest
    except ValidationError as error:
        reason = first_problem(error)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = repr(error)
    raise CorruptOutput(f"{name} was not written by this system ({reason}); choose another folder.")


def make_manifest(
    plan: Plan,
    shards_metadata: Mapping[str, ShardMetadata],
    digests: Mapping[str, FileDigest] | None = None,
) -> dict[str, Any]:
    """The content of a finished run: counts in total and by shard, and the digest of every file. Without
    `digests`, it is a manifest of version 2, which had none."""
    counts = ("rows", *STATUSES, "failed_documents", "reused", "truncated", "input_tokens", "output_tokens")
    metadata = shards_metadata.values()
    return {
        "version": 2 if digests is None else MANIFEST_VERSION,
        "plan": plan.fingerprint,
        "documents": plan.documents,
        **{name: sum(getattr(each, name) for each in metadata) for name in counts},
        **{name: _sums(getattr(each, name) for each in metadata) for name in ("failures", "flags")},
        "since": plan.config.get("since"),
        "shards": {shard.part: _as_dict(shards_metadata[shard.shard_id]) for shard in plan.shards},
        **({} if digests is None else {"files": {part: each._asdict() for part, each in digests.items()}}),
    }


def rows_recomputed(manifest: Mapping[str, Any], new: int) -> int:
    """Rows of documents that the previous runs had, and that changed or had failed, if `new` rows are of new
    documents."""
    return int(manifest["rows"] - manifest["skipped"] - manifest["reused"] - new)


def chunked_rows(manifest: Mapping[str, Any]) -> int:
    """Rows that were read in several chunks."""
    return int(sum(shard["measured"].get(CHUNKED_ROWS, 0) for shard in manifest["shards"].values()))


def new_rows(manifest: Mapping[str, Any]) -> int | None:
    """Rows of documents that no previous run had. None if there was no previous run, or one whose rows were
    not read."""
    counts = [shard["measured"].get("new_rows") for shard in manifest["shards"].values()]
    return None if None in counts else int(sum(counts))


def _failed_documents(rows: pa.Table, number: str | None) -> int:
    """Documents with a row that failed."""
    failed = pc.equal(rows["status"], "failed")
    if number is None:
        return _total(failed)
    document = pc.cumulative_sum(pc.equal(rows[number], 0).cast(pa.int64()))
    return len(pc.unique(document.filter(failed)))


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def _failures(rows: pa.Table) -> dict[str, int]:
    """Rows that are not ok, counted by stage and reason. Numbers in a reason become `#`."""
    states = rows.filter(pc.not_equal(rows["status"], "ok")).select(["stage", "reason"]).to_pylist()
    counts = Counter(f"{state['stage']}: {_NUMBER.sub('#', state['reason'] or '')}"[:120] for state in states)
    return dict(sorted(counts.items()))


def _flags(rows: pa.Table) -> dict[str, int]:
    """Rows counted by quality flag."""
    if FLAGS.name not in rows.column_names:
        return {}
    counts = Counter(pc.list_flatten(rows[FLAGS.name]).to_pylist())
    return dict(sorted(counts.items()))


def _total(column: pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0
