"""Both layouts of the cross-attention KV cache give the same attention output, at and around the limit."""

from __future__ import annotations

import pytest
import torch

from led.batch.packed_batch import pack_documents
from led.generation.limits import SchedulerLimits
from led.generation.scheduler import Scheduler
from led.kv_cache import cross_attention
from led.kv_cache.cross_attention import PREPACK_FROM, KeysValues, PrepackedKeysValues, decode_layout
from led.testing import tiny_model
from tests.led.kernels import needs_bfloat16_kernels, needs_kernels


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16_kernels)])
@pytest.mark.parametrize("n", [1, 2, 63, 1536, 4099])
@pytest.mark.parametrize("queries", [1, 4, 7])
@torch.inference_mode()
def test_prepacked_keys_and_values_give_the_output_of_plain_ones(
    dtype: torch.dtype, n: int, queries: int
) -> None:
    generator = torch.Generator().manual_seed(n)
    q, k, v = (torch.randn(3, size, 16, generator=generator).to(dtype) for size in (queries, n, n))
    hidden = torch.rand(n, generator=generator) < 0.3
    hidden[0] = False
    mask = torch.zeros(n).masked_fill_(hidden, torch.finfo(torch.float32).min)
    plain, packed = KeysValues(k, v), PrepackedKeysValues(k, v)
    assert packed.nbytes == plain.nbytes and all(
        torch.equal(a, b) for a, b in zip(packed, plain, strict=True)
    )
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    for m in (None, mask):
        expected = KeysValues(k.float(), v.float()).attend(q.float(), m, 0.0)
        for layer in (plain, packed):
            attended = layer.attend(q, m, 0.0)
            assert attended.dtype == dtype
            torch.testing.assert_close(attended.float(), expected, atol=tolerance, rtol=0)


@needs_bfloat16_kernels
@torch.inference_mode()
def test_bfloat16_keys_take_float32_queries() -> None:
    q, k, v = (torch.randn(2, n, 8, generator=torch.Generator().manual_seed(n)) for n in (4, 30, 31))
    v = v[:, :30]
    expected = KeysValues(k, v).attend(q, None, 0.0)
    for layer in (KeysValues(k.bfloat16(), v.bfloat16()), PrepackedKeysValues(k.bfloat16(), v.bfloat16())):
        attended = layer.attend(q, torch.zeros(30), 0.0)
        assert attended.dtype == torch.float32
        torch.testing.assert_close(attended, expected, atol=4e-2, rtol=0)


@needs_kernels
def test_only_long_documents_are_prepacked() -> None:
    tokens = PREPACK_FROM // (64 * 4)
    with torch.inference_mode():
        assert isinstance(decode_layout(*torch.zeros(2, 1, tokens, 64)), PrepackedKeysValues)
        assert isinstance(decode_layout(*torch.zeros(2, 1, tokens - 1, 64)), KeysValues)
        assert isinstance(decode_layout(*torch.zeros(2, 1, tokens, 64).bfloat16()), KeysValues)
    assert isinstance(decode_layout(*torch.zeros(2, 1, tokens, 64)), KeysValues), (
        "packed ones have no gradients"
    )


@needs_kernels
@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_scheduler_writes_the_same_with_either_layout(
    num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(seed=4, scale=8)
    generator = torch.Generator().manual_seed(1)
    documents = [
        [0, *torch.randint(5, 90, (n,), generator=generator).tolist(), 2] for n in (0, 5, 60, 61, 126)
    ]
    batch = pack_documents(documents, [[0]] * 5)
    config = model.generation_config.updated(num_beams=num_beams, max_new_tokens=20)

    def written(prepack_from: int) -> list[tuple[list[list[int]], list[float]]]:
        monkeypatch.setattr(cross_attention, "PREPACK_FROM", prepack_from)
        found = dict(
            Scheduler(model, config, SchedulerLimits(max_num_seqs=3), attention=True).run(batch.documents())
        )
        return [(found[i].sequences, found[i].attention.tolist()) for i in range(5)]

    plain, packed = written(1 << 40), written(0)
    for (tokens, profile), (other_tokens, other_profile) in zip(plain, packed, strict=True):
        assert tokens == other_tokens
        assert profile == pytest.approx(other_profile, abs=1e-4)


@torch.inference_mode()
def test_dtypes_without_kernels_are_not_prepacked(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float16, torch.float64):
        assert isinstance(decode_layout(*torch.zeros(2, 1, PREPACK_FROM // 64, 64, dtype=dtype)), KeysValues)
    monkeypatch.setattr(cross_attention, "has_kernels", lambda dtype: dtype == torch.float32)
    assert isinstance(decode_layout(*torch.zeros(2, 1, PREPACK_FROM // 64, 64).bfloat16()), KeysValues)
