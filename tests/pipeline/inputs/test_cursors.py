"""Shards of one row group, or of one compressed file, are read in one pass, whatever is left out."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inputs import jsonl, parquet
from pipeline.inputs.cursors import CURSORS, CursorCache
from pipeline.inputs.files import current_entry, find_files
from pipeline.inputs.read import inspect_file, read_rows
from pipeline.inputs.rows import Rows
from pipeline.inputs.splits import Split

ROWS, SHARD = 1000, 30

# Times that a file is opened for its first shard: Parquet once for the footer.
FIRST_OPENED = {".parquet": 2, ".gz": 1}


@pytest.fixture(autouse=True)
def no_cursors() -> Iterator[None]:
    CURSORS.clear()
    yield
    CURSORS.clear()


def write_parquet(folder: Path, name: str = "a") -> Path:
    path = folder / f"{name}.parquet"
    table = pa.table({"text": [f"{name} {i}" for i in range(ROWS)], "n": range(ROWS)})
    pq.write_table(table, path, row_group_size=ROWS)
    return path


def write_lines(folder: Path, name: str = "a") -> Path:
    path = folder / f"{name}.jsonl.gz"
    lines = (json.dumps({"text": f"{name} {i}", "n": i}) + "\n" for i in range(ROWS))
    path.write_bytes(gzip.compress("".join(lines).encode()))
    return path


def splits_of(path: Path) -> tuple[Split, ...]:
    [entry] = find_files((str(path),)).files
    return inspect_file(entry, SHARD, {}, skip_bad=False, max_bytes=1 << 20).splits


def texts(path: Path, split: Split, *more: str) -> list[str]:
    table = read_rows(str(path), split, "text", ["text", *more], 1 << 20).table
    return [text.decode() if isinstance(text, bytes) else text for text in table["text"].to_pylist()]


def expected(split: Split, name: str = "a") -> list[str]:
    return [f"{name} {i}" for i in range(split.start, split.stop)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that a format opens from now on."""
    paths: list[str] = []
    for module in (parquet, jsonl):
        original = module.open_file

        @contextmanager
        def counted(path: str, original: Any = original, **options: Any) -> Iterator[IO[bytes]]:
            paths.append(path)
            with original(path, **options) as file:
                yield file

        monkeypatch.setattr(module, "open_file", counted)
    return paths


WRITERS = pytest.mark.parametrize("write", [write_parquet, write_lines], ids=["parquet", "jsonl.gz"])


@WRITERS
def test_consecutive_shards_open_and_decode_the_file_once(
    write: Callable[[Path], Path], tmp_path: Path, opened: list[str]
) -> None:
    path = write(tmp_path)
    splits = splits_of(path)
    assert len(splits) == 34 and [split.skipped_rows for split in splits] == [s.start for s in splits]
    opened.clear()
    for split in splits:
        assert texts(path, split) == expected(split)
    assert len(opened) == FIRST_OPENED[path.suffix]


@WRITERS
def test_after_a_resume_committed_shards_are_skipped_in_the_same_pass(
    write: Callable[[Path], Path], tmp_path: Path, opened: list[str]
) -> None:
    path = write(tmp_path)
    left = [split for i, split in enumerate(splits_of(path)) if i % 3]
    opened.clear()
    for split in left:
        assert texts(path, split) == expected(split)
    assert len(opened) == FIRST_OPENED[path.suffix]


@WRITERS
def test_any_order_gives_the_same_rows(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    splits = list(splits_of(path))
    random.Random(3).shuffle(splits)
    for split in splits:
        assert texts(path, split) == expected(split)
    for split in splits[:9]:  # other columns are another position
        assert texts(path, split, "n") == expected(split) and texts(path, split) == expected(split)


@WRITERS
def test_a_file_that_replaced_another_is_read_from_its_start(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(tmp_path)
    first, second, *_ = splits_of(path)
    assert texts(path, first) == expected(first)
    write(tmp_path, "b").replace(path)
    assert texts(path, second) == expected(second, "b")
    assert texts(path, first) == expected(first, "b")


def test_shards_of_several_files_may_alternate(tmp_path: Path, opened: list[str]) -> None:
    paths = write_parquet(tmp_path), write_lines(tmp_path, "b")
    splits = [splits_of(path) for path in paths]
    opened.clear()
    for first, second in zip(*splits, strict=True):
        assert texts(paths[0], first) == expected(first)
        assert texts(paths[1], second) == expected(second, "b")
    assert len(opened) == sum(FIRST_OPENED.values())


def test_whole_row_groups_and_lines_with_an_offset_keep_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"a {i}" for i in range(90)]}), path, row_group_size=SHARD)
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({"text": f"a {i}"}) + "\n" for i in range(90)))
    for file in (path, lines):
        for split in splits_of(file):
            assert split.skipped_rows == 0 and texts(file, split) == expected(split)
    assert not CURSORS._cursors


def test_large_texts_are_decoded_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    data = random.Random(0).randbytes(1 << 17)
    table = pa.table({"text": [f"{i}".encode() + data for i in range(200)]})
    pq.write_table(table, path, row_group_size=200, use_dictionary=False)
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 1 << 20)
    cursor = parquet._RowGroups(current_entry(str(path)), Split(0, 30), ["text"])
    pieces = list(cursor.read(100, 130))
    cursor.close()
    assert sum(len(rows.table) for rows in pieces) == 30
    assert max(rows.table.nbytes for rows in pieces) <= 1 << 20


class Numbers:
    """A cursor over ten rows."""

    def __init__(self, *, fails: bool = False) -> None:
        self.position, self.end, self.closed, self._fails = 0, 10, False, fails

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        if self._fails:
            raise OSError("the connection was lost")
        for i in range(start, stop):
            self.position = i + 1
            yield Rows(pa.table({"n": [i]}))

    def close(self) -> None:
        self.closed = True


def test_cursors_are_closed_at_the_end_after_errors_and_when_there_are_too_many() -> None:
    cache, made = CursorCache(2), list[Numbers]()

    def new(**how: Any) -> Callable[[], Numbers]:
        def make() -> Numbers:
            made.append(Numbers(**how))
            return made[-1]

        return make

    def numbers(key: str, start: int, stop: int) -> list[int]:
        return [rows.table["n"][0].as_py() for rows in cache.read(key, new(), start, stop)]

    assert numbers("a", 0, 3) == [0, 1, 2] and numbers("a", 5, 7) == [5, 6] and len(made) == 1
    assert numbers("a", 8, 10) == [8, 9] and made[0].closed
    with pytest.raises(OSError, match="lost"):
        list(cache.read("a", new(fails=True), 0, 3))
    assert made[1].closed
    assert numbers("a", 0, 1) == numbers("b", 0, 1) == numbers("c", 0, 1) == [0]
    assert [each.closed for each in made[2:]] == [True, False, False]
    assert numbers("b", 0, 2) == [0, 1]  # behind the position
    assert [each.closed for each in made[2:]] == [True, True, False, False]
    next(cache.read("c", new(), 4, 8))  # abandoned after one row
    assert made[4].closed
    cache.clear()
    assert all(each.closed for each in made)
