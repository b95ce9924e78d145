"""The summarization task with its model in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from led.batch.packed_batch import pack_documents
from led.generation.config import GenerationConfig
from led.generation.memory_budget import free_bytes
from led.generation.scheduler import Scheduler, SchedulerLimits
from led.generation.search import Hypotheses
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.settings import SummarizeSettings
from pipeline.tasks.base import ModelInput, Row
from pipeline.tasks.loaded import LoadedModel, replicas_sharing_memory
from pipeline.tasks.quality import quality_columns

# Parts of a document over which the cross-attention profile is summed.
ATTENTION_BINS = 64


class LoadedSummarizer(LoadedModel[LEDForConditionalGeneration]):
    """Writes summaries with the continuous-batching scheduler."""

    model_class = LEDForConditionalGeneration

    def __init__(self, settings: SummarizeSettings, generation: GenerationConfig, folder: Path) -> None:
        super().__init__(settings, folder)
        self.attention_bins = ATTENTION_BINS if settings.attention else None
        self.tokenizer = LEDTokenizer.from_pretrained(folder)
        self.generation = generation
        # The other half of the free memory is for encoding.
        share = int(free_bytes(self.model.device) / (2 * replicas_sharing_memory(settings)))
        memory = share if settings.memory_gib is None else int(settings.memory_gib * 2**30)
        self.limits = SchedulerLimits(settings.max_num_seqs, settings.max_num_batched_tokens, max(1, memory))
        self._scheduler: Scheduler | None = None

    def predict(self, documents: Sequence[ModelInput]) -> Iterator[tuple[int, Row]]:
        """Yield the summary of each document as it finishes."""
        batches = (pack_documents([d.input_ids], [d.global_positions]) for d in documents)
        # Kept between batches: on a GPU the scheduler holds the KV cache memory and the captured CUDA graphs.
        if self._scheduler is None:
            self._scheduler = Scheduler(
                self.model, self.generation, self.limits, attention_bins=self.attention_bins
            )
        scheduler, before = self._scheduler, self._scheduler.measured
        try:
            for i, hypotheses in scheduler.run(batches):
                yield i, self._row(hypotheses, documents[i].text)
        finally:
            spent = {name: value - before[name] for name, value in scheduler.measured.items()}
            self.measured = {name: self.measured.get(name, 0) + more for name, more in spent.items()}

    def release_memory(self) -> None:
        self._scheduler = None
        super().release_memory()

    def _row(self, hypotheses: Hypotheses, text: str | None) -> Row:
        tokens, score = hypotheses.sequences[0], hypotheses.scores[0]
        summary, length = self.tokenizer.decode(tokens, skip_special_tokens=True).strip(), len(tokens) - 1
        finished = tokens[-1] in self.generation.eos_token_ids
        row: Row = {
            "summary": summary,
            "output_tokens": length,
            "finish_reason": "stop" if finished else "length",
            "score": score,
        }
        if hypotheses.attention_profile is not None:
            row["attention"] = hypotheses.attention_profile
        if text is None:
            return row
        # A beam score is the sum of log-probabilities over length ** length_penalty. This undoes the penalty.
        penalty = self.generation.length_penalty if self.generation.num_beams > 1 else 0.0
        mean_log_probability = score * max(1, length) ** (penalty - 1)
        return row | quality_columns(summary, text, mean_log_probability, finished=finished)
