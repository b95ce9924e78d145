"""Document IDs come from the column, or from file and row. Duplicates are refused unless they are allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from pipeline import retry
from pipeline.errors import CorruptInput, UsageError
from pipeline.inputs import read as inputs
from pipeline.inputs.files import find_files
from pipeline.inputs.read import inspect_file
from pipeline.inputs.rows import Rows
from pipeline.planning import duplicates
from pipeline.planning.document_ids import check_duplicate_ids, document_ids
from pipeline.planning.duplicates import duplicate_ids
from pipeline.planning.plan import Plan, make_plan
from pipeline.settings import RunSettings


def planned(folder: Path, documents: int = 3) -> Plan:
    files = [
        inspect_file(entry, documents, {}, skip_bad=False, max_bytes=16 << 20)
        for entry in find_files([str(folder)]).files
    ]
    return make_plan([i.file for i in files], {}, documents, {i.file.path: i.splits for i in files})


SETTINGS = RunSettings(input=("in",), output="out", model="m")


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.binary(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_ids_are_text_or_made_from_file_and_row(kind: pa.DataType) -> None:
    column = pa.chunked_array(
        [pa.array(["a", None], pa.string()).cast(kind), pa.array(["é"], pa.string()).cast(kind)]
    )
    assert document_ids(column, "f-1", 7, 10) == ["a", "f-1:8", "é"]
    assert document_ids(pa.chunked_array([[b"\xffx"]]), "f", 0, 1) == ["\\xffx"]
    assert document_ids(pa.chunked_array([[12, None]]), "f", 0, 2) == ["12", "f:1"]
    assert document_ids(None, "f", 3, 5) == ["f:3", "f:4"]


@given(st.lists(st.lists(st.text(max_size=2), max_size=20), max_size=5))
def test_duplicates_are_counted_over_all_sources(names: list[list[str]]) -> None:
    twice = sorted(
        name for name, times in Counter(n for source in names for n in source).items() if times > 1
    )
    sources = [lambda source=source: [source[:3], source[3:]] for source in names]
    assert duplicate_ids(sources) == (len(twice), twice[:5])


def test_colliding_hashes_are_not_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "hash_ids", lambda ids: np.array([len(i) for i in ids], np.uint64))
    assert duplicate_ids([lambda: [["a", "b", "cc"], ["d", "e"]]]) == (0, [])
    assert duplicate_ids([lambda: [["a", "b", "cc"], ["d", "b"]]]) == (1, ["b"])


def test_more_duplicates_than_are_compared_are_all_counted() -> None:
    ids = [f"d{i:04d}" for i in range(1100)]
    count, examples = duplicate_ids([lambda: [ids], lambda: [ids]])
    assert count == 1100 and len(examples) == 5 and set(examples) <= set(ids)


def test_only_sources_with_repeated_hashes_are_read_again() -> None:
    reads: Counter[str] = Counter()

    def source(*ids: str) -> Callable[[], list[list[str]]]:
        def read() -> list[list[str]]:
            reads["".join(ids)] += 1
            return [list(ids)]

        return read

    assert duplicate_ids([source("a", "b"), source("c", "d"), source("e", "a")]) == (1, ["a"])
    assert reads == {"ab": 2, "cd": 1, "ea": 2}
    reads.clear()
    assert duplicate_ids([source("a", "b"), source("c", "d")]) == (0, [])
    assert reads == {"ab": 1, "cd": 1}


def test_a_generated_id_is_compared_with_those_of_the_column(write_corpus: Callable[..., Path]) -> None:
    folder = write_corpus(["x"] * 2, ["x"])
    table = pq.read_table(folder / "000.parquet")
    nulls = pa.nulls(2, pa.string())
    pq.write_table(table.set_column(0, "doc_id", nulls), folder / "000.parquet")
    name = f"{planned(folder).shards[0].source}:1"
    table = pq.read_table(folder / "001.parquet")
    pq.write_table(table.set_column(0, "doc_id", pa.array([name])), folder / "001.parquet")
    with pytest.raises(UsageError, match=rf"1 document IDs occur .* such as {name};"):
        check_duplicate_ids(planned(folder), SETTINGS, "doc_id")


def test_ids_of_json_lines_are_compared_from_the_first_row_on(tmp_path: Path) -> None:
    lines = [f'{{"doc_id": "d{i % 4}", "text": "x"}}\n' for i in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    with pytest.raises(UsageError, match=r"1 document IDs occur .* such as d0;"):
        check_duplicate_ids(planned(tmp_path), SETTINGS, "doc_id")


def test_duplicate_ids_are_refused_with_examples(write_corpus: Callable[..., Path]) -> None:
    folder = write_corpus(["x"] * 8, ["x"] * 4)
    check_duplicate_ids(planned(folder), SETTINGS, "doc_id")
    table = pq.read_table(folder / "001.parquet")
    pq.write_table(table.set_column(0, "doc_id", pa.array(["d1", "d6", "d9", None])), folder / "001.parquet")
    with pytest.raises(
        UsageError,
        match=r"2 document IDs occur more than once, such as d1, d6; .*--on-duplicate-id keep",
    ):
        check_duplicate_ids(planned(folder), SETTINGS, "doc_id")
    check_duplicate_ids(planned(folder), replace(SETTINGS, id_column=None), None)


def test_a_transient_fault_while_ids_are_read_is_retried(
    write_corpus: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, faults = planned(write_corpus(["x"] * 8)), [ConnectionResetError("reset"), TimeoutError("slow")]

    def stream(*given: Any) -> Iterator[Rows]:
        rows = whole(*given)
        yield next(rows)
        if faults:
            raise faults.pop()
        yield from rows

    whole = inputs._stream
    monkeypatch.setattr(inputs, "_stream", stream)
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0)
    check_duplicate_ids(plan, SETTINGS, "doc_id")
    assert not faults


def test_copies_of_a_file_have_the_same_generated_ids(write_corpus: Callable[..., Path]) -> None:
    folder = write_corpus(["x", "y"])
    (folder / "copy").mkdir()
    (folder / "copy" / "000.parquet").write_bytes((folder / "000.parquet").read_bytes())
    with pytest.raises(UsageError, match=r"1 document IDs occur .* such as 000\.parquet-[0-9a-f]{12}"):
        check_duplicate_ids(planned(folder), replace(SETTINGS, id_column=None), None)


def test_ids_around_unreadable_rows_are_compared(write_corpus: Callable[..., Path]) -> None:
    folder = write_corpus(["x" * 50] * 20)
    path = folder / "000.parquet"
    ids = [f"d{i}" for i in range(19)] + ["d1"]
    pq.write_table(
        pq.read_table(path).set_column(0, "doc_id", pa.array(ids)), path, row_group_size=5, compression="none"
    )
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(CorruptInput, match=r"rows 0 to 20 of .*000\.parquet cannot be read"):
        check_duplicate_ids(planned(folder), SETTINGS, "doc_id")
    with pytest.raises(UsageError, match=r"1 document IDs occur .* such as d1;"):
        check_duplicate_ids(planned(folder), replace(SETTINGS, on_bad_shard="skip"), "doc_id")
