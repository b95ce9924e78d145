"""Folders of transformers 4.57 load here and ours load there, for every class, format and shard size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import led
from led.checkpoint.files import CheckpointError, weight_files
from led.checkpoint.weights import SHARED_ALIASES
from led.testing import TINY, spread_weights

ABSENT = "the reference, transformers 4.57, is not installed: make test-parity"
transformers = pytest.importorskip("transformers", reason=ABSENT)
if not transformers.__version__.startswith("4."):
    pytest.skip(ABSENT, allow_module_level=True)

from tests.led.v4.test_classification_v4 import (  # noqa: E402
    CLASSES,
    EVERYTHING,
    assert_same_output,
    documents,
    pair,
)

BATCH = documents(19, "right", "several")


@torch.no_grad()
def assert_same_model(mine: Any, other: Any) -> None:
    """Two models, of either library, give the same outputs."""
    assert not mine.training
    assert_same_output(mine(**BATCH, **EVERYTHING), other.eval()(**BATCH, **EVERYTHING))


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


@pytest.mark.parametrize("name", CLASSES)
def test_folders_of_the_reference_load_here_in_every_format(name: str, tmp_path: Path) -> None:
    ours, reference = pair(name, (4, 8))
    for safe in (True, False):
        for shard in ("5GB", "60KB"):
            folder = tmp_path / f"{safe}-{shard}"
            reference.save_pretrained(folder, safe_serialization=safe, max_shard_size=shard)
            files = weight_files(folder)
            assert files[-1].suffix == (".safetensors" if safe else ".bin")
            assert (len(files) > 3) == (shard == "60KB")
            loaded = type(ours).from_pretrained(folder)
            assert_same_model(loaded, reference)
            for key, x in reference.state_dict().items():
                assert torch.equal(loaded.state_dict()[key], x), key
            assert loaded.config.attention_windows == (4, 8)


@pytest.mark.parametrize("name", CLASSES)
def test_folders_of_ours_load_there(name: str, tmp_path: Path) -> None:
    ours, reference = pair(name, (4, 8))
    ours.save_pretrained(tmp_path)
    theirs, info = type(reference).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_same_model(ours, theirs)
    theirs.save_pretrained(tmp_path / "again")
    assert_same_model(type(ours).from_pretrained(tmp_path / "again"), reference)


def test_the_classes_of_a_folder_are_read_here_and_there(tmp_path: Path) -> None:
    for count, names in ((1, {0: "score"}), (5, None), (3, {0: "fire", 1: "flood", 2: "none"})):
        changes: dict[str, Any] = {"id2label": names} if names else {"num_labels": count}
        config = transformers.LEDConfig(**TINY, **changes, problem_type="regression")
        reference = transformers.LEDForSequenceClassification(config)
        spread_weights(reference, seed=4)
        reference.save_pretrained(tmp_path / f"theirs{count}")
        ours = led.LEDForSequenceClassification.from_pretrained(tmp_path / f"theirs{count}")
        assert ours.config.num_labels == count and ours.config.problem_type == "regression"
        assert ours.config.labels == reference.config.id2label
        assert_same_model(ours, reference)
        ours.save_pretrained(tmp_path / f"ours{count}")
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / f"ours{count}")
        assert theirs.config.id2label == reference.config.id2label and theirs.config.num_labels == count
        assert theirs.config.label2id == ours.config.label2id
        assert_same_model(ours, theirs)


@pytest.mark.parametrize("name", CLASSES)
def test_any_name_of_the_shared_embedding_is_enough_in_every_class(name: str, tmp_path: Path) -> None:
    ours, reference = pair(name, (4, 8))
    reference.save_pretrained(tmp_path, safe_serialization=False)
    tensors = weights(tmp_path)
    names = [
        alias for long in SHARED_ALIASES for alias in (long, long.removeprefix("led.")) if alias in tensors
    ]
    assert len(set(names)) == (4 if name == "LEDForConditionalGeneration" else 3)
    for alias in set(names):
        torch.save(
            {key: x for key, x in tensors.items() if key == alias or key not in names},
            tmp_path / "pytorch_model.bin",
        )
        assert_same_model(type(ours).from_pretrained(tmp_path), reference)
        (tmp_path / "safe").mkdir(exist_ok=True)
        ours.config.save_pretrained(tmp_path / "safe")
        kept = {key: x.clone() for key, x in weights(tmp_path).items()}
        save_file(kept, tmp_path / "safe" / "model.safetensors", metadata={"format": "pt"})
        assert_same_model(type(ours).from_pretrained(tmp_path / "safe"), reference)
    torch.save({key: x for key, x in tensors.items() if key not in names}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"missing: .*shared\.weight"):
        type(ours).from_pretrained(tmp_path)


def test_a_folder_without_the_bias_of_the_logits_loads(tmp_path: Path) -> None:
    _, reference = pair("LEDForConditionalGeneration", (4, 8))
    reference.save_pretrained(tmp_path, safe_serialization=False)
    tensors = weights(tmp_path)
    assert not tensors.pop("final_logits_bias").any()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert_same_model(led.LEDForConditionalGeneration.from_pretrained(tmp_path), reference)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_folders_keep_their_type_or_are_converted(kind: torch.dtype, tmp_path: Path) -> None:
    for name in CLASSES:
        ours, reference = pair.__wrapped__(name, (4, 8))
        half = reference.to(kind)
        for safe in (True, False):
            folder = tmp_path / f"{name}-{safe}"
            half.save_pretrained(folder, safe_serialization=safe)
            for dtype in ("auto", None):
                kept = type(ours).from_pretrained(folder, dtype=dtype)
                assert {x.dtype for x in kept.state_dict().values()} == {kind}
                for key, x in half.state_dict().items():
                    assert torch.equal(kept.state_dict()[key], x), key
            wide = type(ours).from_pretrained(folder)
            assert wide.dtype == torch.float32
            assert type(ours).from_pretrained(folder, dtype="bfloat16").dtype == torch.bfloat16
            theirs = type(reference).from_pretrained(folder, torch_dtype=torch.float32)
            assert_same_model(wide, theirs)
        kept.save_pretrained(tmp_path / f"{name}-ours")
        stored = load_file(tmp_path / f"{name}-ours" / "model.safetensors")
        assert {x.dtype for x in stored.values()} == {kind}
        assert_same_model(
            wide, type(reference).from_pretrained(tmp_path / f"{name}-ours", torch_dtype=torch.float32)
        )


def test_a_new_head_stands_on_any_folder_of_the_reference(tmp_path: Path) -> None:
    for source in CLASSES:
        _, reference = pair(source, (4, 8))
        reference.save_pretrained(tmp_path / source)
        body = getattr(reference, "led", reference).state_dict()
        for name in CLASSES[1:]:
            model = getattr(led, name).from_pretrained(tmp_path / source, new_head=True)
            for key, x in model.led.state_dict().items():
                assert torch.equal(x, body[key]), key
            assert torch.isfinite(model(**BATCH)[0]).all()
        bare = led.LEDModel.from_pretrained(tmp_path / source)
        assert_same_model(bare, getattr(reference, "led", reference))


def test_folders_of_another_class_or_shape_are_refused_with_a_list(tmp_path: Path) -> None:
    for source in CLASSES:
        pair(source, (4, 8))[1].save_pretrained(tmp_path / source)
    head = "classification_head.dense.bias, classification_head.dense.weight"
    advice = "Load a checkpoint trained for this task, or pass new_head=True"
    cases: tuple[tuple[str, str, dict[str, Any], tuple[str, ...]], ...] = (
        (
            "LEDForSequenceClassification",
            "LEDForConditionalGeneration",
            {},
            ("4 missing", "1 unexpected: final_", advice),
        ),
        (
            "LEDForSequenceClassification",
            "LEDForQuestionAnswering",
            {},
            ("4 missing", "2 unexpected: qa_outputs.", advice),
        ),
        (
            "LEDForQuestionAnswering",
            "LEDForSequenceClassification",
            {},
            ("2 missing: qa_", "4 unexpected", head, advice),
        ),
        ("LEDForConditionalGeneration", "LEDForSequenceClassification", {}, ("4 unexpected", head)),
        (
            "LEDForSequenceClassification",
            "LEDForSequenceClassification",
            {"num_labels": 7},
            ("2 mis-shaped", "(7, 32)"),
        ),
        (
            "LEDForQuestionAnswering",
            "LEDForQuestionAnswering",
            {"encoder_layers": 3, "attention_window": 8},
            ("layers.2.",),
        ),
        ("LEDModel", "LEDModel", {"decoder_layers": 1}, ("26 unexpected", "decoder.layers.1.")),
    )
    for name, source, changes, said in cases:
        with pytest.raises(CheckpointError) as error:
            getattr(led, name).from_pretrained(tmp_path / source, **changes)
        message = str(error.value)
        assert all(part in message for part in (*said, name, str(tmp_path / source))), message
        assert (advice in message) == (advice in said), message
