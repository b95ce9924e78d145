"""A task as a step of a user's own Ray Data pipeline: encode batches of documents, and predict their rows.

Nothing is committed. The columns of the user's dataset stay, and those of the task are added.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import ray.data
from ray.data import TaskPoolStrategy

from led.checkpoint.hub import Checkpoint
from pipeline.cluster.actor import Replica
from pipeline.cluster.capacity import IO_CPUS
from pipeline.cluster.replicas import predict, prepare_cluster
from pipeline.cluster.session import translate_ray_errors
from pipeline.errors import UsageError
from pipeline.inputs.formats import column_values
from pipeline.inputs.texts import is_list, read_texts
from pipeline.inputs.types import is_text
from pipeline.schema import (
    COUNTS,
    DOC_ID,
    INPUT,
    INTERNAL,
    MEASURED,
    PROVENANCE,
    SHARD,
    STATE,
    split_by_shard,
)
from pipeline.tasks.base import Task
from pipeline.workers.encoder import RowEncoder
from pipeline.workers.reader import repeat_rows

# More batches than a run on any cluster has in flight.
_MANY = 1 << 20


@dataclass(frozen=True)
class Processor:
    """A step of a pipeline: called with a dataset, it returns the dataset with the columns of a task.

    `hashes` are those of the checkpoint that every machine must have.
    """

    task: Task
    checkpoint: Checkpoint
    hashes: Mapping[str, str]
    batch_documents: int
    preserve_order: bool

    @property
    def columns(self) -> list[str]:
        """The names of the columns that it adds."""
        return [*STATE.names, *COUNTS.names, *self.task.schema.names]

    def __call__(self, dataset: ray.data.Dataset) -> ray.data.Dataset:
        """The dataset with the columns of the task. Nothing is computed until it is consumed.

        Raises:
            UsageError: the cluster cannot hold a replica, a worker cannot import the task, or the dataset is
                known to lack a column or to have one of the task's.
        """
        with translate_ray_errors():
            capacity = prepare_cluster(self.task, _MANY)
        known = dataset.schema(fetch_if_missing=False)
        if known is not None:
            check_columns(known.names, self.task, self.columns)
        found = self.checkpoint
        encoder = RowEncoder(
            self.task,
            found.source,
            found.revision,
            found.base_model,
            self.task.input_limits(found.folder),
            self.hashes["tokenizer_sha256"],
        )
        encoded = dataset.repartition(target_num_rows_per_block=self.batch_documents).map_batches(
            BatchEncoder(encoder, self.columns),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=IO_CPUS,
            compute=TaskPoolStrategy(size=capacity.readers),
        )
        run, weights = uuid.uuid4().hex[:12], {"weights_sha256": self.hashes["weights_sha256"]}
        arguments = (self.task, found.source, found.revision, run, weights, found.base_model)
        predicted = predict(
            encoded, BatchPredictor, arguments, self.task.settings, capacity, self.batch_documents
        )
        if self.preserve_order:
            # The context is shared with the datasets that this one was made from.
            predicted._context = predicted.context.copy()
            predicted._context.execution_options.preserve_order = True
        return predicted


def check_columns(names: list[str], task: Task, added: list[str]) -> None:
    """Check that a dataset has the columns that a task reads, and none that it adds.

    Raises:
        UsageError: it does not.
    """
    settings = task.settings
    needed = [settings.text_column, *(column for _, column in settings.extra_columns)]
    needed += [settings.id_column] if settings.id_column not in (None, DOC_ID.name) else []
    missing = sorted(set(needed) - set(names))
    if missing:
        raise UsageError(
            f"the dataset has no column {', '.join(missing)}; it has {', '.join(names)}. Set text_column."
        )
    clash = sorted({*added, *INPUT.names, *INTERNAL, *PROVENANCE.names} & set(names))
    if clash:
        raise UsageError(
            f"the dataset has the column {', '.join(clash)}, which the task {task.name} adds; rename it "
            "first."
        )


class BatchEncoder:
    """Encodes the documents of a batch. The columns of the batch stay in front."""

    def __init__(self, encoder: RowEncoder, added: list[str]) -> None:
        self._encoder, self._added = encoder, added

    def __call__(self, batch: pa.Table) -> pa.Table:
        task = self._encoder.task
        settings = task.settings
        if not batch.num_columns:  # an empty block
            return batch
        check_columns(batch.column_names, task, self._added)
        self._encoder.tokenizer()  # loaded first: a missing tokenizer is not the fault of a document
        column = batch[settings.text_column]
        _check_text(column, settings.text_column, lists=settings.joins_documents)
        texts = read_texts(column, settings.max_document_bytes, lists=settings.joins_documents)
        needed = list(dict.fromkeys(column for _, column in settings.extra_columns))
        values = column_values("", batch.select(needed))
        id_column = settings.id_column if settings.id_column in batch.column_names else None
        ids = list(map(str, batch[id_column].to_pylist() if id_column else range(len(batch))))
        requested = self._encoder.expand(ids, texts, values)
        rows = self._encoder.rows(requested, None)
        encoded = self._encoder.table(uuid.uuid4().hex, [row.doc_id for row in requested], rows)
        # The number of each row. Ray Data may cut the block.
        numbers = pa.array(range(len(encoded)), pa.int32())
        encoded = encoded.set_column(encoded.column_names.index("_rows"), SHARD.field("_rows"), numbers)
        documents = [row.document for row in requested]
        for name in reversed(batch.column_names):
            kept = batch[name] if len(documents) == len(batch) else repeat_rows(batch[name], documents)
            encoded = encoded.add_column(0, batch.schema.field(name), kept)
        # The ID of a run's rows has no place here, where the dataset may have a column of that name.
        encoded = encoded.remove_column(len(batch.column_names) + len(SHARD))
        return encoded.append_column(MEASURED, pa.array([json.dumps({})] * len(encoded), MEASURED.type))


def _check_text(column: pa.ChunkedArray, name: str, *, lists: bool) -> None:
    """Check that a column holds texts, or also lists of them.

    Raises:
        UsageError: it does not.
    """
    kind = column.type
    if not is_text(kind.value_type if lists and is_list(kind) else kind):
        raise UsageError(f"column {name!r} holds {kind}; it must hold texts.")


class BatchPredictor(Replica):
    """A replica of the model in a user's own pipeline."""

    def __call__(self, block: pa.Table) -> pa.Table:  # type: ignore[override]
        rows = super().__call__(_with_piece_ids(block)) if len(block) else block
        hidden = (*INTERNAL, *INPUT.names, *PROVENANCE.names)
        return rows.drop_columns([name for name in rows.column_names if name in hidden])


def _with_piece_ids(block: pa.Table) -> pa.Table:
    """The rows with an ID for each piece of a batch. Ray Data cuts large blocks, and crashes are counted by
    ID."""
    pieces = []
    for piece in split_by_shard(block):
        name = f"{piece['_shard'][0].as_py()}-{piece['_rows'][0].as_py()}"
        place = piece.column_names.index("_shard")
        pieces.append(piece.set_column(place, SHARD.field("_shard"), pa.array([name] * len(piece))))
    return pa.concat_tables(pieces)
