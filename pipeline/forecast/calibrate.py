"""Forecast a run before it starts, and preview its output. Nothing is written.

`forecast` samples document lengths, processes pieces of a few shards on the run's own devices (the
calibration), and extrapolates. `preview` processes a few random documents in this process.
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

from led.pipelines.chunking import UNLIMITED
from led.pipelines.joining import whole_text
from pipeline.checkpoint import find_checkpoint
from pipeline.cluster.dataset import Workers
from pipeline.errors import PipelineError
from pipeline.forecast.model import CalibrationShard, Length, forecast_seconds, total
from pipeline.inputs.read import read_rows
from pipeline.inputs.texts import read_texts
from pipeline.monitor.stats import Estimate, device_hours
from pipeline.output.truncated import dropped_tokens, truncated_rows
from pipeline.planning.plan import FORECAST_VERSION, Plan, Shard
from pipeline.prepare import build_plan
from pipeline.schema import COUNTS, INTERNAL, LEVELS, MEASURED
from pipeline.tasks.base import InputLimits, Task
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader

# Rows per piece when lengths are sampled. Small pieces spread the sample over the corpus.
_LENGTH_PIECE_ROWS = 32

# Pieces that are read in one pass over the files.
_PIECES_PER_PASS = 16

_LEVEL_TOKENS = LEVELS.names[1]

# Pieces that the calibration submits: at least this many, and this many per replica. The limit is needed
# because Ray Data keeps a task for each.
_MIN_PIECES, _PIECES_PER_REPLICA = 256, 8


@dataclass(frozen=True)
class Forecast:
    """The forecast of a run.

    Counts are sums over the whole corpus. `chunked` are the rows that are read in several chunks, of at most
    `chunk_tokens` tokens, and `chunks` the chunks of all rows. `seconds` is wall-clock time from the
    command's start to its end. `startup_seconds` of them pass before the first shard starts. `sampled` and
    `calibration_rows` are the rows that the forecast is based on. `limit` is the input limit in tokens, None
    without one, and `lengths` are the sampled document lengths, sorted. `hardware` has the names of the
    processor or GPU and of the dtype in force of each kind of replica. `settings` are those that the
    checkpoint or a default decides. `left_out` names files of the input that are not read.
    """

    documents: int
    shards: int
    rows: Estimate
    input_tokens: Estimate
    output_tokens: Estimate
    truncated: Estimate
    chunked: Estimate
    chunks: Estimate
    failed: Estimate
    output_bytes: Estimate
    seconds: Estimate
    startup_seconds: float
    replicas: int
    device_hours: Estimate
    cost: Estimate | None
    slot_utilization: float
    memory_bytes: float
    sampled: int
    calibration_rows: int
    limit: int | None
    chunk_tokens: int
    lengths: tuple[int, ...]
    hardware: tuple[tuple[str, str], ...]
    settings: str
    left_out: str

    @property
    def shown_limit(self) -> int:
        """The limit in tokens from which a row is truncated or read in chunks."""
        return min(self.chunk_tokens, self.limit or self.chunk_tokens)

    def to_json(self) -> bytes:
        """The content of `_forecast.json`. It leaves out the lengths."""
        values = asdict(self)
        del values["lengths"]
        return (json.dumps({"version": FORECAST_VERSION, **values}, indent=1) + "\n").encode()


def sample_shards(plan: Plan, rows: int, max_pieces: int, seed: int) -> list[Shard]:
    """At most `max_pieces` random pieces of the plan's shards in random order, each of at most `rows` rows.

    If files are read from an offset, only the first piece of a shard can be read. Only the drawn pieces are
    created, since a corpus may have as many pieces as documents.
    """
    counts = (
        1 if shard.offset or shard.members or shard.group_rows else -(-shard.documents // rows)
        for shard in plan.shards
    )
    ends = list(itertools.accumulate(counts))
    drawn = random.Random(seed).sample(range(ends[-1]), min(max_pieces, ends[-1]))
    pieces = []
    for number in drawn:
        position = bisect.bisect_right(ends, number)
        shard = plan.shards[position]
        start = shard.start + rows * (number - (ends[position - 1] if position else 0))
        piece = shard.split.after(start - shard.start).first(rows)
        pieces.append(replace(shard, shard_id=f"{shard.shard_id}-{start}", **vars(piece)))
    return pieces


def sample_lengths(reader: ShardReader, pieces: Sequence[Shard], rows: int, seconds: float) -> pa.Table:
    """Status and token counts of the rows of `pieces`. Stops after `rows` rows or after `seconds`."""
    tables: list[pa.Table] = []
    start = time.monotonic()
    for first in range(0, len(pieces), _PIECES_PER_PASS):
        # In the order of the files, so that a row group is decoded once for all its pieces.
        for piece in sorted(pieces[first : first + _PIECES_PER_PASS], key=lambda p: (p.path, p.start)):
            tables.append(reader(piece).select(["status", *COUNTS.names]))
            if sum(map(len, tables)) >= rows or time.monotonic() - start > seconds:
                return pa.concat_tables(tables)
    return pa.concat_tables(tables)


def run_calibration(
    plan: Plan, workers: Workers, pieces: Sequence[Shard], seconds: float
) -> Iterator[pa.Table]:
    """Yield the rows of each piece, computed as in the run. After `seconds` no further piece starts."""
    start: float | None = None
    for table in workers.tables(plan, pieces):
        # The clock starts when the first piece is done, because the time before it is loading.
        start = start or time.monotonic()
        if len(table):
            yield table
        if time.monotonic() - start > seconds:
            workers.control.stop()


def forecast(task: Task, documents: int = 2000, seconds: float = 60.0, seed: int = 0) -> Forecast:
    """Forecast a run of `task` from the lengths of `documents` documents and about `seconds` of calibration.

    Raises:
        UsageError: settings, input, model and output do not fit together.
        PipelineError: no document could be read or predicted.
    """
    # The CPU time so far is that of imports, which the run needs as well.
    start, startup = time.monotonic(), time.process_time()
    settings = task.settings
    checkpoint = find_checkpoint(settings)
    plan = build_plan(task, checkpoint, None)
    startup += time.monotonic() - start
    input_limits = InputLimits(**plan.config["input_limits"])
    reader = ShardReader.of_plan(task, plan, str(checkpoint.folder))
    length_pieces = sample_shards(plan, _LENGTH_PIECE_ROWS, documents, seed)
    sample = sample_lengths(reader, length_pieces, documents, seconds / 2)
    start = time.monotonic()
    workers = Workers(task, checkpoint, len(plan.shards), f"calibration-{uuid.uuid4().hex}")
    slots = settings.slots
    piece_rows = max(1, min(settings.shard_documents, slots))
    max_pieces = max(_MIN_PIECES, _PIECES_PER_REPLICA * workers.capacity.replicas)
    pieces = sample_shards(plan, piece_rows, max_pieces, seed + 1)
    calibration: list[pa.Table] = []
    for rows in run_calibration(plan, workers, pieces, seconds):
        if not calibration:
            startup += max(0.0, time.monotonic() - start - _measured(rows)["predict_seconds"])
        calibration.append(rows)
    columns = (sample[name].to_pylist() for name in ("input_tokens", "chunks", "status"))
    lengths = [
        Length(tokens, cut, chunks or 1)
        for cut, tokens, chunks, status in zip(dropped_tokens(sample), *columns, strict=True)
        if status == "ok"
    ]
    if not lengths or not any(_calibration_shard(table).tokens for table in calibration):
        raise PipelineError(
            "no sampled document could be read; run the subcommand preview to see the reasons."
        )
    return _forecast(
        task,
        plan,
        input_limits,
        sample,
        lengths,
        calibration,
        startup,
        workers.capacity.replicas,
        slots,
        task.describe_settings(checkpoint.folder),
    )


def _forecast(
    task: Task,
    plan: Plan,
    limits: InputLimits,
    sample: pa.Table,
    lengths: Sequence[Length],
    calibration: Sequence[pa.Table],
    startup: float,
    replicas: int,
    slots: int,
    described: str,
) -> Forecast:
    settings, calibrated = task.settings, pa.concat_tables(calibration)
    # The number of rows of a document is known only from the calibration.
    rows_of_documents = [
        count for table in calibration for count in _rows_of_documents(table, task.number_column)
    ]
    rows_per_document = fmean(rows_of_documents)
    rows = round(plan.documents * rows_per_document)
    complete = len(sample) >= rows
    shard_rows = [max(1, round(shard.documents * rows_per_document)) for shard in plan.shards]
    shards = [_calibration_shard(table) for table in calibration]
    # On a GPU, the memory decides about the slots.
    steps = sum(shard.measured.get("steps", 0.0) for shard in shards)
    if steps:
        slots = round(sum(shard.measured.get("slot_steps", 0.0) for shard in shards) / steps)
    fused = limits.chunk_tokens if settings.fuses_chunks else None
    work_seconds, slot_utilization = forecast_seconds(
        lengths, shards, shard_rows, replicas, slots, fused_tokens=fused
    )
    seconds = work_seconds.plus(startup)
    hours = seconds.times(device_hours(replicas, settings.gpus))
    price = settings.price_per_hour
    failed = [float(status != "ok") for status in sample["status"].to_pylist()]
    tokens = [value or 0 for value in sample["input_tokens"].to_pylist()]
    truncated = [float(value) for value in truncated_rows(sample).to_pylist()]
    chunks = [float(value or 0) for value in sample["chunks"].to_pylist()]
    hardware = [_measured(table).get("hardware", {}) for table in calibration]
    documents_complete = len(rows_of_documents) >= plan.documents
    return Forecast(
        documents=plan.documents,
        shards=len(plan.shards),
        rows=total(rows_of_documents, plan.documents, complete=documents_complete),
        input_tokens=total(tokens, rows, complete=complete),
        output_tokens=total(_output_tokens(calibrated), rows, complete=len(calibrated) >= rows),
        truncated=total(truncated, rows, complete=complete),
        chunked=total([float(n > 1) for n in chunks], rows, complete=complete),
        chunks=total(chunks, rows, complete=complete),
        failed=total(failed, rows, complete=complete),
        output_bytes=Estimate.exactly(_parquet_bytes(calibrated) / len(calibrated) * rows),
        seconds=seconds,
        startup_seconds=startup,
        replicas=replicas,
        device_hours=hours,
        cost=hours.times(price) if price is not None else None,
        slot_utilization=slot_utilization,
        memory_bytes=max(_measured(table).get("peak_bytes", 0.0) for table in calibration),
        sampled=len(sample),
        calibration_rows=len(calibrated),
        limit=limits.max_input_tokens if limits.max_input_tokens < UNLIMITED else None,
        chunk_tokens=limits.chunk_tokens,
        settings=described,
        left_out=plan.left_out_note,
        hardware=tuple(sorted({(found["processor"], found["dtype"]) for found in hardware if found})),
        lengths=tuple(sorted(length.input_tokens + length.truncated_tokens for length in lengths)),
    )


def _measured(rows: pa.Table) -> dict[str, Any]:
    return json.loads(rows[MEASURED.name][0].as_py())


def _output_tokens(rows: pa.Table) -> list[int]:
    if "output_tokens" not in rows.column_names:
        return [0] * len(rows)
    return [value or 0 for value in rows["output_tokens"].to_pylist()]


def _rows_of_documents(rows: pa.Table, number: str | None) -> list[float]:
    """The number of rows of each document. `number` is the column that numbers them, if there is one."""
    if number is None:
        return [1.0] * len(rows)
    first = pc.indices_nonzero(pc.equal(rows[number], 0)).to_pylist()
    return [float(end - start) for start, end in itertools.pairwise([*first, len(rows)])]


def _calibration_shard(rows: pa.Table) -> CalibrationShard:
    measured = _measured(rows)
    levels = rows[_LEVEL_TOKENS].to_pylist() if _LEVEL_TOKENS in rows.column_names else [None] * len(rows)
    columns = (rows["input_tokens"].to_pylist(), rows["chunks"].to_pylist(), levels, _output_tokens(rows))
    tokens = [
        pair
        for read, chunks, of_levels, written in zip(*columns, strict=True)
        if read
        for pair in items_of(of_levels or [read], chunks or 1, written)
    ]
    return CalibrationShard(tuple(tokens), measured.pop("predict_seconds"), measured)


def items_of(level_tokens: Sequence[int], chunks: int, output_tokens: int) -> list[tuple[int, int]]:
    """(tokens read, tokens written) of what was decoded for a row of several chunks, at all levels.

    The first level has `chunks` of equal length. What one level writes, the next one reads.
    """
    items = []
    for read, written in zip(level_tokens, [*level_tokens[1:], output_tokens], strict=True):
        items += [(read // chunks, written // chunks)] * chunks
        chunks = 1
    return items


def _parquet_bytes(rows: pa.Table) -> int:
    buffer = io.BytesIO()
    pq.write_table(rows.drop_columns(INTERNAL), buffer, compression="zstd")
    return buffer.tell()


def preview(task: Task, documents: int, seed: int = 0) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield (text, row) of random documents, processed in this process. The text is None if a document
    cannot be read.

    Raises:
        UsageError: settings, input and model do not fit together.
    """
    settings = task.settings
    checkpoint = find_checkpoint(settings)
    plan = build_plan(task, checkpoint, None)
    reader = ShardReader.of_plan(task, plan, str(checkpoint.folder))
    predictor = Predictor(task, str(checkpoint.folder), None)
    for piece in sample_shards(plan, 1, documents, seed):
        # Copied columns stay out: not every value of Arrow has one of Python.
        rows = predictor(reader(piece)).drop_columns([*INTERNAL, *plan.passthrough.names]).to_pylist()
        if rows[0]["status"] == "skipped":
            yield from ((None, row) for row in rows)
            continue
        name, most, lists = settings.text_column, settings.max_document_bytes, settings.joins_documents
        column = read_rows(piece.path, piece.split, name, [name], most, lists=lists).table[name]
        [text] = read_texts(column, most, lists=lists)
        shown = None if text.text is None else whole_text(text.text)
        yield from ((shown, row) for row in rows)
