"""Answer spans of a document from the start and end logits of its chunks. Pure functions.

A span lies within one chunk and never in the question. The logits of all chunks are normalized together, so
that spans of different chunks can be compared. For a document of one chunk this is the reference's score.

Shapes: n tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from tokenizers import Encoding
from torch import Tensor

from led.pipelines.chunking import ChunkInput


@dataclass(frozen=True)
class Span:
    """The document's tokens `first` to `last`, both inclusive. `score` is the probability of the pair."""

    first: int
    last: int
    score: float


@dataclass(frozen=True)
class Answer:
    """A part of a document, `answer == text[start:end]` in characters. `score` is its probability."""

    answer: str
    start: int
    end: int
    score: float


def best_answers(
    text: str,
    encoding: Encoding,
    chunks: Sequence[ChunkInput],
    scores: Sequence[tuple[Tensor, Tensor]],
    top_k: int,
    max_answer_tokens: int,
    *,
    align_to_words: bool,
) -> tuple[list[Answer], float]:
    """At most `top_k` different answers in `text`, best first, and the probability that it has no answer.

    `encoding` is that of `text` between `<s>` and `</s>`. `scores` are the start and end logits (n,) of each
    chunk. `align_to_words` extends answers to whole words. Equal answers at several positions count as one,
    with the sum of their scores.
    """
    # Extending spans to whole words makes some answers equal, so more candidates are needed.
    candidates = 2 * top_k + 10 if align_to_words else top_k
    start_logits, end_logits = [start for start, _ in scores], [end for _, end in scores]
    spans, null = best_spans(chunks, start_logits, end_logits, candidates, max_answer_tokens)
    found: dict[str, Answer] = {}
    for span in spans:
        start, end = _characters(encoding, span.first + 1, span.last + 1, align_to_words)
        new = Answer(text[start:end], start, end, span.score)
        same = found.get(new.answer.lower())
        found[new.answer.lower()] = new if same is None else replace(same, score=same.score + span.score)
    return sorted(found.values(), key=lambda answer: -answer.score)[:top_k], null


def best_spans(
    chunks: Sequence[ChunkInput],
    start_logits: Sequence[Tensor],
    end_logits: Sequence[Tensor],
    top_k: int,
    max_answer_tokens: int,
) -> tuple[list[Span], float]:
    """The best spans of a document, best first, and the probability that it has no answer.

    `start_logits`, `end_logits`: (n,) per chunk. A span found in two chunks counts once, with its better
    score. "No answer" is `<s>` as start and end, in the chunk where that is least likely.
    """
    start_total, end_total = _log_total(chunks, start_logits), _log_total(chunks, end_logits)
    found: dict[tuple[int, int], float] = {}
    null = float("inf")
    for chunk, start, end in zip(chunks, start_logits, end_logits, strict=True):
        null = min(null, float((start[0] - start_total + end[0] - end_total).exp()))
        inside = slice(chunk.offset, chunk.offset + chunk.end - chunk.start)
        a, b = start[inside].float() - start_total, end[inside].float() - end_total
        for first, last, score in _top_pairs(a, b, top_k, max_answer_tokens):
            span = chunk.start + first, chunk.start + last
            found[span] = max(score, found.get(span, 0.0))
    best = sorted(found, key=lambda span: -found[span])[:top_k]
    return [Span(*span, found[span]) for span in best], null


def _log_total(chunks: Sequence[ChunkInput], logits: Sequence[Tensor]) -> Tensor:
    """() the log-sum-exp over all positions that may be a start or end: the document's tokens and `<s>`."""
    allowed = [
        torch.cat([x[:1], x[chunk.offset : chunk.offset + chunk.end - chunk.start]])
        for chunk, x in zip(chunks, logits, strict=True)
    ]
    return torch.cat(allowed).float().logsumexp(0)


def _top_pairs(start_n: Tensor, end_n: Tensor, count: int, longest: int) -> list[tuple[int, int, float]]:
    """The best (first, last, probability) with first <= last < first + longest, best first."""
    n = len(start_n)
    if n == 0:
        return []
    width = min(longest, n)
    ends = torch.cat([end_n, end_n.new_full((width - 1,), -torch.inf)]).unfold(0, width, 1)
    scores = (start_n[:, None] + ends).flatten()
    top = scores.topk(min(count, len(scores)))
    pairs = [
        (int(i) // width, int(i) // width + int(i) % width, float(s.exp())) for s, i in zip(*top, strict=True)
    ]
    return [pair for pair in pairs if pair[1] < n]


def _characters(encoding: Encoding, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
    """The characters, end exclusive, of tokens `first` to `last` of an encoding."""
    if align_to_words:
        words = encoding.token_to_word(first), encoding.token_to_word(last)
        ends = [None if word is None else encoding.word_to_chars(word) for word in words]
        if ends[0] is not None and ends[1] is not None:
            return ends[0][0], ends[1][1]
    return encoding.offsets[first][0], encoding.offsets[last][1]
