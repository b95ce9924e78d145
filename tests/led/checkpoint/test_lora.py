"""LoRA adapters are merged into their base. `tests/led/v4/test_peft_v4.py` compares with PEFT."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from led.checkpoint.files import CheckpointError
from led.checkpoint.hub import resolve
from led.config import LEDConfig
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import make_checkpoint

QUERY = "led.encoder.layers.0.self_attn.longformer_self_attn.query"
FC2 = "led.decoder.layers.1.fc2"


def parts(module: str, shape: tuple[int, int], rank: int, seed: int = 0) -> dict[str, Tensor]:
    """The two factors of a module's update, under PEFT's names."""
    generator = torch.Generator().manual_seed(seed)
    name = f"base_model.model.{module}"
    return {
        f"{name}.lora_A.weight": torch.randn(rank, shape[1], generator=generator),
        f"{name}.lora_B.weight": torch.randn(shape[0], rank, generator=generator),
    }


def write_adapter(folder: Path, base: Path | None, tensors: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "task_type": "SEQ_2_SEQ_LM", **config}
    if base is not None:
        values["base_model_name_or_path"] = str(base)
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("led.checkpoint.hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 1.5),
        ({"use_rslora": True}, 3 / math.sqrt(2)),
        ({"alpha_pattern": {"query": 8}, "rank_pattern": {"query": 2}}, 4.0),
        ({"alpha_pattern": {"encoder.layers.0.self_attn.longformer_self_attn.query": 8}}, 4.0),
        ({"alpha_pattern": {"key": 8}}, 1.5),
    ],
)
def test_updates_are_added_to_the_base(
    model_folder: Path, tmp_path: Path, config: dict[str, Any], scale: float
) -> None:
    tensors = parts(QUERY, (32, 32), 2)
    adapter = write_adapter(tmp_path / "adapter", model_folder, tensors, **config)
    base, merged = (
        LEDForConditionalGeneration.from_pretrained(folder).state_dict() for folder in (model_folder, adapter)
    )
    a, b = tensors.values()
    for name, weight in base.items():
        update = scale * b @ a if name == f"{QUERY}.weight" else torch.zeros_like(weight)
        torch.testing.assert_close(merged[name], weight + update)
    assert LEDTokenizer.from_pretrained(adapter)("the pump") == LEDTokenizer.from_pretrained(model_folder)(
        "the pump"
    )
    assert LEDConfig.from_pretrained(adapter) == LEDConfig.from_pretrained(model_folder)


def test_whole_weights_and_a_larger_vocabulary(model_folder: Path, tmp_path: Path) -> None:
    size = LEDConfig.from_pretrained(model_folder).vocab_size
    tensors = parts(FC2, (32, 48), 2)
    embedding = torch.randn(size + 1, 32)
    bias = torch.zeros(1, size + 1)
    tensors |= {
        "base_model.model.led.shared.modules_to_save.default.weight": embedding,
        "base_model.model.final_logits_bias": bias,
    }
    adapter = write_adapter(tmp_path / "adapter", model_folder, tensors)
    tokenizer = LEDTokenizer.from_pretrained(model_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<doc-sep>"]})
    tokenizer.save_pretrained(adapter)
    model = LEDForConditionalGeneration.from_pretrained(adapter)
    assert model.config.vocab_size == size + 1 == len(LEDTokenizer.from_pretrained(adapter))
    assert torch.equal(model.led.shared.weight, embedding) and model.lm_head.weight is model.led.shared.weight


def test_the_base_may_be_given(model_folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", None, parts(QUERY, (32, 32), 2))
    with pytest.raises(FileNotFoundError, match=r"names no base; give one \(--base-model\)"):
        LEDForConditionalGeneration.from_pretrained(adapter)
    given = LEDForConditionalGeneration.from_pretrained(adapter, base_model=str(model_folder))
    named = write_adapter(tmp_path / "named", model_folder, parts(QUERY, (32, 32), 2))
    for x, y in zip(
        given.parameters(), LEDForConditionalGeneration.from_pretrained(named).parameters(), strict=True
    ):
        assert torch.equal(x, y)
    with pytest.raises(FileNotFoundError, match=r"is not a LoRA adapter .* takes no base model"):
        resolve(str(model_folder), base_model=str(model_folder))


def test_a_base_that_is_missing_is_named(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", tmp_path / "gone", parts(QUERY, (32, 32), 2))
    with pytest.raises(FileNotFoundError, match=r"the base .*/gone of the adapter .* cannot be found"):
        resolve(str(adapter))


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (
            parts(QUERY, (32, 32), 2),
            {"peft_type": "IA3"},
            "has peft_type 'IA3'; only LORA",
        ),
        (
            parts("led.encoder.layers.9.fc1", (48, 32), 2),
            {},
            "changes 1 modules that its base lacks",
        ),
        (parts(QUERY, (16, 32), 2), {}, r"update of .*query is \(16, 32\), its base \(32, 32\)"),
        (
            {f"base_model.model.{QUERY}.lora_A.weight": torch.ones(2, 32)},
            {},
            "has only lora_A of",
        ),
        (
            {f"base_model.model.{QUERY}.lora_X.weight": torch.ones(2, 32)},
            {},
            "lora_X.weight, which cannot be merged here; merge it with PEFT",
        ),
        (
            {"base_model.model.lm_head.weight": torch.ones(320, 32)},
            {},
            "gives the language-model head weights of its own",
        ),
    ],
    ids=["another type", "another base", "another shape", "half", "unknown part", "own head"],
)
def test_adapters_that_cannot_be_merged_are_refused(
    model_folder: Path, tmp_path: Path, tensors: dict[str, Tensor], config: dict[str, Any], message: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", model_folder, tensors, **config)
    with pytest.raises(CheckpointError, match=message):
        LEDForConditionalGeneration.from_pretrained(adapter)


def test_a_base_that_is_replaced_counts(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base, parts(QUERY, (32, 32), 2))
    first = resolve(str(adapter))
    assert (first.source, first.base_model, first.is_pinned) == (str(adapter), str(base), False)
    (base / "generation_config.json").write_text(json.dumps({"num_beams": 3}))
    (base / "added_tokens.json").write_text("{}")
    again = resolve(str(adapter))
    assert json.loads((again.folder / "generation_config.json").read_text()) == {"num_beams": 3}
    assert (again.folder / "added_tokens.json").is_file()
