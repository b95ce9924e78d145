"""The extension point: a task turns documents into model inputs and model outputs into rows.

A new task is one class here, with another for its model in memory (models.py). It says how a text is encoded, with which
global tokens, how outputs are made, and which columns come of it; reading, ordering, failing alone and committing are the same
for all.

Processes that only read or commit have no need of torch, so models are imported where one is loaded or checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from led.config import LEDConfig
from led.generation_config import GenerationConfig
from led.tokenizer import LEDTokenizer
from led.windows import cut, pooling_of
from pipeline.schema import FLAGS, NUMBER, QUESTIONS
from pipeline.settings import DECODING, AnswerSettings, ClassifySettings, RunSettings, SummarizeSettings
from pipeline.errors import UsageError
from pipeline.tasks.quality import QUALITY
from pipeline.tasks.base import Document, ModelInput, Reading, Row, windowed_input, windowed_reading

if TYPE_CHECKING:
    from pipeline.tasks.models import LoadedAnswerer, LoadedClassifier, LoadedSummarizer


class LoadedTask(Protocol):
    """A task with its model in memory; `measured` adds up what its work took, numbers by name.

    After an error that is `fatal` nothing runs in this process any more: it is no document's fault.
    """

    measured: dict[str, float]
    fatal: tuple[type[Exception], ...]

    def predict(self, documents: Sequence[ModelInput]) -> Iterator[tuple[int, Row]]:
        """(number of the document, what the model says of it as task columns), in any order."""

    def make_room(self) -> None:
        """Give back what a batch held that failed."""


class Task(Protocol):
    """What the pipeline asks of a task. A task is small and travels to the workers; `load` brings the weights in there."""

    title: str

    @property
    def columns(self) -> pa.Schema:
        """The columns that its rows have beside those of all tasks."""

    @property
    def settings(self) -> RunSettings:
        """The settings of the run."""

    def facts(self, folder: Path) -> dict[str, Any]:
        """What its rows depend on besides the run's settings and the weights; checks that task and checkpoint fit."""

    def reading(self, folder: Path) -> Reading:
        """How long documents are read; checks the settings against the checkpoint."""

    def rows_of(self, values: Mapping[str, Any]) -> list[Row]:
        """The rows that a document gives whose input columns have these values, each with its columns that are known
        beforehand; raises ValueError where it can give none, and the document fails with that reason."""

    def encode(self, tokenizer: LEDTokenizer, documents: Sequence[Document], reading: Reading) -> list[ModelInput]:
        """Model inputs for these documents."""

    def load(self, folder: Path) -> LoadedTask:
        """The task with the checkpoint in `folder` in memory."""

    @staticmethod
    def describe(row: Row) -> tuple[str, str]:
        """What the report shows of a written row: what to know of it, and its outcome."""


@dataclass(frozen=True)
class Summarize:
    """Documents to summaries, with global attention on `<s>`."""

    settings: SummarizeSettings

    title = "Summarization"

    @property
    def columns(self) -> pa.Schema:
        """The summary and how it ended; what may be worth a look, where that is asked for."""
        columns = [
            pa.field("summary", pa.string()),
            pa.field("output_tokens", pa.int32()),
            pa.field("finish_reason", pa.string()),
            pa.field("score", pa.float32()),
        ]
        if self.settings.flags:
            columns += [FLAGS, pa.field("quality", QUALITY)]
        if self.settings.attention:
            columns.append(pa.field("attention", pa.list_(pa.float32())))
        return pa.schema(columns)

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
        from pipeline.tasks.models import LoadedSummarizer

        LoadedSummarizer.check(folder)
        self.generation(folder).longest(LEDConfig.from_pretrained(folder))
        return {"task": "summarize", "generation": asdict(self.generation(folder))}

    def reading(self, folder: Path) -> Reading:
        """What the run asks for, at most the encoder's positions, all at once.

        Raises:
            UsageError: the run asks for more than the model reads.
        """
        limit = LEDConfig.from_pretrained(folder).max_encoder_position_embeddings
        asked = self.settings.max_input_tokens or limit
        if asked > limit:
            raise UsageError(f"--max-input-tokens is {asked}; this model reads at most {limit} tokens.")
        return Reading(asked, asked)

    def rows_of(self, values: Mapping[str, Any]) -> list[Row]:
        """One, of which nothing is known beforehand."""
        return [{}]

    def encode(self, tokenizer: LEDTokenizer, documents: Sequence[Document], reading: Reading) -> list[ModelInput]:
        """`<s> text </s>`, cut at the limit with `</s>` kept."""
        inputs = []
        encodings = tokenizer.encode_batch([document.text for document in documents])
        for document, encoding in zip(documents, encodings, strict=True):
            ids, over = cut(encoding.ids, reading.max_input_tokens)
            inputs.append(ModelInput(ids, 1, over, text=document.text if self.settings.flags else None))
        return inputs

    @staticmethod
    def describe(row: Row) -> tuple[str, str]:
        """How it ended, and the summary."""
        facts = f"{row['output_tokens']} tokens out, {row['finish_reason']}, score {row['score']:.3f}"
        return facts, row["summary"]

    def load(self, folder: Path) -> LoadedSummarizer:
        """The summarizer with its weights."""
        from pipeline.tasks.models import LoadedSummarizer

        return LoadedSummarizer(self, folder)


@dataclass(frozen=True)
class Classify:
    """Documents to labels, with global attention on `<s>`; logits of windows are pooled before they become probabilities."""

    settings: ClassifySettings

    title = "Classification"

    @property
    def columns(self) -> pa.Schema:
        """The best label and its probability (or the value, of a regression), the labels that hold, and all scores."""
        scores = pa.list_(pa.struct([pa.field("label", pa.string()), pa.field("score", pa.float32())]))
        columns = [pa.field("label", pa.string()), pa.field("label_score", pa.float32())]
        columns.append(pa.field("labels", pa.list_(pa.string())))
        return pa.schema(columns if self.settings.labels_only else [*columns, pa.field("scores", scores)])

    def facts(self, folder: Path) -> dict[str, Any]:
        """The task, the kind of labels, their names, and the pooling and thresholds in force.

        Raises:
            ValueError: the folder's weights are not a classifier's.
            UsageError: the checkpoint names no labels, or a threshold names none of them.
        """
        from pipeline.tasks.models import LoadedClassifier

        LoadedClassifier.check(folder)
        config = LEDConfig.from_pretrained(folder)
        problem = self.problem(config)
        names = list(config.labels.values())
        if len(set(names)) != len(names):
            raise UsageError(f"--model {self.settings.model}: id2label in config.json gives two classes one name: {names}.")
        return {"task": "classify", "problem_type": problem, "labels": names, "pooling": self.pooling(config),
                "thresholds": self.thresholds(config)}  # fmt: skip

    def problem(self, config: LEDConfig) -> str:
        """The checkpoint's problem type; where it has none, one label means regression and several that one of them holds."""
        return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")

    def pooling(self, config: LEDConfig) -> str:
        """How windows are pooled."""
        return self.settings.pooling or pooling_of(self.problem(config))

    def thresholds(self, config: LEDConfig) -> dict[str, float]:
        """The probability from which each label holds.

        Raises:
            UsageError: a threshold names no label, or the checkpoint gives values and no labels.
        """
        settings, names, problem = self.settings, list(config.labels.values()), self.problem(config)
        if problem == "regression":
            if settings.threshold is not None or settings.label_thresholds:
                raise UsageError("--threshold is for labels; this checkpoint gives values (problem_type regression).")
            return {}
        general = settings.threshold
        if general is None:
            general = 0.5 if problem == "multi_label_classification" else 0.0
        thresholds = dict.fromkeys(names, general)
        for given in settings.label_thresholds:
            name, _, value = given.rpartition("=")
            if name not in thresholds:
                raise UsageError(
                    f"--label-thresholds {given}: the checkpoint has no label {name!r}; it has {', '.join(names)}."
                )
            thresholds[name] = float(value)
        return thresholds

    def reading(self, folder: Path) -> Reading:
        """Whole documents, window by window."""
        return windowed_reading(self.settings, folder)

    def rows_of(self, values: Mapping[str, Any]) -> list[Row]:
        """One, of which nothing is known beforehand."""
        return [{}]

    def encode(self, tokenizer: LEDTokenizer, documents: Sequence[Document], reading: Reading) -> list[ModelInput]:
        """`<s> text </s>`, cut only where the run asks for it."""
        encodings = tokenizer.encode_batch([document.text for document in documents])
        return [windowed_input(encoding.ids, 1, reading) for encoding in encodings]

    def load(self, folder: Path) -> LoadedClassifier:
        """The classifier with its weights."""
        from pipeline.tasks.models import LoadedClassifier

        return LoadedClassifier(self, folder)

    @staticmethod
    def describe(row: Row) -> tuple[str, str]:
        """The windows, and the labels or the value."""
        outcome = ", ".join(row["labels"] or [row["label"] or "no label"])
        return f"{row['windows']} windows, score {row['label_score']:.3f}", outcome


@dataclass(frozen=True)
class Answer:
    """Questions over documents to answers, which are pieces of the documents; questions have global attention.

    One row per document and question.
    """

    settings: AnswerSettings
    questions: tuple[str, ...] = ()

    title = "Question answering"
    columns = pa.schema(
        [
            pa.field(NUMBER, pa.int32()),
            pa.field("question", pa.string()),
            pa.field("answer", pa.string()),
            pa.field("answer_start", pa.int32()),
            pa.field("answer_end", pa.int32()),
            pa.field("answer_score", pa.float32()),
            pa.field("null_score", pa.float32()),
            pa.field(
                "answers",
                pa.list_(
                    pa.struct(
                        [pa.field("answer", pa.string()), pa.field("start", pa.int32()), pa.field("end", pa.int32()),
                         pa.field("score", pa.float32())]
                    )
                ),
            ),
        ]
    )  # fmt: skip

    @classmethod
    def of(cls, settings: AnswerSettings) -> Answer:
        """The task with the questions that the settings name.

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
                raise UsageError(f"{source} has no questions; write one a line.")
        if any(not question.strip() for question in questions):
            raise UsageError(f"{source} is empty; ask something.")
        return cls(settings, questions)

    def facts(self, folder: Path) -> dict[str, Any]:
        """The task and its questions.

        Raises:
            ValueError: the folder's weights are not a question answerer's.
            UsageError: a question leaves no room for the document.
        """
        from pipeline.tasks.models import LoadedAnswerer

        LoadedAnswerer.check(folder)
        tokenizer, window = LEDTokenizer.from_pretrained(folder), self.reading(folder).window_tokens
        for question in self.questions:
            length = len(tokenizer.encode(question)) + 2
            if length >= window:
                raise UsageError(f"--question {question[:60]!r}… has {length} tokens with the special ones; the model reads "
                                 f"{window} at once, document included: shorten it.")  # fmt: skip
        return {"task": "answer", QUESTIONS: {"of all": list(self.questions), "in column": self.settings.question_column}}

    def reading(self, folder: Path) -> Reading:
        """Whole documents, window by window."""
        return windowed_reading(self.settings, folder)

    def rows_of(self, values: Mapping[str, Any]) -> list[Row]:
        """One for each question.

        Raises:
            ValueError: the document has no question, or a record of its questions has none.
            UsageError: the column holds something else than questions.
        """
        column = self.settings.question_column
        questions = list(self.questions) if column is None else _questions_in(values[column], column)
        if not questions:
            raise ValueError(f"the document has no question in column {column!r}")
        return [{NUMBER: i, "question": question} for i, question in enumerate(questions)]

    def encode(self, tokenizer: LEDTokenizer, documents: Sequence[Document], reading: Reading) -> list[ModelInput]:
        """`<s> question </s></s> text </s>`; a text is tokenized once for all its questions.

        Raises:
            ValueError: a question is empty, or leaves no room for the document.
        """
        texts = list(dict.fromkeys(document.text for document in documents))
        encodings = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
        inputs = []
        for text, given in documents:
            if not (given["question"] or "").strip():
                raise ValueError("the question is empty")
            before = [*tokenizer.encode(given["question"]), tokenizer.eos_token_id]
            inputs.append(windowed_input([*before, *encodings[text].ids[1:]], len(before), reading, text))
        return inputs

    def load(self, folder: Path) -> LoadedAnswerer:
        """The question answerer with its weights."""
        from pipeline.tasks.models import LoadedAnswerer

        return LoadedAnswerer(self, folder)

    @staticmethod
    def describe(row: Row) -> tuple[str, str]:
        """The question, and the answer."""
        facts = f"{row['question']} {row['windows']} windows, score {row['answer_score']:.3f}, none {row['null_score']:.3f}"
        return facts, row["answer"] or "no answer"


def _questions_in(value: Any, column: str) -> list[str | None]:
    """The questions in a value of the column: a text, or a list of texts or of records with a `question`."""
    if value is None:
        return []
    found = []
    for item in [value] if isinstance(value, str) else value if isinstance(value, list) else [value]:
        if isinstance(item, dict) and "question" not in item:
            raise ValueError(f"a record in column {column!r} has no field `question`")
        question = item["question"] if isinstance(item, dict) else item
        if question is not None and not isinstance(question, str):
            raise UsageError(f"--question-column {column} holds {type(question).__name__}; it must hold texts, lists of "
                             "texts, or lists of records with a field `question`.")  # fmt: skip
        found.append(question)
    return found


# The kinds of tasks, by the name that they have in a plan.
TASKS: dict[str, type[Summarize] | type[Classify] | type[Answer]] = {
    "summarize": Summarize,
    "classify": Classify,
    "answer": Answer,
}
