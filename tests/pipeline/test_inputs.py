"""Which files a run reads, and one range of rows read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorruptInput, UsageError
from pipeline.inputs import check_columns, check_same_types, describe, find_files, read_rows


def test_folders_globs_and_files_name_each_file_once(write_corpus: Callable[..., Path]) -> None:
    folder = write_corpus(["a"], ["b"])
    (folder / "_plan.parquet").write_bytes(b"")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.parquet").write_bytes(b"")
    expected = [str(folder / "000.parquet"), str(folder / "001.parquet")]
    assert find_files([str(folder)]) == expected
    assert find_files([f"{folder}/*1.parquet", str(folder), expected[0], f"file://{expected[0]}"]) == expected


@pytest.mark.parametrize(
    ("given", "says"), [("nowhere", "does not exist"), ("*.none", "no .parquet"), ("s3://bucket/x", "on s3")]
)
def test_an_input_that_names_nothing_is_refused(given: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says):
        find_files([given])


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1" + b"\0" * 50 + b"PAR1"])
def test_a_corrupt_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(content)
    with pytest.raises(CorruptInput, match=r"bad\.parquet is not a readable Parquet file"):
        describe(str(path), {})


def test_a_file_is_known_by_its_bytes(write_corpus: Callable[..., Path]) -> None:
    path = write_corpus(["a", "b"]) / "000.parquet"
    first, schema = describe(str(path), {})
    assert (first.rows, schema.names) == (2, ["doc_id", "text", "number"])
    path.touch()
    touched, _ = describe(str(path), {first.path: first})
    assert touched.mtime_ns != first.mtime_ns and touched.same_content(first)
    pq.write_table(pq.read_table(path).slice(1), path)
    assert not describe(str(path), {first.path: touched})[0].same_content(first)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (("body", "doc_id", []), "no column 'body'; it has doc_id, text, number.*--text-column"),
        (("text", "id", []), "no column 'id'.*--id-column None"),
        (("text", "doc_id", ["kind"]), "no column 'kind'.*--passthrough"),
        (("number", "doc_id", []), "column 'number' of .* holds int64, not text"),
        (("text", "ratio", []), "column 'ratio' of .* holds double"),
    ],
)
def test_missing_and_mistyped_columns_are_named(columns: tuple[str, str, list[str]], says: str) -> None:
    schema = pa.schema({"doc_id": pa.string(), "text": pa.string(), "number": pa.int64()})
    if columns[1] == "ratio":
        schema = schema.append(pa.field("ratio", pa.float64()))
    with pytest.raises(UsageError, match=says):
        check_columns("file", schema, *columns)


def test_a_column_of_two_types_is_named_with_both_files() -> None:
    schemas = {"a": pa.schema({"n": pa.int64(), "m": pa.string()}), "b": pa.schema({"n": pa.int32(), "m": pa.string()})}
    check_same_types(schemas, ["m"])
    with pytest.raises(UsageError, match="--passthrough n: its type differs, int64 in a and int32 in b"):
        check_same_types(schemas, ["m", "n"])


@pytest.mark.parametrize(("start", "stop"), [(0, 23), (0, 1), (4, 6), (5, 10), (22, 23), (3, 19)])
def test_any_range_of_rows_reads_back_across_row_groups(start: int, stop: int, write_corpus: Callable[..., Path]) -> None:
    path = write_corpus([f"text {i}" for i in range(23)]) / "000.parquet"
    table = read_rows(str(path), start, stop, ["text", "text", "doc_id"])
    assert table.to_pydict() == {
        "text": [f"text {i}" for i in range(start, stop)],
        "doc_id": [f"d{i}" for i in range(start, stop)],
    }
