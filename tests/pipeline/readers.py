"""Checkpoints of classifiers and question answerers: tiny random weights with a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.testing import spread_weights, tiny_config
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.planning.plan import Shard
from pipeline.tasks.base import Task
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader
from tests.conftest import words

KINDS = {"label": LEDForSequenceClassification, "answer": LEDForQuestionAnswering}


def make_reader(folder: Path, kind: str, **config: Any) -> Path:
    """A checkpoint of a tiny classifier ("label") or question answerer ("answer"), with spread logits."""
    tokenizer = LEDTokenizer.learn([words(200, 0) + " é 日本 ü ?"], vocab_size=320, model_max_length=64)
    model = KINDS[kind](tiny_config(vocab_size=len(tokenizer), **config))
    spread_weights(model, seed=5, scale=8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows_of(task: Task, model: Path, file: Path) -> list[dict[str, Any]]:
    """The rows of a task for a file, without a cluster."""
    shard = Shard("s", str(file), 0, pq.read_metadata(file).num_rows)
    table = ShardReader(task, str(model), None, task.input_limits(model))(shard)
    return Predictor(task, str(model), None)(table).to_pylist()


Corpus = Callable[..., Path]
