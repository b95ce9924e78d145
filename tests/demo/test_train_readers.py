"""The training of both readers learns and resumes, and writes checkpoints that load and keep their prompt."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demo.reports import LABELS
from demo.train_readers import STAGES, TASKS, answer_batch, last_stages, start_model, train
from demo.train_summarizer import small_config, start_weights
from demo.train_tokenizer import texts
from demo.training import Stage
from led.config import LEDConfig
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.tokenizer.tokenizer import LEDTokenizer

STAGE = Stage((0, 10), 400, 1.0)


@pytest.fixture(scope="module")
def summarizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small summarizer that knows nothing yet."""
    folder = tmp_path_factory.mktemp("summarizer")
    torch.manual_seed(0)
    tokenizer = LEDTokenizer.learn(texts(20, 100, 5), 600, split_digits=True)
    model = LEDForConditionalGeneration(
        replace(small_config(len(tokenizer)), d_model=32, encoder_ffn_dim=32, decoder_ffn_dim=32)
    )
    start_weights(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", list(TASKS))
def test_a_little_training_lowers_the_loss(task: str, summarizer: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind, make_batch, loss_of = TASKS[task]
    batch = make_batch(STAGE, LEDTokenizer.from_pretrained(summarizer), random.Random(9))
    before = loss_of(start_model(task, summarizer).eval(), *batch)[0].item()
    train(task, summarizer, tmp_path, minutes=0.06, peak=3e-3, seed=0, stages=(STAGE,))
    after = loss_of(kind.from_pretrained(tmp_path), *batch)[0].item()
    assert after < before
    train(task, tmp_path, tmp_path, minutes=0.01, peak=1e-4, seed=1, stages=(STAGE,))
    assert LEDConfig.from_pretrained(tmp_path).decoder_prompt == (2, 0)
    if task == "label":
        assert list(LEDConfig.from_pretrained(tmp_path).labels.values()) == list(LABELS)


def test_targets_are_the_answers_tokens(summarizer: Path) -> None:
    tokenizer = LEDTokenizer.from_pretrained(summarizer)
    batch, (starts, ends) = answer_batch(Stage((20, 60), 2000, 1.0), tokenizer, random.Random(1))
    assert batch.input_ids is not None
    for ids, first, last in zip(batch.input_ids.split(batch.lengths), starts, ends, strict=True):
        question, report = tokenizer.decode(ids.tolist()).split("</s></s>")
        answer = tokenizer.decode(ids[first : last + 1].tolist()).strip()
        assert answer and answer in report and question.endswith("?")


def test_stages_that_are_left_out_leave_their_time_to_the_others() -> None:
    assert last_stages(0) == STAGES
    assert [stage.words for stage in last_stages(2)] == [stage.words for stage in STAGES[2:]]
    assert last_stages(2)[-1].until == 1.0 and 0 < last_stages(2)[0].until < 0.5
