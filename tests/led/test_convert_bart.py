"""A converted BART computes what the BART does, and its positions are copies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from led.checkpoint.files import CheckpointError
from led.convert_bart import convert_bart, convert_weights, main
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.testing import spread_weights
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import words

transformers = pytest.importorskip("transformers", reason="the reference, transformers 5, is not installed")


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bart")
    sizes: dict[str, Any] = {"d_model": 32, "max_position_embeddings": 40, "vocab_size": 320}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 2, f"{part}_attention_heads": 4, f"{part}_ffn_dim": 48}
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes))
    spread_weights(model, seed=1)
    model.save_pretrained(folder)
    LEDTokenizer.learn([words(200, 0)], vocab_size=320, model_max_length=40).save_pretrained(folder)
    return folder


def test_a_converted_model_computes_what_the_bart_does(bart: Path, tmp_path: Path) -> None:
    convert_bart(bart, tmp_path / "led", positions=100, window=64)
    theirs = transformers.BartForConditionalGeneration.from_pretrained(bart).eval()
    ours = LEDForConditionalGeneration.from_pretrained(tmp_path / "led")
    for length in (1, 2, 17, 33):
        ids = torch.randint(5, 320, (2, length), generator=torch.Generator().manual_seed(length))
        labels = torch.randint(5, 320, (2, 7), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = theirs(ids, labels=labels).logits
            torch.testing.assert_close(ours(ids, labels=labels).logits, expected, rtol=1e-4, atol=1e-4)
    learned = theirs.model.encoder.embed_positions.weight[2:]
    table = ours.led.encoder.embed_positions.weight
    assert table.shape == (100, 32) and torch.equal(table, torch.cat([learned] * 3)[:100])
    assert torch.equal(
        ours.led.decoder.embed_positions.weight, theirs.model.decoder.embed_positions.weight[2:]
    )
    attention = ours.led.encoder.layers[0].self_attn.longformer_self_attn
    for name in ("query", "key", "value"):
        local, wide = (getattr(attention, each) for each in (name, f"{name}_global"))
        assert torch.equal(local.weight, wide.weight) and torch.equal(local.bias, wide.bias)
    tokenizer = LEDTokenizer.from_pretrained(tmp_path / "led")
    assert tokenizer.model_max_length == 100
    reference = transformers.LEDForConditionalGeneration.from_pretrained(tmp_path / "led").eval()
    ids = torch.tensor([tokenizer.encode(words(60, 3))[:64]])
    with torch.no_grad():
        torch.testing.assert_close(
            ours(ids, labels=ids[:, :5]).logits,
            reference(ids, labels=ids[:, :5]).logits,
            rtol=1e-4,
            atol=1e-4,
        )


def test_the_command(bart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    arguments = ["--bart", bart, "--out", tmp_path / "led", "--positions", 64, "--window", 16]
    monkeypatch.setattr(sys, "argv", ["convert_bart", *map(str, arguments)])
    main()
    assert "an LED that reads 64 tokens" in capsys.readouterr().out
    assert LEDForConditionalGeneration.from_pretrained(tmp_path / "led").config.attention_window == 16


def test_other_models_are_refused(bart: Path, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has model_type 'led'; it must be 'bart'"):
        convert_bart(model_folder, tmp_path / "led")
    with pytest.raises(CheckpointError, match="not those of a BART"):
        convert_weights({"x": torch.ones(1)}, 8)
    scaled = tmp_path / "scaled"
    scaled.mkdir()
    for path in bart.iterdir():
        (scaled / path.name).write_bytes(path.read_bytes())
    values = {**json.loads((bart / "config.json").read_text()), "scale_embedding": True}
    (scaled / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="has scale_embedding"):
        convert_bart(scaled, tmp_path / "led")
