"""Inspection of files, checks of their columns, and splits read back in every format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorruptInput, Unreachable, UsageError
from pipeline.inputs.files import find_files
from pipeline.inputs.read import PlannedFile, check_columns, check_same_types, inspect_file, read_rows
from pipeline.inputs.splits import Split

MAX_BYTES = 1 << 20


def inspected(path: Path, documents: int = 4, **known: PlannedFile) -> PlannedFile:
    [entry] = find_files([str(path)]).files
    return inspect_file(
        entry, documents, {i.file.path: i for i in known.values()}, skip_bad=False, max_bytes=MAX_BYTES
    )


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1" + b"\0" * 50 + b"PAR1"])
def test_a_corrupt_file_is_named_or_skipped_with_its_reason(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(content)
    with pytest.raises(CorruptInput, match=r"bad\.parquet cannot be read .*--on-bad-shard skip"):
        inspected(path)
    skipped = inspect_file(find_files([str(path)]).files[0], 4, {}, skip_bad=True, max_bytes=MAX_BYTES)
    assert (
        skipped.file.rows == 0
        and skipped.splits == ()
        and "bad.parquet cannot be read" in str(skipped.file.skipped)
    )
    again = {skipped.file.path: skipped}
    [entry] = find_files([str(path)]).files
    assert inspect_file(entry, 4, again, skip_bad=True, max_bytes=MAX_BYTES) is skipped
    with pytest.raises(CorruptInput):
        inspect_file(find_files([str(path)]).files[0], 4, again, skip_bad=False, max_bytes=MAX_BYTES)


def test_a_truncated_gzip_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 10_000)[:-20])
    with pytest.raises(CorruptInput, match=r"a\.jsonl\.gz cannot be read"):
        inspected(path)


def test_json_without_an_object_per_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "a"}, {"text": "b"}], indent=1))
    with pytest.raises(
        CorruptInput, match=r"a\.json cannot be read \(none of its first 8 lines is a JSON object"
    ):
        inspected(path)


def test_lines_of_long_documents_are_read(tmp_path: Path) -> None:
    path = tmp_path / "books.jsonl"
    path.write_text(json.dumps({"doc_id": "a", "text": "x" * (3 << 20)}) + "\n")
    assert inspected(path).schema == pa.schema([("doc_id", pa.string()), ("text", pa.string())])


def test_a_file_is_identified_by_its_bytes_and_not_opened_again_if_its_stat_is_the_same(
    write_corpus: Callable[..., Path],
) -> None:
    path = write_corpus(["a", "b"]) / "000.parquet"
    first = inspected(path)
    assert first.schema is not None and (first.file.rows, first.schema.names) == (
        2,
        ["doc_id", "text", "number"],
    )
    assert inspected(path, before=first) is first
    path.touch()
    touched = inspected(path, before=first)
    assert touched.file.stamp != first.file.stamp and touched.file.same_content(first.file)
    pq.write_table(pq.read_table(path).slice(1), path)
    assert not inspected(path, before=touched).file.same_content(first.file)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("body", "doc_id", []), "no column 'body'; it has doc_id, text, number, year.*--text-column"),
        (("text", "id", []), "no column 'id'.*--id-column None"),
        (("text", "doc_id", [("--passthrough", "kind")]), "no column 'kind'.*--passthrough"),
        (("number", "doc_id", []), "column 'number' of .* holds int64, not text"),
        (("text", "ratio", []), "column 'ratio' of .* holds double"),
        (("text", "doc_id", [("--passthrough", "number")]), None),
        (("text", "number", [("--passthrough", "year")]), None),
        (("blob", "doc_id", []), None),
        (("word", "word", []), None),
    ],
)
def test_missing_and_mistyped_columns_are_named(
    columns: tuple[str, str, list[str]], message: str | None
) -> None:
    schema = pa.schema({"doc_id": pa.string(), "text": pa.string(), "number": pa.int64()})
    extra = {"ratio": pa.float64(), "blob": pa.large_binary(), "word": pa.dictionary(pa.int32(), pa.string())}
    for name in {*columns[:2]} & extra.keys():
        schema = schema.append(pa.field(name, extra[name]))
    if message is None:
        check_columns("/in/year=2024/file", schema, *columns)
        return
    with pytest.raises(UsageError, match=message):
        check_columns("/in/year=2024/file", schema, *columns)


def test_a_column_of_the_file_and_of_its_path_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'text' of .* is in the file and in its path; rename the folder"):
        check_columns("/in/text=2/file", pa.schema({"text": pa.string()}), "text", None, [])


def test_a_column_with_two_types_is_named_with_both_files() -> None:
    schemas = {
        "a": pa.schema({"n": pa.int64(), "m": pa.string()}),
        "b": pa.schema({"n": pa.float64(), "m": pa.string()}),
    }
    assert check_same_types(schemas, ["m"]) == pa.schema({"m": pa.string()})
    with pytest.raises(UsageError, match="--passthrough n: its type differs, int64 in a and double in b"):
        check_same_types(schemas, ["m", "n"])


@pytest.mark.parametrize(("start", "stop"), [(0, 23), (0, 1), (4, 6), (5, 10), (22, 23), (3, 19)])
def test_any_range_of_rows_reads_back_across_row_groups(
    start: int, stop: int, write_corpus: Callable[..., Path]
) -> None:
    path = write_corpus([f"text {i}" for i in range(23)]) / "000.parquet"
    rows = read_rows(str(path), Split(start, stop), "text", ["text", "text", "doc_id"], MAX_BYTES)
    assert rows.table.to_pydict() == {
        "text": [f"text {i}" for i in range(start, stop)],
        "doc_id": [f"d{i}" for i in range(start, stop)],
    }


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "jsonl.gz", "jsonl.zst"])
def test_json_lines_are_split_by_lines_and_read_back(ending: str, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"é {i}", "doc_id": i, "tags": ["a", i], "none": None}) for i in range(11)]
    lines.insert(3, "   ")  # no document
    path = tmp_path / "year=2024" / f"a.{ending}"
    path.parent.mkdir()
    with pa.output_stream(
        str(path), compression={"gz": "gzip", "zst": "zstd"}.get(ending.split(".")[-1])
    ) as out:
        out.write("\r\n".join(lines).encode())
    planned = inspected(path)
    assert planned.file.rows == 11 and [(c.start, c.stop) for c in planned.splits] == [
        (0, 4),
        (4, 8),
        (8, 11),
    ]
    assert planned.schema == pa.schema(
        {"text": pa.string(), "doc_id": pa.string(), "tags": pa.string(), "none": pa.string()}
    )
    columns = ["text", "doc_id", "tags", "none", "year", "absent"]
    got = [
        row
        for split in planned.splits
        for row in read_rows(str(path), split, "text", columns, MAX_BYTES).table.to_pylist()
    ]
    assert got == [
        {
            "text": f"é {i}".encode(),
            "doc_id": str(i),
            "tags": f'["a", {i}]',
            "none": None,
            "year": "2024",
            "absent": None,
        }
        for i in range(11)
    ]


def test_invalid_lines_have_a_reason_and_keep_their_row_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"text": "a"}',
        b"{",
        b"[1]",
        b'{"text": 3}',
        b'{"text": null}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"text": "b"}',
        b'{"text": "' + b"x" * 900 + b'"}',
        b'{"text": "half \\ud800"}',
        b'{"text": NaN}',
    ]
    path.write_bytes(b"\n".join(lines))
    [split] = inspected(path, 100).splits
    rows = read_rows(str(path), split, "text", ["text"], 100)
    assert {i: reason.split("(")[0].strip() for i, reason in rows.reasons.items()} == {
        1: "the line is not JSON",
        2: "the line is not a JSON object but an array",
        3: "the text is a number, not a string",
        5: "the line is too long for --max-document-bytes; raise it to read the document",
        6: "the line is not JSON",
        8: "the line is too long for --max-document-bytes; raise it to read the document",
        10: "the text is a number, not a string",
    }
    texts = rows.table["text"].to_pylist()
    assert (texts[0], texts[4], texts[7], texts[9]) == (b"a", None, b"b", b"half \\ud800")


def test_a_json_lines_file_that_lost_lines_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 3)
    with pytest.raises(
        CorruptInput, match=r"rows 0 to 4 of .*a\.jsonl cannot be read \(it ends after 3 lines"
    ):
        read_rows(str(path), Split(0, 4), "text", ["text"], MAX_BYTES)


def test_a_folder_of_texts_is_one_input_with_a_document_per_file(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / "t" / f"lang={i % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / f"lang={i % 2}" / f"{i}.txt").write_bytes(f"text {i}".encode() if i else b"\xff")
    planned = inspected(tmp_path / "t", 2)
    assert (planned.file.path, planned.file.rows, len(planned.splits)) == (f"{tmp_path / 't'}/", 5, 3)
    check_columns(planned.file.path, planned.schema, "text", "doc_id", [("--passthrough", "lang")])
    rows = read_rows(
        planned.file.path, planned.splits[0], "text", ["text", "doc_id", "lang"], 3
    ).table.to_pydict()
    assert rows == {
        "text": [b"\xff", b"text"],
        "doc_id": ["lang=0/0.txt", "lang=0/2.txt"],
        "lang": ["0", "0"],
    }
    (tmp_path / "t" / "lang=0" / "0.txt").touch()
    assert inspected(tmp_path / "t", 2).file.same_content(planned.file)
    (tmp_path / "t" / "lang=0" / "0.txt").write_text("x")
    assert not inspected(tmp_path / "t", 2).file.same_content(planned.file)
    (tmp_path / "t" / "lang=1" / "3.txt").unlink()
    with pytest.raises(Unreachable, match=r"rows 4 to 5 of .* cannot be reached \(FileNotFoundError"):
        read_rows(planned.file.path, planned.splits[2], "text", ["text", "doc_id"], MAX_BYTES)


def test_a_file_that_changed_its_rows_since_it_was_planned_is_corrupt(
    write_corpus: Callable[..., Path],
) -> None:
    path = write_corpus(["a", "b"]) / "000.parquet"
    with pytest.raises(CorruptInput, match="it has 2 rows; 3 were planned"):
        read_rows(str(path), replace(Split(0, 2), stop=3), "text", ["text"], MAX_BYTES)
