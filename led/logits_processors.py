"""Rules that change the scores of the next token: pure functions of what has been written so far.

Greedy and sampled decoding apply them to logits, beam search to log-probabilities that are not normalised again: the rules
of the reference (notes in docs/architecture.md).

Shapes: R rows, L columns of the token table, V vocabulary. A row's tokens are `sequences[r, :lengths[r]]`, the start token
included; what stands behind them means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from led.generation import GenerationConfig


@dataclass(frozen=True)
class Rows:
    """What the rows have written: `sequences` (R, L), `lengths` (R,); and what their documents say.

    `documents` holds the encoder's ids, one (n,) per document; the rows of a document follow one another and are as many
    for each.
    """

    sequences: Tensor
    lengths: Tensor
    documents: Sequence[Tensor]

    def last(self, count: int) -> Tensor:
        """(R, count) the last tokens of each row; rows shorter than that repeat their first token."""
        places = (self.lengths[:, None] - count + torch.arange(count, device=self.lengths.device)).clamp(min=0)
        return self.sequences.gather(1, places)


LogitsProcessor = Callable[[Rows, Tensor], Tensor]


def build_processors(config: GenerationConfig, prompt_length: int, max_length: int) -> list[LogitsProcessor]:
    """The processors a configuration asks for, in the reference's order.

    `prompt_length`, `max_length` count decoder tokens, the start token included.
    """
    eos = list(config.eos_token_ids)
    processors: list[LogitsProcessor] = []
    if config.repetition_penalty != 1.0:
        processors.append(lambda rows, s: repetition_penalty(rows, s, config.repetition_penalty))
    if config.no_repeat_ngram_size > 0:
        processors.append(lambda rows, s: no_repeat_ngram(rows, s, config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size > 0:
        processors.append(lambda rows, s: encoder_no_repeat_ngram(rows, s, config.encoder_no_repeat_ngram_size))
    words = [list(word) for word in config.bad_words_ids or () if list(word) not in [[e] for e in eos]]
    if words:
        processors.append(lambda rows, s: bad_words(rows, s, words))
    if config.min_length > 0 and config.min_new_tokens is None and eos:
        processors.append(lambda rows, s: min_length(rows, s, config.min_length, eos))
    if config.min_new_tokens and eos:
        shortest = prompt_length + config.min_new_tokens
        processors.append(lambda rows, s: min_length(rows, s, shortest, eos))
    if (bos := config.forced_bos_token_id) is not None:
        processors.append(lambda rows, s: forced_token(rows, s, 1, [bos]))
    if (forced_eos := config.forced_eos_token_id) is not None:
        processors.append(lambda rows, s: forced_token(rows, s, max_length - 1, [forced_eos]))
    if config.do_sample:
        keep = 1 + len(eos) if config.num_beams > 1 else 1
        if config.temperature != 1.0:
            processors.append(lambda rows, s: s / config.temperature)
        if config.top_k:
            processors.append(lambda rows, s: top_k(s, max(config.top_k, keep)))
        if config.top_p < 1.0:
            processors.append(lambda rows, s: top_p(s, config.top_p, keep))
    return processors


def repetition_penalty(rows: Rows, scores: Tensor, penalty: float) -> Tensor:
    """Divide the positive and multiply the negative scores of every token already in the row by `penalty`."""
    columns = torch.arange(rows.sequences.shape[1], device=scores.device)
    seen = torch.where(columns < rows.lengths[:, None], rows.sequences, rows.sequences[:, :1])
    old = scores.gather(1, seen)
    return scores.scatter(1, seen, torch.where(old < 0, old * penalty, old / penalty))


def no_repeat_ngram(rows: Rows, scores: Tensor, size: int) -> Tensor:
    """Forbid every token that would write an n-gram of `size` tokens the row already holds."""
    if rows.sequences.shape[1] < size:
        return scores
    windows = rows.sequences.unfold(1, size, 1)
    inside = torch.arange(size, size + windows.shape[1], device=scores.device) <= rows.lengths[:, None]
    prefix = rows.last(size - 1)[:, None, :]
    repeats = (windows[:, :, :-1] == prefix).all(-1) & inside
    return _forbid(scores, *_hits(repeats, windows[:, :, -1]))


def encoder_no_repeat_ngram(rows: Rows, scores: Tensor, size: int) -> Tensor:
    """Forbid every token that would write an n-gram of `size` tokens the row's document holds, special tokens included.

    The document's padding is no part of it (the reference reads the padded row).
    """
    per_document = len(scores) // len(rows.documents)
    prefixes = rows.last(size - 1)
    for d, ids in enumerate(rows.documents):
        first = d * per_document
        group = slice(first, first + per_document)
        if len(ids) < size or int(rows.lengths[first]) < size - 1:
            continue
        windows = ids.unfold(0, size, 1)
        repeats = (windows[None, :, :-1] == prefixes[group, None, :]).all(-1)
        row, token = _hits(repeats, windows[None, :, -1].expand(per_document, -1))
        scores = _forbid(scores, row + first, token)
    return scores


def bad_words(rows: Rows, scores: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
    """Forbid the last token of each of `words` where the row ends with the tokens before it."""
    for word in words:
        prefix = torch.tensor(word[:-1], dtype=torch.long, device=scores.device)
        ends = (rows.last(len(prefix)) == prefix).all(-1) & (rows.lengths >= len(prefix))
        row = ends.nonzero()[:, 0]
        scores = _forbid(scores, row, torch.full_like(row, word[-1]))
    return scores


def min_length(rows: Rows, scores: Tensor, shortest: int, eos: Sequence[int]) -> Tensor:
    """Forbid the end of sequence in rows of fewer than `shortest` tokens, the start token counted."""
    short = (rows.lengths < shortest)[:, None] & _one_hot(eos, scores)
    return scores.masked_fill(short, -torch.inf)


def forced_token(rows: Rows, scores: Tensor, length: int, tokens: Sequence[int]) -> Tensor:
    """Rows of exactly `length` tokens may only go on with `tokens`."""
    due = (rows.lengths == length)[:, None]
    forced = torch.where(_one_hot(tokens, scores), 0.0, -torch.inf).to(scores.dtype)
    return torch.where(due, forced, scores)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Keep the k highest scores of each row, and what equals the last of them."""
    lowest = scores.topk(min(k, scores.shape[-1])).values[:, -1:]
    return scores.masked_fill(scores < lowest, -torch.inf)


def top_p(scores: Tensor, p: float, keep: int = 1) -> Tensor:
    """Keep the smallest set of tokens whose probability is at least p, and never fewer than `keep`."""
    ascending, order = scores.sort(dim=-1)
    remove = ascending.softmax(-1).cumsum(-1) <= 1 - p
    remove[:, -keep:] = False
    return scores.masked_fill(remove.scatter(1, order, remove), -torch.inf)


def _one_hot(tokens: Sequence[int], scores: Tensor) -> Tensor:
    hot = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
    hot[list(tokens)] = True
    return hot


def _hits(repeats: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    row, place = repeats.nonzero(as_tuple=True)
    return row, tokens[row, place]


def _forbid(scores: Tensor, row: Tensor, token: Tensor) -> Tensor:
    return scores.index_put((row, token), torch.tensor(-torch.inf, dtype=scores.dtype, device=scores.device))
