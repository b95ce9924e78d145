"""Which files a run reads, on disks and in stores, and how changes are detected."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import remote
from pipeline.errors import PlanMismatch, Unreachable, UsageError, check_no_credentials, one_line
from pipeline.inputs.files import check_unchanged, content_id, find_files, format_suffix, partitions
from pipeline.inputs.read import inspect_file, read_rows
from pipeline.inputs.splits import Split
from pipeline.output.open_store import open_store
from pipeline.scheduled import earlier_runs
from pipeline.settings import RunSettings


def paths(*inputs: object) -> list[str]:
    return [entry.path for entry in find_files([str(i) for i in inputs]).files]


def test_folders_globs_and_files_name_each_file_once(write_corpus: Callable[..., Path]) -> None:
    folder = write_corpus(["a"], ["b"])
    (folder / "_plan.parquet").write_bytes(b"")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.parquet").write_bytes(b"")
    (folder / "dataset_info.json").write_text("{}")
    (folder / "001.parquet").rename(folder / "001.json.parquet")
    expected = [str(folder / "000.parquet"), str(folder / "001.json.parquet")]
    assert paths(folder) == expected
    assert (
        paths(
            f"{folder}/*1.json.parquet",
            folder,
            expected[0],
            f"file://{expected[0]}",
            f"{folder}/**/*.parquet",
        )
        == expected
    )


def test_relative_paths_are_made_absolute(
    write_corpus: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_corpus(["a"])
    monkeypatch.chdir(folder.parent)
    assert paths("corpus", "./corpus/0*.parquet", "corpus/000.parquet") == [str(folder / "000.parquet")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere", "nowhere does not exist; give Parquet, JSON lines or text files"),
        ("*.none", "holds no file that can be read; names must end in .parquet"),
        ("a.csv", "a.csv cannot be read: CSV is not read; convert it to Parquet"),
        ("empty", "holds no file that can be read"),
        ("json", r"For \.json files, and for names that begin with _ or \., use a glob: json/\*\.json"),
        ("mixed", r"holds 1 \.parquet and 1 \.txt files; choose one format with a glob such as mixed/"),
        ("https://host/a.parquet", "is on https; inputs must be local or mounted files, s3:// or hf://"),
    ],
)
def test_an_input_without_readable_files_is_refused(
    given: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "mixed/a.parquet", "mixed/readme.txt", "json/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=message):
        find_files([given])


@pytest.mark.parametrize("scheme", ["s3", "https"])
@pytest.mark.parametrize("secret", ["keep-this-secret", "with/a/slash/secret"])
def test_credentials_in_an_address_are_refused_and_not_repeated(scheme: str, secret: str) -> None:
    address = f"{scheme}://who:{secret}@bucket/x.parquet"
    given: dict[str, Any] = {"input": ("in",), "output": "out", "model": "m"}
    for refuse in (
        lambda: find_files([address]),
        lambda: open_store(address),
        lambda: earlier_runs(address, "2026-11-24"),
        lambda: RunSettings(**given | {"output": address}),
        lambda: RunSettings(**given | {"since": ("a", address)}),
        lambda: RunSettings(**given | {"input": (address,)}),
    ):
        with pytest.raises(UsageError, match=r"the address of .* on \w+ has credentials in it") as raised:
            refuse()
        assert "secret" not in str(raised.value).replace("AWS_SECRET", "")
    check_no_credentials("s3://bucket/a:b@c", "--input")
    check_no_credentials("/a/who:x@y", "--input")
    assert (
        one_line(OSError("no answer from http://who:keep@host:1/b\nmore"))
        == "no answer from http://…@host:1/b"
    )


def test_texts_of_one_folder_are_one_input_for_any_pattern(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.txt"):
        (tmp_path / name).write_text(name)
    [folder] = find_files([str(tmp_path / "a*.txt"), str(tmp_path / "b.txt"), str(tmp_path / "c.txt")]).files
    assert folder == find_files([str(tmp_path)]).files[0]
    assert [m.path for m in folder.members] == ["a.txt", "b.txt", "c.txt"] and folder.size == 15


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.parquet", ".parquet"),
        ("a.json.gz", ".jsonl"),
        ("a.jsonl.zst", ".jsonl"),
        ("a.txt", ".txt"),
        ("a.txt.gz", None),
        ("a.parquet.gz", None),
        ("a", None),
        ("a.csv", None),
        (".json", None),
    ],
)
def test_the_format_follows_from_the_extension(name: str, kind: str | None) -> None:
    assert format_suffix(f"/in.parquet/{name}") == kind


def test_hive_folders_are_columns() -> None:
    path = "s3://b/year=2024/place=S%C3%A3o%20P/empty=__HIVE_DEFAULT_PARTITION__/x=/k=v.parquet"
    assert partitions(path) == {"year": "2024", "place": "São P", "empty": None, "x": ""}


def put(address: str, data: bytes) -> None:
    with fsspec.open(address, "wb") as file:
        file.write(data)


def parquet(**columns: Any) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer, row_group_size=10, compression="none", use_dictionary=False)
    return buffer.getvalue().to_pybytes()


def test_s3_is_listed_read_and_identified_by_etag(s3_bucket: str) -> None:
    data = parquet(doc_id=["a", "b"], text=["one", "two"])
    for name in ("in/year=2024/1.parquet", "in/year=2023/0.parquet", "in/_old/2.parquet"):
        put(f"{s3_bucket}/{name}", data)
    expected = [f"{s3_bucket}/in/year=2023/0.parquet", f"{s3_bucket}/in/year=2024/1.parquet"]
    assert (
        paths(f"{s3_bucket}/in")
        == paths(f"{s3_bucket}/in/")
        == paths(f"{s3_bucket}/in/year=*/*.parquet")
        == expected
    )
    assert paths(*expected, f"s3a{s3_bucket[2:]}/in") == expected
    first = find_files(expected).files[0]
    inspected = inspect_file(first, 1, {}, skip_bad=False, max_bytes=16 << 20)
    assert (
        inspected.file.content == f"etag:{first.stamp}"
        and len(first.stamp) == 32
        and len(inspected.splits) == 2
    )
    rows = read_rows(first.path, Split(1, 2), "text", ["text", "year"], 100)
    assert rows.table.to_pydict() == {"text": ["two"], "year": ["2023"]}
    put(expected[0], parquet(doc_id=["a", "b"], text=["one", "2wo"]))
    changed = find_files(expected).files[0]
    assert changed.size == first.size and content_id(changed) != inspected.file.content


def test_a_file_on_s3_that_changes_during_the_run_is_detected(s3_bucket: str) -> None:
    address = f"{s3_bucket}/a.parquet"
    put(address, parquet(text=["one"]))
    content = content_id(find_files([address]).files[0])
    check_unchanged(address, content)
    put(address, parquet(text=["two"]))
    with pytest.raises(PlanMismatch, match=r"a\.parquet was changed after it was planned"):
        check_unchanged(address, content)


def test_requests_to_a_busy_store_are_retried(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(f"{s3_bucket}/a.parquet", parquet(text=["one"]))
    faults = [OSError(errno.EBUSY, "SlowDown"), ConnectionResetError("by peer")]
    fetch = remote.read_range

    def busy(*args: Any) -> bytes:
        if faults:
            raise faults.pop()
        return fetch(*args)

    monkeypatch.setattr(remote, "read_range", busy)
    monkeypatch.setattr("pipeline.retry.FIRST_PAUSE_S", 0.01)
    assert len(read_rows(f"{s3_bucket}/a.parquet", Split(0, 1), "text", ["text"], 100).table) == 1
    assert not faults


def test_only_the_requested_columns_and_row_groups_are_fetched_from_s3(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{i:06d}" * 2000 for i in range(100)]
    put(f"{s3_bucket}/a.parquet", parquet(text=texts, ballast=[str(i % 10) * 100_000 for i in range(100)]))
    fetched = count_fetched(monkeypatch)
    [entry] = find_files([f"{s3_bucket}/a.parquet"]).files
    assert entry.size > 10_000_000
    inspected = inspect_file(entry, 10, {}, skip_bad=False, max_bytes=16 << 20)
    assert sum(fetched) < 100_000, "planning reads the footer"
    fetched.clear()
    rows = read_rows(entry.path, inspected.splits[3], "text", ["text"], 1 << 20)
    assert rows.table["text"].to_pylist() == texts[30:40]
    assert 120_000 < sum(fetched) < 220_000  # ten texts of 12,000 bytes, and the footer


def test_later_rows_of_a_row_group_are_not_fetched(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = pa.BufferOutputStream()
    texts = [os.urandom(25_000).hex() for _ in range(400)]
    pages = {"write_batch_size": 10, "data_page_size": 1 << 18}
    pq.write_table(pa.table({"text": texts}), buffer, compression="none", use_dictionary=False, **pages)
    put(f"{s3_bucket}/a.parquet", buffer.getvalue().to_pybytes())
    fetched = count_fetched(monkeypatch)
    rows = read_rows(f"{s3_bucket}/a.parquet", Split(0, 20), "text", ["text"], 1 << 20)
    assert rows.table["text"].to_pylist() == texts[:20]
    assert sum(fetched) < 5_000_000  # of 20 MB


def test_shards_of_one_row_group_fetch_it_once(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = pa.BufferOutputStream()
    texts = [os.urandom(10_000).hex() for _ in range(400)]
    pq.write_table(pa.table({"text": texts}), buffer, compression="none", use_dictionary=False)
    put(f"{s3_bucket}/a.parquet", buffer.getvalue().to_pybytes())
    fetched = count_fetched(monkeypatch)
    for start in range(0, 400, 16):
        rows = read_rows(f"{s3_bucket}/a.parquet", Split(start, start + 16), "text", ["text"], 1 << 20)
        assert rows.table["text"].to_pylist() == texts[start : start + 16]
    assert sum(fetched) < 8_500_000  # of 8 MB
    assert len(fetched) < 10


def count_fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of bytes of each further fetch from S3."""
    counts: list[int] = []
    fetch = remote.read_range

    def counted(*args: Any) -> bytes:
        data = fetch(*args)
        counts.append(len(data))
        return data

    monkeypatch.setattr(remote, "read_range", counted)
    return counts


def test_json_lines_and_texts_are_read_from_s3(s3_bucket: str) -> None:
    put(f"{s3_bucket}/j/a.jsonl", b'{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
    for name in ("x", "y"):
        put(f"{s3_bucket}/t/{name}.txt", name.encode())
    lines, texts = (
        inspect_file(find_files([f"{s3_bucket}/{f}"]).files[0], 2, {}, skip_bad=False, max_bytes=16 << 20)
        for f in "jt"
    )
    got = [
        read_rows(lines.file.path, split, "text", ["text"], 100).table["text"].to_pylist()
        for split in lines.splits
    ]
    assert got == [[b"one", b"two"], [b"three"]]
    assert read_rows(texts.file.path, texts.splits[0], "text", ["text", "doc_id"], 100).table.to_pydict() == {
        "text": [b"x", b"y"],
        "doc_id": ["x.txt", "y.txt"],
    }


def test_missing_files_on_s3_are_reported(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"s3://.*/nothing does not exist"):
        find_files([f"{s3_bucket}/nothing"])
    with pytest.raises(Unreachable, match=r"rows 0 to 1 of s3://.*gone\.parquet cannot be reached"):
        read_rows(f"{s3_bucket}/gone.parquet", Split(0, 1), "text", ["text"], 1)


def test_many_files_are_listed_in_parallel(s3_bucket: str) -> None:
    for i in range(40):
        put(f"{s3_bucket}/{i:02d}.jsonl", b'{"text": "a"}\n')
    assert len(paths(*(f"{s3_bucket}/{i:02d}.jsonl" for i in range(40)))) == 40
