"""The layers computed plainly, every attention probability kept: what `output_attentions` and head masks ask for.

Scores of all pairs of tokens, masked and normalised as the rules of `attention.py` say, without blocks or folded
projections; so it is also the slow truth of both stacks. The layout of what is kept is the reference's (see `outputs.py`).

Shapes: T tokens of a packed batch, n tokens of one document, R decoder rows, t new and S all positions of a row, H heads,
D head size, E = H * D, g global tokens of one document, x most of any document, N' columns up to a multiple of the window.

Cost: H * n * n scores per layer and document, `ROWS` rows of them at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from led.attention import decoder_self_attention
from led.layout import DocumentLayout, Layout
from led.packing import PackedBatch

if TYPE_CHECKING:
    from led.cache import DecoderCache, DocumentMemories
    from led.decoder import LEDDecoderLayer
    from led.encoder import LEDEncoderLayer

# Query rows whose scores are held at once.
ROWS = 512

Projected = tuple[Tensor, Tensor, Tensor]


class EncoderAttentions:
    """Runs encoder layers plainly and keeps what they attended to.

    `local` L of (B, H, N, x + w + 1) and `global_` L of (B, H, N', x); `head_mask` (L, H) scales each head.

    Raises:
        ValueError: the head mask has another shape.
    """

    def __init__(self, batch: PackedBatch, windows: Sequence[int], heads: int, head_mask: Tensor | None) -> None:
        check_head_mask("head_mask", head_mask, len(windows), heads)
        columns, widest = max(batch.lengths), max(windows)
        self.padded = -(-columns // widest) * widest
        self.slots = max(int(batch.is_global[start:end].sum()) for start, end in batch.spans)
        self.head_mask = head_mask
        self.local: list[Tensor] = []
        self.global_: list[Tensor] = []

    def layer(self, layer: LEDEncoderLayer, x_TE: Tensor, layout: Layout, number: int) -> Tensor:
        """(T, E) what `layer` makes of (T, E)."""
        attention = layer.self_attn.longformer_self_attn
        T, E = x_TE.shape
        H, D = attention.heads, E // attention.heads
        scale = x_TE.new_ones(H) if self.head_mask is None else self.head_mask[number].to(x_TE)
        dropout = attention.attention_dropout if layer.training else 0.0

        def by_document(*projected: Tensor) -> list[Projected]:
            return list(zip(*(x.unflatten(1, (H, D)).split(layout.lengths) for x in projected), strict=True))

        near = by_document(*attention.queries_keys_values(x_TE))
        k, v = attention.key_global(x_TE), attention.value_global(x_TE)
        far = by_document(attention.query_global(x_TE) / D**0.5, k, v)
        reads, local, global_ = [], [], []
        for doc, local_qkv, global_qkv in zip(layout.documents, near, far, strict=True):
            read, p = self._document(local_qkv, doc, attention.one_sided, scale, dropout)
            if self.slots:
                replaced, p_global = self._globals(global_qkv, doc, scale, dropout)
                read = read.index_copy(0, doc.globals_, replaced)
                global_.append(p_global)
            reads.append(read)
            local.append(p)
        self.local.append(torch.stack(local))
        if self.slots:
            self.global_.append(torch.stack(global_))
        return layer.after_attention(x_TE, layer.self_attn.output(torch.cat(reads).reshape(T, E)))

    def _document(
        self, qkv: Projected, doc: DocumentLayout, one_sided: int, scale_H: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor]:
        """(n, H, D) what one document's tokens read, and (H, n, x + w + 1) from where; global rows mean nothing yet."""
        q, k, v = (x.transpose(0, 1) for x in qkv)
        n, device = q.shape[1], q.device
        place = torch.arange(n, device=device)
        is_global = torch.zeros(n, dtype=torch.bool, device=device).index_fill(0, doc.globals_, True)
        visible = torch.ones_like(is_global) if doc.visible is None else doc.visible
        band = torch.arange(2 * one_sided + 1, device=device)
        reads, kept = [], []
        for rows in place.split(ROWS):
            near = (rows[:, None] - place[None, :]).abs() <= one_sided
            p = _softmax(q[:, rows] @ k.transpose(1, 2), visible[None, :] & (near | is_global[None, :]))
            p = p.masked_fill(~visible[rows, None], 0.0) * scale_H[:, None, None]
            p = F.dropout(p, dropout)
            reads.append(p @ v)
            to_globals = F.pad(p[:, :, doc.globals_], (0, self.slots - len(doc.globals_)))
            to_window = F.pad(p.masked_fill(is_global, 0.0), (one_sided, one_sided))
            to_window = to_window.gather(2, (rows[:, None] + band[None, :]).expand(len(p), -1, -1))
            kept.append(torch.cat([to_globals, to_window], -1).masked_fill(is_global[rows, None], 0.0))
        return torch.cat(reads, 1).transpose(0, 1), torch.cat(kept, 1)

    def _globals(self, qkv: Projected, doc: DocumentLayout, scale_H: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
        """(g, H, D) what one document's global tokens read, and (H, N', x) from where."""
        q, k, v = (x.transpose(0, 1) for x in qkv)
        n, g = q.shape[1], len(doc.globals_)
        visible = torch.ones(n, dtype=torch.bool, device=q.device) if doc.visible is None else doc.visible
        p = F.dropout(_softmax(q[:, doc.globals_] @ k.transpose(1, 2), visible[None, :]) * scale_H[:, None, None], dropout)
        empty = (scale_H / self.padded)[:, None, None].expand(-1, self.padded, self.slots - g)
        return (p @ v).transpose(0, 1), torch.cat([F.pad(p, (0, self.padded - n)).transpose(1, 2), empty], -1)


class DecoderAttentions:
    """Runs decoder layers plainly and keeps what they attended to.

    `own` L of (R, H, t, S), `cross` L of (R, H, t, n); the masks (L, H) scale each head.

    Raises:
        ValueError: a head mask has another shape.
    """

    def __init__(self, layers: int, heads: int, head_mask: Tensor | None, cross_head_mask: Tensor | None) -> None:
        check_head_mask("decoder_head_mask", head_mask, layers, heads)
        check_head_mask("cross_attn_head_mask", cross_head_mask, layers, heads)
        self.head_mask, self.cross_head_mask = head_mask, cross_head_mask
        self.own: list[Tensor] = []
        self.cross: list[Tensor] = []

    def layer(
        self,
        layer: LEDDecoderLayer,
        x_RTE: Tensor,
        cache: DecoderCache | None,
        memories: DocumentMemories,
        mask: Tensor | None,
        number: int,
    ) -> Tensor:
        """(R, t, E) what `layer` makes of (R, t, E); the arguments are those of the layer itself."""
        own, cross = layer.self_attn, layer.encoder_attn
        q, k, v = own.queries_keys_values(x_RTE)
        if cache is not None:
            k, v = cache.past.append(number, k, v)
        read, p = attend(q, k, v, mask, own.dropout_now, _row(self.head_mask, number))
        self.own.append(p)
        x_RTE = layer.self_attn_layer_norm(x_RTE + layer.drop(own.merge(read)))
        queries = cross.queries(x_RTE).split(len(x_RTE) // len(memories))
        scale = _row(self.cross_head_mask, number)
        reads = []
        for q, memory in zip(queries, memories, strict=True):
            k, v = memory.layers[number]
            reads.append(attend(q, k, v, memory.mask, cross.dropout_now, scale))
        self.cross.append(torch.cat([p for _, p in reads]))
        read = torch.cat([read for read, _ in reads])
        x_RTE = layer.encoder_attn_layer_norm(x_RTE + layer.drop(cross.merge(read)))
        return layer.feed_forward(x_RTE)


def check_head_mask(name: str, mask: Tensor | None, layers: int, heads: int) -> None:
    """See that a head mask has one number per layer and head.

    Raises:
        ValueError: it has not.
    """
    if mask is not None and tuple(mask.shape) != (layers, heads):
        raise ValueError(f"{name} has shape {tuple(mask.shape)}; it must be {(layers, heads)}: a number per layer and head.")


def _row(head_mask: Tensor | None, layer: int) -> Tensor | None:
    return None if head_mask is None else head_mask[layer]


def _softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    hidden = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    return hidden.softmax(-1, dtype=torch.float32).to(scores.dtype)


def attend(q_RHtD: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float,
           scale_H: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(R, H, t, D) what is read and (R, H, t, S) from where; `mask` hides where it is true, or less than 0.

    A query from which everything is hidden reads everything evenly, and its scores keep their gradient.
    """
    scores = q_RHtD @ k.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        hidden = mask if mask.dtype == torch.bool else mask < 0
        scores = scores + torch.zeros_like(hidden, dtype=scores.dtype).masked_fill(hidden, torch.finfo(scores.dtype).min)
    p = scores.softmax(-1).to(v.dtype)
    if scale_H is not None:
        p = p * scale_H.to(p)[:, None, None]
    return F.dropout(p, dropout) @ v, p


def self_attention(q_RHTD: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """(R, H, T, D) what rows read of what they have written, k and v (R, H, S, D); `mask` as `attend` takes it."""
    if mask is not None and mask.dtype == torch.bool:
        return attend(q_RHTD, k, v, mask, dropout)[0]
    return decoder_self_attention(q_RHTD, k, v, mask, dropout)
