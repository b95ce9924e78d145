"""A checkpoint in memory, prepacked for inference: what the loaded halves of all tasks share."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from led.generation.limits import SchedulerLimits
from led.generation.memory_budget import usable_cpus
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.model.inference_packing import inference_dtype
from led.model.pretrained import LEDPreTrainedModel
from led.ops.cpu_capabilities import cpu
from led.pipelines.chunk_reader import read_chunks
from led.pipelines.chunking import ChunkInput
from pipeline.settings import RunSettings
from pipeline.tasks.base import ModelInput, chunks_of

M = TypeVar("M", bound=LEDPreTrainedModel)


class LoadedModel(Generic[M]):
    """The checkpoint in `folder`, with the dtype and device of the settings, prepacked for inference."""

    model_class: ClassVar[type[LEDPreTrainedModel]]
    fatal: tuple[type[Exception], ...] = (
        (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
    )

    @property
    def measured(self) -> dict[str, float]:
        """Nothing, unless a task measures something."""
        return {}

    def __init__(self, settings: RunSettings, folder: Path) -> None:
        torch.set_num_threads(settings.threads)
        int8 = settings.precision == "int8"
        device = torch.device("cuda" if settings.gpus else "cpu")
        dtype = torch.float32 if int8 else inference_dtype(getattr(torch, settings.precision), device)
        model = self.model_class.from_pretrained(folder, dtype=dtype, device=device)
        self.model: M = model.pack(int8=int8)  # type: ignore[assignment]
        self.hardware = {
            "processor": torch.cuda.get_device_name(device) if settings.gpus else cpu().describe(),
            "dtype": "int8" if int8 else str(dtype).removeprefix("torch."),
        }

    @classmethod
    def check(cls, folder: Path) -> None:
        """Check that the folder's weights are those of `model_class`, without loading them.

        Raises:
            ValueError: they are not.
        """
        cls.model_class.check_pretrained(folder)

    def release_memory(self) -> None:
        """Free what a failed batch still holds."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def replicas_sharing_memory(settings: RunSettings) -> float:
    """Replicas that share the free memory of a machine or GPU: at most one per CPU, and at most as many as
    the run starts."""
    if settings.gpus:
        return 1 / settings.gpus
    replicas = max(1, usable_cpus() // settings.threads)
    return min(replicas, settings.max_replicas or settings.replicas or replicas)


def read_documents(
    model: LEDForSequenceClassification | LEDForQuestionAnswering,
    documents: Iterable[ModelInput | None],
    settings: RunSettings,
) -> Iterator[tuple[int, ModelInput, list[ChunkInput], list[Any]]]:
    """Yield (index of the document, the document, its chunks, the model's output for each chunk). Documents
    are packed together."""
    max_tokens = SchedulerLimits(max_num_batched_tokens=settings.max_num_batched_tokens).num_batched_tokens(
        model.device.type
    )
    number = 0
    for group in _packs(documents, max_tokens):
        chunks = [chunks_of(document) for document in group]
        outputs = iter(read_chunks(model, [chunk for parts in chunks for chunk in parts], max_tokens))
        for document, parts in zip(group, chunks, strict=True):
            yield number, document, parts, [next(outputs) for _ in parts]
            number += 1


def _packs(documents: Iterable[ModelInput | None], budget: int) -> Iterator[list[ModelInput]]:
    """Groups of documents with at most `budget` tokens together, or one longer document."""
    group: list[ModelInput] = []
    tokens = 0
    for document in documents:
        length = 0 if document is None else len(document.input_ids)
        if group and (document is None or tokens + length > budget):
            yield group
            group, tokens = [], 0
        if document is not None:
            group.append(document)
            tokens += length
    if group:
        yield group
