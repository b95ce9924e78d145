"""Tasks with their models in memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch

from led.answers import best_answers
from led.beam_search import Result
from led.checkpoint import check_weights
from led.generation import DecodingLimits, DecodingLoop
from led.long_documents import pooled, read_windows
from led.memory import cpus, free_bytes
from led.model import LEDForConditionalGeneration, LEDForQuestionAnswering, LEDForSequenceClassification
from led.packing import pack_documents
from led.pretrained import LEDPreTrainedModel
from led.tokenizer import LEDTokenizer
from led.windows import Window
from pipeline.batching import by_length
from pipeline.settings import RunSettings
from pipeline.tasks.quality import columns_of
from pipeline.tasks.base import ModelInput, Reading, Row, windows_of

if TYPE_CHECKING:
    from pipeline.tasks.all import Answer, Classify, Summarize

# Parts of a document in which a summary's attention is counted.
ATTENTION_BINS = 64

M = TypeVar("M", bound=LEDPreTrainedModel)


class LoadedModel(Generic[M]):
    """The checkpoint in `folder` as the settings want it computed, laid out for inference."""

    kind: ClassVar[type[LEDPreTrainedModel]]
    fatal: tuple[type[Exception], ...] = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()

    def __init__(self, settings: RunSettings, folder: Path) -> None:
        torch.set_num_threads(settings.threads)
        self.measured: dict[str, float] = {}
        int8 = settings.precision == "int8"
        dtype, device = "float32" if int8 else settings.precision, "cuda" if settings.gpus else "cpu"
        self.model: M = self.kind.from_pretrained(folder, dtype=dtype, device=device).pack(int8=int8)  # type: ignore[assignment]

    @classmethod
    def check(cls, folder: Path) -> None:
        """See that the folder's weights are those of such a model, without loading them.

        Raises:
            ValueError: they are another's.
        """
        check_weights(cls.kind, folder)

    def make_room(self) -> None:
        """Give back what a batch held that failed."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class LoadedSummarizer(LoadedModel[LEDForConditionalGeneration]):
    """Summaries from a model in memory."""

    kind = LEDForConditionalGeneration

    def __init__(self, task: Summarize, folder: Path) -> None:
        settings = task.settings
        super().__init__(settings, folder)
        self.look_bins = ATTENTION_BINS if settings.attention else None
        self.tokenizer = LEDTokenizer.from_pretrained(folder)
        self.generation = task.generation(folder)
        # Half of what is left is for encoding.
        share = int(free_bytes(self.model.device) / (2 * copies_beside(settings)))
        memory = share if settings.memory_gib is None else int(settings.memory_gib * 2**30)
        self.limits = DecodingLimits(settings.documents_in_flight, settings.encoder_tokens, max(1, memory))
        self._loop: DecodingLoop | None = None

    def predict(self, documents: Sequence[ModelInput]) -> Iterator[tuple[int, Row]]:
        """The summary of each document as it is finished."""
        packed = (pack_documents([d.input_ids], [range(d.global_tokens)]) for d in documents)
        # Kept from batch to batch: on a GPU it holds the memory for documents and the steps that were recorded.
        self._loop = loop = self._loop or DecodingLoop(self.model, self.generation, self.limits, look_bins=self.look_bins)
        before = loop.measured
        try:
            for i, result in loop.run(packed):
                yield i, self._row(result, documents[i].text)
        finally:
            spent = {name: value - before[name] for name, value in loop.measured.items()}
            self.measured = {name: self.measured.get(name, 0) + more for name, more in spent.items()}

    def make_room(self) -> None:
        self._loop = None
        super().make_room()

    def _row(self, result: Result, text: str | None) -> Row:
        tokens, score = result.sequences[0], result.scores[0]
        summary, written = self.tokenizer.decode(tokens, skip_special_tokens=True).strip(), len(tokens) - 1
        finished = tokens[-1] in self.generation.eos_token_ids
        reason = "stop" if finished else "length"
        row: Row = {"summary": summary, "output_tokens": written, "finish_reason": reason, "score": score}
        if result.looked is not None:
            row["attention"] = result.looked
        if text is None:
            return row
        # With beams a score is the sum of log-probabilities over length ** length_penalty, without the sum itself.
        penalty = self.generation.length_penalty if self.generation.num_beams > 1 else 0.0
        mean = score * max(1, written) ** (penalty - 1)
        return row | columns_of(summary, text, mean, finished=finished)


class LoadedClassifier(LoadedModel[LEDForSequenceClassification]):
    """Labels from a model in memory."""

    kind = LEDForSequenceClassification

    def __init__(self, task: Classify, folder: Path) -> None:
        super().__init__(task.settings, folder)
        self.task, self.reading = task, task.reading(folder)
        self.problem, self.pooling = task.problem(self.model.config), task.pooling(self.model.config)
        self.thresholds = task.thresholds(self.model.config)

    def predict(self, documents: Sequence[ModelInput]) -> Iterator[tuple[int, Row]]:
        """The labels of each document."""
        for i, _, logits in read_documents(self.model, documents, self.reading, self.task.settings):
            yield i, self._row(pooled(torch.stack(logits), self.pooling))

    def _row(self, logits_C: torch.Tensor) -> Row:
        names = list(self.model.config.labels.values())
        several = self.problem == "multi_label_classification"
        values = logits_C if self.problem == "regression" else logits_C.sigmoid() if several else logits_C.softmax(-1)
        scores = dict(zip(names, values.tolist(), strict=True))
        best = max(scores, key=lambda name: scores[name])
        row: Row = {"label": None, "label_score": scores[best], "labels": None}
        if self.problem != "regression":
            hold = [name for name in (names if several else [best]) if scores[name] >= self.thresholds[name]]
            hold.sort(key=lambda name: -scores[name])
            row |= {"label": hold[0] if hold else None, "labels": hold}
        if not self.task.settings.labels_only:
            row["scores"] = [{"label": name, "score": score} for name, score in scores.items()]
        return row


class LoadedAnswerer(LoadedModel[LEDForQuestionAnswering]):
    """Answers from a model in memory."""

    kind = LEDForQuestionAnswering

    def __init__(self, task: Answer, folder: Path) -> None:
        super().__init__(task.settings, folder)
        self.settings, self.reading = task.settings, task.reading(folder)
        self.tokenizer = LEDTokenizer.from_pretrained(folder)

    def predict(self, documents: Sequence[ModelInput]) -> Iterator[tuple[int, Row]]:
        """The answer in each document."""
        encodings: dict[str, Any] = {}
        for i, windows, scores in read_documents(self.model, documents, self.reading, self.settings):
            text = documents[i].text
            assert text is not None
            if text not in encodings:
                encodings = {text: self.tokenizer.encode_batch([text])[0]}  # of the last document alone: they are large
            yield i, self._row(text, encodings[text], windows, scores)

    def _row(self, text: str, encoding: Any, windows: Sequence[Window], scores: Sequence[Any]) -> Row:
        settings = self.settings
        found, null = best_answers(text, encoding, windows, scores, settings.n_best, settings.max_answer_tokens,
                                   align_to_words=settings.align_to_words)  # fmt: skip
        best = found[0] if found else None
        row: Row = {"answer_score": best.score if best else 0.0, "null_score": null, "answers": [asdict(a) for a in found]}
        least = settings.no_answer_threshold
        if best and (least is None or null - best.score <= least):
            row |= {"answer": best.answer, "answer_start": best.start, "answer_end": best.end}
        return row


def copies_beside(settings: RunSettings) -> float:
    """Model copies that share what a machine, or a GPU, has left: at most one per CPU, at most all that there will be."""
    if settings.gpus:
        return 1 / settings.gpus
    copies = max(1, cpus() // settings.threads)
    return min(copies, settings.max_actors or settings.actors or copies)


def read_documents(
    model: LEDForSequenceClassification | LEDForQuestionAnswering,
    documents: Sequence[ModelInput],
    reading: Reading,
    settings: RunSettings,
) -> Iterator[tuple[int, list[Window], list[Any]]]:
    """(number of the document, its windows, what the model gives for each); documents are packed together."""
    _, encoder_tokens, _ = DecodingLimits(None, settings.encoder_tokens, None).on(model.device)
    for together in by_length([len(document.input_ids) for document in documents], encoder_tokens):
        windows = [windows_of(documents[i].input_ids, documents[i].global_tokens, reading) for i in together]
        outputs = iter(read_windows(model, [window for parts in windows for window in parts], encoder_tokens))
        for i, parts in zip(together, windows, strict=True):
            yield i, parts, [next(outputs) for _ in parts]
