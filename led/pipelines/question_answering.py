"""Extractive question answering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from led.heads.question_answering import LEDForQuestionAnswering
from led.pipelines.answer_spans import Answer, best_answers
from led.pipelines.base import MAX_NUM_BATCHED_TOKENS, Pipeline, PipelineOutput, as_texts
from led.pipelines.chunk_reader import read_chunks
from led.pipelines.chunking import ChunkRules, chunk_document, chunk_inputs
from led.tokenizer.tokenizer import LEDTokenizer


class QuestionAnsweringPipeline(Pipeline):
    """Extractive question answering: `{"score": …, "start": …, "end": …, "answer": …}`.

    `start` and `end` count characters of the document, end exclusive: `answer == context[start:end]`. A
    document that is too long for the model is split into chunks, each with the question.
    """

    own_rules = ("question",)

    def __init__(self, model: LEDForQuestionAnswering, tokenizer: LEDTokenizer, **settings: Any) -> None:
        super().__init__(tokenizer, **settings)
        self.model: LEDForQuestionAnswering = model

    def __call__(
        self,
        inputs: PipelineOutput | Sequence[PipelineOutput] | None = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        top_k: int = 1,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        doc_stride: int = 128,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """The answer to each question: a dict for one question, a list for several.

        If `top_k` is above 1, each question has a list of answers. Give `question` and `context`, one of each
        or lists of equal length, or one of them for all. Or give `inputs`, which are dicts with both.

        `max_answer_len`, `max_seq_len` and `doc_stride` count tokens. `max_seq_len` is the length of a chunk,
        by default the model's maximum. `doc_stride` is the overlap of chunks. `handle_impossible_answer`
        ranks the empty answer among the others by its score. `align_to_words` extends answers to whole words.
        Equal answers at several positions count as one, with the sum of their scores.

        Raises:
            ValueError: a question or document is missing or is not a string, or an argument breaks a rule.
        """
        one, pairs = _questions(inputs, question, context)
        if top_k < 1 or max_answer_len < 1:
            raise ValueError(
                f"top_k is {top_k} and max_answer_len {max_answer_len}; both must be at least 1."
            )
        longest = self.model.config.max_input_tokens
        limit = max_seq_len or longest
        if limit > longest:
            raise ValueError(f"max_seq_len is {limit}; this model reads at most {longest} tokens at once.")
        questions = self.tokenizer.encode_batch([q for q, _ in pairs])
        contexts = self.tokenizer.encode_batch([c for _, c in pairs])
        chunks = []
        for q, c, (_, text) in zip(questions, contexts, pairs, strict=True):
            ids, leading = [*q.ids, q.ids[-1], *c.ids[1:]], len(q.ids) + 1
            windows = chunk_document(text, c.offsets[1:-1], leading, ChunkRules(limit, doc_stride))
            chunks.append(
                chunk_inputs(ids, leading, self.rules.global_tokens.positions(ids, leading), windows)
            )
        flat = [chunk for parts in chunks for chunk in parts]
        scores = iter(read_chunks(self.model, flat, MAX_NUM_BATCHED_TOKENS))
        answers = []
        for parts, encoding, (_, text) in zip(chunks, contexts, pairs, strict=True):
            parts_scores = [next(scores) for _ in parts]
            best, null = best_answers(
                text, encoding, parts, parts_scores, top_k, max_answer_len, align_to_words=align_to_words
            )
            if handle_impossible_answer or not best:
                best = sorted([*best, Answer("", 0, 0, null)], key=lambda answer: -answer.score)[:top_k]
            found = [
                {name: getattr(answer, name) for name in ("score", "start", "end", "answer")}
                for answer in best
            ]
            answers.append(found if top_k > 1 else found[0])
        return answers[0] if one else answers


def _questions(
    inputs: PipelineOutput | Sequence[PipelineOutput] | None,
    question: str | Sequence[str] | None,
    context: str | Sequence[str] | None,
) -> tuple[bool, list[tuple[str, str]]]:
    """Whether the call has a single question, and all (question, document) pairs."""
    if inputs is not None:
        several = [inputs] if isinstance(inputs, dict) else list(inputs)
        if any(not isinstance(item, dict) or {"question", "context"} - item.keys() for item in several):
            raise ValueError("every input must be a dict with a question and a context.")
        texts = (as_texts([item["question"], item["context"]]) for item in several)
        return isinstance(inputs, dict), [(q, c) for q, c in texts]
    if question is None or context is None:
        raise ValueError("give a question and a context, or dicts with both.")
    questions, contexts = as_texts(question), as_texts(context)
    one = isinstance(question, str) and isinstance(context, str)
    if isinstance(question, str):
        questions *= len(contexts)
    elif isinstance(context, str):
        contexts *= len(questions)
    if len(questions) != len(contexts):
        raise ValueError(
            f"{len(questions)} questions were given for {len(contexts)} contexts; give one for each, or one "
            "for all."
        )
    return one, list(zip(questions, contexts, strict=True))
