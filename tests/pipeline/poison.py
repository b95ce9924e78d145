"""A summarizer for tests that fails at some documents: by an error, out of memory, or a killed process."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.tasks.base import LoadedTask, ModelInput, Row
from pipeline.tasks.summarize import Summarize
from pipeline.tasks.text_generator import LoadedTextTask

KILLS = "gallery gallery gallery"
BREAKS = "rose rose rose rose"
TOO_LARGE = "seven seven seven seven"


@dataclass(frozen=True)
class BrittleSummarize(Summarize):
    """Raises inside the model at texts that begin with `BREAKS`, and runs out of memory at `TOO_LARGE`.

    Texts that begin with `KILLS` kill the process, as the kernel does if memory is short.
    """

    def load(self, folder: Path) -> LoadedTask:
        """The summarizer, with these failures."""
        return _Brittle(super().load(folder))


class _Brittle:
    measured: ClassVar[dict[str, float]] = {}
    hardware: ClassVar[dict[str, str]] = {}

    def __init__(self, loaded: LoadedTextTask) -> None:
        self.loaded, self.fatal, self.release_memory = loaded, loaded.fatal, loaded.release_memory
        self.breaks, self.too_large, self.kills = (
            loaded.tokenizer.encode(text)[1:-1] for text in (BREAKS, TOO_LARGE, KILLS)
        )

    def predict(self, documents: Iterable[ModelInput | None]) -> Iterator[tuple[int, Row]]:
        taken: list[ModelInput] = []

        def checked() -> Iterator[ModelInput | None]:
            for document in documents:
                if document is not None:
                    taken.append(document)
                    if _begins(document, self.kills):
                        os.kill(os.getpid(), signal.SIGKILL)
                    if _begins(document, self.too_large):
                        raise RuntimeError(
                            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
                        )
                yield document

        for i, row in self.loaded.predict(checked()):
            if _begins(taken[i], self.breaks):
                raise KeyError("position 7")
            yield i, row


@dataclass(frozen=True)
class UnwellSummarize(Summarize):
    """Raises outside the model, as if the disk were full."""

    def load(self, folder: Path) -> LoadedTask:
        """A model that always raises."""
        return _Unwell()


class _Unwell:
    fatal: ClassVar[tuple[type[Exception], ...]] = ()
    hardware: ClassVar[dict[str, str]] = {}

    @property
    def measured(self) -> dict[str, float]:
        raise OSError(errno.ENOSPC, "No space left on device")

    def predict(self, documents: Iterable[ModelInput | None]) -> Iterator[tuple[int, Row]]:
        for i, _ in enumerate(document for document in documents if document is not None):
            yield i, {}

    def release_memory(self) -> None:
        pass


def _begins(document: ModelInput, tokens: list[int]) -> bool:
    return list(document.input_ids[1 : 1 + len(tokens)]) == tokens


class BrittleTask(BrittleSummarize):
    """The same as a task of one's own."""

    name = "brittle"
