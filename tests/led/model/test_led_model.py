"""Encoder states, logits, losses and gradients are the reference's, in every row, padded ones included.

The largest allowed difference is 1e-5 in fp32, for the same weights. Windows are two-sided, in tokens. The
weights have eight times their usual spread, so attention is far from flat. Rounding in fp32 stays below half
of the allowed difference.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from led.heads.conditional_generation import LEDForConditionalGeneration
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.model.led_model import LEDModel
from led.model.outputs import LEDEncoderBaseModelOutput
from led.testing import TINY, spread_weights, tiny_config

transformers = pytest.importorskip("transformers", reason="the reference, transformers 5, is not installed")

TOLERANCE = 1e-5
WINDOWS: tuple[int | tuple[int, ...], ...] = (8, (4, 8), 16)
# One token; around one window; around two; several.
LENGTHS = (1, 7, 8, 9, 15, 16, 17, 50)
GLOBALS = ("none", "one", "several", "all")
PADDINGS = ("right", "left", "holes")

Batch = dict[str, Tensor]


@cache
def models(window: int | tuple[int, ...] = 8, seed: int = 0) -> tuple[LEDForConditionalGeneration, Any]:
    """This library's model and the reference's, with the same weights."""
    shape = {"attention_window": list(window) if isinstance(window, tuple) else window}
    reference = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**{**TINY, **shape}))
    spread_weights(reference, seed, scale=8)
    reference.final_logits_bias.copy_(torch.linspace(-1, 1, TINY["vocab_size"]))
    ours = LEDForConditionalGeneration(tiny_config(**shape))
    ours.load_state_dict(reference.state_dict())
    return ours.eval(), reference.eval()


def tokens(seed: int, *shape: int) -> Tensor:
    return torch.randint(3, TINY["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def batch_of(n: int, rows: int = 3, seed: int = 0) -> Batch:
    """Documents of n columns with their decoder inputs and no masks."""
    return {"input_ids": tokens(seed, rows, n), "decoder_input_ids": tokens(seed + 1, rows, 6)}


def global_mask(kind: str, rows: int, n: int) -> Tensor:
    mask = torch.zeros(rows, n, dtype=torch.long)
    places = {"none": [], "one": [0], "several": [0, n // 3, n // 2, n - 1], "all": list(range(n))}[kind]
    mask[:, places] = 1
    if kind == "several":
        mask[-1] = 0  # rows may differ in number
    return mask


def padding(kind: str, rows: int, n: int) -> Tensor:
    mask = torch.ones(rows, n, dtype=torch.long)
    for row in range(1, rows):
        hidden = min(n - 1, row * n // (rows + 1))
        if kind == "holes":
            mask[row, 1 : 1 + 2 * hidden : 2] = 0
        elif hidden:
            mask[row, (slice(-hidden, None) if kind == "right" else slice(hidden))] = 0
    return mask


def assert_same(batch: dict[str, Any], window: int | tuple[int, ...] = 8) -> None:
    """Both models agree on encoder states, logits, and the loss if there are labels."""
    ours, reference = models(window)
    with torch.no_grad():
        mine, other = ours(**batch), reference(**batch)
    names = ["encoder_last_hidden_state", "logits", *(["loss"] if "labels" in batch else [])]
    for name in names:
        assert mine[name].shape == other[name].shape, name
        difference = (mine[name] - other[name]).abs().max().item()
        assert difference <= TOLERANCE, f"{name} differs by {difference}"


@pytest.mark.parametrize("kind", GLOBALS)
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("window", WINDOWS)
def test_every_length_and_number_of_global_tokens(window: int | tuple[int, ...], n: int, kind: str) -> None:
    assert_same(
        batch_of(n) | {"attention_mask": torch.ones(3, n), "global_attention_mask": global_mask(kind, 3, n)},
        window,
    )


@pytest.mark.parametrize("kind", GLOBALS)
@pytest.mark.parametrize("side", PADDINGS)
@pytest.mark.parametrize("n", [9, 16, 37])
@pytest.mark.parametrize("window", WINDOWS)
def test_padded_rows_are_the_references_too(
    window: int | tuple[int, ...], n: int, side: str, kind: str
) -> None:
    masks = {"attention_mask": padding(side, 3, n), "global_attention_mask": global_mask(kind, 3, n)}
    assert_same(batch_of(n) | masks, window)


@pytest.mark.parametrize("with_attention_mask", [True, False])
def test_minus_one_in_the_global_mask_hides_a_token_from_the_encoder(with_attention_mask: bool) -> None:
    mask = global_mask("several", 3, 19)
    mask[0, 12:] = -1
    mask[1, 4] = -1
    batch = batch_of(19) | {"global_attention_mask": mask}
    if with_attention_mask:
        batch["attention_mask"] = padding("right", 3, 19)
    assert_same(batch)


def test_a_global_token_above_one_is_as_global_as_one() -> None:
    assert_same(
        batch_of(19)
        | {"attention_mask": padding("holes", 3, 19), "global_attention_mask": tokens(9, 3, 19) % 4}
    )


@pytest.mark.parametrize("kind", GLOBALS)
def test_a_fully_masked_row_is_the_references(kind: str) -> None:
    mask = padding("right", 3, 20)
    mask[1] = 0
    assert_same(batch_of(20) | {"attention_mask": mask, "global_attention_mask": global_mask(kind, 3, 20)})


@pytest.mark.parametrize("n", [5, 23])
def test_without_masks_every_token_is_read_even_padding(n: int) -> None:
    batch = batch_of(n)
    batch["input_ids"][1, 3:] = TINY.get("pad_token_id", 1)
    assert_same(batch)


def test_a_global_mask_alone_is_enough() -> None:
    assert_same(batch_of(23) | {"global_attention_mask": global_mask("several", 3, 23)})


def test_boolean_masks_are_read_as_numbers() -> None:
    assert_same(batch_of(23) | {"attention_mask": padding("left", 3, 23).bool()})


@pytest.mark.parametrize("n", [8, 21])
def test_embeddings_stand_in_for_ids(n: int) -> None:
    embeds = torch.randn(3, n, TINY["d_model"], generator=torch.Generator().manual_seed(5))
    masks = {"attention_mask": padding("right", 3, n), "global_attention_mask": global_mask("one", 3, n)}
    assert_same({"inputs_embeds": embeds, "decoder_input_ids": tokens(1, 3, 6), **masks})


def test_decoder_embeddings_stand_in_for_decoder_ids() -> None:
    embeds = torch.randn(3, 6, TINY["d_model"], generator=torch.Generator().manual_seed(5))
    assert_same({"input_ids": tokens(0, 3, 12), "decoder_inputs_embeds": embeds})


@pytest.mark.parametrize("as_tuple", [True, False])
def test_given_encoder_outputs_are_read_under_the_attention_mask(as_tuple: bool) -> None:
    states = torch.randn(3, 21, TINY["d_model"], generator=torch.Generator().manual_seed(5))
    batch = {"attention_mask": padding("holes", 3, 21), "decoder_input_ids": tokens(1, 3, 6)}
    ours, reference = models()
    with torch.no_grad():
        mine = ours(**batch, encoder_outputs=(states,) if as_tuple else LEDEncoderBaseModelOutput(states))
        other = reference(**batch, encoder_outputs=(states,))
    assert torch.equal(mine.encoder_last_hidden_state, states)
    torch.testing.assert_close(mine.logits, other.logits, atol=TOLERANCE, rtol=0)


def test_decoder_inputs_default_to_the_inputs_shifted() -> None:
    batch = {"input_ids": tokens(0, 3, 20), "attention_mask": padding("right", 3, 20)}
    ours, reference = models()
    with torch.no_grad():
        mine, other = ours.led(**batch).last_hidden_state, reference.led(**batch).last_hidden_state
    torch.testing.assert_close(mine, other, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("side", PADDINGS)
def test_a_decoder_attention_mask_hides_decoder_positions(side: str) -> None:
    mask = padding(side, 3, 6)
    if side == "left":
        assert not mask[2, 0]  # its first query may see nothing
    assert_same(batch_of(18) | {"decoder_attention_mask": mask, "attention_mask": padding("right", 3, 18)})


def test_a_decoder_attention_mask_is_ignored_for_a_single_position() -> None:
    batch = {"input_ids": tokens(0, 2, 9), "decoder_input_ids": tokens(1, 2, 1)}
    assert_same(batch | {"decoder_attention_mask": torch.tensor([[0], [1]])})


def test_labels_of_minus_100_do_not_count() -> None:
    labels = tokens(4, 3, 6)
    labels[0, 3:] = -100
    labels[2, 0] = -100
    batch = batch_of(18) | {"attention_mask": padding("right", 3, 18), "labels": labels}
    assert_same(batch)
    batch.pop("decoder_input_ids")
    assert_same(batch)


def test_padding_counts_as_a_label() -> None:
    labels = tokens(4, 3, 6)
    labels[:, 4:] = 1
    assert_same({"input_ids": tokens(0, 3, 18), "labels": labels})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("prefix", [1, 4])
def test_decoding_step_by_step_equals_the_full_forward(prefix: int, seed: int) -> None:
    ours, reference = models(WINDOWS[seed % len(WINDOWS)])
    decoder_input_ids = tokens(seed + 50, 3, 9)
    masks = {
        "attention_mask": padding("right", 3, 20),
        "global_attention_mask": global_mask("several", 3, 20),
    }
    inputs = {"input_ids": tokens(seed, 3, 20), **masks}
    with torch.no_grad():
        expected = reference(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False).logits
        full = ours(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False)
        out = ours(**inputs, decoder_input_ids=decoder_input_ids[:, :prefix], use_cache=True)
        steps = [out.logits]
        for t in range(prefix, decoder_input_ids.shape[1]):
            out = ours(
                **inputs,
                decoder_input_ids=decoder_input_ids[:, t : t + 1],
                past_key_values=out.past_key_values,
            )
            steps.append(out.logits)
    assert full.past_key_values is None
    assert out.past_key_values.get_seq_length() == decoder_input_ids.shape[1]
    torch.testing.assert_close(torch.cat(steps, 1), full.logits, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(torch.cat(steps, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("masked", [True, False])
def test_several_new_positions_after_a_cache_equal_the_full_forward(masked: bool) -> None:
    ours, reference = models()
    inputs = {"input_ids": tokens(0, 3, 20), "attention_mask": padding("right", 3, 20)}
    ids, mask = tokens(50, 3, 9), padding("holes", 3, 9) if masked else None
    with torch.no_grad():
        expected = reference(**inputs, decoder_input_ids=ids, decoder_attention_mask=mask).logits
        start_mask = None if mask is None else mask[:, :4]
        out = ours(**inputs, decoder_input_ids=ids[:, :4], decoder_attention_mask=start_mask, use_cache=True)
        cache = out.past_key_values
        rest = ours(
            **inputs, decoder_input_ids=ids[:, 4:], decoder_attention_mask=mask, past_key_values=cache
        )
    torch.testing.assert_close(torch.cat([out.logits, rest.logits], 1), expected, atol=TOLERANCE, rtol=0)


def test_every_gradient_of_the_loss_is_the_references() -> None:
    labels = tokens(4, 3, 6)
    labels[0, 3:] = -100
    masks = {
        "attention_mask": padding("right", 3, 26),
        "global_attention_mask": global_mask("several", 3, 26),
    }
    batch = {"input_ids": tokens(0, 3, 26), "labels": labels, **masks}
    gradients = []
    for model in models((4, 8)):
        model.zero_grad()
        model(**batch).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    mine, other = gradients
    assert mine.keys() == other.keys()
    assert any("key_global" in name for name in mine)
    for name, expected in other.items():
        # A key's bias adds the same to all scores of a softmax: its gradient is nought but for rounding.
        torch.testing.assert_close(
            mine[name], expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("seed", range(10))
def test_ten_random_batches(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(10):
        rows, n = rng.randint(1, 4), rng.randint(1, 60)
        g = torch.Generator().manual_seed(rng.randrange(2**31))
        shown, global_ = rng.choice([0.2, 0.8, 1.0]), rng.choice([0.0, 0.05, 0.5])
        batch: dict[str, Any] = batch_of(n, rows, rng.randrange(1000))
        if rng.random() < 0.8:
            batch["attention_mask"] = (torch.rand(rows, n, generator=g) < shown).long()
        if rng.random() < 0.8:
            mask = (torch.rand(rows, n, generator=g) < global_).long()
            batch["global_attention_mask"] = (
                mask - (torch.rand(rows, n, generator=g) < rng.choice([0.0, 0.1])).long()
            )
        if rng.random() < 0.5:
            batch["decoder_attention_mask"] = (torch.rand(rows, 6, generator=g) < 0.8).long()
        if rng.random() < 0.5:
            batch["labels"] = torch.where(
                torch.rand(rows, 6, generator=g) < 0.8, tokens(rng.randrange(99), rows, 6), -100
            )
            batch["labels"][0, 0] = 5
        assert_same(batch, rng.choice(WINDOWS))


@pytest.mark.parametrize(
    "cls",
    [LEDModel, LEDForConditionalGeneration, LEDForSequenceClassification, LEDForQuestionAnswering],
)
def test_every_model_has_embeddings_that_can_be_resized(cls: Any) -> None:
    model = cls(tiny_config())
    assert model.get_decoder() is model.base_model.decoder
    assert model.can_generate() == (cls is LEDForConditionalGeneration)
    before = model.get_input_embeddings().weight.clone()
    embedding = model.resize_token_embeddings(101, pad_to_multiple_of=8)
    assert embedding is model.get_input_embeddings() and embedding.weight.shape == (104, 32)
    assert torch.equal(embedding.weight[:99], before) and model.config.vocab_size == 104
    assert model.get_encoder().embed_tokens is embedding and model.get_decoder().embed_tokens is embedding
    head = model.get_output_embeddings()
    assert (head is None) != (cls is LEDForConditionalGeneration)
    if head is not None:
        assert head.weight is embedding.weight and model.final_logits_bias.shape == (1, 104)
    ids = torch.tensor([[0, 5, 103, 2]])
    model.eval()(ids)
    model.set_input_embeddings(torch.nn.Embedding(104, 32, 1))
    assert model.get_encoder().embed_tokens is model.get_input_embeddings()
    assert model.resize_token_embeddings(7).weight.shape == (7, 32)
