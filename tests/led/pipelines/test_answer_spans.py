"""The best spans over all chunks equal those of a search over every pair of tokens."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings, strategies as st

from led.pipelines.answer_spans import best_spans
from led.pipelines.chunking import ChunkInput, chunk_bounds, chunk_inputs


def every_span(
    chunks: list[ChunkInput], starts: list[torch.Tensor], ends: list[torch.Tensor], longest: int
) -> dict:
    """The reference: the probability of every span, in its best chunk, and of no answer."""
    totals = []
    for logits in (starts, ends):
        total = 0.0
        for chunk, x in zip(chunks, logits, strict=True):
            total += math.exp(x[0]) + sum(
                math.exp(x[chunk.offset + i]) for i in range(chunk.end - chunk.start)
            )
        totals.append(total)
    spans: dict[tuple[int, int], float] = {}
    for chunk, s, e in zip(chunks, starts, ends, strict=True):
        for i in range(chunk.end - chunk.start):
            for j in range(i, min(i + longest, chunk.end - chunk.start)):
                p = math.exp(s[chunk.offset + i]) / totals[0] * math.exp(e[chunk.offset + j]) / totals[1]
                key = chunk.start + i, chunk.start + j
                spans[key] = max(p, spans.get(key, 0.0))
    null = min(
        math.exp(s[0]) / totals[0] * math.exp(e[0]) / totals[1] for s, e in zip(starts, ends, strict=True)
    )
    return {"spans": spans, "null": null}


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 5), st.integers(1, 6), st.integers(1, 8), st.integers(0, 10_000))
def test_the_best_spans_are_those_of_trying_every_pair(
    length: int, before: int, top_k: int, longest: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = [*[0] * (1 + before), *range(5, 5 + length), 2]
    chunks = chunk_inputs(ids, 1 + before, [], chunk_bounds(length, 14 - before - 2, 3))
    starts, ends = (
        [torch.randn(len(chunk.input_ids), generator=generator) * 3 for chunk in chunks] for _ in range(2)
    )
    truth = every_span(chunks, starts, ends, longest)
    spans, null = best_spans(chunks, starts, ends, top_k, longest)
    expected = sorted(truth["spans"].values(), reverse=True)[:top_k]
    assert len(spans) == len(expected)
    for span, score in zip(spans, expected, strict=True):
        assert math.isclose(span.score, score, rel_tol=1e-4)
        assert math.isclose(truth["spans"][span.first, span.last], score, rel_tol=1e-4)
    assert math.isclose(null, truth["null"], rel_tol=1e-4)
