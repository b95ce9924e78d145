"""`pipeline`: texts to summaries, labels or answers in one call, as in the pipelines of transformers 4.

    from led import pipeline

    summarize = pipeline("summarization", model="allenai/led-large-16384-arxiv")
    summarize(["A long text …", "Another …"], num_beams=4)

Documents are packed without padding and decoded with continuous batching. A document that is too long for
the model is split into chunks for labels and answers. For a summary it is truncated, with a warning, or also
split: `overflow` says which. `<s>`
and the question attend to the whole document (arXiv:2004.05150, section 3.1). `global_attention` chooses
other tokens, by the rules of `led/pipelines/global_attention.py`. False turns it off, as in the reference's
pipelines.

For whole corpora use the batch system (`jobs/`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from led.generation.config import GenerationConfig
from led.generation.scheduler import Scheduler, SchedulerLimits
from led.generation.task_settings import TaskSettings, task_settings
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.model.pretrained import LEDPreTrainedModel
from led.pipelines.answer_spans import Answer, best_answers
from led.pipelines.chunk_reader import pool_logits, read_chunks
from led.pipelines.chunking import (
    ChunkEnds,
    ChunkRules,
    Overflow,
    by_budget,
    chunk_document,
    chunk_inputs,
    default_pooling,
)
from led.pipelines.global_attention import GlobalAttention
from led.pipelines.inputs import EncodedInput, InputRules, InputText, Span, encode_inputs
from led.pipelines.joining import Truncation, separator_ids
from led.pipelines.overflow import DocumentSummarizer, LongDocument, OverflowRules
from led.tokenizer.tokenizer import LEDTokenizer

Result = dict[str, Any]

# A text, or the texts of several documents that make one input.
Text = str | Sequence[str]

# Tokens encoded in one packed batch. A longer document is encoded alone.
MAX_NUM_BATCHED_TOKENS = 16384

# The limit of an input that is split into chunks.
_UNLIMITED = 2**31 - 1


class Pipeline:
    """A model with its tokenizer. A call takes one text or several and returns dicts.

    `global_attention` is a rule or a list of rules. True stands for the task's own, False for none.
    `document_separator` and `truncate_documents` say how the documents of one input are joined.
    """

    model: LEDPreTrainedModel
    own_rules: ClassVar[tuple[str, ...]] = ("first",)

    def __init__(
        self,
        tokenizer: LEDTokenizer,
        *,
        global_attention: bool | str | Sequence[str] = True,
        document_separator: str | None = None,
        truncate_documents: Truncation = "equal",
    ) -> None:
        self.tokenizer = tokenizer
        if isinstance(global_attention, bool):
            rules = self.own_rules if global_attention else ("none",)
        else:
            rules = (global_attention,) if isinstance(global_attention, str) else tuple(global_attention)
        separator = separator_ids(tokenizer, document_separator)
        try:
            parsed = GlobalAttention.parse(rules)
            if parsed.column is not None:
                raise ValueError("column:NAME is for tables; pass global_spans in the call")
            global_tokens = parsed.resolve(tokenizer, separator)
        except ValueError as error:
            raise ValueError(f"global_attention: {error}.") from error
        self.rules = InputRules(global_tokens, separator, truncate_documents)

    def encode(
        self,
        texts: Sequence[Text],
        limit: int,
        prefixes: Sequence[str],
        spans: Sequence[Sequence[Span]] = (),
        chunk_rules: ChunkRules | None = None,
    ) -> list[EncodedInput]:
        """The model inputs of these texts, each with its prefix and the spans of its global tokens."""
        inputs = [
            InputText(text if isinstance(text, str) else tuple(text), prefixes[i], spans[i] if spans else ())
            for i, text in enumerate(texts)
        ]
        return encode_inputs(self.tokenizer, inputs, limit, self.rules, chunk_rules)


class Text2TextPipeline(Pipeline):
    """Text generation: `[{name: text}]`, where name is "summary_text" or "generated_text".

    A document with more tokens than the encoder has positions is truncated, with a warning. Its dict then has
    `truncated_tokens`. With `overflow` in the call, it is summarized in chunks instead. Every dict then has
    `level_tokens` and `partial_summaries`.
    """

    def __init__(
        self,
        model: LEDForConditionalGeneration,
        tokenizer: LEDTokenizer,
        task: str,
        limits: SchedulerLimits | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer, **settings)
        self.model: LEDForConditionalGeneration = model
        self.task, self.limits = task, limits
        self.name = "summary_text" if task == "summarization" else "generated_text"
        self._scheduler: (
            tuple[tuple[GenerationConfig, LEDForConditionalGeneration, torch.device], Scheduler] | None
        ) = None

    def __call__(
        self,
        texts: str | Sequence[Text],
        *,
        prefix: str | Sequence[str] | None = None,
        global_spans: Sequence[Sequence[Span]] = (),
        truncation: bool = True,
        clean_up_tokenization_spaces: bool = False,
        overflow: Overflow = "truncate",
        chunk_tokens: int | None = None,
        chunk_overlap: int = 0,
        chunk_ends: ChunkEnds = "sentence",
        summary_tokens_per_input: float | None = None,
        **settings: Any,
    ) -> list[Result]:
        """Generate a text for each input, in order. `settings` are generation settings, as `num_beams=4`.

        An input is a text, or a list of texts: documents that are joined by a separator. `prefix` is put
        before each input, by default the `prefix` in the checkpoint's config.json. `global_spans` has for
        each input the (start, end) in characters of further global tokens.

        `overflow` says what is done with a document of more than `chunk_tokens` tokens, by default the
        encoder's positions. "truncate" cuts it. "concat" joins the summaries of its chunks, and "fuse"
        summarizes these again until one is left. Chunks share `chunk_overlap` tokens, and end at sentences or
        after a fixed number of tokens ("token"). The longest summary may be a share of the document,
        `summary_tokens_per_input`.

        Settings of the call take precedence over the checkpoint's, and these over `task_specific_params` in
        its config.json. Where nobody says anything, 4 beams write at most 256 tokens without repeating three
        of them.

        Raises:
            ValueError: an input is not a text, or a setting is unknown or breaks a rule. Also if
                `truncation` is False and an input has more tokens than the encoder has positions, or if
                fusing might never end.
        """
        in_force, several = self._settings(settings), as_inputs(texts)
        shared = in_force.prefix if prefix is None else prefix
        prefixes = [shared] * len(several) if isinstance(shared, str) else as_texts(shared)
        if len(prefixes) != len(several) or (global_spans and len(global_spans) != len(several)):
            raise ValueError(
                f"{len(several)} inputs were given with {len(prefixes)} prefixes and {len(global_spans)} "
                "lists of spans; give one for each input."
            )
        chunks = self._chunk_rules(overflow, chunk_tokens, chunk_overlap, chunk_ends)
        rules = OverflowRules(overflow, chunks, summary_tokens_per_input)
        longest = in_force.generation.max_sequence_length(self.model.config) - 1
        rules.check(in_force.generation, longest)
        if overflow == "truncate":
            limit = chunks.tokens
            inputs = self.encode(several, limit, prefixes, global_spans)
        else:
            limit = _UNLIMITED
            inputs = self.encode(several, limit, prefixes, global_spans, chunks)
        for i, item in enumerate(inputs):
            over, count = item.truncated_tokens, len(item.input_ids) + item.truncated_tokens
            if over and not truncation:
                raise ValueError(f"text {i} has {count} tokens; this model reads at most {limit}.")
            if over:
                cut = f"{over} of its documents'" if item.documents else f"the last {over}"
                warnings.warn(f"text {i} has {count} tokens; {cut} were cut.", stacklevel=2)
        lengths = [len(item.input_ids) for item in inputs]
        order = [i for group in by_budget(lengths, MAX_NUM_BATCHED_TOKENS) for i in group]
        scheduler = self._scheduler_for(in_force.generation)
        documents = [
            LongDocument(item.input_ids, item.global_positions, item.leading, item.chunks)
            for item in (inputs[i] for i in order)
        ]
        summarizer = DocumentSummarizer(
            scheduler,
            self.tokenizer,
            self.rules.global_tokens,
            rules,
            lambda tokens: self.tokenizer.decode(
                tokens,
                skip_special_tokens=True,
                clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            ),
        )
        results: list[list[Result]] = [[] for _ in inputs]
        for i, summary in summarizer.run(documents):
            over = inputs[order[i]].truncated_tokens
            more: Result = {"truncated_tokens": over} if over else {}
            if overflow != "truncate":
                more["level_tokens"] = list(summary.level_tokens)
                more["partial_summaries"] = [asdict(part) for part in summary.partial_summaries]
            results[order[i]] = [{self.name: text, **more} for text in summary.texts]
        return [result for of_text in results for result in of_text]

    def _chunk_rules(
        self, overflow: Overflow, tokens: int | None, overlap: int, ends: ChunkEnds
    ) -> ChunkRules:
        """The rules of the call.

        Raises:
            ValueError: an argument breaks a rule.
        """
        limit = self.model.config.max_encoder_position_embeddings
        for name, value, choices in (
            ("overflow", overflow, get_args(Overflow)),
            ("chunk_ends", ends, get_args(ChunkEnds)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(choices)}.")
        if tokens is not None and overflow == "truncate":
            raise ValueError(f"chunk_tokens is {tokens}; it needs overflow concat or fuse.")
        if tokens is not None and not 3 <= tokens <= limit:
            raise ValueError(
                f"chunk_tokens is {tokens}; it must be from 3 to the {limit} tokens that this model reads."
            )
        if overlap < 0 or overlap > (tokens or limit) - 3:
            raise ValueError(f"chunk_overlap is {overlap}; it must be from 0 to {(tokens or limit) - 3}.")
        return ChunkRules(tokens or limit, overlap, ends)

    def _scheduler_for(self, config: GenerationConfig) -> Scheduler:
        """A scheduler for this config. On a GPU, where a new one takes a second, the last one is reused if it
        fits."""
        key = config, self.model, self.model.device
        if self._scheduler is None or self._scheduler[0] != key or self.model.device.type != "cuda":
            self._scheduler = None  # free its memory before the next one is created
            self._scheduler = key, Scheduler(self.model, config, self.limits)
        return self._scheduler[1]

    def _settings(self, given: dict[str, Any]) -> TaskSettings:
        return task_settings(self.model.config, self.model.generation_config, self.task, given)


class TextClassificationPipeline(Pipeline):
    """Text classification: `[{"label": …, "score": …}]`.

    A document that is too long for the model is split into chunks that overlap by an eighth. The logits of
    its chunks are pooled before they become probabilities. The pooling is the mean, or the maximum if a
    document may have several labels.
    """

    def __init__(self, model: LEDForSequenceClassification, tokenizer: LEDTokenizer, **settings: Any) -> None:
        super().__init__(tokenizer, **settings)
        self.model: LEDForSequenceClassification = model

    def __call__(self, texts: str | Sequence[Text], **how: Any) -> Any:
        """The best label of each input, in order. With `top_k`, a list of that many labels for each input.

        An input is a text, or a list of texts: documents that are joined by a separator.

        `top_k=None` returns all labels. `function_to_apply` turns logits into scores: "softmax" (the default
        for a single label), "sigmoid" (the default for several labels), or "none" (the default for values).

        Raises:
            ValueError: an input is not a text, or an argument is unknown or breaks a rule.
        """
        unknown = how.keys() - {"top_k", "function_to_apply", "truncation", "padding"}
        if unknown:
            raise ValueError(
                f"{sorted(unknown)[0]} is not an argument of this pipeline; use top_k or function_to_apply."
            )
        several = as_inputs(texts)
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

    def logits(self, texts: Sequence[Text]) -> Tensor:
        """(B, C) the logits of B inputs, pooled over their chunks."""
        config = self.model.config
        limit = config.max_input_tokens
        rules = ChunkRules(limit, limit // 8)
        chunks = [
            chunk_inputs(
                item.input_ids,
                item.leading,
                item.global_positions,
                [(chunk.start, chunk.end) for chunk in item.chunks],
            )
            for item in self.encode(texts, _UNLIMITED, [""] * len(texts), chunk_rules=rules)
        ]
        flat = [chunk for parts in chunks for chunk in parts]
        rows = torch.stack(read_chunks(self.model, flat, MAX_NUM_BATCHED_TOKENS))
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
            raise ValueError(f"function_to_apply is {function!r}; use one of {', '.join(functions)}.")
        return functions[function](logits)


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
            bounds = [(chunk.start, chunk.end) for chunk in windows]
            chunks.append(
                chunk_inputs(ids, leading, self.rules.global_tokens.positions(ids, leading), bounds)
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


def as_inputs(texts: str | Sequence[Text]) -> list[Text]:
    """One input or several as a list. An input is a text, or a list of texts.

    Raises:
        ValueError: an input is neither.
    """
    several: list[Text] = [texts] if isinstance(texts, str) else list(texts)
    for i, item in enumerate(several):
        parts = item if isinstance(item, list | tuple) and item else [item]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(
                f"input {i} is {type(item).__name__}; it must be a text (str), or a list of texts with at "
                "least one."
            )
    return several


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """One text or several as a list.

    Raises:
        ValueError: an input is not a string.
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
    global_attention: bool | str | Sequence[str] = True,
    document_separator: str | None = None,
    truncate_documents: Truncation = "equal",
) -> Text2TextPipeline | TextClassificationPipeline | QuestionAnsweringPipeline:
    """Create a pipeline for `task`.

    Tasks: "summarization", "text2text-generation", "text-classification" (or "sentiment-analysis") and
    "question-answering".

    `model` is a folder, a hub name or a loaded model. A loaded model needs a `tokenizer`. The other arguments
    are those of `from_pretrained`. A model that is loaded here is packed for inference. `limits` bounds the
    documents and tokens that summarization processes at once.

    `global_attention` has the rules for global tokens, for example ["first", "separator"]. True means the
    task's own: `<s>`, and for answers the question. `document_separator` joins the texts of an input that is
    a list, by default the checkpoint's own token such as `<doc-sep>`, or else its sep token.
    `truncate_documents` says how they are shortened: "equal", "proportional", "last" or "primera".

    Raises:
        ValueError: the task is unknown, or the model does not fit it.
        FileNotFoundError: the model does not exist.
        CheckpointError: the weights are not those of the task.
    """
    if task not in _TASKS:
        raise ValueError(f"task is {task!r}; use one of {', '.join(_TASKS)}.")
    cls = _TASKS[task]
    if isinstance(model, LEDPreTrainedModel):
        if not isinstance(model, cls) or tokenizer is None:
            raise ValueError(
                f"{task} takes a {cls.__name__} and its tokenizer; a {type(model).__name__} was "
                f"given{' without a tokenizer' if tokenizer is None else ''}."
            )
        loaded: LEDPreTrainedModel = model
    else:
        source: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
        }
        loaded = cls.from_pretrained(model, dtype=dtype, device=device, **source).pack()
        tokenizer = LEDTokenizer.from_pretrained(model, **source) if tokenizer is None else tokenizer
    if not isinstance(tokenizer, LEDTokenizer):
        tokenizer = LEDTokenizer.from_pretrained(tokenizer)
    tokenizer.check_embedding(loaded.config.vocab_size)
    inputs: dict[str, Any] = {
        "global_attention": global_attention,
        "document_separator": document_separator,
        "truncate_documents": truncate_documents,
    }
    if isinstance(loaded, LEDForConditionalGeneration):
        return Text2TextPipeline(loaded, tokenizer, task, limits, **inputs)
    if isinstance(loaded, LEDForSequenceClassification):
        return TextClassificationPipeline(loaded, tokenizer, **inputs)
    assert isinstance(loaded, LEDForQuestionAnswering)
    return QuestionAnsweringPipeline(loaded, tokenizer, **inputs)
