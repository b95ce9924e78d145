"""The extension point: a task turns documents into model inputs and model outputs into rows.

A new task is one class here. It says how a text is encoded, with which global tokens, how outputs are made, and which
columns come of it; reading, ordering, failing alone and committing are the same for all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from led.checkpoint import check_weights
from led.config import LEDConfig
from led.generation import DecodingLimits, DecodingLoop
from led.generation_config import GenerationConfig
from led.memory import free_bytes
from led.model import LEDForConditionalGeneration
from led.packing import pack_documents
from led.tokenizer import LEDTokenizer
from led.windows import cut
from pipeline.config import DECODING, RunSettings, SummarizeSettings
from pipeline.errors import UsageError

Row = dict[str, Any]


@dataclass(frozen=True)
class ModelInput:
    """A document as the model reads it: its tokens, of which the first `global_tokens` attend to the whole document."""

    input_ids: Sequence[int]
    global_tokens: int
    truncated_tokens: int = 0
    windows: int = 1


class LoadedTask(Protocol):
    """A task with its model in memory."""

    def predict(self, documents: Sequence[ModelInput]) -> Iterator[tuple[int, Row]]:
        """(number of the document, its task columns), in any order."""


class Task(Protocol):
    """What the pipeline asks of a task. A task is small and travels to the workers; `load` brings the weights in there."""

    columns: pa.Schema

    @property
    def settings(self) -> RunSettings:
        """The settings of the run."""

    def facts(self, folder: Path) -> dict[str, Any]:
        """What its rows depend on besides the run's settings and the weights; checks that task and checkpoint fit."""

    def max_input_tokens(self, folder: Path) -> int:
        """The longest input in force, in tokens; checks the settings against the checkpoint."""

    def encode(self, tokenizer: LEDTokenizer, texts: Sequence[str], limit: int) -> list[ModelInput]:
        """Model inputs of at most `limit` tokens for these texts."""

    def load(self, folder: Path) -> LoadedTask:
        """The task with the checkpoint in `folder` in memory."""


@dataclass(frozen=True)
class Summarize:
    """Documents to summaries, with global attention on `<s>`."""

    settings: SummarizeSettings

    columns = pa.schema(
        [
            pa.field("summary", pa.string()),
            pa.field("output_tokens", pa.int32()),
            pa.field("finish_reason", pa.string()),
            pa.field("score", pa.float32()),
        ]
    )

    def generation(self, folder: Path) -> GenerationConfig:
        """The checkpoint's generation settings with those of the run over them."""
        given = {name: getattr(self.settings, name) for name in DECODING}
        changes = {name: value for name, value in given.items() if value is not None}
        return GenerationConfig.from_pretrained(folder).updated(**changes, num_return_sequences=1)

    def facts(self, folder: Path) -> dict[str, Any]:
        """The task and the decoding settings in force.

        Raises:
            ValueError: the folder's weights are not a summarizer's, or a setting does not fit the model.
        """
        check_weights(LEDForConditionalGeneration, folder)
        self.generation(folder).longest(LEDConfig.from_pretrained(folder))
        return {"task": "summarize", "generation": asdict(self.generation(folder))}

    def max_input_tokens(self, folder: Path) -> int:
        """What the run asks for, at most the encoder's positions.

        Raises:
            UsageError: the run asks for more than the model reads.
        """
        limit = LEDConfig.from_pretrained(folder).max_encoder_position_embeddings
        asked = self.settings.max_input_tokens or limit
        if asked > limit:
            raise UsageError(f"--max-input-tokens is {asked}; this model reads at most {limit} tokens.")
        return asked

    def encode(self, tokenizer: LEDTokenizer, texts: Sequence[str], limit: int) -> list[ModelInput]:
        """`<s> text </s>`, cut at the limit with `</s>` kept."""
        inputs = []
        for encoding in tokenizer.encode_batch(texts):
            ids, over = cut(encoding.ids, limit)
            inputs.append(ModelInput(ids, 1, over))
        return inputs

    def load(self, folder: Path) -> LoadedSummarizer:
        """The summarizer with its weights."""
        return LoadedSummarizer(self, folder)


class LoadedSummarizer:
    """Summaries from a model in memory."""

    def __init__(self, task: Summarize, folder: Path) -> None:
        settings = task.settings
        int8 = settings.precision == "int8"
        dtype = "float32" if int8 else settings.precision
        model = LEDForConditionalGeneration.from_pretrained(folder, dtype=dtype, device="cuda" if settings.gpus else "cpu")
        self.model = model.pack(int8=int8)
        self.tokenizer = LEDTokenizer.from_pretrained(folder)
        self.generation = task.generation(folder)
        # A machine may hold a model copy per CPU, a GPU as many as share it; half of what is left is for encoding.
        copies = 1 / settings.gpus if settings.gpus else max(1, (os.cpu_count() or 1) // settings.threads)
        share = int(free_bytes(self.model.device) / (2 * copies))
        memory = share if settings.memory_gib is None else int(settings.memory_gib * 2**30)
        self.limits = DecodingLimits(settings.documents_in_flight, settings.encoder_tokens, max(1, memory))

    def predict(self, documents: Sequence[ModelInput]) -> Iterator[tuple[int, Row]]:
        """The summary of each document as it is finished."""
        packed = (pack_documents([d.input_ids], [range(d.global_tokens)]) for d in documents)
        for i, result in DecodingLoop(self.model, self.generation, self.limits).run(packed):
            tokens = result.sequences[0]
            ended = tokens[-1] in self.generation.eos_token_ids
            yield (
                i,
                {
                    "summary": self.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
                    "output_tokens": len(tokens) - 1,
                    "finish_reason": "stop" if ended else "length",
                    "score": result.scores[0],
                },
            )
