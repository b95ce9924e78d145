"""Attention of the encoder's global tokens, which have projections of their own (arXiv:2004.05150, section
3.1).

`global_attention` is the reference implementation: it projects every token to a global key and value. With
few global tokens the projections are absorbed into the queries instead: q . (W x) = (W^T q) . x. No token
then pays for a global key or value. The bias of the key is the same for every key, so it cancels in the
softmax.

On a GPU, many short documents would leave the device waiting for kernel launches. There the documents are cut
into pieces of equal length, and every operation covers all pieces.

Shapes: T tokens of all documents, n tokens of one, H heads, D head size, E = H * D, g global tokens of
one document, G of all documents. B documents with global tokens, N pieces of c tokens, Q = H times the
most global tokens of a document.

Cost per layer: 4 * H * g * E operations per token if absorbed, 4 * E * E if projected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from led.batch.attention_metadata import AttentionMetadata

# From this many global tokens on, projecting every token is cheaper than absorbing the projection.
ABSORB_LIMIT = 64

# From this many documents on, one batched computation is cheaper on a GPU than the launches for each
# document.
BATCHED_FROM = 4

# Tokens of a piece.
_PIECE = 512


def attend_globals(
    query_GHD: Tensor,
    x_TE: Tensor,
    metadata: AttentionMetadata,
    key: nn.Linear,
    value: nn.Linear,
    dropout: float,
) -> Tensor:
    """(G, H, D) the attention output of the global tokens of all documents. Queries are scaled."""
    lengths, counts = metadata.lengths, metadata.global_counts
    H, D = query_GHD.shape[1:]
    # Absorbing does not support dropout, and its many small products would each add a gradient.
    if torch.is_grad_enabled() or dropout:
        keys, values = (layer(x_TE).view(-1, H, D).split(lengths) for layer in (key, value))
        documents = zip(metadata.documents, query_GHD.split(counts), keys, values, strict=True)
        return torch.cat(
            [global_attention(q, k, v, doc.visible, dropout) for doc, q, k, v in documents if len(q)]
        )
    if x_TE.is_cuda and len(counts) >= BATCHED_FROM and max(counts) < ABSORB_LIMIT:
        return absorbed_global_attention_batched(query_GHD, x_TE, metadata, key, value)
    outputs = []
    for doc, q, x_nE in zip(metadata.documents, query_GHD.split(counts), x_TE.split(lengths), strict=True):
        if len(q) >= ABSORB_LIMIT:
            k, v = (layer(x_nE).view(-1, H, D) for layer in (key, value))
            outputs.append(global_attention(q, k, v, doc.visible))
        elif len(q):
            outputs.append(absorbed_global_attention(q, x_nE, key, value, doc.visible))
    return torch.cat(outputs)


def global_attention(
    query_gHD: Tensor, key_nHD: Tensor, value_nHD: Tensor, visible: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """(g, H, D) one document's global tokens over all its visible tokens."""
    scores = query_gHD.transpose(0, 1) @ key_nHD.permute(1, 2, 0)
    p = _softmax(scores, visible)
    p = F.dropout(p, dropout) if dropout else p
    return (p @ value_nHD.transpose(0, 1)).transpose(0, 1)


def absorbed_global_attention(
    query_gHD: Tensor, hidden_nE: Tensor, key: nn.Linear, value: nn.Linear, visible: Tensor | None
) -> Tensor:
    """(g, H, D) `global_attention` with the projections absorbed into queries and output."""
    H, D = query_gHD.shape[1:]
    query_HgE = query_gHD.transpose(0, 1) @ key.weight.view(H, D, -1)
    p = _softmax(query_HgE @ hidden_nE.T, visible)
    out_HgD = (p @ hidden_nE) @ value.weight.view(H, D, -1).transpose(1, 2) + value.bias.view(H, 1, D)
    return out_HgD.transpose(0, 1)


def _softmax(scores: Tensor, visible: Tensor | None) -> Tensor:
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)


@dataclass(frozen=True)
class _Pieces:
    """The B documents with global tokens, as N pieces of c tokens, with at most g global tokens each.

    `tokens` (N, c) positions in the batch, where positions after a document's end repeat its last token.
    `readable` (N, c) bool. `document` (N,) the piece's document among the B. `counts` (B,) pieces per
    document. `global_numbers` (B, g) its global tokens among the G, the last one repeated. `slots` (G,) where
    each of the G is in that table.
    """

    tokens: Tensor
    readable: Tensor
    document: Tensor
    counts: Tensor
    global_numbers: Tensor
    slots: Tensor

    @classmethod
    def of(cls, metadata: AttentionMetadata) -> Self:
        """The pieces of a packed batch."""
        most = max(metadata.global_counts)
        starts: list[int] = []
        counts: list[int] = []
        ends, document, global_numbers, slots = [], [], [], []
        documents = zip(metadata.batch.spans, metadata.cu_globals, metadata.global_counts, strict=False)
        for (start, end), first, count in documents:
            if count:
                pieces = range(start, end, _PIECE)
                starts += pieces
                ends += [end] * len(pieces)
                document += [len(counts)] * len(pieces)
                slots += [len(counts) * most + i for i in range(count)]
                counts.append(len(pieces))
                global_numbers.append([first + min(i, count - 1) for i in range(most)])
        device = metadata.global_positions.device
        positions = torch.tensor(starts)[:, None] + torch.arange(_PIECE)
        readable = (positions < torch.tensor(ends)[:, None]).to(device)
        tokens = positions.minimum(torch.tensor(ends)[:, None] - 1).to(device)
        if metadata.batch.is_visible is not None:
            readable &= metadata.batch.is_visible[tokens]
        tables = (torch.tensor(x, device=device) for x in (document, counts, global_numbers, slots))
        return cls(tokens, readable, *tables)


def absorbed_global_attention_batched(
    query_GHD: Tensor, x_TE: Tensor, metadata: AttentionMetadata, key: nn.Linear, value: nn.Linear
) -> Tensor:
    """(G, H, D) `absorbed_global_attention` of all documents at once.

    Each piece of a document is computed alone, and pieces are summed in order, so results are reproducible.
    """
    H, D = query_GHD.shape[1:]
    pieces = metadata.cached("global pieces", lambda: _Pieces.of(metadata))
    query_GHE = torch.einsum("ghd,hde->ghe", query_GHD, key.weight.unflatten(0, (H, D)))
    query_NQE = query_GHE[pieces.global_numbers].flatten(1, 2)[pieces.document]
    x_NcE = x_TE[pieces.tokens]
    scores_NQc = (query_NQE @ x_NcE.mT).float().masked_fill_(~pieces.readable[:, None], -torch.inf)
    max_BQ = _reduce_pieces(scores_NQc.amax(2), "max", pieces)
    p_NQc = scores_NQc.sub_(max_BQ[pieces.document][:, :, None]).exp_()
    sum_BQ = _reduce_pieces(p_NQc.sum(2), "sum", pieces)
    p_NQc /= sum_BQ[pieces.document][:, :, None]
    out_BQE = _reduce_pieces((p_NQc.to(x_TE.dtype) @ x_NcE).float(), "sum", pieces).to(x_TE.dtype)
    out_GHE = out_BQE.unflatten(1, (-1, H)).flatten(0, 1)[pieces.slots]
    return torch.einsum("ghe,hde->ghd", out_GHE, value.weight.unflatten(0, (H, D))) + value.bias.view(H, D)


def _reduce_pieces(x_N: Tensor, reduction: str, pieces: _Pieces) -> Tensor:
    """The "max" or "sum" over each document's pieces."""
    return torch.segment_reduce(x_N, reduction, lengths=pieces.counts, unsafe=True)
