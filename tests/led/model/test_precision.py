"""In bf16 and fp16 every output is finite and near fp32, whatever is hidden. Too long inputs are refused.

The bounds are on the largest difference from fp32 divided by the largest value of the field. bf16 has 8 bits
of precision, fp16 has 11.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import led
from led.testing import TINY, spread_weights, tiny_config, tiny_model

CLASSES = (
    "LEDModel",
    "LEDForConditionalGeneration",
    "LEDForSequenceClassification",
    "LEDForQuestionAnswering",
)
BOUNDS = {torch.bfloat16: 0.06, torch.float16: 0.008}
EVERYTHING = {"output_attentions": True, "output_hidden_states": True}


@cache
def model_of(name: str, dtype: torch.dtype = torch.float32) -> Any:
    model = getattr(led, name)(tiny_config(attention_window=[4, 8]))
    spread_weights(model, seed=5)
    # The weights are bf16's in every type, so what differs is arithmetic.
    model.load_state_dict({key: x.bfloat16() for key, x in model.state_dict().items()})
    return model.to(dtype).eval()


def batches(n: int = 21) -> dict[str, dict[str, Tensor]]:
    """Batches of documents with one end token each, by their special property."""
    ids = torch.randint(3, TINY["vocab_size"], (3, n), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2
    shown, none = torch.ones(3, n, dtype=torch.long), torch.zeros(3, n, dtype=torch.long)
    masked, holes, minus, some, early = (
        shown.clone(),
        shown.clone(),
        none.clone(),
        none.clone(),
        shown.clone(),
    )
    masked[1], holes[1:, ::2], minus[0, 5:], some[:, [0, 9]], early[2, :15] = 0, 0, -1, 1, 0
    minus[1], minus[2, 3] = -1, 1
    masked_queries = torch.ones(3, n, dtype=torch.long)
    masked_queries[1, :4] = 0  # what the decoder sees of itself: its first queries nothing
    masks: dict[str, dict[str, Tensor]] = {
        "nothing hidden": {},
        "a fully masked document": {"attention_mask": masked},
        "only fully masked documents": {"attention_mask": none, "global_attention_mask": some},
        "a fully masked document, all global": {"attention_mask": masked, "global_attention_mask": shown},
        "holes, some global": {"attention_mask": holes, "global_attention_mask": some},
        "hidden in front": {"attention_mask": early, "global_attention_mask": some},
        "all global": {"attention_mask": shown, "global_attention_mask": shown},
        "minus one": {"global_attention_mask": minus},
        "fully masked decoder queries": {"decoder_attention_mask": masked_queries, "attention_mask": masked},
    }
    return {name: {"input_ids": ids, **mask} for name, mask in masks.items()}


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a field, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [
        x for part in (value if isinstance(value, tuple) else value.to_legacy_cache()) for x in tensors(part)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CLASSES)
def test_every_field_is_finite_and_near_fp32_whatever_is_hidden(name: str, dtype: torch.dtype) -> None:
    for kind, batch in batches().items():
        for flags in ({}, EVERYTHING):
            with torch.no_grad():
                out, expected = model_of(name, dtype)(**batch, **flags), model_of(name)(**batch, **flags)
            assert list(out) == list(expected)
            for field in out:
                for mine, other in zip(tensors(out[field]), tensors(expected[field]), strict=True):
                    assert mine.dtype == dtype
                    assert torch.isfinite(mine).all(), f"{field}: {kind}"
                    difference = (mine.float() - other).abs().max() / other.abs().max().clamp_min(1.0)
                    assert difference <= BOUNDS.get(dtype, 1e-6), f"{field}: {kind}: {difference}"


@pytest.mark.parametrize("dtype", BOUNDS)
def test_large_values_stay_finite(dtype: torch.dtype) -> None:
    model = led.LEDForConditionalGeneration(tiny_config())
    spread_weights(model, seed=5, scale=60)
    model.to(dtype).eval()
    for kind, batch in batches().items():
        for flags in ({}, EVERYTHING):
            with torch.no_grad():
                out = model(**batch, **flags)
            assert all(
                torch.isfinite(x).all() for x in (*tensors(out.logits), out.encoder_last_hidden_state)
            ), kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_gradient_is_finite_whatever_is_hidden(dtype: torch.dtype) -> None:
    targets = {
        "LEDForConditionalGeneration": {"labels": torch.full((3, 21), 7)},
        "LEDForSequenceClassification": {"labels": torch.tensor([0, 1, 0])},
        "LEDForQuestionAnswering": {
            "start_positions": torch.tensor([0, 3, 30]),
            "end_positions": torch.tensor([2, 3, 30]),
        },
    }
    for name, target in targets.items():
        model = model_of(name, dtype)
        for kind, batch in batches().items():
            for flags in ({}, {"output_attentions": True}):
                model.zero_grad()
                model(**batch, **flags, **target).loss.backward()
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                assert grads and all(torch.isfinite(x).all() for x in grads), f"{name}: {kind}"
        model.zero_grad()


def test_mixed_precision_is_near_fp32() -> None:
    for name in CLASSES:
        for kind, batch in batches().items():
            with torch.no_grad():
                expected = model_of(name)(**batch)[0]
                with torch.autocast("cpu", torch.bfloat16):
                    mixed = model_of(name)(**batch)[0]
            difference = (mixed.float() - expected).abs().max() / expected.abs().max().clamp_min(1.0)
            assert difference <= BOUNDS[torch.bfloat16], f"{name}: {kind}: {difference}"


@pytest.mark.parametrize("dtype", BOUNDS)
def test_half_precision_loses_no_more_than_the_references(dtype: torch.dtype) -> None:
    transformers = pytest.importorskip(
        "transformers", "5", reason="the reference, transformers 5, is not installed"
    )
    lost: dict[str, float] = {"ours": 0.0, "reference": 0.0}
    for seed in range(4):
        config = transformers.LEDConfig(**{**TINY, "attention_window": [4, 8]})
        reference = transformers.LEDForConditionalGeneration(config).eval()
        spread_weights(reference, seed)
        ours = led.LEDForConditionalGeneration(tiny_config(attention_window=[4, 8])).eval()
        ours.load_state_dict(reference.state_dict())
        for batch in batches().values():
            with torch.no_grad():
                expected = ours.float()(**batch).logits
                for who, model in (("ours", ours), ("reference", reference)):
                    lost[who] += (model.to(dtype)(**batch).logits.float() - expected).abs().mean().item()
            ours.load_state_dict(reference.float().state_dict())
    assert lost["ours"] <= 1.1 * lost["reference"], lost


@pytest.mark.parametrize("dtype", BOUNDS)
def test_texts_are_written_in_half_precision(dtype: torch.dtype) -> None:
    model = model_of("LEDForConditionalGeneration", dtype)
    for kind, batch in batches().items():
        inputs = {key: x for key, x in batch.items() if key != "decoder_attention_mask"}
        for settings in ({}, {"num_beams": 3, "no_repeat_ngram_size": 2}, {"num_beams": 2, "min_length": 6}):
            out = model.generate(**inputs, **settings, max_length=12, return_dict_in_generate=True)
            assert out.sequences.shape[0] == 3 and 1 < out.sequences.shape[1] <= 12, kind
            assert ((out.sequences >= 0) & (out.sequences < TINY["vocab_size"])).all()
            if "num_beams" in settings:
                assert torch.isfinite(out.sequences_scores).all(), kind
            assert torch.equal(model.generate(**inputs, **settings, max_length=12), out.sequences)
    # A greedy text is the arg max of the model's own logits, but for near ties.
    inputs = {key: batch[key] for batch in [batches()["holes, some global"]] for key in batch}
    text = model.generate(**inputs, max_length=12)
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=text[:, :-1]).logits.float()
    chosen = logits.gather(2, text[:, 1:, None])[:, :, 0]
    going_on = (text[:, :-1] == 2).cumsum(1) <= 1
    assert ((logits.amax(2) - chosen)[going_on] <= BOUNDS[dtype] * logits.abs().max()).all()


# Limits.


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_longer_than_a_position_table_is_refused_by_its_limit(name: str) -> None:
    model = getattr(led, name)(
        tiny_config(max_encoder_position_embeddings=30, max_decoder_position_embeddings=20)
    ).eval()
    ids = torch.full((2, 40), 5)
    encoder, decoder = (
        r"31 tokens.*at most 30.*max_encoder_position_embeddings",
        r"has 20 \(max_decoder_position_embeddings",
    )
    short = {} if name == "LEDForSequenceClassification" else {"decoder_input_ids": ids[:, :4]}

    def ended(n: int) -> dict[str, Tensor]:
        return {"input_ids": ids[:, :n].index_fill(1, torch.tensor([n - 1]), 2)}

    with torch.no_grad():
        for flags in ({}, {"output_attentions": True}):
            with pytest.raises(ValueError, match=encoder):
                model(**ended(31), **short, **flags)
            with pytest.raises(
                ValueError, match=r"has 21 positions.*" + decoder
            ):  # the decoder reads the document too
                model(**ended(21), **flags)
            with pytest.raises(ValueError, match=r"has 21 positions.*" + decoder):
                model(**ended(10), decoder_input_ids=ids[:, :21], **flags)
            with pytest.raises(ValueError, match=r"has 21 positions.*" + decoder):
                model(**ended(10), decoder_inputs_embeds=torch.zeros(2, 21, 32), **flags)
            if short:
                with pytest.raises(ValueError, match=encoder):
                    model(inputs_embeds=torch.zeros(2, 31, 32), **short, **flags)
                assert torch.isfinite(model(**ended(30), **short, **flags)[0]).all()
                past = model(
                    **ended(9), decoder_input_ids=ids[:, :20], use_cache=True, **flags
                ).past_key_values
                with pytest.raises(ValueError, match=r"has 21 positions.*" + decoder):
                    model(**ended(9), decoder_input_ids=ids[:, :1], past_key_values=past, **flags)
            assert torch.isfinite(model(**ended(20), **flags)[0]).all()


def test_labels_and_texts_longer_than_the_decoder_are_refused_by_its_limit() -> None:
    model = tiny_model(max_decoder_position_embeddings=20)
    ids = torch.full((2, 10), 5)
    with pytest.raises(ValueError, match=r"has 21 positions.*20 \(max_decoder_position_embeddings"):
        model(ids, labels=torch.full((2, 21), 7))
    with pytest.raises(ValueError, match="max_decoder_position_embeddings"):
        model.generate(ids, max_length=22)
    assert model.generate(ids, max_length=21, min_length=21).shape == (2, 21)
    with pytest.raises(ValueError, match=r"129 tokens.*128.*max_encoder_position_embeddings"):
        model.generate(torch.full((1, 129), 5), max_length=5)
    with pytest.raises(ValueError, match="0 tokens"):
        model(torch.zeros(1, 0, dtype=torch.long), decoder_input_ids=ids[:1])
