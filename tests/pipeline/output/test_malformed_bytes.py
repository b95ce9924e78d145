"""Any bytes in an input or output give the right rows, or an error that names the file. Nothing crashes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from pipeline.errors import CorruptInput, CorruptOutput, PipelineError, UsageError
from pipeline.inputs.files import find_files
from pipeline.inputs.read import InputFile, check_columns, inspect_file, read_rows
from pipeline.output.verify import verify
from pipeline.planning.plan import MANIFEST, SUCCESS, Plan, make_plan
from pipeline.workers.reader import read_texts
from tests.pipeline.output.test_verify import RUN, committed

TEXTS = [f"text {i} " * 20 for i in range(30)]
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def parquet() -> bytes:
    buffer = pa.BufferOutputStream()
    table = pa.table({"doc_id": [f"d{i}" for i in range(30)], "text": TEXTS, "n": range(30)})
    pq.write_table(table, buffer, row_group_size=7, write_page_checksum=True)
    return buffer.getvalue().to_pybytes()


def json_lines() -> bytes:
    return b"".join(json.dumps({"doc_id": i, "text": text}).encode() + b"\n" for i, text in enumerate(TEXTS))


def zipped(codec: str) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, codec) as out:
        out.write(json_lines())
    return buffer.getvalue().to_pybytes()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with some bytes changed, removed, repeated or inserted, or truncated at the end."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "cut", "put", "end", "repeat"])):
            case "change":
                new = draw(st.binary(min_size=1, max_size=8))
                data[at : at + len(new)] = new
            case "cut":
                del data[at : at + draw(st.integers(1, 100))]
            case "put":
                data[at:at] = draw(st.binary(max_size=20))
            case "end":
                del data[at:]
            case "repeat":
                data[at:at] = data[at : at + 50]
    return bytes(data)


def everything(path: Path) -> list[Any]:
    """All texts of a file, as the reader receives them."""
    inspected = inspect_file(find_files([str(path)]).files[0], 4, {}, skip_bad=False, max_bytes=16 << 20)
    check_columns(str(path), inspected.schema, "text", "doc_id", [])
    rows = []
    for split in inspected.splits:
        read = read_rows(str(path), split, "text", ["text", "doc_id"], 1 << 16)
        texts = [text.text for text in read_texts(read.table["text"], 1 << 16)]
        rows += [None if i in read.reasons else text for i, text in enumerate(texts)]
    assert len(rows) == inspected.file.rows
    return rows


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("a.parquet", parquet()),
        ("a.jsonl", json_lines()),
        ("a.jsonl.gz", zipped("gzip")),
        ("a.jsonl.zst", zipped("zstd")),
    ],
)
def test_a_damaged_file_gives_rows_or_an_error_that_names_it(name: str, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(whole)
    assert everything(path) == TEXTS

    @MANY
    @given(damaged(whole))
    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        try:
            everything(path)
        except (CorruptInput, UsageError) as error:  # a damaged schema may lack a column
            assert name in str(error)

    attempt()


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_any_bytes_give_rows_or_an_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / name

    @MANY
    @given(st.binary(max_size=300))
    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        try:
            everything(path)
        except (CorruptInput, UsageError) as error:
            assert name in str(error)

    attempt()


PLAN = make_plan(
    [
        InputFile("/in/a", 10, 9, "sha256:x", "1"),
        InputFile("/in/b", 1, 0, "sha256:y", "2", "/in/b cannot be read"),
    ],
    {"settings": {"num_beams": 2}},
    4,
    passthrough=pa.schema({"kind": pa.list_(pa.string())}),
)


@MANY
@given(damaged(PLAN.to_json()))
def test_a_changed_plan_is_refused_or_is_the_same(data: bytes) -> None:
    try:
        assert Plan.from_json(data) == PLAN
    except CorruptOutput as error:
        assert "_plan.json is not a plan of this system" in str(error)


@pytest.mark.parametrize("name", [MANIFEST, SUCCESS, RUN.shards[1].part])
def test_damage_in_an_output_is_found_or_changes_no_row(name: str, tmp_path: Path) -> None:
    store = committed(tmp_path)
    whole = (tmp_path / name).read_bytes()
    rows = pq.read_table(io.BytesIO(whole)) if name.endswith(".parquet") else None

    @MANY
    @given(damaged(whole))
    def attempt(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        if not verify(store).problems:
            same = data == whole if rows is None else pq.read_table(io.BytesIO(data)).equals(rows)
            assert same or (name == SUCCESS and json.loads(data) == json.loads(whole))

    attempt()


@MANY
@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda v: st.lists(v, max_size=3)),
    st.data(),
)
def test_a_plan_with_other_values_is_refused(value: Any, data: st.DataObject) -> None:
    values = json.loads(PLAN.to_json())
    place = data.draw(st.sampled_from(sorted(values)))
    if values[place] == value:
        return
    with pytest.raises(PipelineError):
        Plan.from_json(json.dumps(values | {place: value}).encode())
