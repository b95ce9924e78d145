"""The training script learns, grows its positions and writes a folder that loads."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch

from demo.train_summarizer import (
    PERIOD,
    grow_positions,
    loss_and_accuracy,
    make_batch,
    small_config,
    start_weights,
    train,
)
from demo.train_tokenizer import texts
from demo.training import Stage
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.tokenizer.tokenizer import LEDTokenizer


def test_a_little_training_lowers_the_loss_and_saves_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = LEDTokenizer.learn(texts(20, 100, 5), 600, split_digits=True)
    config = replace(small_config(len(tokenizer)), d_model=32, encoder_ffn_dim=32, decoder_ffn_dim=32)
    model = LEDForConditionalGeneration(config)
    start_weights(model)
    stage = Stage((0, 10), 400, 1.0)
    batch = make_batch(stage, tokenizer, random.Random(9))
    before = loss_and_accuracy(model, *batch)[0].item()
    train(model, tokenizer, minutes=0.08, peak=3e-3, seed=0, out=tmp_path, stages=(stage,))
    loaded = LEDForConditionalGeneration.from_pretrained(tmp_path)
    assert loss_and_accuracy(loaded, *batch)[0].item() < before - 0.5


def test_positions_grow_by_copying_whole_periods() -> None:
    model = LEDForConditionalGeneration(replace(small_config(300), max_encoder_position_embeddings=700))
    table = model.led.encoder.embed_positions.weight
    first = table[:PERIOD].clone()
    grow_positions(model, learned=100)
    assert torch.equal(table[PERIOD : 2 * PERIOD], first) and torch.equal(
        table[2 * PERIOD : 700], first[: 700 - 2 * PERIOD]
    )
