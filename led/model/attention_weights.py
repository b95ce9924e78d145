"""Eager attention that records every attention probability: for `output_attentions` and head masks.

It computes the scores of all pairs of tokens, without blocks or absorbed projections. It is therefore also
the reference implementation of both stacks. The layout of the recorded weights is the reference's (see
`outputs.py`).

Shapes: T tokens of a packed batch, n tokens of one document, R decoder rows, t new and S all positions of
a row, H heads, D head size, g global tokens of one document, x most of any document, N' columns up to a
multiple of the window.

Cost: H * n * n scores per layer and document, `ROWS` rows of them at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from led.batch.attention_metadata import AttentionMetadata, DocumentMetadata
from led.batch.packed_batch import PackedBatch
from led.kv_cache.cross_attention import CrossAttentionCache
from led.kv_cache.self_attention import SelfAttentionCache
from led.ops.decoder_attention import eager_attention

# Query rows whose scores are held at once.
ROWS = 512

QKV = tuple[Tensor, Tensor, Tensor]


class EncoderAttentionWeights:
    """Computes encoder attention eagerly and records its weights.

    `local` L of (B, H, N, x + w + 1) and `global_` L of (B, H, N', x). `head_mask` (L, H) scales each head.

    Raises:
        ValueError: the head mask has another shape.
    """

    def __init__(
        self, batch: PackedBatch, windows: Sequence[int], heads: int, head_mask: Tensor | None
    ) -> None:
        check_head_mask("head_mask", head_mask, len(windows), heads)
        columns, widest = max(batch.lengths), max(windows)
        self.padded = -(-columns // widest) * widest
        self.max_globals = max(int(batch.is_global[start:end].sum()) for start, end in batch.spans)
        self.head_mask = head_mask
        self.local: list[Tensor] = []
        self.global_: list[Tensor] = []

    def attend(
        self,
        layer: int,
        local: QKV,
        global_: QKV,
        metadata: AttentionMetadata,
        one_sided: int,
        dropout: float,
    ) -> Tensor:
        """(T, H, D) the attention output of a layer. `local` and `global_` are (query, key, value), (T, H, D)
        each."""
        heads = local[0].shape[1]
        scale_H = local[0].new_ones(heads) if self.head_mask is None else self.head_mask[layer].to(local[0])
        outputs, local_weights, global_weights = [], [], []
        near, far = (zip(*(x.split(metadata.lengths) for x in qkv), strict=True) for qkv in (local, global_))
        for doc, local_qkv, global_qkv in zip(metadata.documents, near, far, strict=True):
            out, p = self._attend_local(local_qkv, doc, one_sided, scale_H, dropout)
            if self.max_globals:
                global_out, p_global = self._attend_global(global_qkv, doc, scale_H, dropout)
                out = out.index_copy(0, doc.global_positions, global_out)
                global_weights.append(p_global)
            outputs.append(out)
            local_weights.append(p)
        self.local.append(torch.stack(local_weights))
        if self.max_globals:
            self.global_.append(torch.stack(global_weights))
        return torch.cat(outputs)

    def _attend_local(
        self, qkv: QKV, doc: DocumentMetadata, one_sided: int, scale_H: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor]:
        """(n, H, D) one document's output, and (H, n, x + w + 1) its weights. Rows of global tokens have no
        meaning."""
        q, k, v = (x.transpose(0, 1) for x in qkv)
        n, device = q.shape[1], q.device
        position = torch.arange(n, device=device)
        is_global = torch.zeros(n, dtype=torch.bool, device=device).index_fill(0, doc.global_positions, True)
        visible = torch.ones_like(is_global) if doc.visible is None else doc.visible
        band = torch.arange(2 * one_sided + 1, device=device)
        outputs, weights = [], []
        for rows in position.split(ROWS):
            near = (rows[:, None] - position[None, :]).abs() <= one_sided
            p = _softmax(q[:, rows] @ k.transpose(1, 2), visible[None, :] & (near | is_global[None, :]))
            p = p.masked_fill(~visible[rows, None], 0.0) * scale_H[:, None, None]
            p = F.dropout(p, dropout)
            outputs.append(p @ v)
            to_globals = F.pad(
                p[:, :, doc.global_positions], (0, self.max_globals - len(doc.global_positions))
            )
            to_window = F.pad(p.masked_fill(is_global, 0.0), (one_sided, one_sided))
            to_window = to_window.gather(2, (rows[:, None] + band[None, :]).expand(len(p), -1, -1))
            weights.append(torch.cat([to_globals, to_window], -1).masked_fill(is_global[rows, None], 0.0))
        return torch.cat(outputs, 1).transpose(0, 1), torch.cat(weights, 1)

    def _attend_global(
        self, qkv: QKV, doc: DocumentMetadata, scale_H: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor]:
        """(g, H, D) the output of one document's global tokens, and (H, N', x) their weights."""
        q, k, v = (x.transpose(0, 1) for x in qkv)
        n, g = q.shape[1], len(doc.global_positions)
        visible = torch.ones(n, dtype=torch.bool, device=q.device) if doc.visible is None else doc.visible
        p = _softmax(q[:, doc.global_positions] @ k.transpose(1, 2), visible[None, :])
        p = F.dropout(p * scale_H[:, None, None], dropout)
        empty = (scale_H / self.padded)[:, None, None].expand(-1, self.padded, self.max_globals - g)
        return (p @ v).transpose(0, 1), torch.cat([F.pad(p, (0, self.padded - n)).transpose(1, 2), empty], -1)


class DecoderAttentionWeights:
    """Records the weights of decoder attention.

    The decoder layers use `self_attention` and `cross_attention` in place of the KV caches. `own` L of (R, H,
    t, S), `cross` L of (R, H, t, n). The head masks (L, H) scale each head.

    Raises:
        ValueError: a head mask has another shape.
    """

    def __init__(
        self, layers: int, heads: int, head_mask: Tensor | None, cross_head_mask: Tensor | None
    ) -> None:
        check_head_mask("decoder_head_mask", head_mask, layers, heads)
        check_head_mask("cross_attn_head_mask", cross_head_mask, layers, heads)
        self.head_mask, self.cross_head_mask = head_mask, cross_head_mask
        self.own: list[Tensor] = []
        self.cross: list[Tensor] = []

    def self_attention(self, cache: SelfAttentionCache | None) -> RecordedSelfAttention:
        """The self-attention of a call with `cache`, or without one."""
        return RecordedSelfAttention(self, cache)

    def cross_attention(self, documents: CrossAttentionCache) -> RecordedCrossAttention:
        """The cross-attention of a call over `documents`."""
        return RecordedCrossAttention(self, documents)


class RecordedSelfAttention:
    """Eager self-attention whose weights go to `DecoderAttentionWeights.own`."""

    def __init__(self, weights: DecoderAttentionWeights, cache: SelfAttentionCache | None) -> None:
        self._weights, self._cache = weights, cache

    def attend(
        self,
        layer: int,
        query_RHtD: Tensor,
        key_RHtD: Tensor,
        value_RHtD: Tensor,
        mask: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """(R, H, t, D) as `SelfAttentionCache.attend`."""
        k, v = (
            (key_RHtD, value_RHtD) if self._cache is None else self._cache.append(layer, key_RHtD, value_RHtD)
        )
        head_mask = self._weights.head_mask
        scale_H = None if head_mask is None else head_mask[layer]
        out, p = eager_attention(query_RHtD, k, v, mask, dropout, scale_H)
        self._weights.own.append(p)
        return out


class RecordedCrossAttention:
    """Eager cross-attention whose weights go to `DecoderAttentionWeights.cross`."""

    def __init__(self, weights: DecoderAttentionWeights, documents: CrossAttentionCache) -> None:
        self._weights, self._documents = weights, documents

    def attend(self, layer: int, query_RHtD: Tensor, dropout: float) -> Tensor:
        """(R, H, t, D) as `CrossAttentionCache.attend`."""
        head_mask = self._weights.cross_head_mask
        scale_H = None if head_mask is None else head_mask[layer]
        outputs = []
        for q, document in zip(
            query_RHtD.split(len(query_RHtD) // len(self._documents)), self._documents, strict=True
        ):
            k, v = document.layers[layer]
            outputs.append(eager_attention(q, k, v, document.mask, dropout, scale_H))
        self._weights.cross.append(torch.cat([p for _, p in outputs]))
        return torch.cat([out for out, _ in outputs])


def check_head_mask(name: str, mask: Tensor | None, layers: int, heads: int) -> None:
    """Check that a head mask has one number per layer and head.

    Raises:
        ValueError: it has another shape.
    """
    if mask is not None and tuple(mask.shape) != (layers, heads):
        shape = tuple(mask.shape)
        raise ValueError(
            f"{name} has shape {shape}; it must be {(layers, heads)}: a number per layer and head."
        )


def _softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    hidden = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    return hidden.softmax(-1, dtype=torch.float32).to(scores.dtype)
