"""A packed model gives the results of the plain one, for every dtype and number of rows."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from led.batch.packed_batch import pack_documents
from led.heads import conditional_generation
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.kv_cache import cross_attention
from led.model import decoder, encoder, inference_packing
from led.model.outputs import LEDEncoderBaseModelOutput
from led.ops.cpu_capabilities import cpu
from led.ops.prepacked_linear import PrepackedLinear, QuantizedLinear, int8_steps
from led.testing import spread_weights, tiny_config, tiny_model
from tests.led.kernels import needs_bfloat16_kernels, needs_int8, needs_kernels, processor

AVX512 = ("avx512bw", "avx512vl", "avx512dq")


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16_kernels)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_plain_one(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias).to(dtype)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for shape in ((0, 48), (1, 48), (4, 48), (3, 5, 48), (700, 48)):
        x = torch.randn(shape).to(dtype)
        with torch.no_grad():
            plain = linear(x)
            torch.testing.assert_close(PrepackedLinear(linear)(x), plain, atol=tolerance, rtol=tolerance)
            gelu = nn.functional.gelu(plain)
            torch.testing.assert_close(
                PrepackedLinear(linear, "gelu")(x), gelu, atol=tolerance, rtol=tolerance
            )


@needs_kernels
@pytest.mark.parametrize(
    "cls", [LEDForConditionalGeneration, LEDForQuestionAnswering, LEDForSequenceClassification]
)
@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_a_packed_model_answers_as_before(cls: type, activation: str) -> None:
    plain, packed = (cls(tiny_config(activation_function=activation)).eval() for _ in range(2))
    spread_weights(plain, seed=1, scale=8)
    packed.load_state_dict(plain.state_dict())
    assert packed.pack() is packed and any(isinstance(m, PrepackedLinear) for m in packed.modules())
    ids = torch.randint(5, 99, (3, 50), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2
    masks = {"attention_mask": torch.ones_like(ids), "global_attention_mask": torch.eye(3, 50).long()}
    with torch.no_grad():
        for mine, other in zip(packed(ids, **masks), plain(ids, **masks), strict=True):
            assert mine == other
        for name, other in plain(ids, **masks, use_cache=False).items():
            torch.testing.assert_close(
                packed(ids, **masks, use_cache=False)[name], other, atol=1e-5, rtol=1e-5
            )


@needs_bfloat16_kernels
@pytest.mark.parametrize("slower", [True, False])
def test_a_bfloat16_model_encodes_in_float32_where_bfloat16_is_not_fast(
    slower: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = processor(*AVX512) if slower else processor(*AVX512, "avx512_bf16")
    monkeypatch.setattr(inference_packing, "cpu", lambda: found)
    rounded = tiny_model(seed=3, scale=8).bfloat16()
    exact, packed = copy.deepcopy(rounded).float(), copy.deepcopy(rounded).pack()
    ids = torch.randint(5, 99, (3, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = packed.led.encoder(ids).last_hidden_state
        assert states.dtype == (torch.float32 if slower else torch.bfloat16)
        off = (states - exact.led.encoder(ids).last_hidden_state).abs().max()
        assert off < 1e-4 if slower else 1e-4 < off < 0.2
        answers = packed(ids, decoder_input_ids=ids[:, :5])
        assert answers.logits.dtype == torch.bfloat16
        scale = exact(ids, decoder_input_ids=ids[:, :5]).logits
        assert (answers.logits - scale).abs().max() < 0.05 * scale.abs().max()
        given = LEDEncoderBaseModelOutput(states.bfloat16())
        torch.testing.assert_close(
            packed(encoder_outputs=given, decoder_input_ids=ids[:, :5]).logits,
            answers.logits,
            atol=1,
            rtol=0.1,
        )
    assert packed.generate(ids, num_beams=3, max_new_tokens=9).shape[0] == 3


@needs_kernels
@pytest.mark.parametrize("int8", [pytest.param(True, marks=needs_int8), False])
def test_without_bfloat16_products_nothing_computes_in_bfloat16(
    int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (inference_packing, cross_attention):
        monkeypatch.setattr(module, "has_kernels", lambda dtype: dtype == torch.float32)
    monkeypatch.setattr(inference_packing, "cpu", lambda: processor("avx512_bf16"))  # by its flags
    monkeypatch.setattr(cross_attention, "PREPACK_FROM", 0)
    ids = torch.randint(5, 99, (2, 60), generator=torch.Generator().manual_seed(0))
    if int8:
        packed = tiny_model(seed=3, scale=8).pack(int8=True)
    else:
        rounded = tiny_model(seed=3, scale=8).bfloat16()
        expected = copy.deepcopy(rounded).float().pack().generate(ids, num_beams=3, max_new_tokens=9)
        with pytest.warns(
            UserWarning, match="no products in torch.bfloat16; the model computes in torch.float32"
        ):
            packed = rounded.pack()
        assert packed.dtype == torch.float32
        assert packed.generate(ids, num_beams=3, max_new_tokens=9).tolist() == expected.tolist()
    assert packed.led.decoder.cross_attention_dtype is None
    assert packed.generate(ids, num_beams=3, max_new_tokens=9).shape[0] == 2


@needs_bfloat16_kernels
def test_answers_from_a_prompt_are_of_one_type_where_documents_are_read_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inference_packing, "cpu", lambda: processor(*AVX512))
    exact = LEDForQuestionAnswering(tiny_config(decoder_prompt=(2, 0))).eval()
    spread_weights(exact, seed=3)
    packed = copy.deepcopy(exact).bfloat16().pack()
    ids = torch.randint(5, 99, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, padded = exact(ids).start_logits[0], packed(ids).start_logits[0]
        [(start, _)] = packed.forward_packed(pack_documents(ids.tolist(), [[]]))
    assert start.dtype == padded.dtype == torch.bfloat16
    for found in (start, padded):
        assert (found - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_packing_twice_is_packing_once_and_a_packed_model_keeps_its_vocabulary() -> None:
    packed = tiny_model().pack()
    assert packed.pack() is packed
    if packed.is_packed:
        with pytest.raises(
            ValueError, match="packed without int8 and no longer has its weights; load the checkpoint again"
        ):
            packed.pack(int8=True)
    with pytest.raises(
        ValueError, match="packed for inference and keeps its vocabulary; load the checkpoint again"
    ):
        packed.resize_token_embeddings(120)


@needs_kernels
def test_a_packed_model_writes_the_same_tokens() -> None:
    plain, packed = tiny_model(seed=3, scale=8), tiny_model(seed=3, scale=8).pack()
    ids = torch.randint(5, 99, (6, 40), generator=torch.Generator().manual_seed(0))
    for settings in ({}, {"num_beams": 4}, {"do_sample": True, "seed": 5}):
        how = {"max_new_tokens": 20, "return_dict_in_generate": True, **settings}
        mine, other = packed.generate(ids, **how), plain.generate(ids, **how)
        assert torch.equal(mine.sequences, other.sequences)
        torch.testing.assert_close(mine.sequences_scores, other.sequences_scores, atol=1e-4, rtol=1e-5)


@needs_kernels
def test_what_a_packed_model_cannot_do_is_said(tmp_path: Path) -> None:
    packed = tiny_model().pack()
    with pytest.raises(
        ValueError, match="packed for inference and cannot be saved; load the checkpoint again"
    ):
        packed.save_pretrained(tmp_path)
    assert not any(p.requires_grad for p in packed.parameters())


@needs_int8
def test_in_eight_bits_answers_are_near_and_the_type_must_fit() -> None:
    linear = nn.Linear(64, 32)
    x = torch.randn(9, 64)
    with torch.no_grad():
        near, exact = QuantizedLinear(linear)(x), linear(x)
    assert (near - exact).abs().max() < 0.03 * exact.abs().max() and not torch.equal(near, exact)
    plain, quick = tiny_model(seed=3), tiny_model(seed=3).pack(int8=True)
    ids = torch.randint(5, 99, (4, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, other = quick(ids, labels=ids).logits, plain(ids, labels=ids).logits
    assert (mine - other).abs().mean() < 0.1 * other.abs().mean()
    assert quick.generate(ids, num_beams=3, max_new_tokens=9).shape[1] <= 10
    with pytest.raises(
        ValueError, match=r"int8 needs float32 weights on a CPU.* these weights are torch.bfloat16 on cpu"
    ):
        tiny_model().to(torch.bfloat16).pack(int8=True)


def test_eight_bit_sums_of_two_products_never_overflow() -> None:
    weight = torch.randn(40, 131, generator=torch.Generator().manual_seed(0))
    weight[0], weight[1], weight[2] = 1.0, -1.0, 0.0
    weight[3, ::2] = -weight[3, 1::2].mean()
    steps = int8_steps(weight, pairs_saturate=True)
    units = (weight / steps[:, None]).round()
    pairs = nn.functional.pad(units, (0, 1)).unflatten(1, (-1, 2)).sum(2)
    assert units.abs().max() <= 127 and (255 * pairs).max() < 2**15 and (255 * pairs).min() >= -(2**15)
    plain = int8_steps(weight, pairs_saturate=False)
    torch.testing.assert_close(plain[3:] * 127, weight.abs().amax(1)[3:])
    assert (steps >= plain).all() and steps[0] == 2 * plain[0] and (steps / plain)[4:].median() < 1.5


# Computes 8-bit products as a processor without VNNI does: with steps that overflow, then with right ones.
_WITHOUT_VNNI = """
import torch
from torch import nn
from led.ops import prepacked_linear
from led.ops.cpu_capabilities import cpu
assert cpu().int8_pairs_saturate
steps = prepacked_linear.int8_steps
prepacked_linear.int8_steps = lambda weight, pairs_saturate: steps(weight, False)
print("overflows", not prepacked_linear.can_quantize())
prepacked_linear.int8_steps = steps
prepacked_linear.can_quantize.cache_clear()
print("right", prepacked_linear.can_quantize())
torch.manual_seed(0)
linear, x = nn.Linear(768, 768), torch.randn(256, 768)
with torch.no_grad():
    exact = linear(x)
    off = prepacked_linear.QuantizedLinear(linear)(x) - exact
print("accurate", bool(off.square().mean().sqrt() < 0.015 * exact.square().mean().sqrt()))
"""


@needs_int8
@pytest.mark.skipif(not cpu().is_x86, reason="only kernels for x86 add two products in 16 bits")
def test_without_vnni_products_are_right_and_a_wrong_kernel_is_noticed() -> None:
    limits = {"FBGEMM_ENABLE_INSTRUCTIONS": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _WITHOUT_VNNI],
        env=os.environ | limits,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["overflows", "True", "right", "True", "accurate", "True"], done.stderr


def test_a_processor_that_computes_eight_bits_wrongly_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_packing, "can_quantize", lambda: False)
    with pytest.raises(ValueError, match=r"8-bit products are right on this processor \(.+\).*Use float32"):
        tiny_model().pack(int8=True)


def test_without_the_kernels_packing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_packing, "has_kernels", lambda dtype: False)
    model = tiny_model().pack()
    assert not any(isinstance(m, PrepackedLinear) for m in model.modules())


def test_long_batches_go_through_the_feed_forward_block_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(scale=8)
    batch = pack_documents([range(5, 55), range(9, 40)], [[0], [0, 3]])
    with torch.no_grad():
        whole = model.led.encoder.encode(batch)
        monkeypatch.setattr("led.model.layers._ROWS", 7)
        torch.testing.assert_close(model.led.encoder.encode(batch), whole, atol=1e-5, rtol=0)


def test_products_that_are_made_one_on_a_gpu_give_what_each_gives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain, one = tiny_model(scale=8), tiny_model(scale=8)
    for module in (encoder, decoder, conditional_generation):
        monkeypatch.setattr(module, "will_fuse", lambda linear, int8: not int8)
    monkeypatch.setattr(inference_packing, "has_kernels", lambda dtype: False)
    one.pack()
    assert one.led.encoder.layers[0].self_attn.longformer_self_attn.qkv is not None
    assert one.lm_head.out_features == 128 and one.is_packed and one.pack() is one
    ids = torch.randint(3, 99, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        given = {"input_ids": ids, "decoder_input_ids": ids[:, :5], "output_attentions": True}
        a, b = plain(**given), one(**given)
    torch.testing.assert_close(a.logits, b.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.encoder_attentions, b.encoder_attentions, atol=1e-5, rtol=0)
    assert (
        plain.generate(ids, num_beams=3, max_new_tokens=9).tolist()
        == one.generate(ids, num_beams=3, max_new_tokens=9).tolist()
    )
    with pytest.raises(ValueError, match="packed"):
        one.save_pretrained(tmp_path)
