"""Tasks that generate text: documents to one text each, and the text to the columns of a row.

A task of one's own is a subclass of `TextTask` with settings, columns, `inputs` and `row`. Summarization is
one as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import pyarrow as pa

from led.config import LEDConfig
from led.generation.config import GenerationConfig
from led.generation.task_settings import TaskSettings, task_settings
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import UsageError
from pipeline.schema import LEVELS
from pipeline.settings import DECODING
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
from pipeline.tasks.generated import GENERATION, Generated, called_safely, check_columns
from pipeline.tasks.inputs import (
    describe_inputs,
    encode_documents,
    input_columns,
    input_config,
    requested_row,
)
from pipeline.tasks.settings import TextSettings

if TYPE_CHECKING:
    from led.pipelines.overflow import OverflowRules
    from pipeline.tasks.text_generator import LoadedTextTask


@dataclass(frozen=True)
class TextInput:
    """What the model reads for one row: a text, and the columns of the row that are known already."""

    text: str
    columns: Mapping[str, Any]


Inputs: TypeAlias = str | TextInput | Sequence[str | TextInput]


@dataclass(frozen=True)
class TextTask(Task):
    """A task that generates text with `LEDForConditionalGeneration`.

    A subclass sets `name` and `columns`, and defines `row`. It may define `inputs`, settings of its own
    (`settings_class`, a subclass of `TextSettings`), and the other class attributes of `Task`. Without
    `result_column`, that is the first of `columns`. `generation_task` is the entry of the checkpoint's
    `task_specific_params` that applies.

    The plan identifies a task of one's own by the content of its file. With a `version`, it does so by the
    version instead. Raise it when the rows change.
    """

    settings: TextSettings

    settings_class = TextSettings
    score_column = "score"
    columns: ClassVar[pa.Schema] = pa.schema([])
    generation_task: ClassVar[str] = "summarization"
    version: ClassVar[str | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "title"):
            cls.title = cls.__name__
        if "columns" in vars(cls) and "result_column" not in vars(cls) and len(cls.columns):
            cls.result_column = cls.columns.names[0]

    def inputs(self, document: Document) -> Inputs:
        """What the model reads of a document: a text, or a list of texts, one for each row. By default it is
        the document's own text. A list needs a `number_column`.

        Raises:
            ValueError: the document has no valid input. It fails with that reason.
        """
        return document.text

    def row(self, generated: Generated) -> Row:
        """The values of `columns` for what the model wrote.

        Raises:
            ValueError: the text is not a valid result. The row fails with that reason.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no row().")

    @property
    def keeps_input(self) -> bool:
        """Whether `row` needs the text that the model read."""
        return False

    @property
    def collects_attention(self) -> bool:
        """Whether `row` needs the cross-attention profile."""
        return False

    @property
    def tokens_per_input(self) -> float | None:
        """The longest output as a share of the input tokens that it covers, beside `max_new_tokens`."""
        return None

    @property
    def hashes_text_alone(self) -> bool:
        return super().hashes_text_alone and self.settings.prefix_column is None and not self._has_own_inputs

    @property
    def _has_own_inputs(self) -> bool:
        return type(self).inputs is not TextTask.inputs

    @property
    def row_schema(self) -> pa.Schema:
        """The columns that `row` may return."""
        return self.columns

    @property
    def schema(self) -> pa.Schema:
        """The task's own columns, how generation ended, and what the settings choose more."""
        number = [pa.field(self.number_column, pa.int32())] if self.number_column else []
        levels = LEVELS if self.settings.overflow != "truncate" else ()
        return pa.schema([*number, *self.columns, *GENERATION, *levels, *input_columns(self.settings)])

    def in_force(self, folder: Path) -> TaskSettings:
        """The generation settings in force for the checkpoint in `folder`, and where each comes from."""
        given = {name: getattr(self.settings, name) for name in DECODING}
        config, generation = LEDConfig.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
        generation = generation.updated(num_return_sequences=1)
        defaults = self.settings.generation_defaults == "pipeline"
        in_force = task_settings(config, generation, self.generation_task, given, defaults=defaults)
        prefix = self.settings.prefix
        return in_force if prefix is None else replace(in_force, prefix=prefix, prefix_source="given")

    def run_config(self, folder: Path) -> dict[str, Any]:
        """The task and the generation config in force.

        Raises:
            ValueError: the folder's weights are not a generating model's, or a setting does not fit the
                model.
            UsageError: chunks of this length cannot be fused.
        """
        from pipeline.tasks.text_generator import LoadedTextTask

        LoadedTextTask.check(folder)
        in_force = self.in_force(folder)
        longest = in_force.generation.max_sequence_length(LEDConfig.from_pretrained(folder))
        try:
            self.overflow_rules(folder).check(in_force.generation, longest - 1)
        except ValueError as error:
            raise UsageError(f"--overflow {self.settings.overflow}: {error}") from error
        generation = asdict(in_force.generation)
        return {"task": self.name, "generation": generation, **input_config(self.settings, folder)}

    def describe_settings(self, folder: Path) -> str:
        """The settings of generation and input in force."""
        return f"{self.in_force(folder).describe()}, {describe_inputs(self.settings, folder)}"

    def input_limits(self, folder: Path) -> InputLimits:
        """--max-input-tokens, by default the encoder's limit. With --overflow, whole documents in chunks.

        Raises:
            UsageError: --max-input-tokens or a chunk exceeds the encoder's limit.
        """
        limit = LEDConfig.from_pretrained(folder).max_encoder_position_embeddings
        if self.settings.overflow != "truncate":
            limits = chunked_input_limits(self.settings, limit, overlap=0, ends="sentence")
            return replace(limits, prefix=self.in_force(folder).prefix)
        tokens = self.settings.max_input_tokens or limit
        if tokens > limit:
            raise UsageError(f"--max-input-tokens is {tokens}; this model reads at most {limit} tokens.")
        return InputLimits(tokens, tokens, prefix=self.in_force(folder).prefix)

    def overflow_rules(self, folder: Path) -> OverflowRules:
        """How the texts of several chunks become one."""
        from led.pipelines.overflow import OverflowRules

        chunks = self.input_limits(folder).chunk_rules
        return OverflowRules(self.settings.overflow, chunks, self.tokens_per_input)

    def expand_rows(self, document: Document) -> list[RequestedRow]:
        """One row for each input.

        Raises:
            ValueError: `inputs` refuses the document, the prefix is not a text, or the spans of global tokens
                are malformed.
        """
        row = requested_row(self.settings, document.values)
        if document.texts is None or not self._has_own_inputs:
            return [row]
        rows = []
        for read in called_safely("inputs", lambda: self._listed_inputs(document)):
            if not isinstance(read.text, str) or not read.text.strip():
                raise ValueError("inputs() returned no text")
            check_columns("inputs", read.columns, self.columns)
            rows.append(row._replace(known_columns={**row.known_columns, **read.columns}, text=read.text))
        if not rows:
            raise ValueError("inputs() returned no text")
        return rows

    def _listed_inputs(self, document: Document) -> list[TextInput]:
        """What `inputs` returns, as a list."""
        inputs = self.inputs(document)
        if isinstance(inputs, str | TextInput):
            inputs = [inputs]
        elif not isinstance(inputs, list | tuple):
            raise ValueError(
                f"inputs() returned {type(inputs).__name__}; it must return a text or a list of texts"
            )
        elif self.number_column is None:
            raise UsageError(
                f"inputs() of the task {self.name} returns a list; set number_column, the column that "
                "numbers the rows of a document."
            )
        return [given if isinstance(given, TextInput) else TextInput(given, {}) for given in inputs]

    def encode(
        self, tokenizer: LEDTokenizer, documents: Sequence[RowInput], limits: InputLimits
    ) -> list[ModelInput]:
        """`<s> text </s>`, in chunks or truncated at the limit. `</s>` stays."""
        in_chunks = self.settings.overflow != "truncate"
        inputs = encode_documents(tokenizer, documents, limits, self.settings, in_chunks=in_chunks)
        if not self.keeps_input:
            return inputs
        return [replace(i, text=d.whole_text) for i, d in zip(inputs, documents, strict=True)]

    def load(self, folder: Path) -> LoadedTextTask:
        """The model with its weights."""
        from pipeline.tasks.text_generator import LoadedTextTask

        return LoadedTextTask(self, self.in_force(folder).generation, self.overflow_rules(folder), folder)
