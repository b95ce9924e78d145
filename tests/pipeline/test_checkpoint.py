"""Every worker has the checkpoint of the plan, or the run fails. A missing one makes no failed rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from led.testing import tiny_model
from pipeline.checkpoint import checkpoint_hashes, find_checkpoint, worker_checkpoint, worker_tokenizer
from pipeline.errors import PipelineError, PlanMismatch, UsageError
from pipeline.planning.plan import Shard
from pipeline.tasks.base import InputLimits
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.reader import ShardReader
from tests.conftest import words


def test_the_planned_checkpoint_is_accepted(model_folder: Path) -> None:
    config = checkpoint_hashes(model_folder)
    assert worker_checkpoint(str(model_folder), None, config) == model_folder
    assert len(worker_tokenizer(str(model_folder), None, config["tokenizer_sha256"])) == 320


def test_another_checkpoint_fails_the_run(model_folder: Path, tmp_path: Path) -> None:
    config, folder = checkpoint_hashes(model_folder), tmp_path / "model"
    shutil.copytree(model_folder, folder)
    tiny_model(seed=4, vocab_size=320).save_pretrained(folder)
    with pytest.raises(PlanMismatch, match=r"the checkpoint .* differs from the plan \(weights_sha256 is "):
        worker_checkpoint(str(folder), None, config)
    with pytest.raises(PlanMismatch, match=r"tokenizer_sha256 is .*, was 0123"):
        worker_tokenizer(str(folder), None, "0123")


def test_a_machine_without_the_checkpoint_makes_no_failed_rows(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus([words(9, 0)])
    task = Summarize(
        SummarizeSettings(input=(str(corpus),), output=str(tmp_path / "out"), model=str(tmp_path / "gone"))
    )
    reader = ShardReader(task, str(tmp_path / "gone"), None, InputLimits(128, 128))
    with pytest.raises(
        PipelineError, match=r"--model .*gone is not available on .*Every machine of the cluster needs it"
    ):
        reader(Shard("x", str(corpus / "000.parquet"), 0, 1))
    with pytest.raises(PipelineError, match="is not available on"):
        worker_checkpoint(str(tmp_path / "gone"), None, {})
    with pytest.raises(UsageError, match=r"--model: the model folder .*gone does not exist"):
        find_checkpoint(task.settings)
