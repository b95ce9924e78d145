"""Inputs of many kinds give the right rows, or an error that says what they are."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from led.checkpoint.hub import resolve
from pipeline.errors import CorruptInput, UsageError
from pipeline.inputs.files import find_files
from pipeline.planning.plan import Plan
from pipeline.prepare import build_plan
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.reader import ShardReader, repeat_rows


def task_of(model: Path, *inputs: Path | str, **settings: Any) -> Summarize:
    given: dict[str, Any] = {"output": str(model.parent / "odd-out"), "model": str(model)}
    return Summarize(SummarizeSettings(input=tuple(map(str, inputs)), **{**given, **settings}))


def planned(model: Path, *inputs: Path | str, **settings: Any) -> tuple[Summarize, Plan]:
    task = task_of(model, *inputs, **settings)
    return task, Plan.from_json(build_plan(task, resolve(str(model)), None).to_json())


def read(model: Path, *inputs: Path | str, **settings: Any) -> pa.Table:
    """The rows of all shards, as a run plans and reads them."""
    task, plan = planned(model, *inputs, **settings)
    reader = ShardReader.of_plan(task, plan, str(model))
    return pa.concat_tables([reader(shard) for shard in plan.shards])


def texts(folder: Path, **files: bytes | str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def odd_columns() -> dict[str, pa.Array]:
    """Columns with values that Python objects cannot hold."""
    return {
        "date": pa.array([2932897, -800000], pa.date32()),
        "time": pa.array([2**62, -(2**62)], pa.timestamp("us")),
        "zone": pa.array([0, 1], pa.timestamp("s", tz="GMT+3")),
        "span": pa.array([2**62, 1], pa.duration("s")),
        "bytes": pa.array([b"\xff\xfe", b"ok"], pa.binary()).view(pa.string()),
        "twins": pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["a", "a"]),
    }


@pytest.mark.parametrize("group_by", [None, "doc_id"])
def test_copied_columns_keep_type_and_value_whatever_they_hold(
    model_folder: Path, tmp_path: Path, group_by: str | None
) -> None:
    columns = odd_columns()
    names = [name for name in columns if name != "twins"]
    table = pa.table({"doc_id": ["x", "y"], "text": ["pump", "water"], **columns})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=True)
    read_back = pq.read_table(tmp_path / "a.parquet", columns=names)
    rows = read(model_folder, tmp_path / "a.parquet", passthrough=tuple(columns), group_by=group_by)
    assert rows["status"].to_pylist() == ["ok", "ok"]
    for name in names:
        assert rows[name].type == read_back[name].type
        assert rows[name].combine_chunks().equals(read_back[name].combine_chunks()), name
    assert [rows["twins"].combine_chunks().field(i).to_pylist() for i in (0, 1)] == [[1, 2], [3, 4]]


def test_a_name_is_never_read_as_syntax(model_folder: Path, tmp_path: Path) -> None:
    names = {"a.txt": "text of a", "a.txt::b.txt": "text of b", "c*.txt": "star", "e[1].txt": "bracket"}
    corpus = texts(tmp_path / "c", **names)
    rows = read(model_folder, corpus, passthrough=("text",))
    assert dict(zip(rows["doc_id"].to_pylist(), rows["text"].to_pylist(), strict=True)) == names
    pq.write_table(pa.table({"doc_id": ["x"], "text": ["pump"]}), tmp_path / ["file:", "a::b.parquet"][1])
    assert read(model_folder, tmp_path / "a::b.parquet")["doc_id"].to_pylist() == ["x"]


def test_dates_of_96_bits_are_right(model_folder: Path, tmp_path: Path) -> None:
    days = pa.array([253402214400, -62135596800], pa.timestamp("s"))  # 9999-12-31 and 0001-01-01
    table = pa.table({"doc_id": ["x", "y"], "text": ["pump", "water"], "day": days})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    rows = read(model_folder, tmp_path / "a.parquet", passthrough=("day",))
    assert [str(day) for day in rows["day"].to_pylist()] == ["9999-12-31 00:00:00", "0001-01-01 00:00:00"]


def test_files_that_are_left_out_are_counted_and_named(model_folder: Path, tmp_path: Path) -> None:
    corpus = texts(tmp_path / "c", **{"a.txt": "pump", "B.TXT": "water", "c.md": "x", "_d.txt": "x"})
    texts(corpus / ".git", config="x")
    _task, plan = planned(model_folder, corpus)
    assert plan.documents == 2 and plan.left_out == 2
    assert plan.left_out_note == f"2 files are left out: {corpus}/_d.txt, {corpus}/c.md"
    rows = read(model_folder, texts(tmp_path / "d", **{"A.JSONL": '{"doc_id": "x", "text": "pump"}'}))
    assert rows["doc_id"].to_pylist() == ["x"]
    packed = gzip.compress(b'{"doc_id": "y", "text": "pump"}')
    rows = read(model_folder, texts(tmp_path / "e", **{"A.JSONL.GZ": packed}))
    assert rows["doc_id"].to_pylist() == ["y"]


@pytest.mark.parametrize(
    ("log", "kind"),
    [("_delta_log/0.json", "Delta"), (".hoodie/x", "Hudi"), ("metadata/v1.metadata.json", "Iceberg")],
)
@pytest.mark.parametrize("pattern", ["", "/part.parquet*", "/../*/*.parquet", "/../**/*.parquet"])
def test_a_folder_that_is_a_table_is_refused(log: str, kind: str, pattern: str, tmp_path: Path) -> None:
    table = tmp_path / "in" / "table"
    (table / log).parent.mkdir(parents=True)
    (table / log).write_text("{}")
    pq.write_table(pa.table({"text": ["pump"]}), table / "part.parquet")
    broken = kind == "Delta" and not pattern  # the folder of a Delta table itself is read by its log
    message = "table cannot be used" if broken else f"(table|in) is a table of {kind}"
    with pytest.raises(UsageError, match=message):
        find_files([f"{table}{pattern}"])
    (table / log).unlink()
    (table / log).parent.rmdir()
    assert len(find_files([f"{table}{pattern}"]).files) == 1


@pytest.mark.parametrize("empty", ["b.jsonl", "blank.jsonl", "b.jsonl.gz", "z.parquet"])
@pytest.mark.parametrize("group_by", [None, "doc_id"])
def test_an_empty_file_has_no_documents(
    empty: str, group_by: str | None, model_folder: Path, tmp_path: Path
) -> None:
    if empty.endswith("parquet"):
        pq.write_table(pa.table({"doc_id": ["x"], "text": ["pump"]}), tmp_path / "a.parquet")
        pq.write_table(pa.table({}), tmp_path / empty)
    else:
        (tmp_path / "a.jsonl").write_text('{"doc_id": "x", "text": "pump"}')
        contents = {"b.jsonl": b"", "blank.jsonl": b"\n \n\n", "b.jsonl.gz": gzip.compress(b"")}
        (tmp_path / empty).write_bytes(contents[empty])
    assert read(model_folder, tmp_path, group_by=group_by)["doc_id"].to_pylist() == ["x"]


def test_columns_that_stand_twice_or_are_internal_are_refused(model_folder: Path, tmp_path: Path) -> None:
    twice = pa.Table.from_arrays(
        [pa.array(["x"]), pa.array(["a"]), pa.array(["b"])], ["doc_id", "text", "text"]
    )
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="column 'text' stands 2 times in"):
        planned(model_folder, tmp_path / "a.parquet")
    for name in ("_text", "_shard", "_rows", "_measured", "_input_ids", "_global_positions"):
        with pytest.raises(UsageError, match=f"--passthrough {name}: the output has columns of that name"):
            planned(model_folder, tmp_path / "a.parquet", passthrough=(name,))


def test_a_file_name_that_is_no_utf_8_is_escaped(model_folder: Path, tmp_path: Path) -> None:
    corpus = os.fsencode(tmp_path / "c")
    os.mkdir(corpus)
    for name in (b"a.txt", b"caf\xe9.txt"):
        with open(corpus + b"/" + name, "wb") as file:
            file.write(b"pump")
    rows = read(model_folder, tmp_path / "c")
    assert rows["doc_id"].to_pylist() == ["a.txt", "caf\\xe9.txt"]
    assert rows["status"].to_pylist() == ["ok", "ok"]
    rows = read(model_folder, tmp_path / "c", id_column=None)
    assert len(set(rows["doc_id"].to_pylist())) == 2


def test_a_byte_order_mark_is_no_text(model_folder: Path, tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    corpus = texts(tmp_path / "c", **{"a.txt": mark + b"pump", "b.txt": mark, "c.txt": b"pump"})
    rows = read(model_folder, corpus, passthrough=("text",)).to_pylist()
    assert [row["text"] for row in rows] == ["pump", None, "pump"]
    assert rows[0]["_input_ids"] == rows[2]["_input_ids"] and rows[0]["text_hash"] == rows[2]["text_hash"]
    assert rows[1]["reason"] == "the text is empty"
    lines = texts(tmp_path / "d", **{"a.jsonl": mark + b'{"doc_id": "x", "text": "pump"}'})
    assert read(model_folder, lines)["status"].to_pylist() == ["ok"]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}'.encode("utf-16"), "is not in UTF-8 but in UTF-16 or UTF-32; convert it"),
        ("a.jsonl", '{"text": "x"}'.encode("utf-16-le"), "is not in UTF-8 but in UTF-16"),
        ("a.jsonl", '{"text": "x"}'.encode("utf-32-be"), "is not in UTF-8 but in UTF-16"),
        ("a.jsonl", LFS, "is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`"),
        ("a.parquet", LFS, "is a Git LFS pointer, not the file itself"),
        ("a.jsonl.gz", LFS, "is a Git LFS pointer, not the file itself"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_what_it_is(
    name: str, content: bytes, message: str, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptInput, match=message):
        planned(model_folder, tmp_path / name, id_column=None)


def test_a_text_file_of_another_kind_is_a_failed_row(model_folder: Path, tmp_path: Path) -> None:
    corpus = texts(tmp_path / "c", **{"a.txt": LFS, "b.txt": "pump".encode("utf-16"), "c.txt": "pump"})
    rows = read(model_folder, corpus).to_pylist()
    assert [row["status"] for row in rows] == ["failed", "failed", "ok"]
    assert rows[0]["reason"] == "the file is a Git LFS pointer, not the file itself"
    assert rows[1]["reason"] == "the file is not in UTF-8 but in UTF-16 or UTF-32"


def test_a_gzip_file_padded_with_zeros_is_read(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"doc_id": "x", "text": "pump"}') + bytes(1024))
    assert read(model_folder, tmp_path)["doc_id"].to_pylist() == ["x"]


def test_an_encrypted_file_is_named_as_such(model_folder: Path, tmp_path: Path) -> None:
    from pyarrow.parquet import encryption

    class Keys(encryption.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return key_bytes

    factory = encryption.CryptoFactory(lambda config: Keys())
    config = encryption.EncryptionConfiguration("footer", column_keys={"k": ["text"]})
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    table = pa.table({"doc_id": ["x"], "text": ["pump"]})
    pq.write_table(table, tmp_path / "a.parquet", encryption_properties=properties)
    with pytest.raises(CorruptInput, match=r"a\.parquet is encrypted; decrypt it first"):
        planned(model_folder, tmp_path / "a.parquet")


def test_a_key_after_the_first_lines_is_found(model_folder: Path, tmp_path: Path) -> None:
    rows = [{"doc_id": f"d{i}", "text": "pump"} | ({"né": i} if i > 2000 else {}) for i in range(2003)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read_rows = read(model_folder, tmp_path, passthrough=("né",), shard_documents=5000)
    assert read_rows["né"].type == pa.int64() and read_rows["né"].to_pylist()[-3:] == [None, 2001, 2002]
    with pytest.raises(UsageError, match=r"has no column 'nè'; it has doc_id, text"):
        planned(model_folder, tmp_path, passthrough=("nè",))


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.large_string()),
        (pa.array(["a"]), pa.array([None], pa.null()), pa.string()),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), pa.string()),
        (pa.array([1], pa.int32()), pa.array([2], pa.int64()), pa.int64()),
        (pa.array([1], pa.uint32()), pa.array([-2], pa.int8()), pa.int64()),
        (pa.array([0.5], pa.float32()), pa.array([0.1], pa.float64()), pa.float64()),
        (pa.array([["a"]]), pa.array([["b"]], pa.list_(pa.field("e", pa.string()))), pa.list_(pa.string())),
    ],
)
def test_types_are_widened_where_no_value_changes(
    one: pa.Array, other: pa.Array, common: pa.DataType, model_folder: Path, tmp_path: Path
) -> None:
    for name, column in (("a", one), ("b", other)):
        table = pa.table({"doc_id": [name], "text": ["pump"], "n": column})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    column = read(model_folder, tmp_path, passthrough=("n",))["n"]
    assert column.type == common and column.to_pylist() == [*one.to_pylist(), *other.to_pylist()]


@pytest.mark.parametrize("pair", [(1, "a"), (1, 0.5)])
def test_types_without_a_common_one_are_refused(
    pair: tuple[object, object], model_folder: Path, tmp_path: Path
) -> None:
    for number, value in enumerate(pair):
        table = pa.table({"doc_id": [str(number)], "text": ["pump"], "n": [value]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    with pytest.raises(UsageError, match=r"--passthrough n: its type differs, int64 in .*; give"):
        planned(model_folder, tmp_path, passthrough=("n",))


def test_the_output_must_not_be_among_the_inputs(model_folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pq.write_table(pa.table({"doc_id": ["x"], "text": ["pump"]}), corpus / "a.parquet")
    (tmp_path / "link").symlink_to(corpus)
    for given, output in (
        (corpus, corpus),
        (corpus, corpus / "out"),
        (corpus, tmp_path / "link" / "out"),
        (f"{tmp_path}/*/*.parquet", tmp_path / "out"),
    ):
        with pytest.raises(UsageError, match="is inside of --input"):
            planned(model_folder, given, output=str(output))
    with pytest.raises(UsageError, match=r"is the folder of the input .*a\.parquet"):
        planned(model_folder, corpus / "a.parquet", output=str(corpus))
    for output in (corpus / "_out", tmp_path / "corpus-out"):
        planned(model_folder, corpus, output=str(output))


def test_the_id_column_keeps_its_name_and_type(model_folder: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"Ticket No": [17, 18], "text": ["pump", "water"]}), tmp_path / "a.parquet")
    rows = read(model_folder, tmp_path, id_column="Ticket No")
    assert rows["doc_id"].to_pylist() == ["17", "18"]
    assert rows["Ticket No"].type == pa.int64() and rows["Ticket No"].to_pylist() == [17, 18]


def test_id_is_tried_where_doc_id_is_missing(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 7, "text": "pump"}\n{"id": 8, "text": "water"}')
    task, plan = planned(model_folder, tmp_path)
    assert plan.id_column == "id" and plan.config["settings"]["id_column"] == "id"
    rows = read(model_folder, tmp_path)
    assert rows["doc_id"].to_pylist() == ["7", "8"] and rows["id"].to_pylist() == [7, 8]
    again = build_plan(task, resolve(str(model_folder)), plan)
    assert (again.id_column, again.fingerprint) == ("id", plan.fingerprint)
    (tmp_path / "b.jsonl").write_text('{"doc_id": "x", "text": "pump"}')
    with pytest.raises(UsageError, match="has no column 'doc_id'; it has id, text"):
        planned(model_folder, tmp_path)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_nested_field_is_a_column(ending: str, model_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "x", "content": {"body": "pump", "lang": {"code": "en"}, "n": 1}},
        {"id": "y", "content": None},
        {"id": "z", "content": {"body": "water", "lang": None, "n": 3}},
    ]
    if ending == "jsonl":
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"column 'content' of .* holds struct.* such as content\.body"):
        planned(model_folder, tmp_path, text_column="content")
    copied = ("content.lang.code", "content.n")
    read_rows = read(model_folder, tmp_path, text_column="content.body", passthrough=copied).to_pylist()
    assert [row["status"] for row in read_rows] == ["ok", "failed", "ok"]
    assert read_rows[1]["reason"] == "the text is null"
    assert [row["content.lang.code"] for row in read_rows] == ["en", None, None]
    assert [row["content.n"] for row in read_rows] == [1, None, 3]


def test_values_of_json_lines_keep_their_types(model_folder: Path, tmp_path: Path) -> None:
    values: list[dict[str, Any]] = [
        {"tags": ["a", "b"], "meta": {"n": 1}, "price": 3, "ok": True, "mixed": "a", "map": {"k": {}}},
        {"tags": [], "meta": {"n": 2, "by": "x"}, "price": 2.5, "ok": None, "mixed": ["b"], "map": {}},
        {"tags": None, "meta": None, "price": None, "mixed": 7, "half": "\ud800"},
    ]
    lines = [json.dumps({"doc_id": str(i), "text": "pump", **row}) for i, row in enumerate(values)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    names = ("tags", "meta", "price", "ok", "mixed", "map", "half")
    rows = read(model_folder, tmp_path, passthrough=names)
    assert rows["tags"].type == pa.list_(pa.string()) and rows["tags"].to_pylist() == [["a", "b"], [], None]
    assert rows["meta"].to_pylist() == [{"n": 1, "by": None}, {"n": 2, "by": "x"}, None]
    assert rows["price"].type == pa.float64() and rows["price"].to_pylist() == [3.0, 2.5, None]
    assert rows["ok"].to_pylist() == [True, None, None]
    assert rows["mixed"].to_pylist() == ["a", '["b"]', "7"]
    assert rows["map"].to_pylist() == ['{"k": {}}', "{}", None]
    assert rows["half"].to_pylist() == [None, None, "\\ud800"]


def test_a_pandas_index_is_explained(model_folder: Path, tmp_path: Path) -> None:
    metadata = {"index_columns": [{"kind": "range", "name": "Ticket No", "start": 0, "stop": 1, "step": 1}]}
    table = pa.table({"text": ["pump"]}).replace_schema_metadata({"pandas": json.dumps(metadata)})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"'Ticket No' as the index of a pandas table.* after reset_index"):
        planned(model_folder, tmp_path, id_column="Ticket No")


def test_ids_of_two_types_are_not_copied(model_folder: Path, tmp_path: Path) -> None:
    for name, value in (("a", 7), ("b", "x")):
        table = pa.table({"id": [value], "doc_id": [name], "text": ["pump"]})
        pq.write_table(table.drop_columns("doc_id"), tmp_path / f"{name}.parquet")
    rows = read(model_folder, tmp_path)
    assert rows["doc_id"].to_pylist() == ["7", "x"] and "id" not in rows.column_names


def test_the_id_column_of_a_plan_stays(model_folder: Path, tmp_path: Path) -> None:
    both, one = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(pa.table({"id": [1], "doc_id": ["x"], "text": ["pump"]}), both)
    pq.write_table(pa.table({"id": [2], "text": ["pump"]}), one)
    with pytest.raises(UsageError, match=r"b\.parquet has no column 'doc_id'"):
        planned(model_folder, tmp_path)
    task, plan = planned(model_folder, one)
    os.utime(one)
    assert build_plan(task, resolve(str(model_folder)), plan).id_column == "id" == plan.id_column


def test_a_column_of_the_path_has_the_common_type(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lang=en").mkdir()
    pq.write_table(pa.table({"doc_id": ["x"], "text": ["pump"]}), tmp_path / "lang=en" / "a.parquet")
    lang = pa.array(["fr"], pa.large_string())
    pq.write_table(pa.table({"doc_id": ["y"], "text": ["water"], "lang": lang}), tmp_path / "b.parquet")
    rows = read(model_folder, tmp_path, passthrough=("lang",))
    assert rows["lang"].type == pa.large_string()
    assert dict(zip(rows["doc_id"].to_pylist(), rows["lang"].to_pylist(), strict=True)) == {
        "x": "en",
        "y": "fr",
    }


@pytest.mark.parametrize(("first", "kind"), [(2**53 + 1, pa.string()), (7, pa.float64()), ([7], pa.string())])
def test_integers_that_a_float_cannot_hold_stay_as_they_are(
    first: object, kind: pa.DataType, model_folder: Path, tmp_path: Path
) -> None:
    second: object = [0.5] if isinstance(first, list) else 0.5
    rows = [{"doc_id": f"d{i}", "text": "pump", "n": first if i < 1000 else second} for i in range(1001)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    column = read(model_folder, tmp_path, passthrough=("n",), shard_documents=2000)["n"]
    assert column.type == kind
    values = [json.loads(value) if kind == pa.string() else value for value in column.to_pylist()]
    assert values[0] == first and values[-1] == second


def test_duplicate_names_of_id_columns_are_refused(model_folder: Path, tmp_path: Path) -> None:
    arrays = [pa.array(["x"]), pa.array(["y"]), pa.array(["pump"])]
    pq.write_table(pa.Table.from_arrays(arrays, ["doc_id", "doc_id", "text"]), tmp_path / "a.parquet")
    for group_by in (None, "doc_id"):
        with pytest.raises(UsageError, match="column 'doc_id' stands 2 times"):
            planned(model_folder, tmp_path, group_by=group_by)


def test_messages_have_a_bounded_length(model_folder: Path, tmp_path: Path) -> None:
    table = pa.table({"Body Text": ["pump"], **{f"column-{i}": [i] for i in range(5000)}})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="Did you mean 'Body Text'") as raised:
        planned(model_folder, tmp_path, text_column="Body text", id_column=None)
    assert len(str(raised.value)) < 1000


def test_questions_of_a_long_document_do_not_overflow(tmp_path: Path) -> None:
    """Columns of a document are repeated for each question: 2.2 GiB in one column of this shard."""
    text = "x" * (11 << 17)
    column = pa.chunked_array([["a", "b"], [], [text] * 2], pa.string())
    repeated = repeat_rows(column, [i for i in range(4) for _ in range(800)])
    assert len(repeated) == 3200 and repeated.type == pa.string()
    assert repeated.nbytes > 2**31 and repeated[-1].as_py() == text
    assert (repeated[0].as_py(), repeated[800].as_py()) == ("a", "b")
    assert pa.total_allocated_bytes() < 2**31
