"""`pipeline`: from texts to summaries, labels or answers in one call, after the pipelines that transformers 4
had.

    from led import pipeline

    summarize = pipeline("summarization", model="allenai/led-large-16384-arxiv")
    summarize(["A long text …", "Another …"], num_beams=4)

Documents are packed without padding and decoded as places become free. Documents beyond what a model reads
are cut for summaries, with a warning, and read window by window for labels and answers. `<s>` attends to the
whole document, and so does a question (arXiv:2004.05150, section 3.1); `global_attention=False` leaves that
out, as the reference's pipelines did.

Not here: corpora; those are the batch system (`jobs/`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from led.batch.packed_batch import pack_documents
from led.generation.config import GenerationConfig
from led.generation.scheduler import Scheduler, SchedulerLimits
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.model.pretrained import LEDPreTrainedModel
from led.pipelines.answer_spans import Answer, best_answers
from led.pipelines.chunk_reader import pool_logits, read_chunks
from led.pipelines.chunking import by_budget, default_pooling, split, truncate
from led.tokenizer.tokenizer import LEDTokenizer

Result = dict[str, Any]

# Tokens encoded in one packed batch; a longer document is encoded alone.
MAX_NUM_BATCHED_TOKENS = 16384


class Pipeline:
    """A model with its tokenizer; calling it takes a text or several and gives a list of dicts."""

    model: LEDPreTrainedModel

    def __init__(self, tokenizer: LEDTokenizer, *, global_attention: bool = True) -> None:
        self.tokenizer, self.global_attention = tokenizer, global_attention

    def global_positions(self, count: int) -> range:
        """The places of the first `count` tokens where they are to be global."""
        return range(count if self.global_attention else 0)


class Text2TextPipeline(Pipeline):
    """Texts to texts: `[{name: text}]`, name being "summary_text" or "generated_text".

    A document beyond the encoder's positions is cut; its dict then has `truncated_tokens` and a warning says
    so.
    """

    def __init__(
        self,
        model: LEDForConditionalGeneration,
        tokenizer: LEDTokenizer,
        name: str,
        limits: SchedulerLimits | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer, **settings)
        self.model: LEDForConditionalGeneration = model
        self.name, self.limits = name, limits
        self._loop: (
            tuple[tuple[GenerationConfig, LEDForConditionalGeneration, torch.device], Scheduler] | None
        ) = None

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        truncation: bool = True,
        clean_up_tokenization_spaces: bool = False,
        **settings: Any,
    ) -> list[Result]:
        """What the model writes for each text, in order; `settings` are those of generation (`num_beams=4`).

        Where neither they nor the checkpoint say otherwise, 4 beams write at most 256 tokens.

        Raises:
            ValueError: an input is no text, a setting is unknown or breaks a rule, or `truncation` is
                False and a text has more tokens than the encoder's positions.
        """
        documents = self.tokenizer.encode_batch(as_texts(texts))
        limit = self.model.config.max_encoder_position_embeddings
        inputs = [truncate(document.ids, limit) for document in documents]
        for i, (ids, over) in enumerate(inputs):
            if over and not truncation:
                raise ValueError(f"text {i} has {len(ids) + over} tokens; this model reads at most {limit}.")
            if over:
                warnings.warn(
                    f"text {i} has {len(ids) + over} tokens; the last {over} were cut.", stacklevel=2
                )
        order = [
            i for group in by_budget([len(ids) for ids, _ in inputs], MAX_NUM_BATCHED_TOKENS) for i in group
        ]
        loop = self._loop_of(self._generation(settings))
        results: list[list[Result]] = [[] for _ in inputs]
        for i, result in loop.run(pack_documents([inputs[i][0]], [self.global_positions(1)]) for i in order):
            for tokens in result.sequences:
                text = self.tokenizer.decode(
                    tokens,
                    skip_special_tokens=True,
                    clean_up_tokenization_spaces=clean_up_tokenization_spaces,
                )
                over = inputs[order[i]][1]
                results[order[i]].append({self.name: text, **({"truncated_tokens": over} if over else {})})
        return [result for found in results for result in found]

    def _loop_of(self, config: GenerationConfig) -> Scheduler:
        """A loop; on a GPU, where a new one is a second's work, that of the last call if nothing else was
        asked of it."""
        wanted = config, self.model, self.model.device
        if self._loop is None or self._loop[0] != wanted or self.model.device.type != "cuda":
            self._loop = None  # its memory is for the next
            self._loop = wanted, Scheduler(self.model, config, self.limits)
        return self._loop[1]

    def _generation(self, settings: dict[str, Any]) -> GenerationConfig:
        config = self.model.generation_config
        if config.max_length is None and config.max_new_tokens is None and "max_length" not in settings:
            positions = self.model.config.max_decoder_position_embeddings
            settings = {"max_new_tokens": min(256, positions), **settings}
        return config.updated(**{**({"num_beams": 4} if config.num_beams == 1 else {}), **settings})


class TextClassificationPipeline(Pipeline):
    """Texts to labels: `[{"label": …, "score": …}]`.

    A document beyond what the model reads at once is read in windows that overlap by an eighth, and their
    scores are pooled before they become probabilities: the mean, or for several labels at once the largest.
    """

    def __init__(self, model: LEDForSequenceClassification, tokenizer: LEDTokenizer, **settings: Any) -> None:
        super().__init__(tokenizer, **settings)
        self.model: LEDForSequenceClassification = model

    def __call__(self, texts: str | Sequence[str], **how: Any) -> Any:
        """The best label of each text, in order; with `top_k` a list of that many for each (None for all).

        `function_to_apply` makes scores of logits: "softmax" (the default for one label), "sigmoid" (for
        several), or "none" (for values).

        Raises:
            ValueError: an input is no text, or an argument is unknown or breaks a rule.
        """
        unknown = how.keys() - {"top_k", "function_to_apply", "truncation", "padding"}
        if unknown:
            raise ValueError(
                f"{sorted(unknown)[0]} is not an argument here; known: top_k, function_to_apply."
            )
        several = as_texts(texts)
        if not several:
            return []
        logits = self.logits(several)
        scores = self._apply(logits, how.get("function_to_apply"))
        top_k = how.get("top_k", 1)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; it must be at least 1, or None for all labels.")
        labels = self.model.config.labels
        ranked = [
            [{"label": labels[int(i)], "score": float(row[i])} for i in row.argsort(descending=True)[:top_k]]
            for row in scores
        ]
        if "top_k" not in how:
            return [labels[0] for labels in ranked]
        return ranked[0] if isinstance(texts, str) else ranked

    def logits(self, texts: Sequence[str]) -> Tensor:
        """(B, C) the scores of B texts, pooled over their windows."""
        config, tokenizer = self.model.config, self.tokenizer
        before, after = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
        limit = config.max_input_tokens
        chunks = [
            split(e.ids[1:-1], before, after, limit, limit // 8) for e in tokenizer.encode_batch(list(texts))
        ]
        flat = [chunk for parts in chunks for chunk in parts]
        rows = torch.stack(
            read_chunks(self.model, flat, MAX_NUM_BATCHED_TOKENS, global_attention=self.global_attention)
        )
        pooling = default_pooling(config.problem_type)
        return torch.stack(
            [pool_logits(part, pooling) for part in rows.split([len(parts) for parts in chunks])]
        )

    def _apply(self, logits: Tensor, function: str | None) -> Tensor:
        config = self.model.config
        if function is None and config.problem_type == "regression":
            function = "none"
        if function is None:
            one = config.num_labels > 1 and config.problem_type != "multi_label_classification"
            function = "softmax" if one else "sigmoid"
        functions = {"softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid, "none": lambda x: x}
        if function not in functions:
            raise ValueError(f"function_to_apply is {function!r}; known: {', '.join(functions)}.")
        return functions[function](logits)


class QuestionAnsweringPipeline(Pipeline):
    """Questions over documents: `{"score": …, "start": …, "end": …, "answer": …}`.

    `start` and `end` are characters of the document, end exclusive: `answer == context[start:end]`. A
    document beyond what the model reads at once is read in windows, each with the question.
    """

    def __init__(self, model: LEDForQuestionAnswering, tokenizer: LEDTokenizer, **settings: Any) -> None:
        super().__init__(tokenizer, **settings)
        self.model: LEDForQuestionAnswering = model

    def __call__(
        self,
        inputs: Result | Sequence[Result] | None = None,
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
        """The answer to each question: a dict for one question, a list for several; lists of `top_k` where
        that is above 1.

        Give `question` and `context`, one of each or lists of equal length (one of them may serve for all),
        or `inputs`: dicts with both. `max_answer_len`, `max_seq_len` (a window, by default all the model
        reads) and `doc_stride` (the windows' overlap) count tokens. With `handle_impossible_answer` the empty
        answer competes with its own score. `align_to_words` widens answers to whole words; equal answers from
        several places count as one, with the sum of their scores.

        Raises:
            ValueError: a question or document is missing or no text, or an argument breaks a rule.
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
        end = self.tokenizer.eos_token_id
        chunks = [
            split(c.ids[1:-1], [*q.ids, end], [end], limit, doc_stride)
            for q, c in zip(questions, contexts, strict=True)
        ]
        flat = [chunk for parts in chunks for chunk in parts]
        scores = iter(
            read_chunks(self.model, flat, MAX_NUM_BATCHED_TOKENS, global_attention=self.global_attention)
        )
        answers = []
        for parts, encoding, (_, text) in zip(chunks, contexts, pairs, strict=True):
            of_parts = [next(scores) for _ in parts]
            best, null = best_answers(
                text, encoding, parts, of_parts, top_k, max_answer_len, align_to_words=align_to_words
            )
            if handle_impossible_answer or not best:
                best = sorted([*best, Answer("", 0, 0, null)], key=lambda answer: -answer.score)[:top_k]
            found = [
                {name: getattr(answer, name) for name in ("score", "start", "end", "answer")}
                for answer in best
            ]
            answers.append(found if top_k > 1 else found[0])
        return answers[0] if one else answers


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """One text or several as a list.

    Raises:
        ValueError: one is no text.
    """
    several = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(several):
        if not isinstance(text, str):
            raise ValueError(f"input {i} is {type(text).__name__}; it must be a text (str).")
    return several


def _questions(
    inputs: Result | Sequence[Result] | None,
    question: str | Sequence[str] | None,
    context: str | Sequence[str] | None,
) -> tuple[bool, list[tuple[str, str]]]:
    """Was one question asked, and all (question, document) pairs."""
    if inputs is not None:
        several = [inputs] if isinstance(inputs, dict) else list(inputs)
        if any(not isinstance(item, dict) or {"question", "context"} - item.keys() for item in several):
            raise ValueError("every input must be a dict with a question and a context.")
        return isinstance(inputs, dict), [tuple(as_texts([i["question"], i["context"]])) for i in several]  # type: ignore[misc]
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
            f"{len(questions)} questions were given for {len(contexts)} contexts; give one for each, or one for all."
        )
    return one, list(zip(questions, contexts, strict=True))


_TASKS: dict[str, type[LEDPreTrainedModel]] = {
    "summarization": LEDForConditionalGeneration,
    "text2text-generation": LEDForConditionalGeneration,
    "text-classification": LEDForSequenceClassification,
    "sentiment-analysis": LEDForSequenceClassification,
    "question-answering": LEDForQuestionAnswering,
}


def pipeline(
    task: str,
    model: str | Path | LEDPreTrainedModel,
    tokenizer: LEDTokenizer | str | Path | None = None,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = torch.float32,
    device: torch.device | str | int = "cpu",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    limits: SchedulerLimits | None = None,
    global_attention: bool = True,
) -> Text2TextPipeline | TextClassificationPipeline | QuestionAnsweringPipeline:
    """A callable for `task`: "summarization", "text2text-generation", "text-classification" or
    "question-answering".

    `model` is a folder, a hub name or a loaded model (which needs `tokenizer`); the other arguments are those
    of `from_pretrained`. A model that is loaded here is packed for inference. `limits` bounds what a
    summarizer holds at once, in documents and tokens.

    Raises:
        ValueError: the task is not known, or the model is not one for it.
        FileNotFoundError: there is no such model.
        CheckpointError: its weights are not those of the task.
    """
    if task not in _TASKS:
        raise ValueError(f"task is {task!r}; known: {', '.join(_TASKS)}.")
    cls = _TASKS[task]
    if isinstance(model, LEDPreTrainedModel):
        if not isinstance(model, cls) or tokenizer is None:
            raise ValueError(
                f"{task} takes a {cls.__name__} and its tokenizer; a {type(model).__name__} was given"
                f"{' without a tokenizer' if tokenizer is None else ''}."
            )
        loaded: LEDPreTrainedModel = model
    else:
        how: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
        }
        loaded = cls.from_pretrained(model, dtype=dtype, device=device, **how).pack()
        tokenizer = LEDTokenizer.from_pretrained(model, **how) if tokenizer is None else tokenizer
    if not isinstance(tokenizer, LEDTokenizer):
        tokenizer = LEDTokenizer.from_pretrained(tokenizer)
    if isinstance(loaded, LEDForConditionalGeneration):
        name = "summary_text" if task == "summarization" else "generated_text"
        return Text2TextPipeline(loaded, tokenizer, name, limits, global_attention=global_attention)
    if isinstance(loaded, LEDForSequenceClassification):
        return TextClassificationPipeline(loaded, tokenizer, global_attention=global_attention)
    assert isinstance(loaded, LEDForQuestionAnswering)
    return QuestionAnsweringPipeline(loaded, tokenizer, global_attention=global_attention)
