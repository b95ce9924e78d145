"""What global tokens read, of all documents of a packed batch at once.

`attention.folded_global_attention` reads one document in some ten operations. On a GPU many short documents would leave it
waiting for their launches, so here documents are cut in pieces of equal length, and every operation takes all of them.

Shapes: T tokens of all documents, H heads, D head size, E = H * D, G global tokens of all documents; B documents that have
some, N pieces of c tokens, Q = H times the most of any document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from led.layout import Layout

# Tokens of a piece.
_PIECE = 512

# From this many documents on, to read them all at once costs less than to launch what each of them takes.
AT_ONCE_FROM = 4


@dataclass(frozen=True)
class _Pieces:
    """The documents that have global tokens in pieces of equal length: B documents, N pieces of c tokens, at most g globals.

    `tokens` (N, c) places in the batch, those beyond a document's end repeating its last; `readable` (N, c) bool; `document`
    (N,) the piece's document among the B; `counts` (B,) its pieces; `globals_` (B, g) numbers of its global tokens among the G,
    the last repeated; `slots` (G,) where each of the G stands in that table.
    """

    tokens: Tensor
    readable: Tensor
    document: Tensor
    counts: Tensor
    globals_: Tensor
    slots: Tensor

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """The pieces of a packed batch."""
        widest = max(layout.global_counts)
        starts: list[int] = []
        counts: list[int] = []
        ends, document, globals_, slots = [], [], [], []
        for (start, end), first, count in zip(layout.batch.spans, layout.cu_globals, layout.global_counts, strict=False):
            if count:
                pieces = range(start, end, _PIECE)
                starts += pieces
                ends += [end] * len(pieces)
                document += [len(counts)] * len(pieces)
                slots += [len(counts) * widest + i for i in range(count)]
                counts.append(len(pieces))
                globals_.append([first + min(i, count - 1) for i in range(widest)])
        device = layout.globals_.device
        places = torch.tensor(starts)[:, None] + torch.arange(_PIECE)
        readable = places < torch.tensor(ends)[:, None]
        tokens = places.minimum(torch.tensor(ends)[:, None] - 1).to(device)
        readable = readable.to(device)
        if layout.batch.is_visible is not None:
            readable &= layout.batch.is_visible[tokens]
        return cls(tokens, readable, *(torch.tensor(x, device=device) for x in (document, counts, globals_, slots)))


def folded_globals(query_GHD: Tensor, x_TE: Tensor, layout: Layout, key: torch.nn.Linear, value: torch.nn.Linear) -> Tensor:
    """(G, H, D) `attention.folded_global_attention` of the documents all at once.

    Each piece of a document is read by itself, and sums over pieces are taken in their order, so that answers repeat.
    """
    H, D = query_GHD.shape[1:]
    at = layout.once("pieces", lambda: _Pieces.of(layout))
    folded_GHE = torch.einsum("ghd,hde->ghe", query_GHD, key.weight.unflatten(0, (H, D)))
    queries_NQE = folded_GHE[at.globals_].flatten(1, 2)[at.document]
    pieces_NcE = x_TE[at.tokens]
    scores_NQc = (queries_NQE @ pieces_NcE.mT).float().masked_fill_(~at.readable[:, None], -torch.inf)
    highest_BQ = _over_pieces(scores_NQc.amax(2), "max", at)
    weights_NQc = scores_NQc.sub_(highest_BQ[at.document][:, :, None]).exp_()
    total_BQ = _over_pieces(weights_NQc.sum(2), "sum", at)
    weights_NQc /= total_BQ[at.document][:, :, None]
    read_BQE = _over_pieces((weights_NQc.to(x_TE.dtype) @ pieces_NcE).float(), "sum", at).to(x_TE.dtype)
    read_GHE = read_BQE.unflatten(1, (-1, H)).flatten(0, 1)[at.slots]
    return torch.einsum("ghe,hde->ghd", read_GHE, value.weight.unflatten(0, (H, D))) + value.bias.view(H, D)


def _over_pieces(x_N: Tensor, how: str, at: _Pieces) -> Tensor:
    """The "max" or "sum" of each document's pieces."""
    return torch.segment_reduce(x_N, how, lengths=at.counts, unsafe=True)
