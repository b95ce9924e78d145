"""What a model wrote for one row, and the task that turns it into columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pipeline.errors import PipelineError, one_line
from pipeline.tasks.base import Row
from pipeline.tasks.settings import TextSettings

# Columns of every row of these tasks: how generation ended.
GENERATION = (
    pa.field("output_tokens", pa.int32()),
    pa.field("finish_reason", pa.string()),
    pa.field("score", pa.float32()),
)


@dataclass(frozen=True)
class TextPart:
    """The text that the model wrote for the characters `start` to `end`, exclusive, of its input."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Generated:
    """What the model wrote for one row.

    `score` is that of the search, and `mean_log_probability` the mean over tokens. `finish_reason` is `stop`,
    or `length` if the text was cut at its longest. `parts` are the texts of the chunks, in order: one if the
    input was read at once. `input` is what the model read, None unless `TextTask.keeps_input`.
    `attention_profile` is None unless `TextTask.collects_attention`.
    """

    text: str
    output_tokens: int
    finish_reason: str
    score: float
    mean_log_probability: float
    parts: tuple[TextPart, ...]
    input: str | None = None
    attention_profile: list[float] | None = None


class TextToRow(Protocol):
    """The part of a `TextTask` that its loaded half needs."""

    @property
    def settings(self) -> TextSettings:
        """The settings of the run."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the task's rows."""

    @property
    def row_schema(self) -> pa.Schema:
        """The columns that `row` may return."""

    @property
    def collects_attention(self) -> bool:
        """Whether `row` needs the cross-attention profile."""

    def row(self, generated: Generated) -> Row:
        """The values of the task's own columns."""


def called_safely(name: str, call: Any) -> Any:
    """The result of a method of a task of one's own. Whatever it raises is the reason why a document fails.

    Raises:
        ValueError: it raised something. A ValueError keeps its message.
        PipelineError: it raised that.
    """
    try:
        return call()
    except (ValueError, PipelineError):
        raise
    except Exception as error:
        raise ValueError(f"{name}() raised {type(error).__name__}: {one_line(error)}") from error


def check_columns(method: str, row: Any, schema: pa.Schema) -> None:
    """Check that what a `method` of a task returned has columns of `schema` only, with values of their types.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{method}() returned {type(row).__name__}; it must return values by column")
    for name, value in row.items():
        if name not in schema.names:
            raise ValueError(f"{method}() returned the column {name!r}, which the task does not declare")
        try:
            pa.array([value], schema.field(name).type)
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise ValueError(
                f"{method}() returned a {type(value).__name__} for the column {name!r}, which holds "
                f"{schema.field(name).type} ({one_line(error)})"
            ) from error
