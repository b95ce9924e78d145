"""A task that generates text, with its model in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from led.generation.config import GenerationConfig
from led.generation.limits import SchedulerLimits
from led.generation.memory_budget import free_bytes
from led.generation.scheduler import Scheduler
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.pipelines.chunk_queue import LongDocument
from led.pipelines.overflow import ChunkFailed, DocumentSummarizer, DocumentSummary, OverflowRules
from pipeline.checkpoint import load_tokenizer
from pipeline.errors import one_line
from pipeline.schema import LEVELS
from pipeline.tasks.base import Failed, ModelInput, Row
from pipeline.tasks.generated import GENERATION, Generated, TextPart, TextToRow, called_safely, check_columns
from pipeline.tasks.inputs import input_rules
from pipeline.tasks.loaded import LoadedModel, replicas_sharing_memory

# Parts of a document over which the cross-attention profile is summed.
ATTENTION_BINS = 64


class LoadedTextTask(LoadedModel[LEDForConditionalGeneration]):
    """Generates text with the continuous-batching scheduler."""

    model_class = LEDForConditionalGeneration

    def __init__(
        self, task: TextToRow, generation: GenerationConfig, rules: OverflowRules, folder: Path
    ) -> None:
        settings = task.settings
        super().__init__(settings, folder)
        self.task, self.settings, self.generation, self.overflow_rules = task, settings, generation, rules
        self.tokenizer = load_tokenizer(folder, settings.special_tokens)
        self.global_tokens = input_rules(self.tokenizer, settings).global_tokens
        # The other half of the free memory is for encoding.
        share = int(free_bytes(self.model.device) / (2 * replicas_sharing_memory(settings)))
        memory = share if settings.memory_gib is None else int(settings.memory_gib * 2**30)
        self.limits = SchedulerLimits(settings.max_num_seqs, settings.max_num_batched_tokens, max(1, memory))
        self._scheduler: Scheduler | None = None
        self._measured_before: dict[str, float] = {}  # by schedulers that were released

    @property
    def measured(self) -> dict[str, float]:
        """What the scheduler measured, and those before it."""
        before, now = self._measured_before, self._scheduler.measured if self._scheduler else {}
        return {name: before.get(name, 0) + now.get(name, 0) for name in {**before, **now}}

    def predict(self, documents: Iterable[ModelInput | None]) -> Iterator[tuple[int, Row | Failed]]:
        """Yield the row of each document as its text is done.

        A document of several chunks that fails alone is decoded again chunk by chunk, so that the error names
        the chunk.
        """
        alone = documents[0] if isinstance(documents, Sequence) and len(documents) == 1 else None
        try:
            yield from self._predict(documents)
            return
        except self.fatal:
            raise
        except Exception:
            if alone is None or len(alone.chunks) <= 1:
                raise
        # Outside the except clause, the tensors that the traceback held are free.
        self.release_memory()
        try:
            yield from self._predict([alone], one_at_a_time=True)
        except ChunkFailed as failed:
            if isinstance(failed.__cause__, self.fatal):
                raise failed.__cause__ from None
            raise

    def _predict(
        self, documents: Iterable[ModelInput | None], *, one_at_a_time: bool = False
    ) -> Iterator[tuple[int, Row | Failed]]:
        # Kept between batches: on a GPU the scheduler holds the KV cache memory and the captured CUDA graphs.
        if self._scheduler is None:
            self._scheduler = Scheduler(
                self.model, self.generation, self.limits, attention=self.task.collects_attention
            )
        summarizer = DocumentSummarizer(
            self._scheduler,
            self.tokenizer,
            self.global_tokens,
            self.overflow_rules,
            lambda tokens: self.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            ATTENTION_BINS if self.task.collects_attention else None,
        )
        texts: dict[int, str | None] = {}  # of the documents being summarized

        def inputs() -> Iterator[LongDocument | None]:
            number = 0
            for document in documents:
                if document is None:
                    yield None
                    continue
                texts[number] = document.text
                number += 1
                yield LongDocument(
                    document.input_ids, document.global_positions, document.leading, document.chunks
                )

        for i, summary in summarizer.run(inputs(), one_at_a_time=one_at_a_time):
            yield i, self._row(summary, texts.pop(i))

    def release_memory(self) -> None:
        self._measured_before, self._scheduler = self.measured, None
        super().release_memory()

    def _row(self, summary: DocumentSummary, read: str | None) -> Row | Failed:
        """The row of a text, or why the task refuses it."""
        [written] = summary.texts
        generated = Generated(
            text=written,
            output_tokens=summary.output_tokens,
            finish_reason="stop" if summary.is_finished else "length",
            score=summary.score,
            mean_log_probability=summary.mean_log_probability,
            parts=tuple(TextPart(part.start, part.end, part.summary) for part in summary.partial_summaries),
            input=read,
            attention_profile=summary.attention_profile,
        )
        try:
            own = called_safely("row", lambda: self.task.row(generated))
            check_columns("row", own, self.task.row_schema)
        except ValueError as error:
            return Failed(one_line(error))
        row: Row = {field.name: getattr(generated, field.name) for field in GENERATION}
        if self.settings.overflow != "truncate":
            levels = len(summary.level_tokens), list(summary.level_tokens)
            row |= dict(zip(LEVELS.names, levels, strict=True))
        return {**row, **own}
