"""Classification and head masks, which only transformers 4.57 has, are the reference's. So are other classes.

The largest allowed difference is 1e-5 in fp32, for the same weights.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import led
from led.kv_cache.decoder_cache import DecoderCache
from led.model import attention_weights as plain
from led.pipelines.chunk_reader import read_chunks
from led.pipelines.chunking import ChunkInput
from led.testing import TINY, spread_weights, tiny_config

ABSENT = "the reference, transformers 4.57, is not installed: make test-parity"
transformers = pytest.importorskip("transformers", reason=ABSENT)
if not transformers.__version__.startswith("4."):
    pytest.skip(ABSENT, allow_module_level=True)

from tests.led.model.test_led_model import (  # noqa: E402
    GLOBALS,
    PADDINGS,
    TOLERANCE,
    WINDOWS,
    global_mask,
    padding,
    tokens,
)

CLASSES = (
    "LEDModel",
    "LEDForConditionalGeneration",
    "LEDForSequenceClassification",
    "LEDForQuestionAnswering",
)
EVERYTHING = {"output_attentions": True, "output_hidden_states": True}
HEAD_MASKS = ("head_mask", "decoder_head_mask", "cross_attn_head_mask")


@cache
def pair(name: str, window: int | tuple[int, ...] = 8, **changes: Any) -> tuple[Any, Any]:
    """This library's model of a class and the reference's, with the same weights."""
    changes = {**changes, "attention_window": list(window) if isinstance(window, tuple) else window}
    reference = getattr(transformers, name)(transformers.LEDConfig(**{**TINY, **changes}))
    spread_weights(reference, seed=7, scale=8)
    ours = getattr(led, name)(tiny_config(**changes))
    ours.load_state_dict(reference.state_dict())
    return ours.eval(), reference.eval()


def documents(
    n: int, side: str = "right", kind: str = "none", ends: int = 1, rows: int = 3
) -> dict[str, Tensor]:
    """Documents of n columns with `ends` end tokens each, at different positions, and with both masks."""
    ids = tokens(0, rows, n)
    for row in range(rows):
        ids[row, torch.randperm(n, generator=torch.Generator().manual_seed(row))[:ends]] = 2
    return {
        "input_ids": ids,
        "attention_mask": padding(side, rows, n),
        "global_attention_mask": global_mask(kind, rows, n),
    }


def assert_same_value(mine: Any, other: Any, name: str) -> None:
    """A field, or a part of it, equals the other's. It is a tensor, a tuple of such, or a cache."""
    if isinstance(other, Tensor):
        assert mine.shape == other.shape, f"{name} is {tuple(mine.shape)}, not {tuple(other.shape)}"
        difference = (mine - other).abs().max().item()
        assert difference <= TOLERANCE, f"{name} differs by {difference}"
    elif isinstance(mine, DecoderCache):
        assert_same_value(mine.to_legacy_cache(), other.to_legacy_cache(), name)
    else:
        assert len(mine) == len(other), f"{name} has {len(mine)} parts, not {len(other)}"
        for i, parts in enumerate(zip(mine, other, strict=True)):
            assert_same_value(*parts, f"{name}[{i}]")


def assert_same_output(mine: Any, other: Any) -> None:
    """Two outputs have the same fields, in the same order, with the same values."""
    assert list(mine) == list(other.keys())
    for name in mine:
        assert_same_value(mine[name], other[name], name)


@torch.no_grad()
def assert_same(name: str, batch: dict[str, Any], window: int | tuple[int, ...] = 8, **changes: Any) -> None:
    ours, reference = pair(name, window, **changes)
    assert_same_output(ours(**batch), reference(**batch))
    assert_same_value(ours(**batch, return_dict=False), reference(**batch, return_dict=False), "tuple")


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same_gradients(mine: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert mine.keys() == other.keys()
    for name, expected in other.items():
        # A key's bias adds the same to all scores of a softmax: its gradient is nought but for rounding.
        torch.testing.assert_close(
            mine[name], expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


# Every class.


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_every_field_of_classification_for_every_kind_of_mask(
    window: int | tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "ROWS", 10)
    for i, (n, kind, side) in enumerate(product((1, 8, 21), GLOBALS, PADDINGS)):
        batch = documents(n, side, kind, min(1 + i % 3, n))
        assert_same("LEDForSequenceClassification", batch | EVERYTHING, window)
    dark, minus = documents(21, "right", "several"), documents(21, "holes", "several")
    dark["attention_mask"][1] = 0
    minus["global_attention_mask"][0, 12:] = -1
    del minus["attention_mask"]
    for batch in (
        dark,
        minus,
        {"input_ids": dark["input_ids"]},
        dark | {"decoder_attention_mask": padding("holes", 3, 21)},
    ):
        for extra in ({}, EVERYTHING, {"use_cache": False}, {"decoder_input_ids": tokens(3, 3, 21)}):
            assert_same("LEDForSequenceClassification", batch | extra, window)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_the_references(name: str) -> None:
    for kind, side in product(GLOBALS, PADDINGS):
        batch: dict[str, Any] = documents(19, side, kind)
        assert_same(name, batch | EVERYTHING, (4, 8))
        if name != "LEDForSequenceClassification":
            assert_same(name, batch | {"decoder_input_ids": tokens(3, 3, 6)}, (4, 8))
    if name == "LEDForConditionalGeneration":
        assert_same(name, batch | {"labels": tokens(4, 3, 6).masked_fill(padding("holes", 3, 6) == 0, -100)})
    if name == "LEDForQuestionAnswering":
        for places in ([0, 3, 18], [19, 50, -3]):
            where = torch.tensor(places)
            for shape in ((3,), (3, 1)):
                assert_same(
                    name,
                    batch
                    | {"start_positions": where.view(shape), "end_positions": where.flip(0).view(shape)},
                )


# Losses of classification.

LABELS: tuple[tuple[int, str, Tensor], ...] = (
    (4, "single_label_classification", torch.tensor([3, 0, 1])),
    (4, "single_label_classification", torch.tensor([[3], [0], [1]])),
    (4, "multi_label_classification", torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])),
    (1, "regression", torch.tensor([0.5, -2.0, 3.0])),
    (1, "regression", torch.tensor([[0.5], [-2.0], [3.0]])),
)


@pytest.mark.parametrize("given", [True, False])
def test_losses_and_gradients_of_every_problem_type_are_the_references(given: bool) -> None:
    regress_several = (4, "regression", torch.linspace(-2, 2, 12).view(3, 4))
    for count, problem, labels in (*LABELS, *([regress_several] if given else [])):
        for kind in ("none", "several"):
            # New models each time: the reference keeps the problem type it has inferred.
            ours, reference = pair.__wrapped__(
                "LEDForSequenceClassification",
                (4, 8),
                num_labels=count,
                problem_type=problem if given else None,
            )
            batch = documents(19, "holes", kind, 2) | {"labels": labels}
            mine, other = ours(**batch), reference(**batch)
            assert_same_output(mine, other)
            assert other.loss is not None and reference.config.problem_type == problem
            assert_same_value(
                ours(**batch, return_dict=False), reference(**batch, return_dict=False), "tuple"
            )
            expected = gradients(reference, other.loss)
            assert "classification_head.dense.weight" in expected
            assert_same_gradients(gradients(ours, mine.loss), expected)
            assert_same_gradients(gradients(ours, ours(**batch, output_attentions=True).loss), expected)


def test_what_the_reference_refuses_is_refused_by_a_message() -> None:
    ours, reference = pair("LEDForSequenceClassification", num_labels=4)
    uneven = documents(12)
    uneven["input_ids"][1, :] = 2
    without = documents(12)
    without["input_ids"][without["input_ids"] == 2] = 5
    embeds = {"inputs_embeds": torch.zeros(3, 12, TINY["d_model"])}
    whole = documents(12)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        (uneven, "1 or 12 end tokens"),
        (without, "have 0 end tokens"),
        (embeds, "inputs_embeds alone are not enough"),
        (whole | {"labels": torch.tensor([0, 1])}, r"labels have shape \(2,\)"),
        (whole | {"labels": torch.zeros(3, 3)}, r"labels have shape \(3, 3\)"),
        (whole | {"decoder_input_ids": tokens(1, 3, 5)}, "5 positions for 12 tokens"),
    )
    for batch, said in cases:
        reference.config.problem_type = None
        with pytest.raises(Exception), torch.no_grad():  # noqa: B017
            reference(**batch)
        with pytest.raises(ValueError, match=said), torch.no_grad():
            ours(**batch)
    reference.config.problem_type = None


def test_the_dropout_of_classification_stands_where_the_references_does() -> None:
    """Over many draws for the same document, the class scores have the same spread."""
    rates = {"dropout": 0.0, "num_labels": 6}
    for rate in (
        {"classifier_dropout": 0.4},
        {"dropout": 0.2},
        {"attention_dropout": 0.3},
        {"activation_dropout": 0.4},
    ):
        models = pair.__wrapped__("LEDForSequenceClassification", 8, **rates | rate)
        draws = 800
        batch = {key: x.expand(draws, -1) for key, x in documents(6, kind="one", rows=1).items()}
        found = []
        for model in models:
            torch.manual_seed(0)
            with torch.no_grad():
                calm = model.eval()(**{key: x[:1] for key, x in batch.items()}).logits
                drawn = model.train()(**batch).logits
            found.append(((drawn - calm).std(0), (drawn - calm).mean(0)))
        (spread, shift), (expected, expected_shift) = found
        torch.testing.assert_close(spread, expected, rtol=0.15, atol=0)
        assert ((shift - expected_shift).abs() < 5 * expected / draws**0.5).all()
        assert (expected > 1e-4).all()


# Head masks.


@pytest.mark.parametrize("name", CLASSES)
def test_head_masks_are_the_references(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    masks = {kind: torch.rand(2, 4, generator=g) * 1.5 for kind in HEAD_MASKS}
    masks["decoder_head_mask"][1, 2] = 0.0
    masks["head_mask"][0] = 0.0
    given = [{kind: masks[kind]} for kind in HEAD_MASKS] + [masks]
    for kind, heads in product(("none", "several"), given):
        batch = documents(13, "holes", kind)
        assert_same(name, batch | heads, (4, 8))
        assert_same(name, batch | heads | EVERYTHING, (4, 8))


def test_gradients_under_head_masks_are_the_references() -> None:
    ours, reference = pair("LEDForSequenceClassification", (4, 8))
    heads = {kind: torch.linspace(0, 1.4, 8).view(2, 4) for kind in HEAD_MASKS}
    batch = documents(13, "holes", "several") | heads | {"labels": torch.tensor([0, 1, 1])}
    assert_same_gradients(*(gradients(model, model(**batch).loss) for model in (ours, reference)))


def test_a_head_mask_of_another_shape_is_refused() -> None:
    ours, _ = pair("LEDModel")
    for kind in HEAD_MASKS:
        with pytest.raises(ValueError, match=rf"{kind} has shape \(4,\); it must be \(2, 4\)"):
            ours(tokens(0, 1, 5), **{kind: torch.ones(4)})


@pytest.mark.parametrize("global_positions", [0, 1, 4])
def test_packed_documents_are_labelled_as_the_reference_labels_each(global_positions: int) -> None:
    ours, reference = pair("LEDForSequenceClassification", num_labels=3)
    rows = [
        torch.cat([tokens(n, 1, n - 1)[0], torch.tensor([2])]) if n > 1 else torch.tensor([2])
        for n in (1, 2, 9, 63, 64, 40)
    ]
    counts = [min(global_positions, len(row)) for row in rows]
    chunks = [
        ChunkInput(row.tolist(), 0, 0, count, list(range(count)))
        for row, count in zip(rows, counts, strict=True)
    ]
    with torch.no_grad():
        for row, window, logits in zip(rows, chunks, read_chunks(ours, chunks, 100), strict=True):
            mask = torch.zeros(1, len(row), dtype=torch.long)
            mask[:, : window.offset] = 1
            assert_same_value(logits, reference(row[None], global_attention_mask=mask).logits[0], "logits")
