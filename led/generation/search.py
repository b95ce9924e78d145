"""Greedy search, sampling and beam search as tensor operations: scores in, next tokens out. Independent of
the model.

A search holds several documents, each with the same number of rows. Documents are added and removed at any
step, and each is at its own length. The result for one document does not depend on the others.

Shapes: S documents, nb rows (beams) of each, R = S * nb rows, V vocabulary, L = max_length columns.
Units: a length counts decoder tokens, prompt and end of sequence included.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from led.generation.logits_processors import on_device

UNREACHABLE = -1.0e9

_BLOCK = 256  # scores of a block of `blockwise_topk`


@dataclass(frozen=True)
class SearchConfig:
    """The part of the generation config that a search needs. See GenerationConfig."""

    num_beams: int
    num_return_sequences: int
    prompt_length: int
    max_length: int
    length_penalty: float
    early_stopping: bool | str
    do_sample: bool
    eos_token_ids: tuple[int, ...]
    pad_token_id: int


@dataclass(frozen=True)
class StepOutput:
    """The result of one step: `beam_idx` (R,) the row that each row continues, `next_tokens` (R,), `is_done`
    (S,)."""

    beam_idx: Tensor
    next_tokens: Tensor
    is_done: Tensor


@dataclass(frozen=True)
class Hypotheses:
    """The sequences of one document, best first: token lists that start with the prompt, and a score for
    each.

    The score is the sum of log-probabilities over length ** length_penalty in beam search, and the plain sum
    otherwise. `attention` (n,) is the cross-attention of the best sequence to each token of the document, if
    it was requested: the sum over its tokens, layers and heads, float32 on the CPU.
    """

    sequences: list[list[int]]
    scores: list[float]
    attention: Tensor | None = None


class _SearchState:
    """Tensors whose first dimension is the document."""

    sequences: Tensor
    lengths: Tensor
    max_lengths: Tensor

    def select(self, documents: Tensor) -> None:
        """Keep these documents, in this order."""
        for f in fields(self):  # type: ignore[arg-type]
            setattr(self, f.name, getattr(self, f.name)[documents])

    def to(self, device: torch.device | str) -> Self:
        """The same documents on `device`."""
        return type(self)(*(getattr(self, f.name).to(device) for f in fields(self)))  # type: ignore[arg-type]

    def append(self, other: _SearchState) -> None:
        """Append the documents of `other`."""
        for f in fields(self):  # type: ignore[arg-type]
            setattr(self, f.name, torch.cat([getattr(self, f.name), getattr(other, f.name)]))

    def padding(self, documents: int) -> Self:
        """Zero-filled state for `documents` padding slots."""
        tensors = (getattr(self, f.name) for f in fields(self))  # type: ignore[arg-type]
        return type(self)(*(x.new_zeros(documents, *x.shape[1:]) for x in tensors))

    def first(self, documents: int) -> Self:
        """A view of the first `documents` documents."""
        return type(self)(*(getattr(self, f.name)[:documents] for f in fields(self)))  # type: ignore[arg-type]

    def copy_(self, other: Self) -> None:
        """Copy the documents of `other` over the first ones, in place."""
        for f in fields(self):  # type: ignore[arg-type]
            target, source = getattr(self, f.name), getattr(other, f.name)
            target[: len(source)].copy_(source)


State = TypeVar("State", bound=_SearchState)


@dataclass
class _BeamState(_SearchState):
    sequences: Tensor  # (S, nb, L) the running beams
    lengths: Tensor  # (S,) of the running beams
    max_lengths: Tensor  # (S,)
    running_scores: Tensor  # (S, nb) sums of log-probabilities
    finished: Tensor  # (S, nb, L)
    finished_scores: Tensor  # (S, nb) normalized; UNREACHABLE if there is none yet
    finished_lengths: Tensor  # (S, nb)
    is_finished: Tensor  # (S, nb)


class _Search(Generic[State]):
    """What both searches share: documents that are added and removed, each with `rows` rows."""

    def __init__(self, config: SearchConfig, rows: int, device: torch.device | str) -> None:
        self.config, self.rows, self.device = config, rows, device
        self.state = self._initial_state([], []).to(device)

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can capture a step. Sampling uses generators on the host."""
        return not self.config.do_sample

    def with_state(self, state: State) -> Self:
        """A search with the same config over other documents."""
        other = copy(self)
        other.state = state
        return other

    @property
    def last_tokens(self) -> Tensor:
        """(R, 1) the last token of each row."""
        return self.sequences.gather(1, self.lengths[:, None] - 1)

    @property
    def sequences(self) -> Tensor:
        """(R, L) the running rows."""
        return self.state.sequences.flatten(0, 1)

    @property
    def lengths(self) -> Tensor:
        """(R,) tokens of each row. In greedy search the padding after a row's end is included."""
        return self.state.lengths.repeat_interleave(self.rows)

    @property
    def max_lengths(self) -> Tensor:
        """(R,) the length at which each row's document is done in any case."""
        return self.state.max_lengths.repeat_interleave(self.rows)

    def add(self, prompts: Sequence[Sequence[int]], max_lengths: Sequence[int] | None = None) -> None:
        """Add documents at the end, each with its decoder prompt and its own maximum length, by default the
        config's."""
        limits = [self.config.max_length] * len(prompts) if max_lengths is None else list(max_lengths)
        self.state.append(self._initial_state(prompts, limits).to(self.device))

    def retain(self, documents: Sequence[int]) -> None:
        """Keep these documents, in this order."""
        self.state.select(torch.tensor(documents, dtype=torch.long, device=self.device))

    def _initial_state(self, prompts: Sequence[Sequence[int]], max_lengths: Sequence[int]) -> State:
        """The state of these documents before their first step."""
        raise NotImplementedError


class BeamSearch(_Search[_BeamState]):
    """Beam search with the reference's rules, and its sampled variant.

    Each step takes the max(2, 1 + number of end tokens) * nb best candidates. A candidate that ends counts as
    finished only among the first nb. Its score is divided by length ** length_penalty, where the length
    excludes the prompt and includes the end. The nb best finished ones are kept. A document is done when no
    running beam can beat its worst finished one, as `early_stopping` estimates it. With `early_stopping` True
    it is done as soon as nb have finished. At its maximum length it is done in any case.
    """

    def __init__(self, config: SearchConfig, device: torch.device | str = "cpu") -> None:
        super().__init__(config, config.num_beams, device)

    def step(self, scores_RV: Tensor, generators: Sequence[torch.Generator | None]) -> StepOutput:
        """Take one step for every document. `scores_RV` are processed log-probabilities and are
        overwritten."""
        config, state = self.config, self.state
        nb, V = config.num_beams, scores_RV.shape[-1]
        width = max(2, 1 + len(config.eos_token_ids)) * nb
        flat = scores_RV.view(-1, nb, V).add_(state.running_scores[:, :, None]).flatten(1)
        if config.do_sample:
            pairs = zip(flat, generators, strict=True)
            draws = [torch.multinomial(row.softmax(-1), width, generator=g) for row, g in pairs]
            positions = torch.stack(draws)
            scores = flat.gather(1, positions)
        else:
            scores, positions = blockwise_topk(flat, width)
        beams, tokens = positions // V, positions % V
        candidates = _take(state.sequences, beams)
        candidates.scatter_(2, state.lengths[:, None, None].expand(-1, width, 1), tokens[:, :, None])
        lengths = state.lengths + 1
        ends = _is_in(tokens, config.eos_token_ids) | (lengths >= state.max_lengths)[:, None]

        running_scores = scores + ends * UNREACHABLE
        best = running_scores.topk(nb).indices
        state.sequences = _take(candidates, best)
        state.running_scores = running_scores.gather(1, best)
        state.lengths = lengths
        self._finish(candidates, scores, ends)

        first = torch.arange(len(beams), device=self.device)[:, None] * nb
        beam_idx, next_tokens = (beams.gather(1, best) + first).flatten(), tokens.gather(1, best).flatten()
        return StepOutput(beam_idx, next_tokens, self._is_done(ends))

    def hypotheses(self, document: int) -> Hypotheses:
        """The current result of document number `document`, best first."""
        state = self.state
        sequences, scores = [], []
        for row in range(self.config.num_return_sequences):
            length = int(state.finished_lengths[document, row])
            sequences.append(state.finished[document, row, :length].tolist())
            scores.append(float(state.finished_scores[document, row]))
        return Hypotheses(sequences, scores)

    def _initial_state(self, prompts: Sequence[Sequence[int]], max_lengths: Sequence[int]) -> _BeamState:
        config = self.config
        S, nb = len(prompts), config.num_beams
        running = _token_table(prompts, config)[:, None].repeat(1, nb, 1)
        scores = torch.full((S, nb), UNREACHABLE)
        scores[:, 0] = 0.0
        lengths = torch.full((S,), config.prompt_length)
        return _BeamState(
            sequences=running,
            lengths=lengths,
            max_lengths=torch.tensor(max_lengths, dtype=torch.long),
            running_scores=scores,
            finished=running.clone(),
            finished_scores=torch.full((S, nb), UNREACHABLE),
            finished_lengths=lengths[:, None].repeat(1, nb),
            is_finished=torch.zeros(S, nb, dtype=torch.bool),
        )

    def _finish(self, candidates: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Merge the candidates that ended into the finished beams and keep the best."""
        config, state = self.config, self.state
        nb = config.num_beams
        ended = ends & (torch.arange(ends.shape[1], device=self.device) < nb)
        new = scores / ((state.lengths - config.prompt_length)[:, None] ** config.length_penalty)
        if config.early_stopping is True:
            new = new + state.is_finished.all(1, keepdim=True) * UNREACHABLE
        new = new + ~ended * UNREACHABLE
        merged = torch.cat([state.finished_scores, new], 1)
        best = merged.topk(nb).indices
        lengths = torch.cat([state.finished_lengths, state.lengths[:, None].expand_as(new)], 1)
        state.finished = _take(torch.cat([state.finished, candidates], 1), best)
        state.finished_scores = merged.gather(1, best)
        state.finished_lengths = lengths.gather(1, best)
        state.is_finished = torch.cat([state.is_finished, ended], 1).gather(1, best)

    def _is_done(self, ends: Tensor) -> Tensor:
        """(S,) the documents that need no further step."""
        config, state = self.config, self.state
        length = state.lengths - config.prompt_length
        if config.early_stopping == "never" and config.length_penalty > 0:
            length = state.max_lengths - config.prompt_length
        best_possible = state.running_scores[:, :1] / (length[:, None] ** config.length_penalty)
        worst = state.finished_scores.amin(1, keepdim=True)
        beatable = torch.where(state.is_finished, worst, UNREACHABLE)
        done = ~(best_possible > beatable).any(1) | ends.all(1)
        if config.early_stopping is True:
            done |= state.is_finished.all(1)
        return done


@dataclass
class _GreedyState(_SearchState):
    sequences: Tensor  # (S, nr, L)
    lengths: Tensor  # (S,) steps taken, the same for every row
    max_lengths: Tensor  # (S,)
    row_lengths: Tensor  # (S, nr) tokens up to the end
    scores: Tensor  # (S, nr)
    is_finished: Tensor  # (S, nr)


class GreedySearch(_Search[_GreedyState]):
    """The best token at every step, or a sampled one. `num_return_sequences` rows of a document are
    independent."""

    def __init__(self, config: SearchConfig, device: torch.device | str = "cpu") -> None:
        super().__init__(config, config.num_return_sequences, device)

    def step(self, scores_RV: Tensor, generators: Sequence[torch.Generator | None]) -> StepOutput:
        """Take one step for every document. `scores_RV` are processed logits."""
        config, state = self.config, self.state
        nr = config.num_return_sequences
        scores = scores_RV.unflatten(0, (-1, nr))
        if config.do_sample:
            pairs = zip(scores, generators, strict=True)
            draws = [torch.multinomial(s.softmax(-1), 1, generator=g) for s, g in pairs]
            tokens = torch.stack(draws)[:, :, 0]
        else:
            tokens = scores.argmax(-1)
        gained = scores.log_softmax(-1).gather(2, tokens[:, :, None])[:, :, 0]
        tokens = torch.where(state.is_finished, config.pad_token_id, tokens)
        state.scores += torch.where(state.is_finished, 0.0, gained)
        state.sequences.scatter_(2, state.lengths[:, None, None].expand(-1, nr, 1), tokens[:, :, None])
        state.row_lengths += ~state.is_finished
        state.lengths += 1
        state.is_finished |= _is_in(tokens, config.eos_token_ids)
        done = state.is_finished.all(1) | (state.lengths >= state.max_lengths)
        return StepOutput(torch.arange(len(scores_RV), device=self.device), tokens.flatten(), done)

    def hypotheses(self, document: int) -> Hypotheses:
        """The current result of document number `document`, in the order drawn."""
        state = self.state
        rows = zip(state.sequences[document], state.row_lengths[document].tolist(), strict=True)
        return Hypotheses([row[:n].tolist() for row, n in rows], state.scores[document].tolist())

    def _initial_state(self, prompts: Sequence[Sequence[int]], max_lengths: Sequence[int]) -> _GreedyState:
        config = self.config
        S, nr = len(prompts), config.num_return_sequences
        lengths = torch.full((S,), config.prompt_length)
        return _GreedyState(
            sequences=_token_table(prompts, config)[:, None].repeat(1, nr, 1),
            lengths=lengths,
            max_lengths=torch.tensor(max_lengths, dtype=torch.long),
            row_lengths=lengths[:, None].repeat(1, nr),
            scores=torch.zeros(S, nr),
            is_finished=torch.zeros(S, nr, dtype=torch.bool),
        )


Search = BeamSearch | GreedySearch


def blockwise_topk(scores_SN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores of each document, in order, and their positions, (S, k) each.

    Same result as `topk`, several times as fast: the k highest are in the k blocks with the highest maxima,
    and maxima are cheap to compute.
    """
    whole = scores_SN.shape[1] // _BLOCK * _BLOCK
    blocks = scores_SN[:, :whole].unflatten(1, (-1, _BLOCK))
    if blocks.shape[1] <= k:
        top = scores_SN.topk(k)
        return top.values, top.indices
    device = scores_SN.device
    chosen = blocks.amax(2).topk(k).indices[:, :, None]
    candidates = blocks.gather(1, chosen.expand(-1, -1, _BLOCK)).flatten(1)
    positions = (chosen * _BLOCK + torch.arange(_BLOCK, device=device)).flatten(1)
    rest = torch.arange(whole, scores_SN.shape[1], device=device).expand(len(scores_SN), -1)
    scores, indices = torch.cat([candidates, scores_SN[:, whole:]], 1).topk(k)
    return scores, torch.cat([positions, rest], 1).gather(1, indices)


def _token_table(prompts: Sequence[Sequence[int]], config: SearchConfig) -> Tensor:
    """(S, L) the prompts, padded to the maximum length."""
    table = torch.full((len(prompts), config.max_length), config.pad_token_id, dtype=torch.long)
    for row, prompt in zip(table, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    return table


def _take(x_SBL: Tensor, rows_SK: Tensor) -> Tensor:
    """(S, K, L) the given rows of each document."""
    return x_SBL.gather(1, rows_SK[:, :, None].expand(-1, -1, x_SBL.shape[2]))


def _is_in(tokens: Tensor, members: tuple[int, ...]) -> Tensor:
    return torch.isin(tokens, on_device(members, tokens.device))
