"""The classification task with its model in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from led.heads.sequence_classification import LEDForSequenceClassification
from led.pipelines.chunk_reader import pool_logits
from pipeline.tasks.base import ModelInput, Row
from pipeline.tasks.loaded import LoadedModel, read_documents
from pipeline.tasks.settings import ClassifySettings


class LoadedClassifier(LoadedModel[LEDForSequenceClassification]):
    """Labels documents."""

    model_class = LEDForSequenceClassification

    def __init__(self, settings: ClassifySettings, config: Mapping[str, Any], folder: Path) -> None:
        """`config` is the task's run config: problem type, pooling and thresholds."""
        super().__init__(settings, folder)
        self.settings = settings
        self.problem, self.pooling = config["problem_type"], config["pooling"]
        self.thresholds = config["thresholds"]

    def predict(self, documents: Iterable[ModelInput | None]) -> Iterator[tuple[int, Row]]:
        """Yield the labels of each document."""
        for i, _, _, logits in read_documents(self.model, documents, self.settings):
            yield i, self._row(pool_logits(torch.stack(logits), self.pooling))

    def _row(self, logits_C: torch.Tensor) -> Row:
        names = list(self.model.config.labels.values())
        multi_label = self.problem == "multi_label_classification"
        if self.problem == "regression":
            values = logits_C
        else:
            values = logits_C.sigmoid() if multi_label else logits_C.softmax(-1)
        scores = dict(zip(names, values.tolist(), strict=True))
        best = max(scores, key=lambda name: scores[name])
        row: Row = {"label": None, "label_score": scores[best], "labels": None}
        if self.problem != "regression":
            candidates = names if multi_label else [best]
            assigned = [name for name in candidates if scores[name] >= self.thresholds[name]]
            assigned.sort(key=lambda name: -scores[name])
            row |= {"label": assigned[0] if assigned else None, "labels": assigned}
        if not self.settings.labels_only:
            row["scores"] = [{"label": name, "score": score} for name, score in scores.items()]
        return row
