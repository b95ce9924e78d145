"""Summaries of documents of any length: those of a document's chunks, joined (concat) or summarized again
(fuse).

The chunks of a document are independent requests of the scheduler. With fuse, the summaries of a level are
the document of the next level, which is split into chunks again if it is too long. It is decoded as soon as
the last chunk of its level is done, while other documents are still being decoded.

Units: tokens, unless a name says characters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from led.batch.packed_batch import pack_documents
from led.generation.config import GenerationConfig
from led.generation.cross_attention_profile import profile_of
from led.generation.scheduler import Request, Scheduler
from led.pipelines.chunk_queue import ChunkQueue, Level, LongDocument, Progress
from led.pipelines.chunking import ChunkRules, Overflow, chunk_document, chunk_inputs
from led.pipelines.global_attention import GlobalTokens
from led.tokenizer.tokenizer import LEDTokenizer

# What stands between the summaries of two chunks.
_BETWEEN_SUMMARIES = "\n"


@dataclass(frozen=True)
class OverflowRules:
    """How documents of several chunks are summarized. `chunks` splits the documents that fuse makes.

    `tokens_per_input` limits a summary to this share of the document's tokens that it covers, beside the
    generation config's own limit.
    """

    overflow: Overflow
    chunks: ChunkRules
    tokens_per_input: float | None = None

    def check(self, generation: GenerationConfig, max_new_tokens: int) -> None:
        """Check that summaries of at most `max_new_tokens` can be joined or fused.

        Raises:
            ValueError: the share is not above 0 and at most 1, several sequences are returned for each
                chunk, or fusing might never end.
        """
        share = self.tokens_per_input
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"summary_tokens_per_input is {share}; it must be above 0 and at most 1.")
        if self.overflow != "truncate" and generation.num_return_sequences > 1:
            raise ValueError(
                f"num_return_sequences is {generation.num_return_sequences}; chunks have one summary each, "
                "so use 1, or truncate."
            )
        if self.overflow == "fuse" and 2 * max_new_tokens > self.chunks.tokens - 2:
            raise ValueError(
                f"fuse needs chunks that are twice as long as their summaries: a chunk has "
                f"{self.chunks.tokens} tokens and a summary at most {max_new_tokens}; lower max_new_tokens "
                "or raise chunk_tokens."
            )


@dataclass(frozen=True)
class PartialSummary:
    """The summary of the characters `start` to `end`, exclusive, of a document."""

    start: int
    end: int
    summary: str


@dataclass(frozen=True)
class DocumentSummary:
    """The summary of a document, with `num_return_sequences` texts.

    `output_tokens`, `is_finished` and the scores are those of the best text. If it was joined from several
    chunks, they are the sum, whether all ended by themselves, and means over chunks and tokens. Summaries
    that were joined because fusing made them no shorter count as not finished.
    `level_tokens` are the tokens read at each level. `partial_summaries` are those of the first level.
    `attention_profile` is over the whole document, if it was requested.
    """

    texts: list[str]
    output_tokens: int
    is_finished: bool
    score: float
    mean_log_probability: float
    level_tokens: tuple[int, ...]
    partial_summaries: tuple[PartialSummary, ...]
    attention_profile: list[float] | None = None


class ChunkFailed(Exception):
    """The chunk of a document that cannot be decoded, and why."""


class DocumentSummarizer:
    """Summarizes documents of any length with one scheduler.

    `decode` turns tokens into a text. With `attention_bins`, summaries have a cross-attention profile over
    that many parts of the document. The scheduler must then collect attention.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        tokenizer: LEDTokenizer,
        global_tokens: GlobalTokens,
        rules: OverflowRules,
        decode: Callable[[Sequence[int]], str],
        attention_bins: int | None = None,
    ) -> None:
        self._scheduler, self._tokenizer, self._global_tokens = scheduler, tokenizer, global_tokens
        self._rules, self._decode, self._attention_bins = rules, decode, attention_bins

    def run(
        self, documents: Iterable[LongDocument | None], *, one_at_a_time: bool = False
    ) -> Iterator[tuple[int, DocumentSummary]]:
        """Yield (index of the document, its summary) as documents finish.

        Documents are taken when there is room for them. None, which is not counted, says that no document is
        ready although more may follow.

        With `one_at_a_time`, chunks do not share a step, so that an error tells which one failed.

        Raises:
            ChunkFailed: a chunk failed, with `one_at_a_time`.
        """
        queue = ChunkQueue(documents, self._request, one_at_a_time=one_at_a_time)
        try:
            for number, hypotheses in self._scheduler.run(queue.requests()):
                index, level, progress = queue.finish(number, hypotheses)
                if not level.is_done:
                    continue
                level.texts = [
                    self._decode(level.written[i].sequences[0]).strip() for i in range(len(level.inputs))
                ]
                following = self._next_level(progress)
                if following is not None:
                    queue.add_level(index, following)
                else:
                    queue.close(index)
                    yield index, self._summary(progress)
        except Exception as error:
            if one_at_a_time and (failed := queue.describe_running()) is not None:
                raise ChunkFailed(f"{failed}: {type(error).__name__}: {error}") from error
            raise

    def _request(self, progress: Progress, level: Level, i: int) -> Request:
        chunk = level.inputs[i]
        limit = None
        if self._rules.tokens_per_input is not None:
            # A later level stands for all of the document's tokens.
            covered = (chunk.end - chunk.start) * progress.levels[0].length / max(1, level.length)
            config = self._scheduler.config
            least = max(1, config.min_new_tokens or 0, config.min_length - len(self._scheduler.prompt))
            limit = max(least, math.ceil(self._rules.tokens_per_input * covered))
        return Request(pack_documents([chunk.input_ids], [chunk.global_positions]), limit)

    def _next_level(self, progress: Progress) -> Level | None:
        """The level that summarizes the summaries of the last one. None if the document is done.

        A level that needs chunks and has no fewer tokens than the last one might never lead to an end.
        Fusing then stops.
        """
        below = progress.levels[-1]
        if self._rules.overflow != "fuse" or len(below.inputs) == 1:
            return None
        text = _joined(below.texts)
        if not text:
            return None
        [encoding] = self._tokenizer.encode_batch([text])
        offsets = encoding.offsets[1:-1]
        ids = [*progress.leading_ids, *encoding.ids[1:]]
        leading = len(progress.leading_ids)
        chunks = chunk_document(text, offsets, leading, self._rules.chunks)
        if len(chunks) > 1 and len(offsets) >= below.length:
            progress.is_stuck = True
            return None
        inputs = chunk_inputs(ids, leading, self._global_tokens.positions(ids, leading), chunks)
        owner = _owners(below.texts, offsets) if self._attention_bins is not None else None
        return Level(chunks, inputs, len(offsets), owner)

    def _summary(self, progress: Progress) -> DocumentSummary:
        first, last, config = progress.levels[0], progress.levels[-1], self._scheduler.config
        written = [last.written[i] for i in range(len(last.inputs))]
        tokens = [each.sequences[0] for each in written]
        lengths = [len(each) - 1 for each in tokens]
        scores = [each.scores[0] for each in written]
        if len(written) > 1:
            texts = [_joined(last.texts)]
        else:
            texts = [self._decode(sequence) for sequence in written[0].sequences]
        log_probabilities = [
            _mean_log_probability(score, length, config)
            for score, length in zip(scores, lengths, strict=True)
        ]
        weighted = sum(p * max(1, n) for p, n in zip(log_probabilities, lengths, strict=True))
        return DocumentSummary(
            texts=texts,
            output_tokens=sum(lengths),
            is_finished=not progress.is_stuck and all(t[-1] in config.eos_token_ids for t in tokens),
            score=sum(scores) / len(scores),
            mean_log_probability=weighted / sum(max(1, n) for n in lengths),
            level_tokens=tuple(sum(len(c.input_ids) for c in level.inputs) for level in progress.levels),
            partial_summaries=tuple(
                PartialSummary(chunk.first_character, chunk.last_character, text)
                for chunk, text in zip(first.chunks, first.texts, strict=True)
            ),
            attention_profile=self._profile(progress),
        )

    def _profile(self, progress: Progress) -> list[float] | None:
        if self._attention_bins is None:
            return None
        first = progress.levels[0]
        if len(first.inputs) == 1:
            return profile_of(first.attentions[0], self._attention_bins)
        # From the last level down: the attention to a summary is spread like that of the summary itself.
        level = progress.levels[-1]
        attention = level.over_tokens(level.attentions)
        for below, level in zip(progress.levels[-2::-1], progress.levels[:0:-1], strict=True):
            assert level.owner is not None
            of_chunk = torch.zeros(len(below.inputs)).index_add_(0, level.owner, attention)
            shares = [own / own.sum() * w for own, w in zip(below.attentions, of_chunk, strict=True)]
            attention = below.over_tokens(shares)
        return profile_of(attention, self._attention_bins)


def _joined(summaries: Sequence[str]) -> str:
    """The summaries of several chunks as one text. Empty ones are left out."""
    return _BETWEEN_SUMMARIES.join(filter(None, summaries))


def _mean_log_probability(score: float, length: int, config: GenerationConfig) -> float:
    """The mean log-probability of a token. A beam score is the sum over length ** length_penalty, any other
    the sum itself."""
    penalty = config.length_penalty if config.num_beams > 1 else 0.0
    return score * max(1, length) ** (penalty - 1)


def _owners(summaries: Sequence[str], offsets: Sequence[tuple[int, int]]) -> Tensor:
    """The index of the summary that each token of the joined summaries belongs to."""
    numbers = [i for i, summary in enumerate(summaries) if summary]
    lengths = [len(summaries[i]) + len(_BETWEEN_SUMMARIES) for i in numbers]
    ends = torch.tensor(lengths).cumsum(0)
    starts = torch.tensor([start for start, _ in offsets])
    return torch.tensor(numbers)[torch.searchsorted(ends, starts, right=True).clamp(max=len(numbers) - 1)]
