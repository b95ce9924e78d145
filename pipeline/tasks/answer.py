"""The question-answering task: answers are spans of the document, one row per document and question.

The tokens of the question have global attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from led.config import LEDConfig
from led.pipelines.chunking import chunk_document, truncate
from led.pipelines.inputs import characters_after, tokens_in_spans
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.checkpoint import load_tokenizer
from pipeline.errors import UsageError
from pipeline.schema import GLOBAL_TOKENS
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
    input_columns,
    input_config,
    input_rules,
    spans_in,
)
from pipeline.tasks.settings import AnswerSettings

if TYPE_CHECKING:
    from pipeline.tasks.answerer import LoadedAnswerer

# Without --global-attention, the tokens of the question have it.
_OWN_RULES = ("question",)

_SPAN = pa.struct(
    [
        pa.field("answer", pa.string()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
        pa.field("score", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Answer(Task):
    """Questions over documents to answers."""

    settings: AnswerSettings
    questions: tuple[str, ...] = ()

    settings_class = AnswerSettings
    name = "answer"
    title = "Question answering"
    result_column = "answer"
    score_column = "answer_score"
    number_column = "question_number"
    evaluation = "answers"
    hashed_config = ("questions",)

    @property
    def schema(self) -> pa.Schema:
        """The question, the best answer, and further answers."""
        columns = [
            pa.field(self.number_column, pa.int32()),
            pa.field("question", pa.string()),
            pa.field("answer", pa.string()),
            pa.field("answer_start", pa.int32()),
            pa.field("answer_end", pa.int32()),
            pa.field("answer_score", pa.float32()),
            pa.field("null_score", pa.float32()),
            pa.field("answers", pa.list_(_SPAN)),
        ]
        return pa.schema([*columns, *input_columns(self.settings)])

    @classmethod
    def of(cls, settings: AnswerSettings) -> Answer:
        """The task with the questions of the settings.

        Raises:
            UsageError: the file of questions cannot be read, or a question is empty.
        """
        questions, source = settings.question, "--question"
        if settings.questions_file is not None:
            source = f"--questions-file {settings.questions_file}"
            try:
                lines = Path(settings.questions_file).read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"{source} cannot be read: {error}") from error
            questions = tuple(line.strip() for line in lines if line.strip())
            if not questions:
                raise UsageError(f"{source} has no questions; write one per line.")
        if any(not question.strip() for question in questions):
            raise UsageError(f"{source} is empty; write a question.")
        return cls(settings, questions)

    def run_config(self, folder: Path) -> dict[str, Any]:
        """The task and its questions.

        Raises:
            ValueError: the folder's weights are not a question-answering model's.
            UsageError: a question leaves no room for the document.
        """
        from pipeline.tasks.answerer import LoadedAnswerer

        LoadedAnswerer.check(folder)
        tokenizer = load_tokenizer(folder, self.settings.special_tokens)
        limit = self.input_limits(folder).chunk_tokens
        for question in self.questions:
            length = len(tokenizer.encode(question)) + 2
            if length >= limit:
                raise UsageError(
                    f"--question {question[:60]!r}… has {length} tokens with the special tokens; a chunk has "
                    f"{limit}, document included. Shorten the question."
                )
        return {
            "task": self.name,
            "questions": {"of all": list(self.questions), "in column": self.settings.question_column},
            **input_config(self.settings, folder),
        }

    def describe_settings(self, folder: Path) -> str:
        """The input settings in force."""
        return describe_inputs(self.settings, folder, _OWN_RULES)

    def input_limits(self, folder: Path) -> InputLimits:
        """Whole documents, in chunks."""
        return chunked_input_limits(self.settings, LEDConfig.from_pretrained(folder).max_input_tokens)

    def expand_rows(self, document: Document) -> list[RequestedRow]:
        """One row per question.

        Raises:
            ValueError: the document has no question, a record of its questions has no field `question`, or
                the spans of global tokens are malformed.
            UsageError: the column does not hold questions.
        """
        values, column = document.values, self.settings.question_column
        questions = list(self.questions) if column is None else _questions_in(values[column], column)
        if not questions:
            raise ValueError(f"the document has no question in column {column!r}")
        spans = spans_in(values, self.settings.span_column)
        return [RequestedRow({"question": question}, spans) for question in questions]

    def encode(
        self, tokenizer: LEDTokenizer, documents: Sequence[RowInput], limits: InputLimits
    ) -> list[ModelInput]:
        """`<s> question </s></s> text </s>`. Each text is tokenized once for all its questions.

        Raises:
            ValueError: a question is empty, or leaves no room for the document.
        """
        texts = list(dict.fromkeys(document.whole_text for document in documents))
        limit, count = limits.max_input_tokens, self.settings.count_truncated_tokens
        encodings = dict(zip(texts, tokenizer.encode_texts(texts, limit, count=count), strict=True))
        rules = input_rules(tokenizer, self.settings, _OWN_RULES).global_tokens
        with_counts = bool(input_columns(self.settings))
        inputs = []
        for document in documents:
            text, question = document.whole_text, document.row.known_columns["question"]
            if not (question or "").strip():
                raise ValueError("the question is empty")
            asked = tokenizer.encode(question)
            leading = [*asked, asked[-1]]
            encoding = encodings[text]
            ids, dropped = truncate([*leading, *encoding.ids[1:]], limit)
            omitted = None if encoding.omitted is None else encoding.omitted + dropped
            marked = tokens_in_spans(encoding.offsets, document.row.spans, len(text))
            positions = rules.positions(ids, len(leading), [i + len(leading) - 1 for i in marked])
            columns = {GLOBAL_TOKENS.name: len(positions)} if with_counts else {}
            read = encoding.offsets[1 : len(ids) - len(leading)]
            chunks = chunk_document(text, read, len(leading), limits.chunk_rules)
            cut = characters_after(read, len(text), omitted)
            inputs.append(ModelInput(ids, positions, len(leading), omitted, cut, chunks, text, columns))
        return inputs

    def load(self, folder: Path) -> LoadedAnswerer:
        """The question-answering model with its weights."""
        from pipeline.tasks.answerer import LoadedAnswerer

        return LoadedAnswerer(self.settings, folder)

    @classmethod
    def describe(cls, row: Row) -> tuple[str, str]:
        """The question, and the answer."""
        scores = f"score {row['answer_score']:.3f}, none {row['null_score']:.3f}"
        return f"{row['question']} {row['chunks']} chunks, {scores}", row["answer"] or "no answer"


def _questions_in(value: Any, column: str) -> list[str | None]:
    """The questions in a value of the column: a text, or a list of texts or of records with a field
    `question`."""
    if value is None:
        return []
    questions = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict) and "question" not in item:
            raise ValueError(f"a record in column {column!r} has no field `question`")
        question = item["question"] if isinstance(item, dict) else item
        if question is not None and not isinstance(question, str):
            raise UsageError(
                f"--question-column {column} holds {type(question).__name__}; it must hold texts, lists of "
                "texts, or lists of records with a field `question`."
            )
        questions.append(question)
    return questions
