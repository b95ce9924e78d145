"""The encoder's fast attention equals the dense mask, at the shapes production uses.

Documents are packed, around a block of queries long, with none to many global tokens (either side of
ABSORB_LIMIT), windows up to 512 and invisible tokens. `dense_encoder_attention` is the reference
implementation. In double precision, rounding is far below the change that a wrong key would make.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from led.batch.attention_metadata import AttentionMetadata
from led.batch.packed_batch import PackedBatch, concatenate, cumulative
from led.model.encoder import LEDEncoderSelfAttention
from led.ops.global_attention import ABSORB_LIMIT, absorbed_global_attention, global_attention
from led.ops.window_attention import BLOCK, dense_encoder_attention, window_attention, window_attention_cpu
from led.testing import spread_weights, tiny_config

LENGTHS = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 700, 1500]
HEADS, SIZE = 2, 4
E = HEADS * SIZE
Spread = Callable[[int], list[int]]

GLOBALS: dict[str, Spread] = {
    "no global": lambda n: [],
    "one global": lambda n: [0],
    "few globals": lambda n: sorted({0, n // 3, n // 2, n - 1}),
    "globals in some documents": lambda n: [0, n - 1] if n % 2 else [],
    "70 globals": lambda n: sorted({i * n // 70 for i in range(70)}),
}


def packed(lengths: list[int], global_positions: Spread, hidden: float = 0.0, seed: int = 0) -> PackedBatch:
    """Documents of any ids. `hidden` is the share of invisible tokens, which may include global ones."""
    is_global = torch.zeros(sum(lengths), dtype=torch.bool)
    for start, n in zip(cumulative(lengths), lengths, strict=False):
        is_global[[start + place for place in global_positions(n)]] = True
    is_visible = None
    if hidden:
        is_visible = torch.rand(len(is_global), generator=torch.Generator().manual_seed(seed)) >= hidden
        is_global &= is_visible
    return PackedBatch(torch.zeros(len(is_global)), cumulative(lengths), is_global, is_visible)


def attention(window: int) -> LEDEncoderSelfAttention:
    config = tiny_config(
        d_model=E, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, attention_window=window
    )
    module = LEDEncoderSelfAttention(config, window)
    spread_weights(module, seed=3, scale=40)
    return module.eval()


def states(batch: PackedBatch, seed: int = 1) -> Tensor:
    return torch.randn(batch.cu_seqlens[-1], E, generator=torch.Generator().manual_seed(seed))


def dense(module: LEDEncoderSelfAttention, x_TE: Tensor, batch: PackedBatch) -> Tensor:
    """(T, E) the reference implementation, one document after the other."""
    outputs = []
    for start, end in batch.spans:
        x = x_TE[start:end]
        local, global_ = (
            tuple(f(x).view(-1, HEADS, SIZE) for f in projections)
            for projections in (
                (module.query, module.key, module.value),
                (module.query_global, module.key_global, module.value_global),
            )
        )
        visible = (
            torch.ones(end - start, dtype=torch.bool)
            if batch.is_visible is None
            else batch.is_visible[start:end]
        )
        scaled = [(q / SIZE**0.5, k, v) for q, k, v in (local, global_)]
        out = dense_encoder_attention(*scaled, batch.is_global[start:end], visible, module.one_sided)
        outputs.append(out.reshape(-1, E))
    return torch.cat(outputs)


@pytest.mark.parametrize("hidden", [0.0, 0.3])
@pytest.mark.parametrize("global_positions", GLOBALS.values(), ids=GLOBALS)
@pytest.mark.parametrize("window", [2, 8, 128, 512])
@torch.no_grad()
def test_ragged_documents_equal_the_dense_mask(window: int, global_positions: Spread, hidden: float) -> None:
    batch, module = packed(LENGTHS, global_positions, hidden), attention(window).double()
    x = states(batch).double()
    torch.testing.assert_close(
        module(x, AttentionMetadata(batch)), dense(module, x, batch), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("n", [*LENGTHS, 2 * BLOCK, 2 * BLOCK + 1])
@torch.no_grad()
def test_one_document_equals_the_dense_mask(n: int) -> None:
    for window in (2, 128, 512):
        batch, module = packed([n], GLOBALS["one global"]), attention(window).double()
        x = states(batch).double()
        torch.testing.assert_close(
            module(x, AttentionMetadata(batch)), dense(module, x, batch), atol=1e-9, rtol=0
        )


@pytest.mark.parametrize("at_once", [1, 3 * BLOCK * 300, 1 << 30])
@torch.no_grad()
def test_groups_of_heads_do_not_change_the_result(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = packed([700, 5], GLOBALS["few globals"], hidden=0.1)
    q, k, v = (
        torch.randn(705, 7, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in range(3)
    )
    expected = window_attention_cpu(q, k, v, AttentionMetadata(batch), 64)
    monkeypatch.setattr("led.ops.window_attention._SCORES", at_once)
    torch.testing.assert_close(
        window_attention_cpu(q, k, v, AttentionMetadata(batch), 64), expected, atol=1e-12, rtol=0
    )


@torch.no_grad()
def test_a_window_wider_than_the_document_reads_all_of_it() -> None:
    batch = packed([100], GLOBALS["no global"])
    x = states(batch)
    torch.testing.assert_close(
        attention(512)(x, AttentionMetadata(batch)),
        attention(200)(x, AttentionMetadata(batch)),
        atol=1e-6,
        rtol=0,
    )


@torch.no_grad()
def test_a_document_of_invisible_tokens_attends_to_nothing() -> None:
    visible = torch.ones(30, dtype=torch.bool)
    visible[10:20] = False
    batch = PackedBatch(None, (0, 10, 20, 30), torch.zeros(30, dtype=torch.bool), visible)
    out = attention(8)(states(batch), AttentionMetadata(batch))
    assert torch.equal(out[10:20], torch.zeros(10, E))
    assert out.isfinite().all() and out[:10].abs().min() > 0


@torch.no_grad()
def test_a_token_sees_half_a_window_on_each_side_and_no_further() -> None:
    batch, module = packed([400], GLOBALS["no global"]), attention(8)
    x = states(batch)
    before = module(x, AttentionMetadata(batch))
    x[200] += 1.0
    changed = (module(x, AttentionMetadata(batch)) != before).any(1).nonzero()[:, 0]
    assert changed.tolist() == list(range(196, 205))


@pytest.mark.parametrize("global_positions", GLOBALS.values(), ids=GLOBALS)
@torch.no_grad()
def test_a_document_does_not_depend_on_its_neighbours(global_positions: Spread) -> None:
    batch, module = packed(LENGTHS, global_positions, hidden=0.1), attention(128).double()
    x = states(batch).double()
    together = module(x, AttentionMetadata(batch)).split(batch.lengths)
    documents = list(zip(batch.documents(), x.split(batch.lengths), together, strict=True))
    for document, own, expected in documents:
        # One neighbour with ABSORB_LIMIT globals makes every document project its keys, which rounds another
        # way.
        torch.testing.assert_close(module(own, AttentionMetadata(document)), expected, atol=5e-6, rtol=0)
    documents.reverse()
    backwards = concatenate([document for document, *_ in documents])
    out = module(torch.cat([own for _, own, _ in documents]), AttentionMetadata(backwards))
    torch.testing.assert_close(out, torch.cat([expected for *_, expected in documents]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("hidden", [0.0, 0.3])
@pytest.mark.parametrize("g", [1, 5, ABSORB_LIMIT, 70])
@torch.no_grad()
def test_absorbed_projections_equal_projected_keys_and_values(g: int, hidden: float) -> None:
    module, n = attention(8).double(), 700
    x = states(packed([n], GLOBALS["no global"])).double()
    visible = torch.rand(n, generator=torch.Generator().manual_seed(2)) >= hidden if hidden else None
    q = torch.randn(g, HEADS, SIZE, generator=torch.Generator().manual_seed(4)).double()
    k, v = (f(x).view(n, HEADS, SIZE) for f in (module.key_global, module.value_global))
    absorbed = absorbed_global_attention(q, x, module.key_global, module.value_global, visible)
    torch.testing.assert_close(absorbed, global_attention(q, k, v, visible), atol=1e-9, rtol=0)


def test_the_absorbed_and_the_projected_path_of_the_module_agree() -> None:
    batch, module = packed([300, 40], GLOBALS["few globals"]), attention(8)
    x = states(batch)
    projected = module(
        x, AttentionMetadata(batch)
    ).detach()  # gradients are on: keys and values are projected
    with torch.no_grad():
        torch.testing.assert_close(module(x, AttentionMetadata(batch)), projected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("hidden", [0.0, 0.3])
@pytest.mark.parametrize("global_positions", GLOBALS.values(), ids=GLOBALS)
def test_gradients_equal_those_of_the_dense_mask(global_positions: Spread, hidden: float) -> None:
    batch, module = packed([1, 2, 129, 300], global_positions, hidden), attention(16)
    target = states(batch, seed=7)

    def gradients(run: Callable[[Tensor], Tensor]) -> list[Tensor]:
        x = states(batch).requires_grad_()
        inputs = [x, *module.parameters()]
        return list(
            torch.autograd.grad((run(x) * target).sum(), inputs, allow_unused=True, materialize_grads=True)
        )

    mine = gradients(lambda x: module(x, AttentionMetadata(batch)))
    other = gradients(lambda x: dense(module, x, batch))
    for got, expected in zip(mine, other, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_window_attention_alone_has_the_gradients_of_the_dense_mask() -> None:
    batch = packed([257], GLOBALS["no global"])
    generator = torch.Generator().manual_seed(0)
    qkv = [
        torch.randn(257, HEADS, SIZE, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]
    target = torch.randn(257, HEADS, SIZE, generator=generator, dtype=torch.float64)
    seen = torch.ones(257, dtype=torch.bool)
    q, k, v = qkv
    fast = window_attention(q, k, v, AttentionMetadata(batch), one_sided=20)
    slow = dense_encoder_attention((q, k, v), (q, k, v), ~seen, seen, one_sided=20)
    for got, expected in zip(
        *(torch.autograd.grad((out * target).sum(), qkv) for out in (fast, slow)), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)  # the softmax is in fp32
