"""The classification task: documents to labels, with global attention on `<s>`.

The logits of a document's chunks are pooled before they become probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from led.config import LEDConfig
from led.pipelines.chunking import default_pooling
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import UsageError
from pipeline.settings import ClassifySettings
from pipeline.tasks.base import Document, InputLimits, ModelInput, Row, chunked_input, chunked_input_limits

if TYPE_CHECKING:
    from pipeline.tasks.classifier import LoadedClassifier


@dataclass(frozen=True)
class Classify:
    """Documents to labels."""

    settings: ClassifySettings

    title = "Classification"

    @property
    def columns(self) -> pa.Schema:
        """The best label with its probability (for regression the value), the assigned labels, and all
        scores."""
        scores = pa.list_(pa.struct([pa.field("label", pa.string()), pa.field("score", pa.float32())]))
        columns = [pa.field("label", pa.string()), pa.field("label_score", pa.float32())]
        columns.append(pa.field("labels", pa.list_(pa.string())))
        return pa.schema(columns if self.settings.labels_only else [*columns, pa.field("scores", scores)])

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
            "task": "classify",
            "problem_type": self.problem(config),
            "labels": names,
            "pooling": self.pooling(config),
            "thresholds": self.thresholds(config),
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
        """Nothing: the checkpoint decides no setting of generation."""
        return ""

    def input_limits(self, folder: Path) -> InputLimits:
        """Whole documents, in chunks."""
        return chunked_input_limits(self.settings, folder)

    def expand_rows(self, values: Mapping[str, Any]) -> list[Row]:
        """One row per document."""
        return [{}]

    def encode(
        self, tokenizer: LEDTokenizer, documents: Sequence[Document], limits: InputLimits
    ) -> list[ModelInput]:
        """`<s> text </s>`, truncated only if --max-input-tokens is set."""
        encodings = tokenizer.encode_batch([document.text for document in documents])
        return [chunked_input(encoding.ids, 1, limits) for encoding in encodings]

    def load(self, folder: Path) -> LoadedClassifier:
        """The classifier with its weights."""
        from pipeline.tasks.classifier import LoadedClassifier

        return LoadedClassifier(self.settings, self.input_limits(folder), self.run_config(folder), folder)

    @staticmethod
    def describe(row: Row) -> tuple[str, str]:
        """The number of chunks, and the labels or the value."""
        labels = ", ".join(row["labels"] or [row["label"] or "no label"])
        return f"{row['chunks']} chunks, score {row['label_score']:.3f}", labels
