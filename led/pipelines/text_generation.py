"""Summarization and other text generation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

import torch

from led.generation.config import GenerationConfig
from led.generation.limits import SchedulerLimits
from led.generation.scheduler import Scheduler
from led.generation.task_settings import TaskSettings, task_settings
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.pipelines.base import (
    MAX_NUM_BATCHED_TOKENS,
    Pipeline,
    PipelineOutput,
    Text,
    as_inputs,
    as_texts,
)
from led.pipelines.chunk_queue import LongDocument
from led.pipelines.chunking import UNLIMITED, ChunkEnds, ChunkRules, Overflow, by_budget
from led.pipelines.inputs import Span
from led.pipelines.overflow import DocumentSummarizer, OverflowRules
from led.tokenizer.tokenizer import LEDTokenizer


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
    ) -> list[PipelineOutput]:
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
            limit = UNLIMITED
            inputs = self.encode(several, limit, prefixes, global_spans, chunks)
        for i, item in enumerate(inputs):
            over = item.truncated_tokens or 0
            count = len(item.input_ids) + over
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
        results: list[list[PipelineOutput]] = [[] for _ in inputs]
        for i, summary in summarizer.run(documents):
            dropped = inputs[order[i]].truncated_tokens
            more: PipelineOutput = {"truncated_tokens": dropped} if dropped else {}
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
