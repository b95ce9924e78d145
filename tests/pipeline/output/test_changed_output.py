"""Every change of a finished output folder is found: content is bound by digests, not only counted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorruptOutput, PlanMismatch, UsageError
from pipeline.output.commit import PLAN_SHA256, commit, finish
from pipeline.output.freeze import freeze_plan
from pipeline.output.local import LocalStore
from pipeline.output.sign_key import read_key
from pipeline.output.verify import verify
from pipeline.planning.plan import MANIFEST, PLAN, SUCCESS, Plan
from tests.conftest import words
from tests.pipeline.crash import Machine

Change = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """The output of a run over seven documents in four files, with copied columns."""
    folder = tmp_path_factory.mktemp("finished")
    corpus = folder / "corpus"
    corpus.mkdir()
    texts = [words(3 + n, n) if n != 2 else None for n in range(7)]
    table = pa.table({"doc_id": [f"d{n}" for n in range(7)], "text": texts, "n": range(7)})
    pq.write_table(table, corpus / "a.parquet")
    machine = Machine(corpus, model_folder, {})
    assert machine.run(str(folder / "out"), passthrough=("n",)) == 0
    return folder / "out"


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def parts_of(out: Path) -> list[Path]:
    return sorted(out.glob("part-*.parquet"), key=lambda path: pq.read_table(path)["n"][0].as_py())


def rewrite(path: Path, change: Change, **options: Any) -> None:
    """Write the rows again, changed, under the same footer."""
    table = pq.ParquetFile(path).read()
    changed = change(table).replace_schema_metadata(table.schema.metadata)
    pq.write_table(changed, path, compression="zstd", **options)


def with_column(name: str, values: list[Any]) -> Change:
    def change(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        return table.set_column(place, table.field(name), [pa.array(values, table.field(name).type)])

    return change


CHANGES: dict[str, tuple[Change, str]] = {
    "a summary": (with_column("summary", ["other", "text"]), "column summary differs"),
    "summaries swapped": (
        lambda t: with_column("summary", t["summary"].to_pylist()[::-1])(t),
        "column summary differs",
    ),
    "summaries null": (with_column("summary", [None, None]), "column summary differs"),
    "a column dropped": (lambda t: t.drop_columns("summary"), "column summary is missing"),
    "a column added": (lambda t: t.append_column("more", [["a", "b"]]), "column more was added"),
    "a copied column": (with_column("n", [0, 8]), "column n differs"),
    "a score": (with_column("score", [0.5, 0.5]), "column score differs"),
    "rows in another order": (lambda t: t.take([1, 0]), "differs"),
    "tokens moved": (
        lambda t: with_column(
            "input_tokens", [t["input_tokens"][0].as_py() + 1, t["input_tokens"][1].as_py() - 1]
        )(t),
        "column input_tokens differs",
    ),
    "a text hash": (with_column("text_hash", ["0", "1"]), "column text_hash differs"),
    "a document ID": (with_column("doc_id", ["d0", "other"]), "column doc_id differs"),
    "columns in another order": (
        lambda t: t.select(t.column_names[::-1]),
        "the columns are in another order",
    ),
}


@pytest.mark.parametrize("finish_first", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_changed_rows_are_found_and_the_column_is_named(name: str, finish_first: bool, out: Path) -> None:
    change, message = CHANGES[name]
    if not finish_first:  # an unfinished run has the digests in its footers
        (out / SUCCESS).unlink()
        (out / MANIFEST).unlink()
    path = parts_of(out)[0]
    rewrite(path, change)
    [first, *_] = verify(LocalStore(out)).problems
    assert first.startswith(f"{path} does not have the rows that were committed: ") and message in first


def test_a_changed_reason_is_found(out: Path) -> None:
    [failed] = [p for p in parts_of(out) if "failed" in pq.read_table(p)["status"].to_pylist()]
    reasons = pq.read_table(failed)["reason"].to_pylist()
    assert reasons == ["the text is null", None]
    rewrite(failed, with_column("reason", ["the text is  null", None]))
    assert any("does not match its footer" in problem for problem in verify(LocalStore(out)).problems)


def test_document_ids_swapped_across_files_are_found(out: Path) -> None:
    first, second = parts_of(out)[:2]
    ids = [pq.read_table(path)["doc_id"].to_pylist() for path in (first, second)]
    for path, new in ((first, ids[1]), (second, ids[0])):
        rewrite(path, with_column("doc_id", new))
    assert len([p for p in verify(LocalStore(out)).problems if "column doc_id differs" in p]) == 2


def test_the_same_rows_written_again_are_found(out: Path) -> None:
    """As with page checksums stripped: nothing that the rows say has changed."""
    path = parts_of(out)[0]
    rewrite(path, lambda table: table, write_page_checksum=False)
    problems = verify(LocalStore(out)).problems
    assert problems[0] == f"{path} is not the file that was committed: its SHA-256 differs"


@pytest.mark.parametrize("digests_too", [False, True])
def test_a_changed_footer_is_found(digests_too: bool, out: Path) -> None:
    path = parts_of(out)[0]
    table = pq.ParquetFile(path).read()
    metadata = dict(table.schema.metadata)
    config = json.loads(metadata[b"led.run_config"])
    metadata[b"led.run_config"] = json.dumps(config | {"weights_sha256": "0"}).encode()
    if digests_too:
        del metadata[b"led.column_digests"]
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert any("with another configuration: weights_sha256" in p for p in verify(LocalStore(out)).problems)


def test_files_beside_the_results(out: Path) -> None:
    part = parts_of(out)[0]
    for name in ("notes.txt", "nested/other.parquet", ".hidden"):
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copy(part, out / name)
    result = verify(LocalStore(out))
    assert result.problems == []
    expected = ["notes.txt is not a file of this run", "nested is a folder; a run writes only plain files"]
    assert result.warnings == expected
    for name in ("other.parquet", "OTHER.PARQUET"):
        shutil.copy(part, out / name)
    assert verify(LocalStore(out)).problems == [
        f"{name} is not in the plan, but readers of the folder would read its rows"
        for name in ("OTHER.PARQUET", "other.parquet")
    ]


def test_a_link_in_place_of_a_file(out: Path, tmp_path: Path) -> None:
    part = parts_of(out)[0]
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    result = verify(LocalStore(out))
    assert result.problems == []
    assert result.warnings == [f"{part.name} is a symbolic link; a run writes only plain files"]


def consistent(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the plan, and make its own digest right."""
    plan = Plan.from_json((out / PLAN).read_bytes())
    values = json.loads(plan.to_json())
    change(values)
    del values["sha256"]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (out / PLAN).write_text(json.dumps(values | {"sha256": digest}))


def fewer_rows(values: dict[str, Any]) -> None:
    values["inputs"][0]["rows"] = 6


def another_path(values: dict[str, Any]) -> None:
    values["shards"][0]["path"] = "/elsewhere"


def a_shard_less(values: dict[str, Any]) -> None:
    del values["shards"][-1]


@pytest.mark.parametrize("change", [fewer_rows, another_path, a_shard_less])
def test_a_changed_plan_is_found_by_the_footers(change: Callable[[dict[str, Any]], None], out: Path) -> None:
    consistent(out, change)
    assert (
        sum("written for a _plan.json with another content" in p for p in verify(LocalStore(out)).problems)
        >= 3
    )


def forge(out: Path, change: Change, key: bytes | None = None) -> Path:
    """Change the rows of a file, and make everything in the folder agree with them."""
    plan = Plan.from_json((out / PLAN).read_bytes())
    store, path = LocalStore(out), parts_of(out)[0]
    table = change(pq.ParquetFile(path).read()).replace_schema_metadata(None)
    shard_id = path.stem.removeprefix("part-")
    for name, values in (("_shard", [shard_id] * 2), ("_rows", [2, 2]), ("_measured", ["{}"] * 2)):
        table = table.append_column(name, [values])
    for name in (path.name, MANIFEST, SUCCESS):
        (out / name).unlink()
    config = {**plan.config, "plan": plan.fingerprint, PLAN_SHA256: freeze_plan(store, plan.to_json())}
    commit(store, table, config)
    finish(store, plan, key=key)
    return path


def test_a_consistent_forgery_needs_the_key(out: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a secret of many characters\n")
    (tmp_path / "other").write_text("another secret of many characters\n")
    (tmp_path / "short").write_text("short\n")
    key, other = read_key(str(tmp_path / "key")), read_key(str(tmp_path / "other"))
    store = LocalStore(out)
    assert verify(store, key=key).problems == [
        f"{SUCCESS} has no signature; the run that finished it had no --sign-key"
    ]
    forge(out, with_column("summary", ["forged", "text"]), key)
    assert verify(store).problems == verify(store, key=key).problems == []
    wrong = f"the signature in {SUCCESS} is not that of the manifest with this key"
    forge(out, with_column("summary", ["forged", "again"]), other)
    assert verify(store).problems == [] and verify(store, key=key).problems == [wrong]
    with pytest.raises(UsageError, match="has 5 bytes; a key has at least 16"):
        read_key(str(tmp_path / "short"))
    with pytest.raises(UsageError, match="cannot be read"):
        read_key(str(tmp_path / "absent"))


def test_a_foreign_manifest_is_not_signed(out: Path) -> None:
    """It was put there before the run ended, or a part was replaced before it did."""
    plan, store = Plan.from_json((out / PLAN).read_bytes()), LocalStore(out)
    (out / SUCCESS).unlink()
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(manifest | {"ok": 99}))
    with pytest.raises(CorruptOutput, match="does not match the files"):
        finish(store, plan, key=b"a secret of many characters")
    assert not (out / SUCCESS).exists()


def test_a_marker_without_the_key_is_not_passed_off_as_signed(out: Path) -> None:
    plan, store = Plan.from_json((out / PLAN).read_bytes()), LocalStore(out)
    assert finish(store, plan)["documents"] == 7
    with pytest.raises(UsageError, match="was written without this --sign-key"):
        finish(store, plan, key=b"a secret of many characters")


def test_the_input_is_compared(out: Path) -> None:
    store = LocalStore(out)
    result = verify(store, against_input=True)
    assert (result.problems, result.bound_to) == ([], "files")
    for change, message in (
        (with_column("doc_id", ["d0", "other"]), "has other document IDs than the input: 'other' for 'd1'"),
        (with_column("text_hash", ["0", "1"]), "has rows of other texts than the input: d0, d1"),
    ):
        path = forge(out, change)
        assert verify(store).problems == []
        assert verify(store, against_input=True).problems[0] == f"{path} {message}"
        forge(out, with_column("doc_id", ["d0", "d1"]))


def test_a_changed_input_is_not_compared(out: Path, finished: Path) -> None:
    corpus = finished.parent / "corpus" / "a.parquet"
    content = corpus.read_bytes()
    rewrite(corpus, with_column("text", [f"other {n}" for n in range(7)]))
    try:
        with pytest.raises(PlanMismatch, match="was changed after it was planned"):
            verify(LocalStore(out), against_input=True)
    finally:
        corpus.write_bytes(content)
