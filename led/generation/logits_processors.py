"""Logits processors: functions of the tokens generated so far that change the scores of the next token.

Greedy search and sampling apply them to logits. Beam search applies them to log-probabilities that are not
normalized again. Both follow the reference.

Shapes: R rows, L columns of the token table, V vocabulary. A row's tokens are `sequences[r,
:lengths[r]]`, the start token included. Columns after them have no meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Categorical

if TYPE_CHECKING:
    from led.generation.config import GenerationConfig


@dataclass(frozen=True)
class Rows:
    """The tokens generated so far, `sequences` (R, L) with `lengths` (R,), and the rows' documents.

    `documents` holds the encoder ids, one (n,) per document. The rows of a document are consecutive, the same
    number for each. `max_lengths` (R,) are the lengths at which rows end in any case. `numbers` holds the
    caller's number of each document. Only `prefix_allowed_tokens` uses it.
    """

    sequences: Tensor
    lengths: Tensor
    max_lengths: Tensor
    documents: Sequence[Tensor]
    numbers: Sequence[int] = ()

    def last(self, count: int) -> Tensor:
        """(R, count) the last tokens of each row. Rows shorter than that repeat their first token."""
        offsets = torch.arange(count, device=self.lengths.device)
        return self.sequences.gather(1, (self.lengths[:, None] - count + offsets).clamp(min=0))

    def end_with(self, tokens: Sequence[int]) -> Tensor:
        """(R,) whether each row ends with `tokens`."""
        ending = on_device(tuple(tokens), self.sequences.device)
        return (self.last(len(tokens)) == ending).all(-1) & (self.lengths >= len(tokens))

    def by_document(self) -> list[slice]:
        """The rows of each document."""
        size = len(self.lengths) // len(self.documents)
        return [slice(d * size, (d + 1) * size) for d in range(len(self.documents))]


@dataclass(frozen=True)
class LogitsProcessor:
    """A rule `apply(rows, scores) -> scores`.

    If it is `capturable`, a CUDA graph can capture it. Such a rule uses only the rows' tokens and never waits
    for the device.
    """

    apply: Callable[[Rows, Tensor], Tensor]
    capturable: bool = True


# A caller's processor of the rows of one document: (input_ids (rows, length), scores (rows, V)) -> scores.
ScoreFunction = Callable[[Tensor, Tensor], Tensor]
# A caller's constraint: (batch_id, input_ids (length,)) -> the allowed next ids.
AllowedTokens = Callable[[int, Tensor], Sequence[int]]


def build_processors(
    config: GenerationConfig,
    prompt_length: int,
    logits_processor: Sequence[ScoreFunction] = (),
    prefix_allowed_tokens_fn: AllowedTokens | None = None,
) -> list[LogitsProcessor]:
    """The processors of a config and its caller, in the reference's order.

    `prompt_length` counts decoder tokens, the start token included.
    """
    processors = _rules(config, prompt_length, prefix_allowed_tokens_fn)
    if functions := list(logits_processor):
        processors.append(
            LogitsProcessor(lambda rows, s: custom_processors(rows, s, functions), capturable=False)
        )
    if config.do_sample:
        processors += _warpers(config)
    if config.renormalize_logits:
        processors.append(LogitsProcessor(lambda rows, s: s.log_softmax(-1)))
    return processors


def _rules(
    config: GenerationConfig, prompt_length: int, allowed: AllowedTokens | None
) -> list[LogitsProcessor]:
    """The processors that apply in every mode."""
    eos = list(config.eos_token_ids)
    processors: list[LogitsProcessor] = []

    def add(apply: Callable[[Rows, Tensor], Tensor], *, capturable: bool = True) -> None:
        processors.append(LogitsProcessor(apply, capturable))

    if biases := [(list(ids), float(bias)) for ids, bias in config.sequence_bias or ()]:
        add(lambda rows, s: sequence_bias(rows, s, biases))
    if (encoder_penalty := config.encoder_repetition_penalty) != 1.0:
        add(lambda rows, s: encoder_repetition_penalty(rows, s, encoder_penalty), capturable=False)
    if (penalty := config.repetition_penalty) != 1.0:
        add(lambda rows, s: repetition_penalty(rows, s, penalty))
    if (size := config.no_repeat_ngram_size) > 0:
        add(lambda rows, s: no_repeat_ngram(rows, s, size))
    if (encoder_size := config.encoder_no_repeat_ngram_size) > 0:
        add(lambda rows, s: encoder_no_repeat_ngram(rows, s, encoder_size), capturable=False)
    if words := [list(word) for word in config.bad_words_ids or () if list(word) not in [[e] for e in eos]]:
        add(lambda rows, s: bad_words(rows, s, words))
    if config.min_length > 0 and config.min_new_tokens is None and eos:
        add(lambda rows, s: min_length(rows, s, config.min_length, eos))
    if config.min_new_tokens and eos:
        shortest = prompt_length + config.min_new_tokens
        add(lambda rows, s: min_length(rows, s, shortest, eos))
    if allowed is not None:
        beams = config.num_beams > 1
        add(lambda rows, s: prefix_allowed_tokens(rows, s, allowed, beams), capturable=False)
    if (bos := config.forced_bos_token_id) is not None:
        add(lambda rows, s: forced_token(rows, s, 1, [bos]))
    if forced_eos := config.forced_eos_token_ids:
        add(lambda rows, s: forced_token(rows, s, rows.max_lengths - 1, forced_eos))
    if config.remove_invalid_values:
        add(lambda rows, s: s.nan_to_num(0.0))
    if (decay := config.exponential_decay_length_penalty) is not None:
        start, factor = prompt_length + decay[0], float(decay[1])
        add(lambda rows, s: exponential_decay(rows, s, start, factor, eos), capturable=False)
    if suppressed := config.suppress_tokens:
        add(lambda rows, s: s.masked_fill(_one_hot(suppressed, s), -torch.inf))
    if first_suppressed := config.begin_suppress_tokens:
        # If a forced token follows the start token, the suppressed tokens apply to the position after it.
        begin = 2 if prompt_length == 1 and bos is not None else prompt_length
        add(lambda rows, s: suppress_at(rows, s, begin, first_suppressed))
    return processors


def _warpers(config: GenerationConfig) -> list[LogitsProcessor]:
    """The processors that apply in sampling only. With beams, at least one token besides the end tokens is
    kept."""
    keep = 1 + len(config.eos_token_ids) if config.num_beams > 1 else 1
    warpers: list[Callable[[Rows, Tensor], Tensor]] = []
    if config.temperature != 1.0:
        warpers.append(lambda rows, s: s / config.temperature)
    if (h := config.top_h) is not None:
        warpers.append(lambda rows, s: top_h(s, h))
    if config.top_k:
        warpers.append(lambda rows, s: top_k(s, max(config.top_k, keep)))
    if config.top_p < 1.0:
        warpers.append(lambda rows, s: top_p(s, config.top_p, keep))
    if (p := config.min_p) is not None:
        warpers.append(lambda rows, s: min_p(s, p, keep))
    if config.typical_p < 1.0:
        warpers.append(lambda rows, s: typical_p(s, config.typical_p, keep))
    if config.epsilon_cutoff > 0:
        warpers.append(lambda rows, s: epsilon_cutoff(s, config.epsilon_cutoff, keep))
    if config.eta_cutoff > 0:
        warpers.append(lambda rows, s: eta_cutoff(s, config.eta_cutoff, keep))
    return [LogitsProcessor(warp) for warp in warpers]


def sequence_bias(rows: Rows, scores: Tensor, biases: Sequence[tuple[Sequence[int], float]]) -> Tensor:
    """Add each bias to the last token of its sequence if the row ends with the tokens before it.

    If a sequence has several biases, the last one applies.
    """
    total = torch.zeros_like(scores)
    for ids, bias in {tuple(ids): bias for ids, bias in biases}.items():
        total[:, ids[-1]] += rows.end_with(ids[:-1]) * bias
    return scores + total


def encoder_repetition_penalty(rows: Rows, scores: Tensor, penalty: float) -> Tensor:
    """Raise (`penalty` > 1) or lower the score of every token of the row's document.

    Special tokens are included. Padding is not, unlike in the reference.
    """
    parts = []
    for group, ids in zip(rows.by_document(), rows.documents, strict=True):
        parts.append(_penalize(scores[group], ids.expand(group.stop - group.start, -1), 1 / penalty))
    return torch.cat(parts)


def repetition_penalty(rows: Rows, scores: Tensor, penalty: float) -> Tensor:
    """Divide positive scores of tokens in the row by `penalty`, and multiply negative ones by it."""
    columns = torch.arange(rows.sequences.shape[1], device=scores.device)
    seen = torch.where(columns < rows.lengths[:, None], rows.sequences, rows.sequences[:, :1])
    return _penalize(scores, seen, penalty)


def no_repeat_ngram(rows: Rows, scores: Tensor, size: int) -> Tensor:
    """Forbid every token that would repeat an n-gram of `size` tokens of the row."""
    if rows.sequences.shape[1] < size:
        return scores
    ngrams = rows.sequences.unfold(1, size, 1)
    inside = torch.arange(size, size + ngrams.shape[1], device=scores.device) <= rows.lengths[:, None]
    prefix = rows.last(size - 1)[:, None, :]
    repeats = (ngrams[:, :, :-1] == prefix).all(-1) & inside
    if scores.is_cuda:  # reading back the indices of the repeats would wait for the GPU
        limits = torch.where(repeats, -torch.inf, torch.inf).to(scores.dtype)
        return scores.scatter_reduce(1, ngrams[:, :, -1], limits, "amin")
    return _forbid(scores, *_hits(repeats, ngrams[:, :, -1]))


def encoder_no_repeat_ngram(rows: Rows, scores: Tensor, size: int) -> Tensor:
    """Forbid every token that would complete an n-gram of `size` tokens that occurs in the row's document.

    Special tokens are included. Padding is not, unlike in the reference.
    """
    prefixes = rows.last(size - 1)
    for group, ids in zip(rows.by_document(), rows.documents, strict=True):
        if len(ids) < size or int(rows.lengths[group.start]) < size - 1:
            continue
        ngrams = ids.unfold(0, size, 1)
        repeats = (ngrams[None, :, :-1] == prefixes[group, None, :]).all(-1)
        row, token = _hits(repeats, ngrams[None, :, -1].expand(len(repeats), -1))
        scores = _forbid(scores, row + group.start, token)
    return scores


def bad_words(rows: Rows, scores: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
    """Forbid the last token of each of `words` if the row ends with the tokens before it."""
    changed = scores.clone()
    for word in words:
        changed[:, word[-1]].masked_fill_(rows.end_with(word[:-1]), -torch.inf)
    return changed


def min_length(rows: Rows, scores: Tensor, shortest: int, eos: Sequence[int]) -> Tensor:
    """Forbid the end of sequence in rows of fewer than `shortest` tokens, including the start token."""
    short = rows.lengths < shortest
    if not scores.is_cuda and not bool(short.any()):
        return scores
    changed = scores.clone()
    for end in eos:
        changed[:, end].masked_fill_(short, -torch.inf)
    return changed


def prefix_allowed_tokens(rows: Rows, scores: Tensor, allowed: AllowedTokens, beams: bool) -> Tensor:
    """Forbid all tokens except those that `allowed` returns for a row's number and its tokens.

    In beam search, the number is that of the document. Otherwise each row has its own, as in the reference:
    sample s of document d has the number d * samples + s. If all allowed tokens are already forbidden, in all
    beams of a document or in a sampled row, their scores become 0.

    Raises:
        ValueError: `allowed` returned no token.
    """
    mask = torch.full_like(scores, -torch.inf)
    for number, group in zip(rows.numbers, rows.by_document(), strict=True):
        samples = group.stop - group.start
        for row in range(group.start, group.stop):
            batch_id = number if beams else number * samples + row - group.start
            tokens = torch.as_tensor(
                allowed(batch_id, rows.sequences[row, : int(rows.lengths[row])]), dtype=torch.long
            )
            if not len(tokens):
                raise ValueError(
                    f"prefix_allowed_tokens_fn returned no token for batch_id {batch_id}; it must return at "
                    "least one, for example the end of sequence."
                )
            mask[row, tokens] = 0.0
    group_size = len(scores) // len(rows.documents) if beams else 1
    row_is_forbidden = (scores + mask).isneginf().all(-1)
    is_forced = row_is_forbidden.view(-1, group_size).all(-1).repeat_interleave(group_size)
    return torch.where(is_forced[:, None], mask, scores + mask)


def forced_token(rows: Rows, scores: Tensor, length: int | Tensor, tokens: Sequence[int]) -> Tensor:
    """Forbid all tokens except `tokens` in rows of exactly `length` tokens. A tensor (R,) has one length for
    each row."""
    applies = (rows.lengths == length)[:, None]
    forced = torch.where(_one_hot(tokens, scores), 0.0, -torch.inf).to(scores.dtype)
    return torch.where(applies, forced, scores)


def exponential_decay(rows: Rows, scores: Tensor, start: int, factor: float, eos: Sequence[int]) -> Tensor:
    """In rows n tokens longer than `start`, add (factor ** n - 1) * abs(score) to the end of sequence."""
    n = (rows.lengths - start).clamp(min=0).double()
    growth = (factor**n - 1)[:, None].to(scores.dtype)
    eos_scores = scores[:, list(eos)]
    changed = scores.clone()
    changed[:, list(eos)] = eos_scores + torch.where(eos_scores.isfinite(), eos_scores.abs() * growth, 0.0)
    return changed


def suppress_at(rows: Rows, scores: Tensor, length: int, tokens: Sequence[int]) -> Tensor:
    """Forbid `tokens` in rows of exactly `length` tokens."""
    applies = (rows.lengths == length)[:, None]
    return scores.masked_fill(applies & _one_hot(tokens, scores), -torch.inf)


def custom_processors(rows: Rows, scores: Tensor, functions: Sequence[ScoreFunction]) -> Tensor:
    """Apply the caller's functions in order, to the rows of one document at a time.

    Raises:
        ValueError: a function did not return scores, or returned scores of another shape.
    """
    parts = []
    for group in rows.by_document():
        part = scores[group].clone()
        input_ids = rows.sequences[group, : int(rows.lengths[group.start])]
        for process in functions:
            shape, part = part.shape, process(input_ids, part)
            if not isinstance(part, Tensor) or part.shape != shape:
                returned = tuple(part.shape) if isinstance(part, Tensor) else repr(part)
                raise ValueError(
                    f"logits_processor {process!r} returned {returned}; it must return scores of shape "
                    f"{tuple(shape)}."
                )
        parts.append(part)
    return torch.cat(parts)


def top_h(scores: Tensor, h: float, most: int = 100) -> Tensor:
    """Keep the most likely tokens whose entropy terms sum to at most `h` of the entropy.

    Only the `most` most likely tokens are considered.
    """
    best, order = scores.topk(min(most, scores.shape[-1]))
    distribution = Categorical(logits=best)
    terms = -distribution.probs * distribution.probs.log()
    keep = terms.cumsum(-1) <= (distribution.entropy() * h)[:, None]
    keep[:, 0] = True
    return scores.masked_fill(~torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, keep), -torch.inf)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Keep the k highest scores of each row, and the scores that are equal to the last of them."""
    return scores.masked_fill(_below_best(scores, k), -torch.inf)


def top_p(scores: Tensor, p: float, keep: int = 1) -> Tensor:
    """Keep the smallest set of tokens with a total probability of at least p, and at least `keep` tokens."""
    ascending, order = scores.sort(dim=-1)
    remove = ascending.softmax(-1).cumsum(-1) <= 1 - p
    remove[:, -keep:] = False
    return scores.masked_fill(remove.scatter(1, order, remove), -torch.inf)


def min_p(scores: Tensor, p: float, keep: int = 1) -> Tensor:
    """Remove tokens less probable than p times the most likely one. The `keep` most likely always stay."""
    probabilities = scores.softmax(-1)
    remove = probabilities < p * probabilities.amax(-1, keepdim=True)
    kept = probabilities.topk(min(keep, scores.shape[-1])).indices
    return scores.masked_fill(remove.scatter(1, kept, False), -torch.inf)


def typical_p(scores: Tensor, mass: float, keep: int = 1) -> Tensor:
    """Keep the tokens whose information is closest to the entropy, up to a total probability of `mass`.

    Ties of the last of them stay, too, and at least `keep` tokens.
    """
    logs = scores.log_softmax(-1)
    entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
    distance, order = (-logs - entropy).abs().sort(dim=-1)
    cumulative = scores.gather(1, order).softmax(-1).cumsum(-1)
    last = (cumulative < mass).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    remove = distance > distance.gather(1, last)
    remove[:, :keep] = False
    return scores.masked_fill(remove.scatter(1, order, remove), -torch.inf)


def epsilon_cutoff(scores: Tensor, epsilon: float, keep: int = 1) -> Tensor:
    """Remove tokens less probable than epsilon. The `keep` most likely always stay."""
    return scores.masked_fill((scores.softmax(-1) < epsilon) & _below_best(scores, keep), -torch.inf)


def eta_cutoff(scores: Tensor, epsilon: float, keep: int = 1) -> Tensor:
    """Remove tokens less probable than min(epsilon, sqrt(epsilon) * exp(-entropy)).

    The `keep` most likely always stay.
    """
    # As in the reference, the square root has the scores' precision and the entropy is torch's own. If a
    # probability is close to the threshold, the last bit matters.
    root = torch.tensor(epsilon, dtype=scores.dtype, device=scores.device).sqrt()
    eta = (root * (-Categorical(logits=scores).entropy()).exp()).clamp(max=epsilon)[:, None]
    return scores.masked_fill((scores.softmax(-1) < eta) & _below_best(scores, keep), -torch.inf)


def _penalize(scores: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Divide positive scores of `tokens` (R, any) by `penalty`, and multiply negative ones by it."""
    old = scores.gather(1, tokens)
    return scores.scatter(1, tokens, torch.where(old < 0, old * penalty, old / penalty))


@cache
def on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers on a device, copied there once.

    Copying waits for the GPU, and a captured CUDA graph needs a fixed address.
    """
    return torch.tensor(numbers, dtype=torch.long, device=device)


def _below_best(scores: Tensor, count: int) -> Tensor:
    """(R, V) whether a score is lower than the `count` highest scores of its row."""
    return scores < scores.topk(min(count, scores.shape[-1])).values[:, -1:]


def _one_hot(tokens: Sequence[int], scores: Tensor) -> Tensor:
    one_hot = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return one_hot.index_fill(0, on_device(tuple(tokens), scores.device), True)


def _hits(repeats: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    row, column = repeats.nonzero(as_tuple=True)
    return row, tokens[row, column]


def _forbid(scores: Tensor, row: Tensor, token: Tensor) -> Tensor:
    return scores.index_put((row, token), torch.tensor(-torch.inf, dtype=scores.dtype, device=scores.device))
