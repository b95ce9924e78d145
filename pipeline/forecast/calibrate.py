"""A run tried out before it is paid for: lengths of a sample, a few shards end to end on the real devices, a
forecast; nothing is written.
"""

from __future__ import annotations

import bisect
import io
import itertools
import json
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from led.generation.scheduler import SchedulerLimits
from pipeline.checkpoint import find_checkpoint
from pipeline.cluster.dataset import Workers
from pipeline.errors import PipelineError
from pipeline.forecast.model import CalibrationShard, Length, forecast_seconds, total
from pipeline.inputs.read import read_rows
from pipeline.monitor.stats import Estimate, device_hours
from pipeline.planning.plan import Plan, Shard
from pipeline.prepare import build_plan
from pipeline.schema import INTERNAL, MEASURED, NUMBER
from pipeline.tasks import Task
from pipeline.tasks.base import InputLimits
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader, read_texts

# Rows of a shard whose lengths are looked at, so that a sample comes from many places.
_TOGETHER = 32

# Pieces of shards that are rehearsed at most, for all model copies and for each: Ray Data holds a task for
# every one of them.
_CALIBRATION_PIECES, _CALIBRATION_PIECES_EACH = 256, 8


@dataclass(frozen=True)
class Forecast:
    """What a run will take. Sums are over the whole corpus; seconds are of the clock, from the command to its
    end."""

    documents: int
    shards: int
    rows: Estimate
    input_tokens: Estimate
    output_tokens: Estimate
    truncated: Estimate
    failed: Estimate
    output_bytes: Estimate
    seconds: Estimate
    startup_seconds: float
    replicas: int
    device_hours: Estimate
    cost: Estimate | None
    fill: float
    memory_bytes: float
    sampled: int
    calibration: int
    limit: int
    lengths: tuple[int, ...]

    def to_json(self) -> bytes:
        """As it is kept beside the run's results; the lengths are left out."""
        values = asdict(self)
        del values["lengths"]
        return (json.dumps(values, indent=1) + "\n").encode()


def sample_shards(plan: Plan, rows: int, max_replicas: int, seed: int) -> list[Shard]:
    """At most so many pieces of the plan's shards, each of at most `rows` rows, drawn at random and in random
    order.

    Only a piece at a shard's beginning can be read where files are read from an offset. Of the pieces only
    those that are drawn are made: a corpus has as many as it has documents.
    """
    counts = (1 if shard.offset or shard.members else -(-shard.documents // rows) for shard in plan.shards)
    ends = list(itertools.accumulate(counts))
    drawn = random.Random(seed).preview(range(ends[-1]), min(max_replicas, ends[-1]))
    pieces = []
    for number in drawn:
        place = bisect.bisect_right(ends, number)
        shard = plan.shards[place]
        start = shard.start + rows * (number - (ends[place - 1] if place else 0))
        stop = min(start + rows, shard.stop)
        members = shard.members[: stop - start]
        pieces.append(
            replace(shard, shard_id=f"{shard.shard_id}-{start}", start=start, stop=stop, members=members)
        )
    return pieces


def sample_lengths(reader: ShardReader, pieces: Sequence[Shard], rows: int, seconds: float) -> pa.Table:
    """The first columns of at least so many rows, if there are as many, or as many as can be tokenized in
    `seconds`."""
    tables: list[pa.Table] = []
    begun = time.monotonic()
    for piece in pieces:
        tables.append(reader(piece).select(["status", "input_tokens", "truncated_tokens"]))
        if sum(map(len, tables)) >= rows or time.monotonic() - begun > seconds:
            break
    return pa.concat_tables(tables)


def run_calibration(
    plan: Plan, workers: Workers, pieces: Sequence[Shard], seconds: float
) -> Iterator[pa.Table]:
    """The rows of pieces of shards as the run would make them; after `seconds` no other piece is begun."""
    begun: float | None = None
    for table in workers.tables(plan, pieces):
        # The clock starts when the first piece is done: what is before it is loading.
        begun = begun or time.monotonic()
        if len(table):
            yield table
        if time.monotonic() - begun > seconds:
            workers.control.stop()


def forecast(task: Task, documents: int = 2000, seconds: float = 60.0, seed: int = 0) -> Forecast:
    """Forecast a run of `task`: from the lengths of so many documents, and a rehearsal of about so many
    seconds.

    Raises:
        UsageError: settings, input, model and output do not fit together.
        PipelineError: nothing could be read or predicted.
    """
    # Until here a process imports what it needs, as the run's will; then it plans.
    begun, startup = time.monotonic(), time.process_time()
    settings = task.settings
    checkpoint = find_checkpoint(settings)
    plan = build_plan(task, checkpoint, None)
    startup += time.monotonic() - begun
    input_limits = InputLimits(**plan.config["input_limits"])
    reader = ShardReader(task, str(checkpoint.folder), None, input_limits, plan.passthrough)
    table = sample_lengths(reader, sample_shards(plan, _TOGETHER, documents, seed), documents, seconds / 2)
    begun = time.monotonic()
    workers = Workers(task, checkpoint, len(plan.shards), f"rehearsal-{uuid.uuid4().hex}")
    # Of the devices' memory nothing is asked: they need not be of this machine.
    in_flight = SchedulerLimits(settings.max_num_seqs, memory_bytes=1).on(
        torch.device("cuda" if settings.gpus else "cpu")
    )[0]
    together = max(1, min(settings.shard_documents, in_flight))
    done: list[pa.Table] = []
    max_replicas = max(_CALIBRATION_PIECES, _CALIBRATION_PIECES_EACH * workers.capacity.replicas)
    for rows in run_calibration(
        plan, workers, sample_shards(plan, together, max_replicas, seed + 1), seconds
    ):
        if not done:
            startup += max(0.0, time.monotonic() - begun - _measured(rows)["predict_seconds"])
        done.append(rows)
    lengths = [
        Length(tokens, split or 0)
        for tokens, split, status in zip(
            *(table[name].to_pylist() for name in ("input_tokens", "truncated_tokens", "status")), strict=True
        )
        if status == "ok"
    ]
    if not lengths or not any(_calibration_shard(rows).tokens for rows in done):
        raise PipelineError("no document of the sample could be read; see what `sample` says of them.")
    return _forecast(
        task, plan, input_limits, table, lengths, done, startup, workers.capacity.replicas, in_flight
    )


def _forecast(
    task: Task,
    plan: Plan,
    input_limits: InputLimits,
    table: pa.Table,
    lengths: Sequence[Length],
    done: Sequence[pa.Table],
    startup: float,
    replicas: int,
    in_flight: int,
) -> Forecast:
    settings, made = task.settings, pa.concat_tables(done)
    calibration = [_calibration_shard(rows) for rows in done]
    # A document of several rows: how many, the rehearsal says.
    each = [count for rows in done for count in _rows_of_documents(rows)]
    rows_each = fmean(each)
    rows = round(plan.documents * rows_each)
    everything = len(table) >= rows
    shard_rows = [max(1, round(shard.documents * rows_each)) for shard in plan.shards]
    work, fill = forecast_seconds(lengths, calibration, shard_rows, replicas, in_flight)
    time_needed = work.plus(startup)
    hours = time_needed.times(device_hours(replicas, settings.gpus))
    price = settings.price_per_hour
    ok = [status == "ok" for status in table["status"].to_pylist()]
    tokens = [value or 0 for value in table["input_tokens"].to_pylist()]
    truncated = [float((value or 0) > 0) for value in table["truncated_tokens"].to_pylist()]
    written = made["output_tokens"].to_pylist() if "output_tokens" in made.column_names else [0] * len(made)
    return Forecast(
        documents=plan.documents,
        shards=len(plan.shards),
        rows=total(each, plan.documents, everything=len(each) >= plan.documents),
        input_tokens=total(tokens, rows, everything=everything),
        output_tokens=total([value or 0 for value in written], rows, everything=len(made) >= rows),
        truncated=total(truncated, rows, everything=everything),
        failed=total([float(not each) for each in ok], rows, everything=everything),
        output_bytes=Estimate.exactly(_parquet_bytes(made) / len(made) * rows),
        seconds=time_needed,
        startup_seconds=startup,
        replicas=replicas,
        device_hours=hours,
        cost=hours.times(price) if price is not None else None,
        fill=fill,
        memory_bytes=max(_measured(rows).get("peak_bytes", 0.0) for rows in done),
        sampled=len(table),
        calibration=len(made),
        limit=input_limits.max_input_tokens,
        lengths=tuple(sorted(length.input_tokens + length.truncated_tokens for length in lengths)),
    )


def _measured(rows: pa.Table) -> dict[str, Any]:
    return json.loads(rows[MEASURED.name][0].as_py())


def _rows_of_documents(rows: pa.Table) -> list[float]:
    """How many rows each document has."""
    if NUMBER not in rows.column_names:
        return [1.0] * len(rows)
    first = pc.indices_nonzero(pc.equal(rows[NUMBER], 0)).to_pylist()
    return [float(end - begin) for begin, end in itertools.pairwise([*first, len(rows)])]


def _calibration_shard(rows: pa.Table) -> CalibrationShard:
    measured = _measured(rows)
    written = rows["output_tokens"].to_pylist() if "output_tokens" in rows.column_names else [0] * len(rows)
    tokens = tuple(
        (n or 0, m or 0) for n, m in zip(rows["input_tokens"].to_pylist(), written, strict=True) if n
    )
    return CalibrationShard(tokens, measured.pop("predict_seconds"), measured)


def _parquet_bytes(rows: pa.Table) -> int:
    buffer = io.BytesIO()
    pq.write_table(rows.drop_columns(INTERNAL), buffer, compression="zstd")
    return buffer.tell()


def preview(task: Task, documents: int, seed: int = 0) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """(text, row) of so many documents drawn at random, end to end in this process.

    Raises:
        UsageError: settings, input and model do not fit together.
    """
    settings = task.settings
    checkpoint = find_checkpoint(settings)
    plan = build_plan(task, checkpoint, None)
    reader = ShardReader(
        task, str(checkpoint.folder), None, InputLimits(**plan.config["input_limits"]), plan.passthrough
    )
    predictor = Predictor(task, str(checkpoint.folder), None)
    for piece in sample_shards(plan, 1, documents, seed):
        rows = predictor(reader(piece)).drop_columns(INTERNAL).to_pylist()
        if rows[0]["status"] == "skipped":
            yield from ((None, row) for row in rows)
            continue
        column = read_rows(
            piece.path, piece.split, settings.text_column, [settings.text_column], settings.max_document_bytes
        )
        [text] = read_texts(column.table[settings.text_column], settings.max_document_bytes)
        yield from ((text.text, row) for row in rows)
