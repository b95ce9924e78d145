"""Malformed checkpoint files are refused by name, in seconds and with little memory."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from led.checkpoint.files import CheckpointError
from led.config import LEDConfig
from led.generation.config import GenerationConfig
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import words


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["led.encoder.layers.0.fc1.weight", "led.decoder.layernorm_embedding.bias"])
def test_weights_that_are_no_numbers_are_refused(name: str, value: float, folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[name].view(-1)[-1] = value
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"the weight {name} has values that are NaN or infinite"):
        LEDForConditionalGeneration.from_pretrained(folder)


def test_weights_that_overflow_the_dtype_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["led.encoder.layers.0.fc1.bias"][0] = 1e6
    save_file(weights, path, metadata={"format": "pt"})
    LEDForConditionalGeneration.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="infinite in float16"):
        LEDForConditionalGeneration.from_pretrained(folder, dtype=torch.float16)


def test_a_bias_may_forbid_tokens(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["final_logits_bias"][0, 7] = float("-inf")
    save_file(weights, path, metadata={"format": "pt"})
    LEDForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"encoder_layers": 10**6, "num_hidden_layers": 10**6},
        {"d_model": 10**30},
        {"encoder_ffn_dim": 10**9},
        {"vocab_size": 10**9},
        {"max_encoder_position_embeddings": 10**9},
        {"attention_window": 10**7},
    ],
    ids=lambda values: str(values),
)
def test_sizes_far_beyond_the_weights_are_refused_at_once(values: dict[str, int], folder: Path) -> None:
    change(folder / "config.json", **values)
    start = time.monotonic()
    with pytest.raises(
        (CheckpointError, ValueError), match=r"config\.json in .* describes|attention_window has"
    ):
        LEDForConditionalGeneration.from_pretrained(folder)
    with pytest.raises((CheckpointError, ValueError)):
        LEDForConditionalGeneration.check_pretrained(folder)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("content", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, "\ud800", "{", "3"])
def test_files_that_are_no_settings_are_named(content: str, folder: Path) -> None:
    data = content.encode("utf-8", "surrogatepass")
    for name, read in (
        ("config.json", LEDConfig.from_pretrained),
        ("generation_config.json", GenerationConfig.from_pretrained),
        ("tokenizer.json", LEDTokenizer.from_pretrained),
        ("tokenizer_config.json", LEDTokenizer.from_pretrained),
    ):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            read(folder)  # type: ignore[operator]
        (folder / name).write_bytes(before)


def test_a_normalizer_that_makes_texts_much_longer_is_refused(folder: Path) -> None:
    replacement = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    change(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [replacement] * 4})
    with pytest.raises(ValueError, match=r"tokenizer\.json .*makes texts up to 1000000000000 times as long"):
        LEDTokenizer.from_pretrained(folder)
    change(
        folder / "tokenizer.json", normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "_"}
    )
    LEDTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("expression", ["(a+)+$", "(?:a*)*b", "(a|a+){2,}"])
def test_a_regular_expression_that_may_never_end_is_refused(expression: str, folder: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    before = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]
    change(folder / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [split, before]})
    with pytest.raises(ValueError, match="its pre_tokenizer has the regular expression"):
        LEDTokenizer.from_pretrained(folder)
    harmless = r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    split["pattern"] = {"Regex": harmless}
    change(folder / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [split, before]})
    assert LEDTokenizer.from_pretrained(folder).encode(words(5, 0))


def test_a_panic_of_the_backend_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As pyo3 raises it."""

    class Backend:
        def encode_batch(self, texts: list[str]) -> None:
            raise PanicException("index out of bounds")

    tokenizer = LEDTokenizer.from_pretrained(folder)
    monkeypatch.setattr(tokenizer, "_variant", lambda _: Backend())
    with pytest.raises(ValueError, match="the tokenizer failed: index out of bounds"):
        tokenizer.encode_batch(["a"])
