"""The question-answering task with its model in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from led.heads.question_answering import LEDForQuestionAnswering
from led.pipelines.answer_spans import best_answers
from led.pipelines.chunking import ChunkInput
from pipeline.checkpoint import load_tokenizer
from pipeline.tasks.base import ModelInput, Row
from pipeline.tasks.loaded import LoadedModel, read_documents
from pipeline.tasks.settings import AnswerSettings


class LoadedAnswerer(LoadedModel[LEDForQuestionAnswering]):
    """Answers questions."""

    model_class = LEDForQuestionAnswering

    def __init__(self, settings: AnswerSettings, folder: Path) -> None:
        super().__init__(settings, folder)
        self.settings = settings
        self.tokenizer = load_tokenizer(folder, settings.special_tokens)

    def predict(self, documents: Iterable[ModelInput | None]) -> Iterator[tuple[int, Row]]:
        """Yield the answer in each document."""
        encodings: dict[str, Any] = {}
        for i, document, chunks, scores in read_documents(self.model, documents, self.settings):
            text = document.text
            assert text is not None
            if text not in encodings:
                # Encodings are large, so only the last document's is kept.
                encodings = {text: self.tokenizer.encode_batch([text])[0]}
            yield i, self._row(text, encodings[text], chunks, scores)

    def _row(self, text: str, encoding: Any, chunks: Sequence[ChunkInput], scores: Sequence[Any]) -> Row:
        settings = self.settings
        answers, null_score = best_answers(
            text,
            encoding,
            chunks,
            scores,
            settings.n_best,
            settings.max_answer_tokens,
            align_to_words=settings.align_to_words,
        )
        best = answers[0] if answers else None
        row: Row = {
            "answer_score": best.score if best else 0.0,
            "null_score": null_score,
            "answers": [asdict(answer) for answer in answers],
        }
        threshold = settings.no_answer_threshold
        if best and (threshold is None or null_score - best.score <= threshold):
            row |= {"answer": best.answer, "answer_start": best.start, "answer_end": best.end}
        return row
