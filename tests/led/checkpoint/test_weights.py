"""Folders of the reference load here and ours load there. Every other folder is refused with a list."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from led.checkpoint.files import CheckpointError, weight_files
from led.checkpoint.weights import SHARED_ALIASES, SHARED_EMBEDDING
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.model.led_model import LEDModel
from led.testing import TINY, spread_weights, tiny_config, tiny_model

BATCH = {
    "input_ids": torch.randint(3, 99, (2, 19), generator=torch.Generator().manual_seed(0)),
    "decoder_input_ids": torch.randint(3, 99, (2, 5), generator=torch.Generator().manual_seed(1)),
    "global_attention_mask": torch.eye(2, 19, dtype=torch.long),
}


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(**BATCH).logits


@pytest.fixture(scope="module")
def reference() -> Any:
    transformers = pytest.importorskip(
        "transformers", reason="the reference, transformers 5, is not installed"
    )
    model = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**TINY))
    spread_weights(model, seed=1)
    model.final_logits_bias.copy_(torch.linspace(-1, 1, TINY["vocab_size"]))
    return model.eval()


@pytest.fixture
def model() -> LEDForConditionalGeneration:
    model = tiny_model(seed=2)
    model.final_logits_bias.copy_(torch.linspace(-1, 1, TINY["vocab_size"]))
    return model


def write(folder: Path, tensors: dict[str, Tensor], name: str = "model.safetensors") -> Path:
    """A model folder with these weights."""
    tiny_config().save_pretrained(folder)
    if name.endswith(".bin"):
        torch.save(tensors, folder / name)
    else:
        save_file({key: x.clone().contiguous() for key, x in tensors.items()}, folder / name)
    return folder


def write_shards(folder: Path, tensors: dict[str, Tensor], suffix: str, shards: int = 3) -> Path:
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    weight_map = {}
    for shard in range(shards):
        name = f"{stem}-{shard + 1:05d}-of-{shards:05d}{suffix}"
        part = {key: x for i, (key, x) in enumerate(tensors.items()) if i % shards == shard}
        write(folder, part, name)
        weight_map |= dict.fromkeys(part, name)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def load(folder: Path, **how: Any) -> LEDForConditionalGeneration:
    return LEDForConditionalGeneration.from_pretrained(folder, **how)


# There and back.


def test_a_folder_of_the_reference_loads_here(tmp_path: Path, reference: Any) -> None:
    reference.save_pretrained(tmp_path)
    ours = load(tmp_path)
    torch.testing.assert_close(logits(ours), logits(reference), atol=1e-5, rtol=0)
    assert not ours.training
    assert ours.lm_head.weight is ours.led.shared.weight is ours.led.encoder.embed_tokens.weight
    assert ours.led.decoder.embed_tokens.weight is ours.led.shared.weight


def test_a_folder_of_ours_loads_in_the_reference(
    tmp_path: Path, reference: Any, model: LEDForConditionalGeneration
) -> None:
    model.save_pretrained(tmp_path)
    theirs, info = type(reference).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    torch.testing.assert_close(logits(theirs.eval()), logits(model), atol=1e-5, rtol=0)


def test_a_saved_folder_says_the_type_of_its_weights(
    tmp_path: Path, reference: Any, model: LEDForConditionalGeneration
) -> None:
    half = replace(model.config, extra={**model.config.extra, "torch_dtype": "float16", "prefix": " "})
    for dtype in (torch.float32, torch.bfloat16):
        saved = copy.deepcopy(model).to(dtype)
        saved.config = half
        saved.save_pretrained(tmp_path)
        written = json.loads((tmp_path / "config.json").read_text())
        assert (
            written["dtype"] == str(dtype)[6:] and "torch_dtype" not in written and written["prefix"] == " "
        )
        assert type(reference).from_pretrained(tmp_path).dtype == dtype


def test_a_sharded_folder_of_the_reference_loads_here(tmp_path: Path, reference: Any) -> None:
    reference.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(weight_files(tmp_path)) > 2
    torch.testing.assert_close(logits(load(tmp_path)), logits(reference), atol=1e-5, rtol=0)


def test_what_is_saved_is_what_was(tmp_path: Path, model: LEDForConditionalGeneration) -> None:
    model.save_pretrained(tmp_path / "new" / "folder")
    again = load(tmp_path / "new" / "folder")
    written = {"architectures": ["LEDForConditionalGeneration"], "dtype": "float32"}
    assert again.config.to_dict() == {**model.config.to_dict(), **written}
    for name, x in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], x), name


def test_the_shared_embedding_is_written_once(tmp_path: Path, model: LEDForConditionalGeneration) -> None:
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert [name for name in SHARED_ALIASES if name in names] == [SHARED_EMBEDDING]
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_model_without_head_has_a_folder_of_its_own_and_reads_the_others(
    tmp_path: Path, model: LEDForConditionalGeneration
) -> None:
    model.led.save_pretrained(tmp_path)
    assert "shared.weight" in load_file(tmp_path / "model.safetensors")
    bare = LEDModel.from_pretrained(tmp_path)
    for name, x in model.led.state_dict().items():
        assert torch.equal(bare.state_dict()[name], x), name
    with_head = load(tmp_path)  # the head is the embedding, and the bias is optional
    assert torch.equal(with_head.lm_head.weight, model.lm_head.weight)


# Published variants.


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_both_formats_load(tmp_path: Path, model: LEDForConditionalGeneration, name: str) -> None:
    write(tmp_path, model.state_dict(), name)
    assert torch.equal(logits(load(tmp_path)), logits(model))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_load(tmp_path: Path, model: LEDForConditionalGeneration, suffix: str) -> None:
    write_shards(tmp_path, model.state_dict(), suffix)
    assert torch.equal(logits(load(tmp_path)), logits(model))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("alias", SHARED_ALIASES)
def test_any_name_of_the_shared_embedding_is_enough(
    tmp_path: Path, model: LEDForConditionalGeneration, alias: str, name: str
) -> None:
    others = set(SHARED_ALIASES) - {alias}
    write(tmp_path, {key: x for key, x in model.state_dict().items() if key not in others}, name)
    again = load(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert again.lm_head.weight is again.led.shared.weight


def test_a_missing_bias_is_zero(tmp_path: Path, model: LEDForConditionalGeneration) -> None:
    tensors = model.state_dict()
    tensors.pop("final_logits_bias")
    again = load(write(tmp_path, tensors))
    assert torch.equal(again.final_logits_bias, torch.zeros(1, TINY["vocab_size"]))
    model.final_logits_bias.zero_()
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_half_precision_file_loads_as_asked(
    tmp_path: Path, model: LEDForConditionalGeneration, kind: torch.dtype, name: str
) -> None:
    write(tmp_path, {key: x.to(kind) for key, x in model.state_dict().items()}, name)
    default, own = load(tmp_path), load(tmp_path, dtype=None)
    assert {x.dtype for x in default.state_dict().values()} == {torch.float32}
    assert {x.dtype for x in own.state_dict().values()} == {kind}
    assert {x.dtype for x in load(tmp_path, dtype=torch.float64).state_dict().values()} == {torch.float64}
    for key, x in model.state_dict().items():
        assert torch.equal(default.state_dict()[key], x.to(kind).float()), key


def test_safetensors_is_read_before_bin(tmp_path: Path, model: LEDForConditionalGeneration) -> None:
    write(tmp_path, {key: x + 1 for key, x in model.state_dict().items()}, "pytorch_model.bin")
    write(tmp_path, model.state_dict())
    assert torch.equal(logits(load(tmp_path)), logits(model))


def test_a_bin_of_the_format_before_zip_loads(tmp_path: Path, model: LEDForConditionalGeneration) -> None:
    path = write(tmp_path, {}, "pytorch_model.bin") / "pytorch_model.bin"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    assert torch.equal(logits(load(tmp_path)), logits(model))


# Refusals.


class Malicious:
    """A pickle that creates a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def test_a_malicious_pickle_is_refused_and_not_run(
    tmp_path: Path, model: LEDForConditionalGeneration
) -> None:
    trace = tmp_path / "trace"
    write(tmp_path, {**model.state_dict(), "extra": Malicious(trace)}, "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        load(tmp_path)
    assert not trace.exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert trace.exists()  # the pickle was live


def test_missing_unexpected_and_misshapen_weights_are_all_listed(
    tmp_path: Path, model: LEDForConditionalGeneration
) -> None:
    tensors = dict(model.state_dict())
    for name in ("led.encoder.layers.0.fc1.bias", "led.decoder.layers.1.fc2.weight"):
        del tensors[name]
    tensors |= {"qa_outputs.weight": torch.zeros(2, 32), "qa_outputs.bias": torch.zeros(2)}
    tensors["led.encoder.embed_positions.weight"] = torch.zeros(130, 32)
    with pytest.raises(CheckpointError) as error:
        load(write(tmp_path, tensors))
    message = str(error.value)
    assert "LEDForConditionalGeneration" in message and str(tmp_path) in message
    for part in (
        "missing",
        "led.encoder.layers.0.fc1.bias",
        "led.decoder.layers.1.fc2.weight",
        "2 unexpected",
        "qa_outputs.weight",
        "qa_outputs.bias",
        "1 mis-shaped",
        "(130, 32)",
        "(128, 32)",
    ):
        assert part in message


def test_a_misshapen_weight_is_not_missing(tmp_path: Path, model: LEDForConditionalGeneration) -> None:
    tensors = {**model.state_dict(), "led.encoder.embed_positions.weight": torch.zeros(130, 32)}
    with pytest.raises(CheckpointError) as error:
        load(write(tmp_path, tensors))
    assert "1 mis-shaped" in str(error.value) and "missing" not in str(error.value)


def test_a_long_list_is_counted_in_full(tmp_path: Path, model: LEDForConditionalGeneration) -> None:
    tensors = {name: x for name, x in model.state_dict().items() if "encoder_attn" not in name}
    absent = len(model.state_dict()) - len(tensors)
    with pytest.raises(CheckpointError, match=f"{absent} missing: .*…"):
        load(write(tmp_path, tensors))


def test_no_name_of_the_shared_embedding_is_an_error(
    tmp_path: Path, model: LEDForConditionalGeneration
) -> None:
    tensors = {name: x for name, x in model.state_dict().items() if name not in SHARED_ALIASES}
    with pytest.raises(CheckpointError, match=r"4 missing: .*led\.shared\.weight"):
        load(write(tmp_path, tensors))


@pytest.mark.parametrize("alias", SHARED_ALIASES[1:])
def test_names_of_the_shared_embedding_must_agree(
    tmp_path: Path, model: LEDForConditionalGeneration, alias: str
) -> None:
    tensors = {**model.state_dict(), alias: torch.zeros(99, 32)}
    with pytest.raises(CheckpointError, match=f"{alias} differs"):
        load(write(tmp_path, tensors))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(
    tmp_path: Path, model: LEDForConditionalGeneration, kept: float, name: str
) -> None:
    path = write(tmp_path, model.state_dict(), name) / name
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match=name):
        load(tmp_path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"step": 3}], ids=str)
def test_a_bin_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    write(tmp_path, content, "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {"a": 3}}'])
def test_a_malformed_index_is_refused(tmp_path: Path, text: str) -> None:
    tiny_config().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        load(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    tiny_config().save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"no weights; it needs one of model\.safetensors.*pytorch_model\.bin"
    ):
        load(tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_an_absent_shard_is_named(tmp_path: Path, model: LEDForConditionalGeneration, suffix: str) -> None:
    shard = weight_files(write_shards(tmp_path, model.state_dict(), suffix))[2]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"1 files that do not exist: {shard.name}"):
        load(tmp_path)


def test_a_folder_without_config_is_refused(tmp_path: Path, model: LEDForConditionalGeneration) -> None:
    (write(tmp_path, model.state_dict()) / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "_forward_module.", "module._orig_mod.", "model.module."]
)
def test_prefixes_of_other_tools_are_stripped(
    tmp_path: Path, model: LEDForConditionalGeneration, prefix: str
) -> None:
    state = {f"{prefix}{name}": x for name, x in model.state_dict().items()}
    state |= {
        f"{prefix}led.encoder.embed_positions.position_ids": torch.arange(3),
        f"{prefix}led.decoder.version": torch.tensor([3.0]),
    }
    folder = write(tmp_path, state)
    loaded = LEDForConditionalGeneration.from_pretrained(folder)
    assert torch.equal(logits(loaded), logits(model))
    assert LEDModel.from_pretrained(folder).config == loaded.config


def test_weights_of_a_bare_model_may_have_the_prefix_of_a_tool(
    tmp_path: Path, model: LEDForConditionalGeneration
) -> None:
    folder = write(tmp_path, {f"module.{name}": x for name, x in model.led.state_dict().items()})
    assert torch.equal(LEDModel.from_pretrained(folder).shared.weight, model.led.shared.weight)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("tf_model.h5", "TensorFlow weights; load them in transformers 4 with from_tf=True"),
        ("flax_model.msgpack", "Flax weights"),
        ("model.fp16.safetensors", "weights of a variant; rename the file to model.safetensors"),
        ("pytorch_model.fp16.bin", "weights of a variant; rename the file to pytorch_model.bin"),
        ("adapter_model.safetensors", "an adapter; it needs adapter_config.json beside it"),
        ("led.gguf", "quantized GGUF weights"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, name: str, what: str) -> None:
    tiny_config().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"It has {name}, {what}"):
        LEDForConditionalGeneration.from_pretrained(tmp_path)


def test_an_untied_head_is_its_own(tmp_path: Path, reference: Any) -> None:
    import transformers

    theirs = transformers.LEDForConditionalGeneration(
        transformers.LEDConfig(**TINY, tie_word_embeddings=False)
    )
    theirs.load_state_dict(reference.state_dict())
    with torch.no_grad():
        for module in (theirs.led.encoder, theirs.led.decoder):
            module.embed_tokens.weight.copy_(theirs.led.shared.weight)
        theirs.lm_head.weight.copy_(torch.randn(theirs.lm_head.weight.shape))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = LEDForConditionalGeneration.from_pretrained(tmp_path / "theirs")
    assert not torch.equal(ours.lm_head.weight, ours.led.shared.weight)
    torch.testing.assert_close(logits(ours), logits(theirs.eval()), rtol=1e-4, atol=1e-4)
    ours.save_pretrained(tmp_path / "ours")
    again = LEDForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert torch.equal(logits(again), logits(ours))
    again.resize_token_embeddings(101)
    assert again.lm_head.weight.shape == (101, 32) and again.lm_head.weight is not again.led.shared.weight
    tied = {name: x.clone() for name, x in ours.state_dict().items() if name != "lm_head.weight"}
    save_file(tied, tmp_path / "ours" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: lm_head\.weight"):
        LEDForConditionalGeneration.from_pretrained(tmp_path / "ours")
