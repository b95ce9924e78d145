"""Every field of every output is the reference's: name, order, shape and values, in hidden rows too.

The largest allowed difference is 1e-5 in fp32, for the same weights. Windows are two-sided, in tokens.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import led
from led.kv_cache.decoder_cache import DecoderCache
from led.model import attention_weights as plain
from led.model.led_model import shared_fields
from led.model.outputs import LEDEncoderBaseModelOutput
from led.testing import TINY, spread_weights, tiny_config

transformers = pytest.importorskip(
    "transformers", "5", reason="the reference, transformers 5, is not installed"
)

from tests.led.model.test_led_model import (  # noqa: E402
    GLOBALS,
    PADDINGS,
    TOLERANCE,
    WINDOWS,
    Batch,
    batch_of,
    global_mask,
    padding,
    tokens,
)

CLASSES = ("LEDModel", "LEDForConditionalGeneration", "LEDForQuestionAnswering")
EVERYTHING = {"output_attentions": True, "output_hidden_states": True}


@cache
def pair(name: str, window: int | tuple[int, ...] = 8) -> tuple[Any, Any]:
    """This library's model of a class and the reference's, with the same weights."""
    shape = {"attention_window": list(window) if isinstance(window, tuple) else window}
    reference = getattr(transformers, name)(transformers.LEDConfig(**{**TINY, **shape}))
    spread_weights(reference, seed=7, scale=8)
    ours = getattr(led, name)(tiny_config(**shape))
    ours.load_state_dict(reference.state_dict())
    return ours.eval(), reference.eval()


def legacy(cache: Any) -> Any:
    """The keys and values of a cache of either library, per layer (own keys, own values, cross keys, cross
    values)."""
    if isinstance(cache, DecoderCache):
        return cache.to_legacy_cache()
    own, cross = cache.self_attention_cache.layers, cache.cross_attention_cache.layers
    return tuple((a.keys, a.values, b.keys, b.values) for a, b in zip(own, cross, strict=True))


def assert_same_value(mine: Any, other: Any, name: str) -> None:
    """A field, or a part of it, equals the other's. It is a tensor, a tuple of such, or a cache."""
    if isinstance(other, Tensor):
        assert mine.shape == other.shape, f"{name} is {tuple(mine.shape)}, not {tuple(other.shape)}"
        assert mine.dtype == other.dtype, name
        assert torch.isfinite(mine).all(), name
        difference = (mine - other).abs().max().item()
        assert difference <= TOLERANCE, f"{name} differs by {difference}"
    elif isinstance(mine, DecoderCache):
        assert_same_value(legacy(mine), legacy(other), name)
    else:
        assert type(mine) is type(other) is tuple, name
        assert len(mine) == len(other), f"{name} has {len(mine)} parts, not {len(other)}"
        for i, parts in enumerate(zip(mine, other, strict=True)):
            assert_same_value(*parts, f"{name}[{i}]")


def assert_same_output(mine: Any, other: Any) -> None:
    """Two outputs have the same fields in the same order, as mappings and as sequences."""
    names = list(other.keys())
    assert list(mine.keys()) == list(mine) == names
    assert [name for name, _ in mine.items()] == names
    assert len(mine) == len(mine.values()) == len(mine.to_tuple()) == len(other) == len(other.to_tuple())
    for i, name in enumerate(names):
        assert name in mine
        assert mine[name] is mine[i] is getattr(mine, name) is mine[i:][0] is mine.to_tuple()[i]
        assert_same_value(mine[name], other[name], name)
    for name in set(mine.__dataclass_fields__) - set(names):
        assert getattr(mine, name) is getattr(other, name) is None
        assert name not in mine
        with pytest.raises(KeyError, match=name):
            mine[name]


@torch.no_grad()
def assert_same(name: str, batch: dict[str, Any], window: int | tuple[int, ...] = 8) -> Any:
    ours, reference = pair(name, window)
    mine, other = ours(**batch), reference(**batch)
    assert_same_output(mine, other)
    return mine


def masked(n: int, side: str, kind: str) -> Batch:
    """Three documents of n columns with both masks."""
    return batch_of(n) | {
        "attention_mask": padding(side, 3, n),
        "global_attention_mask": global_mask(kind, 3, n),
    }


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_every_field_of_the_bare_model_for_every_length_padding_and_number_of_global_tokens(
    window: int | tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, (n, kind, side) in enumerate(product((1, 7, 8, 9, 17, 33), GLOBALS, PADDINGS)):
        monkeypatch.setattr(
            plain, "ROWS", (512, 5)[i % 2]
        )  # the rows of a document in one piece, or in several
        out = assert_same("LEDModel", masked(n, side, kind) | EVERYTHING, window)
        assert ("encoder_global_attentions" in out) == (kind != "none")


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_every_class_for_every_kind_of_mask(name: str) -> None:
    n = 19
    dark = masked(n, "holes", "several")
    dark["attention_mask"][1] = 0
    hidden = masked(n, "right", "several")
    hidden["global_attention_mask"][0, 12:] = -1
    hidden["global_attention_mask"][2, 3] = -1
    uneven = masked(n, "right", "none")
    for row in range(3):
        uneven["global_attention_mask"][row, 2 : 2 + 3 * row] = 1
    alone = {key: x for key, x in hidden.items() if key != "attention_mask"}
    decoder = masked(n, "left", "one") | {"decoder_attention_mask": padding("holes", 3, 6)}
    for batch in (
        batch_of(n),
        dark,
        hidden,
        uneven,
        alone,
        decoder,
        masked(1, "right", "all"),
        masked(16, "holes", "all"),
    ):
        for window in (8, (4, 8)):
            assert_same(name, batch | EVERYTHING, window)


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_every_class_for_random_batches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(name)
    for _ in range(25):
        rows, n = rng.randint(1, 4), rng.randint(1, 50)
        g = torch.Generator().manual_seed(rng.randrange(2**31))
        monkeypatch.setattr(plain, "ROWS", rng.choice([1, 8, 512]))
        batch: dict[str, Any] = batch_of(n, rows, rng.randrange(1000)) | EVERYTHING
        if rng.random() < 0.8:
            batch["attention_mask"] = (torch.rand(rows, n, generator=g) < rng.choice([0.2, 0.8, 1.0])).long()
        if rng.random() < 0.8:
            mask = (torch.rand(rows, n, generator=g) < rng.choice([0.0, 0.05, 0.5])).long()
            batch["global_attention_mask"] = (
                mask - (torch.rand(rows, n, generator=g) < rng.choice([0.0, 0.1])).long()
            )
        if rng.random() < 0.5:
            batch["decoder_attention_mask"] = (torch.rand(rows, 6, generator=g) < 0.8).long()
        if rng.random() < 0.3:
            batch["use_cache"] = False
        if rng.random() < 0.3:
            batch["inputs_embeds"] = torch.randn(rows, n, TINY["d_model"], generator=g)
            del batch["input_ids"]
        assert_same(name, batch, rng.choice(WINDOWS))


@pytest.mark.parametrize("name", CLASSES)
def test_tuples_have_the_references_parts_in_its_order(name: str) -> None:
    ours, reference = pair(name)
    targets: list[dict[str, Any]] = [{}]
    if name == "LEDForConditionalGeneration":
        targets.append({"labels": tokens(3, 3, 6)})
    if name == "LEDForQuestionAnswering":
        targets.append({"start_positions": torch.tensor([0, 2, 4]), "end_positions": torch.tensor([1, 5, 9])})
    flags = product((True, False), (True, False), (True, False), ("none", "one"), targets)
    for use_cache, attentions, states, kind, target in flags:
        how = {
            "use_cache": use_cache,
            "output_attentions": attentions,
            "output_hidden_states": states,
            **target,
        }
        batch = masked(13, "right", kind) | how
        assert_same(name, batch)
        with torch.no_grad():
            mine, other = ours(**batch, return_dict=False), reference(**batch, return_dict=False)
        assert_same_value(mine, other, "tuple")
        assert mine[0] is not None


@pytest.mark.parametrize("name", CLASSES)
def test_the_configuration_says_what_a_call_gives_that_does_not_say(name: str) -> None:
    batch = masked(13, "right", "one")
    for flags in (
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"use_cache": False},
        {"return_dict": False},
        {"use_cache": False, "return_dict": False, **EVERYTHING},
    ):
        reference = getattr(transformers, name)(transformers.LEDConfig(**TINY, **flags)).eval()
        ours = getattr(led, name)(tiny_config(**flags)).eval()
        ours.load_state_dict(reference.state_dict())
        with torch.no_grad():
            mine, other = ours(**batch), reference(**batch)
            if "return_dict" in flags:
                assert_same_value(mine, other, "tuple")
            else:
                assert_same_output(mine, other)
            opposite = {flag: not value for flag, value in flags.items()}
            assert_same_output(
                ours(**batch, **opposite | {"return_dict": True}),
                reference(**batch, **opposite | {"return_dict": True}),
            )


def test_the_encoder_alone_gives_what_the_references_gives() -> None:
    ours, reference = (model.get_encoder() for model in pair("LEDModel", (4, 8)))
    for n, kind, side in product((1, 8, 21), GLOBALS, PADDINGS):
        batch = masked(n, side, kind)
        del batch["decoder_input_ids"]
        for flags in ({}, {"output_attentions": True}, {"output_hidden_states": True}, EVERYTHING):
            with torch.no_grad():
                mine, other = ours(**batch, **flags), reference(**batch, **flags)
                assert isinstance(mine, LEDEncoderBaseModelOutput)
                assert_same_output(mine, other)
                mine, other = (model(**batch, **flags, return_dict=False) for model in (ours, reference))
                assert_same_value(mine, other, "tuple")


@pytest.mark.parametrize("name", CLASSES)
def test_given_encoder_outputs_are_handed_on(name: str) -> None:
    ours, reference = pair(name)
    batch = masked(19, "holes", "several")
    ids = {"decoder_input_ids": batch.pop("decoder_input_ids"), "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        for flags in ({}, {"output_attentions": True}, {"output_hidden_states": True}, EVERYTHING):
            given_ours = ours.get_encoder()(**batch, **flags)
            given_theirs = reference.get_encoder()(**batch, **flags)
            mine = ours(**ids, **flags, encoder_outputs=given_ours)
            assert_same_output(mine, reference(**ids, **flags, encoder_outputs=given_theirs))
            mine = ours(**ids, **flags, encoder_outputs=given_ours.to_tuple())
            assert_same_output(mine, reference(**ids, **flags, encoder_outputs=given_theirs.to_tuple()))


@pytest.mark.parametrize("prefix", [1, 4])
@pytest.mark.parametrize("name", ["LEDModel", "LEDForConditionalGeneration"])
def test_every_field_of_every_step_with_a_cache(name: str, prefix: int) -> None:
    ours, reference = pair(name, (4, 8))
    batch = masked(20, "right", "several")
    ids, mask = tokens(50, 3, 9), batch["attention_mask"]
    del batch["decoder_input_ids"]
    with torch.no_grad():
        given = [model.get_encoder()(**batch, **EVERYTHING) for model in (ours, reference)]
        whole = reference(**batch, decoder_input_ids=ids, use_cache=False)
        caches: list[Any] = [None, None]
        parts = []
        starts = [0, *range(prefix, 9)]
        for lo, hi in zip(starts, [*starts[1:], 9], strict=True):
            outs = [
                model(
                    attention_mask=mask,
                    decoder_input_ids=ids[:, lo:hi],
                    encoder_outputs=encoded,
                    past_key_values=past,
                    use_cache=True,
                    **EVERYTHING,
                )
                for model, encoded, past in zip((ours, reference), given, caches, strict=True)
            ]
            assert_same_output(*outs)
            assert [x.shape for x in outs[0].decoder_attentions] == [(3, 4, hi - lo, hi)] * 2
            assert [x.shape for x in outs[0].cross_attentions] == [(3, 4, hi - lo, 20)] * 2
            caches = [out.past_key_values for out in outs]
            parts.append(outs[0][0])
    assert_same_value(torch.cat(parts, 1), whole[0], "all steps together")


@pytest.mark.parametrize("name", CLASSES)
def test_asking_for_attentions_changes_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for n, kind, side in product((1, 8, 33), GLOBALS, PADDINGS):
        monkeypatch.setattr(plain, "ROWS", 10)
        batch = masked(n, side, kind) | {
            "decoder_attention_mask": padding(side, 3, 6),
            "output_hidden_states": True,
        }
        ours, _ = pair(name, (4, 8))
        ones = torch.ones(2, 4)
        with torch.no_grad():
            packed = ours(**batch)
            shown = ours(**batch, output_attentions=True)
            scaled = ours(**batch, head_mask=ones, decoder_head_mask=ones, cross_attn_head_mask=ones)
        assert list(scaled) == list(packed)
        for field in packed:
            assert_same_value(shown[field], packed[field], field)
            assert_same_value(scaled[field], packed[field], field)


def test_every_kind_of_attention_sums_to_one_over_what_it_sees() -> None:
    batch = masked(19, "right", "several")
    out = assert_same("LEDModel", batch | EVERYTHING)
    visible = batch["attention_mask"].bool()
    is_local = visible & (batch["global_attention_mask"] == 0)
    for layer in range(2):
        for p in (out.decoder_attentions[layer], out.cross_attentions[layer]):
            torch.testing.assert_close(p.sum(-1), torch.ones(p.shape[:-1]))
        assert not out.cross_attentions[layer].transpose(1, 3)[~visible].any()
        sums = out.encoder_attentions[layer].sum(-1)
        torch.testing.assert_close(sums, is_local[:, None].expand_as(sums).float())
        sums = out.encoder_global_attentions[layer].sum(2)
        torch.testing.assert_close(sums, torch.ones_like(sums))


def test_fields_behind_the_states_are_the_same_in_every_class() -> None:
    outs = [assert_same(name, masked(9, "right", "one") | EVERYTHING) for name in CLASSES]
    behind = [list(out)[-len(shared_fields(out)) :] for out in outs]
    assert behind[0] == behind[1] == behind[2]


@pytest.mark.parametrize("name", ["LEDModel", "LEDForQuestionAnswering"])
def test_folders_of_the_other_classes_load_here_and_there(name: str, tmp_path: Path) -> None:
    ours, reference = pair(name, (4, 8))
    batch = masked(19, "right", "several")
    reference.save_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    for folder in ("theirs", "ours"):
        mine = type(ours).from_pretrained(tmp_path / folder)
        other, info = type(reference).from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        with torch.no_grad():
            out = mine(**batch)
            assert_same_output(out, other.eval()(**batch))
            assert_same_output(out, reference(**batch))


def test_the_bare_model_reads_the_folder_of_every_class(tmp_path: Path) -> None:
    for name in CLASSES[1:]:
        _, reference = pair(name)
        reference.save_pretrained(tmp_path / name)
        bare = led.LEDModel.from_pretrained(tmp_path / name)
        for key, x in reference.led.state_dict().items():
            assert torch.equal(bare.state_dict()[key], x), key
