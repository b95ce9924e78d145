"""A job writes what `led.pipeline` writes, whatever the checkpoint's files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from led.pipelines.pipeline import pipeline
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from tests.conftest import words
from tests.pipeline.readers import Corpus, rows_of
from tests.pipeline.tasks.test_tasks import with_problem

IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2}
PARAMS = {"summarization": {"num_beams": 3, "max_length": 14, "min_length": 5, "no_repeat_ngram_size": 2}}


@pytest.mark.parametrize(
    ("config", "generation"),
    [
        ({}, IDS),
        ({}, {**IDS, "no_repeat_ngram_size": 2}),
        ({"task_specific_params": PARAMS}, IDS),
        ({"prefix": "the pump "}, {**IDS, "max_length": 9, "num_beams": 2}),
    ],
    ids=["ids only", "no lengths", "task parameters", "prefix"],
)
def test_a_job_writes_what_the_pipeline_writes(
    config: dict[str, Any],
    generation: dict[str, Any],
    model_folder: Path,
    write_corpus: Corpus,
    tmp_path: Path,
) -> None:
    folder = with_problem(model_folder, tmp_path / "model", **config)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    texts = [words(n, n) for n in (1, 7, 40)]
    task = Summarize(SummarizeSettings(input=("c",), output="out", model=str(folder)))
    rows = rows_of(task, folder, write_corpus(texts) / "000.parquet")
    written = [result["summary_text"] for result in pipeline("summarization", model=folder)(texts)]
    assert [row["summary"] for row in rows] == written
    tokenizer = LEDTokenizer.from_pretrained(folder)
    lengths = [len(tokenizer.encode(config.get("prefix", "") + text)) for text in texts]
    assert [row["input_tokens"] for row in rows] == lengths


def test_a_run_says_what_nobody_states(model_folder: Path, tmp_path: Path) -> None:
    folder = with_problem(model_folder, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps(IDS))
    task = Summarize(SummarizeSettings(input=("c",), output="out", model=str(folder)))
    described = task.describe_settings(folder)
    assert described == (
        "max_new_tokens 64 (default), no_repeat_ngram_size 3 (default), num_beams 4 (default), "
        "global_attention first (default)"
    )
