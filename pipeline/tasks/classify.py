"""The classification task: documents to labels.

The logits of a document's chunks are pooled before they become probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from led.config import LEDConfig
from led.pipelines.chunking import default_pooling
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import UsageError
from pipeline.tasks.base import (
    Document,
    InputLimits,
    ModelInput,
    RequestedRow,
    Row,
    RowInput,
    Task,
    chunked_input_limits,
)
from pipeline.tasks.inputs import (
    describe_inputs,
    encode_documents,
    input_columns,
    input_config,
    requested_row,
)
from pipeline.tasks.settings import ClassifySettings

if TYPE_CHECKING:
    from pipeline.tasks.classifier import LoadedClassifier


@dataclass(frozen=True)
class Classify(Task):
    """Documents to labels."""

    settings: ClassifySettings

    settings_class = ClassifySettings
    name = "classify"
    title = "Classification"
    result_column = "label"
    score_column = "label_score"
    evaluation = "labels"

    @property
    def hashes_text_alone(self) -> bool:
        return super().hashes_text_alone and self.settings.prefix_column is None

    @property
    def schema(self) -> pa.Schema:
        """The best label with its probability (for regression the value), the assigned labels, and all
        scores."""
        scores = pa.list_(pa.struct([pa.field("label", pa.string()), pa.field("score", pa.float32())]))
        columns = [pa.field("label", pa.string()), pa.field("label_score", pa.float32())]
        columns.append(pa.field("labels", pa.list_(pa.string())))
        columns += [] if self.settings.labels_only else [pa.field("scores", scores)]
        return pa.schema([*columns, *input_columns(self.settings)])

    def run_config(self, folder: Path) -> dict[str, Any]:
        """The task, the problem type, the label names, and the pooling and thresholds in force.

        Raises:
            ValueError: the folder's weights are not a classifier's.
            UsageError: two classes share a name, or a threshold has an unknown label.
        """
        from pipeline.tasks.classifier import LoadedClassifier

        LoadedClassifier.check(folder)
        config = LEDConfig.from_pretrained(folder)
        names = list(config.labels.values())
        if len(set(names)) != len(names):
            raise UsageError(
                f"--model {self.settings.model}: id2label in config.json gives two classes one name: {names}."
            )
        return {
            "task": self.name,
            "problem_type": self.problem(config),
            "labels": names,
            "pooling": self.pooling(config),
            "thresholds": self.thresholds(config),
            **input_config(self.settings, folder),
        }

    def problem(self, config: LEDConfig) -> str:
        """The checkpoint's problem type. Without one, a single label means regression, several mean one of
        them holds."""
        return config.problem_type or (
            "regression" if config.num_labels == 1 else "single_label_classification"
        )

    def pooling(self, config: LEDConfig) -> str:
        """How the logits of chunks are pooled."""
        return self.settings.pooling or default_pooling(self.problem(config))

    def thresholds(self, config: LEDConfig) -> dict[str, float]:
        """The probability from which each label is assigned.

        Raises:
            UsageError: a threshold has an unknown label, or the checkpoint is a regression.
        """
        settings, names, problem = self.settings, list(config.labels.values()), self.problem(config)
        if problem == "regression":
            if settings.threshold is not None or settings.label_thresholds:
                raise UsageError(
                    "--threshold is for labels; this checkpoint gives values (problem_type regression)."
                )
            return {}
        general = settings.threshold
        if general is None:
            general = 0.5 if problem == "multi_label_classification" else 0.0
        thresholds = dict.fromkeys(names, general)
        for entry in settings.label_thresholds:
            name, _, value = entry.rpartition("=")
            if name not in thresholds:
                known = ", ".join(names)
                raise UsageError(
                    f"--label-thresholds {entry}: the checkpoint has no label {name!r}; it has {known}."
                )
            thresholds[name] = float(value)
        return thresholds

    def describe_settings(self, folder: Path) -> str:
        """The input settings in force."""
        return describe_inputs(self.settings, folder)

    def input_limits(self, folder: Path) -> InputLimits:
        """Whole documents, in chunks."""
        limit = LEDConfig.from_pretrained(folder).max_input_tokens
        return replace(chunked_input_limits(self.settings, limit), prefix=self.settings.prefix or "")

    def expand_rows(self, document: Document) -> list[RequestedRow]:
        """One row per document.

        Raises:
            ValueError: the prefix is not a text, or the spans of global tokens are malformed.
        """
        return [requested_row(self.settings, document.values)]

    def encode(
        self, tokenizer: LEDTokenizer, documents: Sequence[RowInput], limits: InputLimits
    ) -> list[ModelInput]:
        """`<s> text </s>`, truncated only if --max-input-tokens is set."""
        return encode_documents(tokenizer, documents, limits, self.settings, in_chunks=True)

    def load(self, folder: Path) -> LoadedClassifier:
        """The classifier with its weights."""
        from pipeline.tasks.classifier import LoadedClassifier

        return LoadedClassifier(self.settings, self.run_config(folder), folder)

    @classmethod
    def describe(cls, row: Row) -> tuple[str, str]:
        """The number of chunks, and the labels or the value."""
        labels = ", ".join(row["labels"] or [row["label"] or "no label"])
        return f"{row['chunks']} chunks, score {row['label_score']:.3f}", labels
