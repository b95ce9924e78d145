"""The chunks of many documents, in the order in which a scheduler admits them.

Chunks are requests of their own. Documents start in their order. A level that is added to a document comes
before chunks that have not started, so a document is not held up by those behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from led.generation.scheduler import Request
from led.generation.search import Hypotheses
from led.pipelines.chunking import Chunk, ChunkInput, chunk_inputs


@dataclass(frozen=True)
class LongDocument:
    """A document as model input, with its chunks. Without any, it is read at once. See `EncodedInput`."""

    input_ids: Sequence[int]
    global_positions: Sequence[int]
    leading: int
    chunks: Sequence[Chunk] = ()


@dataclass
class Level:
    """The chunks of one level, and what was written for each, also as text. `length` has no special tokens.

    `owner` (length,) is the chunk of the level below whose summary each token belongs to.
    """

    chunks: Sequence[Chunk]
    inputs: list[ChunkInput]
    length: int
    owner: Tensor | None = None
    written: dict[int, Hypotheses] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.written) == len(self.inputs)

    @property
    def attentions(self) -> list[Tensor]:
        """(n,) the cross-attention of each chunk's summary to its n tokens."""
        found = [self.written[i].attention for i in range(len(self.inputs))]
        return [attention for attention in found if attention is not None]

    def over_tokens(self, attentions: Sequence[Tensor]) -> Tensor:
        """(length,) the sum of these attentions to the chunks' tokens.

        That to a chunk's first special tokens and prefix counts for its first token, that to its last one for
        its last token.
        """
        total = torch.zeros(max(1, self.length))
        for chunk, attention in zip(self.inputs, attentions, strict=True):
            positions = torch.arange(len(attention)) - chunk.offset + chunk.start
            last = max(chunk.start, chunk.end - 1)
            total.index_add_(0, positions.clamp(chunk.start, last), attention)
        return total


@dataclass
class Progress:
    """A document and its levels so far. `is_stuck` says that further levels would not get shorter."""

    leading_ids: list[int]
    levels: list[Level]
    is_stuck: bool = False


class ChunkQueue:
    """The requests of all chunks of `documents`, and which of them are running.

    `documents` yields None if no document is ready although more may follow. `request` makes the request of
    chunk i of a document's level. With `one_at_a_time`, no two chunks run
    together.
    """

    def __init__(
        self,
        documents: Iterable[LongDocument | None],
        request: Callable[[Progress, Level, int], Request],
        *,
        one_at_a_time: bool,
    ) -> None:
        self._documents, self._has_more = iter(documents), True
        self._request, self._one_at_a_time = request, one_at_a_time
        self._started = 0
        self._open: dict[int, Progress] = {}
        self._ready: deque[tuple[int, Level, int]] = deque()
        self._running: dict[int, tuple[int, Level, int]] = {}
        self._count = 0

    def requests(self) -> Iterator[Request | None]:
        """Yield the next request, or None while every remaining one waits for a result or is not ready."""
        while True:
            if not self._ready and self._has_more:
                self._start_next()
            if self._ready and not (self._one_at_a_time and self._running):
                index, level, i = self._ready.popleft()
                self._running[self._count] = index, level, i
                self._count += 1
                yield self._request(self._open[index], level, i)
            elif self._open or self._has_more:
                yield None
            else:
                return

    def _start_next(self) -> None:
        try:
            document = next(self._documents)
        except StopIteration:
            self._has_more = False
            return
        if document is None:
            return
        index = self._started
        self._started += 1
        ids, leading = document.input_ids, document.leading
        length = len(ids) - leading - 1
        chunks = document.chunks or (Chunk(0, length, 0, 0),)
        inputs = chunk_inputs(ids, leading, document.global_positions, chunks)
        self._open[index] = Progress(list(ids[:leading]), [])
        self.add_level(index, Level(chunks, inputs, length))

    def add_level(self, index: int, level: Level) -> None:
        """Queue the chunks of a document's next level before all that have not started."""
        self._open[index].levels.append(level)
        self._ready.extendleft((index, level, i) for i in reversed(range(len(level.inputs))))

    def finish(self, number: int, hypotheses: Hypotheses) -> tuple[int, Level, Progress]:
        """Store the result of request `number`. Returns its document, and the level it belongs to."""
        index, level, i = self._running.pop(number)
        level.written[i] = hypotheses
        return index, level, self._open[index]

    def close(self, index: int) -> None:
        """Forget a document that is done."""
        del self._open[index]

    def describe_running(self) -> str | None:
        """The chunk being decoded, in words, if it is the only one."""
        if len(self._running) != 1:
            return None
        [(index, level, i)] = self._running.values()
        levels, chunk, count = self._open[index].levels, level.chunks[i], len(level.inputs)
        if len(levels) > 1:
            return f"chunk {i + 1} of {count} of level {len(levels)}"
        return f"chunk {i + 1} of {count}, characters {chunk.first_character} to {chunk.last_character}"
