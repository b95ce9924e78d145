"""Samples are drawn from the whole corpus without creating all its pieces, and a calibration stays small."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cluster.capacity import Capacity
from pipeline.forecast import calibrate as calibration
from pipeline.forecast.calibrate import forecast, items_of, preview, sample_shards
from pipeline.inputs.read import InputFile
from pipeline.inputs.splits import Split
from pipeline.planning.plan import FORECAST_VERSION, Plan, Shard, make_plan
from pipeline.tasks.base import InputLimits, Task
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader
from tests.conftest import words


def plan_of(**files: Sequence[Split]) -> Plan:
    inputs = [InputFile(name, 1, splits[-1].stop, "h", "1") for name, splits in files.items()]
    return make_plan(inputs, {}, 10, {name: tuple(splits) for name, splits in files.items()})


def test_every_row_is_in_one_piece_and_no_piece_spans_shards() -> None:
    plan = plan_of(a=[Split(0, 10), Split(10, 13)], b=[Split(0, 7)])
    pieces = sample_shards(plan, 4, 100, 0)
    assert sorted((p.path, p.start, p.stop) for p in pieces) == [
        ("a", 0, 4),
        ("a", 4, 8),
        ("a", 8, 10),
        ("a", 10, 13),
        ("b", 0, 4),
        ("b", 4, 7),
    ]
    assert len({p.shard_id for p in pieces}) == 6 and sample_shards(plan, 4, 2, 0) == sample_shards(
        plan, 4, 2, 0
    )


def test_only_the_first_piece_is_drawn_if_a_file_is_read_from_an_offset() -> None:
    members = tuple(f"{n}.txt" for n in range(9))
    plan = plan_of(lines=[Split(0, 10), Split(10, 20, offset=99)], texts=[Split(0, 9, members=members)])
    pieces = {(p.path, p.start, p.stop, p.offset, p.members) for p in sample_shards(plan, 5, 100, 0)}
    assert pieces == {
        ("lines", 0, 5, 0, ()),
        ("lines", 5, 10, 0, ()),
        ("lines", 10, 15, 99, ()),
        ("texts", 0, 5, 0, members[:5]),
    }


def test_every_piece_is_drawn_with_equal_probability() -> None:
    plan = plan_of(a=[Split(0, 10), Split(10, 11)], b=[Split(0, 9)])
    drawn = Counter((p.path, p.start) for seed in range(2000) for p in sample_shards(plan, 1, 5, seed))
    assert len(drawn) == 20 and all(abs(n - 500) < 100 for n in drawn.values())


def test_five_pieces_of_millions_are_drawn_without_creating_the_others() -> None:
    shards = tuple(Shard(f"{n}", "/in", 64 * n, 64 * n + 64) for n in range(20_000))
    plan = Plan((), {}, shards)
    tracemalloc.start()
    try:
        pieces = sample_shards(plan, 1, 5, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(pieces) == 5 and all(p.documents == 1 for p in pieces)
    assert peak < 4 << 20


class LocalWorkers:
    """Workers in this process. They process the first few pieces that they receive."""

    received: list[int]

    def __init__(self, task: Task, checkpoint: Any, shards: int, run: str) -> None:
        self._task, self._folder, self.capacity = task, str(checkpoint.folder), Capacity(1, 1, 1.0, 1, 1)

    def tables(self, plan: Plan, pieces: Sequence[Shard]) -> Iterator[pa.Table]:
        self.received.append(len(pieces))
        reader = ShardReader(
            self._task, self._folder, None, InputLimits(**plan.config["input_limits"]), plan.passthrough
        )
        predictor = Predictor(self._task, self._folder, None)
        for piece in pieces[:8]:
            yield predictor(reader(piece))


def test_a_calibration_receives_a_few_hundred_pieces(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "Workers", LocalWorkers)
    monkeypatch.setattr(LocalWorkers, "received", [], raising=False)
    corpus = write_corpus([words(3, n) for n in range(400)], row_group=400)
    settings = SummarizeSettings(
        input=(str(corpus),),
        output=str(tmp_path / "out"),
        model=str(model_folder),
        shard_documents=1,
        max_num_seqs=1,
    )
    result = forecast(Summarize(settings), documents=40, seconds=600.0)
    assert LocalWorkers.received == [256]
    assert result.documents == result.shards == 400 and 40 <= result.sampled < 80
    saved = json.loads(result.to_json())
    assert saved["version"] == FORECAST_VERSION and "lengths" not in saved
    assert saved["rows"] == {"value": 400, "low": 400, "high": 400}


def test_a_preview_shows_unreadable_rows_as_skipped(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus([words(50, n) for n in range(6)], row_group=3)
    path = corpus / "000.parquet"
    data = bytearray(path.read_bytes())
    page = pq.ParquetFile(path).metadata.row_group(0).column(1).dictionary_page_offset
    # Damage the texts of the first three rows. The footer and the IDs stay intact.
    data[page : page + 192] = bytes(192)
    path.write_bytes(data)
    settings = SummarizeSettings(
        input=(str(corpus),), output=str(tmp_path / "out"), model=str(model_folder), on_bad_shard="skip"
    )
    shown = {row["doc_id"]: (text, row) for text, row in preview(Summarize(settings), 6)}
    assert sorted(row["status"] for _, row in shown.values()) == ["ok"] * 3 + ["skipped"] * 3
    for text, row in shown.values():
        assert (text is None) == (row["status"] == "skipped") == ("cannot be read" in (row["reason"] or ""))


@pytest.mark.parametrize(
    ("level_tokens", "chunks", "output", "items"),
    [
        ([100], 1, 20, [(100, 20)]),
        ([300], 3, 60, [(100, 20)] * 3),
        ([300, 60], 3, 15, [(100, 20)] * 3 + [(60, 15)]),
        ([300, 60, 12], 3, 15, [(100, 20)] * 3 + [(60, 12), (12, 15)]),
    ],
)
def test_what_was_decoded_for_a_row(
    level_tokens: list[int], chunks: int, output: int, items: list[tuple[int, int]]
) -> None:
    assert items_of(level_tokens, chunks, output) == items


def test_a_forecast_counts_chunks(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "Workers", LocalWorkers)
    monkeypatch.setattr(LocalWorkers, "received", [], raising=False)
    corpus = write_corpus([words(3, n) if n % 2 else words(400, n) for n in range(8)])
    settings = SummarizeSettings(
        input=(str(corpus),),
        output=str(tmp_path / "out"),
        model=str(model_folder),
        overflow="fuse",
        shard_documents=2,
    )
    result = forecast(Summarize(settings), documents=8, seconds=600.0)
    assert (result.limit, result.chunk_tokens, result.shown_limit) == (None, 128, 128)
    assert result.chunked.value == 4 and result.truncated.value == 0
    assert result.chunks.value >= 4 * 4 + 4
