"""Search over token sequences as pure tensors: scores in, choices out. It knows no model.

A search holds several documents, each with the same number of rows; documents come and go, and each is as far as it is.
Nothing one document does depends on another.

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

from led.logits_processors import on_device

UNREACHABLE = -1.0e9

_PIECE = 256  # scores whose maximum is looked for at once


@dataclass(frozen=True)
class SearchRules:
    """What a search must know of the configuration; see GenerationConfig for the meaning."""

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
class Choice:
    """One step's outcome: which row each row continues, and with which token, (R,) each; which documents are done, (S,)."""

    parents: Tensor
    tokens: Tensor
    done: Tensor


@dataclass(frozen=True)
class Result:
    """The sequences of one document, best first: token lists that start with the prompt, and a score for each.

    The score is the sum of log-probabilities over length ** length_penalty in beam search, and the plain sum otherwise.
    `looked` is where the best one looked in the document, if that was asked for.
    """

    sequences: list[list[int]]
    scores: list[float]
    looked: list[float] | None = None


class _Documents:
    """State held as tensors whose first dimension is the document."""

    sequences: Tensor
    lengths: Tensor

    def keep(self, documents: Tensor) -> None:
        """Keep these documents, in this order."""
        for f in fields(self):  # type: ignore[arg-type]
            setattr(self, f.name, getattr(self, f.name)[documents])

    def to(self, device: torch.device | str) -> Self:
        """The same documents on `device`."""
        return type(self)(*(getattr(self, f.name).to(device) for f in fields(self)))  # type: ignore[arg-type]

    def add(self, other: _Documents) -> None:
        """Append the documents of `other`."""
        for f in fields(self):  # type: ignore[arg-type]
            setattr(self, f.name, torch.cat([getattr(self, f.name), getattr(other, f.name)]))

    def with_room_for(self, documents: int) -> Self:
        """So many documents of no matter, of the same shapes."""
        shaped = (getattr(self, f.name) for f in fields(self))  # type: ignore[arg-type]
        return type(self)(*(x.new_zeros(documents, *x.shape[1:]) for x in shaped))

    def first(self, documents: int) -> Self:
        """The first so many documents, in the same memory."""
        return type(self)(*(getattr(self, f.name)[:documents] for f in fields(self)))  # type: ignore[arg-type]

    def copy_(self, other: Self) -> None:
        """Write the documents of `other` over the first ones, in the same memory."""
        for f in fields(self):  # type: ignore[arg-type]
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            mine[: len(theirs)].copy_(theirs)


State = TypeVar("State", bound=_Documents)


@dataclass
class _Beams(_Documents):
    sequences: Tensor  # (S, nb, L) the running rows
    lengths: Tensor  # (S,) of the running rows
    running_scores: Tensor  # (S, nb) sums of log-probabilities
    finished: Tensor  # (S, nb, L)
    finished_scores: Tensor  # (S, nb) normalised; UNREACHABLE where there is none yet
    finished_lengths: Tensor  # (S, nb)
    is_finished: Tensor  # (S, nb)


class _Search(Generic[State]):
    """What both searches share: documents that come and go, each with `rows` rows."""

    def __init__(self, rules: SearchRules, rows: int, device: torch.device | str) -> None:
        self.rules, self.rows, self.device = rules, rows, device
        self.state = self._start([]).to(device)

    def over(self, state: State) -> Self:
        """A search of the same rules over other documents."""
        other = copy(self)
        other.state = state
        return other

    @property
    def last(self) -> Tensor:
        """(R, 1) the last token of each row."""
        return self.sequences.gather(1, self.lengths[:, None] - 1)

    @property
    def sequences(self) -> Tensor:
        """(R, L) the rows as they stand."""
        return self.state.sequences.flatten(0, 1)

    @property
    def lengths(self) -> Tensor:
        """(R,) tokens of each row, in greedy search those after its end included."""
        return self.state.lengths.repeat_interleave(self.rows)

    def admit(self, prompts: Sequence[Sequence[int]]) -> None:
        """Add documents at the end, each with its decoder prompt."""
        self.state.add(self._start(prompts).to(self.device))

    def retain(self, documents: Sequence[int]) -> None:
        """Keep these documents, in this order."""
        self.state.keep(torch.tensor(documents, dtype=torch.long, device=self.device))

    def _start(self, prompts: Sequence[Sequence[int]]) -> State:
        """The state of these documents before their first step."""
        raise NotImplementedError


class BeamSearch(_Search[_Beams]):
    """Beam search with the reference's rules, and its sampled variant.

    Each step looks at max(2, 1 + number of end tokens) * nb candidates. A candidate that ends is taken as finished only
    among the first nb; its score is divided by length ** length_penalty, the length counted without the prompt and with the
    end. The nb best finished are kept. A document is done when nothing running could still beat its worst finished row, as
    `early_stopping` estimates it; when `early_stopping` is True, as soon as nb have finished; or at `max_length`.
    """

    def __init__(self, rules: SearchRules, device: torch.device | str = "cpu") -> None:
        super().__init__(rules, rules.num_beams, device)

    def step(self, scores_RV: Tensor, generators: Sequence[torch.Generator | None]) -> Choice:
        """Take one step for every document; `scores_RV` are processed log-probabilities, and are used up."""
        rules, state = self.rules, self.state
        nb, V = rules.num_beams, scores_RV.shape[-1]
        width = max(2, 1 + len(rules.eos_token_ids)) * nb
        flat = scores_RV.view(-1, nb, V).add_(state.running_scores[:, :, None]).flatten(1)
        if rules.do_sample:
            picks = [torch.multinomial(row.softmax(-1), width, generator=g) for row, g in zip(flat, generators, strict=True)]
            places = torch.stack(picks)
            scores = flat.gather(1, places)
        else:
            scores, places = highest(flat, width)
        beams, tokens = places // V, places % V
        candidates = _take(state.sequences, beams)
        candidates.scatter_(2, state.lengths[:, None, None].expand(-1, width, 1), tokens[:, :, None])
        lengths = state.lengths + 1
        ends = _is_in(tokens, rules.eos_token_ids) | (lengths >= rules.max_length)[:, None]

        open_scores = scores + ends * UNREACHABLE
        best = open_scores.topk(nb).indices
        state.sequences = _take(candidates, best)
        state.running_scores = open_scores.gather(1, best)
        state.lengths = lengths
        self._finish(candidates, scores, ends)

        first = torch.arange(len(beams), device=self.device)[:, None] * nb
        parents, chosen = (beams.gather(1, best) + first).flatten(), tokens.gather(1, best).flatten()
        return Choice(parents, chosen, self._done(ends))

    def result(self, document: int) -> Result:
        """What document number `document` would return now, best first."""
        state = self.state
        sequences, scores = [], []
        for row in range(self.rules.num_return_sequences):
            length = int(state.finished_lengths[document, row])
            sequences.append(state.finished[document, row, :length].tolist())
            scores.append(float(state.finished_scores[document, row]))
        return Result(sequences, scores)

    def _start(self, prompts: Sequence[Sequence[int]]) -> _Beams:
        rules = self.rules
        S, nb = len(prompts), rules.num_beams
        running = _token_table(prompts, rules)[:, None].repeat(1, nb, 1)
        scores = torch.full((S, nb), UNREACHABLE)
        scores[:, 0] = 0.0
        lengths = torch.full((S,), rules.prompt_length)
        return _Beams(running, lengths, scores, running.clone(), torch.full((S, nb), UNREACHABLE),
                      lengths[:, None].repeat(1, nb), torch.zeros(S, nb, dtype=torch.bool))  # fmt: skip

    def _finish(self, candidates: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Merge the candidates that ended into the finished rows and keep the best."""
        rules, state = self.rules, self.state
        nb = rules.num_beams
        ended = ends & (torch.arange(ends.shape[1], device=self.device) < nb)
        new = scores / ((state.lengths - rules.prompt_length)[:, None] ** rules.length_penalty)
        if rules.early_stopping is True:
            new = new + state.is_finished.all(1, keepdim=True) * UNREACHABLE
        new = new + ~ended * UNREACHABLE
        merged = torch.cat([state.finished_scores, new], 1)
        best = merged.topk(nb).indices
        lengths = torch.cat([state.finished_lengths, state.lengths[:, None].expand_as(new)], 1)
        state.finished = _take(torch.cat([state.finished, candidates], 1), best)
        state.finished_scores = merged.gather(1, best)
        state.finished_lengths = lengths.gather(1, best)
        state.is_finished = torch.cat([state.is_finished, ended], 1).gather(1, best)

    def _done(self, ends: Tensor) -> Tensor:
        """(S,) the documents that need no further step."""
        rules, state = self.rules, self.state
        reach = state.lengths - rules.prompt_length
        if rules.early_stopping == "never" and rules.length_penalty > 0:
            reach = torch.full_like(reach, rules.max_length - rules.prompt_length)
        best_possible = state.running_scores[:, :1] / (reach[:, None] ** rules.length_penalty)
        worst = state.finished_scores.amin(1, keepdim=True)
        beatable = torch.where(state.is_finished, worst, UNREACHABLE)
        done = ~(best_possible > beatable).any(1) | ends.all(1)
        if rules.early_stopping is True:
            done |= state.is_finished.all(1)
        return done


@dataclass
class _SampledRows(_Documents):
    sequences: Tensor  # (S, nr, L)
    lengths: Tensor  # (S,) steps taken, for every row
    row_lengths: Tensor  # (S, nr) tokens up to the end
    scores: Tensor  # (S, nr)
    is_finished: Tensor  # (S, nr)


class GreedySearch(_Search[_SampledRows]):
    """The best token at every step, or one drawn at random; `num_return_sequences` rows of a document are independent."""

    def __init__(self, rules: SearchRules, device: torch.device | str = "cpu") -> None:
        super().__init__(rules, rules.num_return_sequences, device)

    def step(self, scores_RV: Tensor, generators: Sequence[torch.Generator | None]) -> Choice:
        """Take one step for every document; `scores_RV` are processed logits."""
        rules, state = self.rules, self.state
        nr = rules.num_return_sequences
        scores = scores_RV.unflatten(0, (-1, nr))
        if rules.do_sample:
            draws = [torch.multinomial(s.softmax(-1), 1, generator=g) for s, g in zip(scores, generators, strict=True)]
            tokens = torch.stack(draws)[:, :, 0]
        else:
            tokens = scores.argmax(-1)
        gained = scores.log_softmax(-1).gather(2, tokens[:, :, None])[:, :, 0]
        tokens = torch.where(state.is_finished, rules.pad_token_id, tokens)
        state.scores += torch.where(state.is_finished, 0.0, gained)
        state.sequences.scatter_(2, state.lengths[:, None, None].expand(-1, nr, 1), tokens[:, :, None])
        state.row_lengths += ~state.is_finished
        state.lengths += 1
        state.is_finished |= _is_in(tokens, rules.eos_token_ids)
        done = state.is_finished.all(1) | (state.lengths >= rules.max_length)
        return Choice(torch.arange(len(scores_RV), device=self.device), tokens.flatten(), done)

    def result(self, document: int) -> Result:
        """What document number `document` would return now, in the order drawn."""
        state = self.state
        rows = zip(state.sequences[document], state.row_lengths[document].tolist(), strict=True)
        return Result([row[:n].tolist() for row, n in rows], state.scores[document].tolist())

    def _start(self, prompts: Sequence[Sequence[int]]) -> _SampledRows:
        rules = self.rules
        S, nr = len(prompts), rules.num_return_sequences
        lengths = torch.full((S,), rules.prompt_length)
        return _SampledRows(_token_table(prompts, rules)[:, None].repeat(1, nr, 1), lengths, lengths[:, None].repeat(1, nr),
                            torch.zeros(S, nr), torch.zeros(S, nr, dtype=torch.bool))  # fmt: skip


Search = BeamSearch | GreedySearch


def highest(scores_SN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest scores of each document, in order, and their places, (S, count) each: `topk`, several times as fast.

    They lie in the `count` pieces with the highest maxima, and to look for maxima is cheap.
    """
    whole = scores_SN.shape[1] // _PIECE * _PIECE
    pieces = scores_SN[:, :whole].unflatten(1, (-1, _PIECE))
    if pieces.shape[1] <= count:
        found = scores_SN.topk(count)
        return found.values, found.indices
    device = scores_SN.device
    chosen = pieces.amax(2).topk(count).indices[:, :, None]
    candidates = pieces.gather(1, chosen.expand(-1, -1, _PIECE)).flatten(1)
    places = (chosen * _PIECE + torch.arange(_PIECE, device=device)).flatten(1)
    rest = torch.arange(whole, scores_SN.shape[1], device=device).expand(len(scores_SN), -1)
    scores, among = torch.cat([candidates, scores_SN[:, whole:]], 1).topk(count)
    return scores, torch.cat([places, rest], 1).gather(1, among)


def _token_table(prompts: Sequence[Sequence[int]], rules: SearchRules) -> Tensor:
    """(S, L) the prompts, filled up with padding."""
    table = torch.full((len(prompts), rules.max_length), rules.pad_token_id, dtype=torch.long)
    for row, prompt in zip(table, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    return table


def _take(x_SBL: Tensor, rows_SK: Tensor) -> Tensor:
    """(S, K, L) the given rows of each document."""
    return x_SBL.gather(1, rows_SK[:, :, None].expand(-1, -1, x_SBL.shape[2]))


def _is_in(tokens: Tensor, members: tuple[int, ...]) -> Tensor:
    return torch.isin(tokens, on_device(members, tokens.device))
