"""The settings of a run: frozen dataclasses that refuse nonsense, and the fingerprint that names their results.

Settings that cannot change a row (`OPERATIONAL`) are left out of the fingerprint, so a run may be resumed with more actors.
A model counts by the bytes of its weights and tokenizer, an input by the bytes of its files; neither by its name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from pipeline.errors import UsageError
from pipeline.stop_time import hour_of

OPERATIONAL = frozenset(
    {
        "input",
        "output",
        "model",
        "revision",
        "actors",
        "max_actors",
        "threads",
        "gpus",
        "documents_in_flight",
        "encoder_tokens",
        "memory_gib",
        "on_bad_shard",
        "on_duplicate_id",
        "max_failed",
        "since",
        "retry_failed",
        "on_changed_settings",
        "ray_address",
        "accept_unsafe_store",
        "stop_at",
        "price_per_hour",
        "max_cost",
        "ray_progress",
        "log_file",
        "metrics_port",
        "reference_column",
    }
)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What every job needs to know. Lengths are in tokens."""

    reference_column: ClassVar[str | None] = None

    input: tuple[str, ...]
    """Files, folders or globs on disks, s3:// or hf://: Parquet, JSON lines (.jsonl, .gz, .zst) or texts (.txt)."""
    output: str
    """Folder for the results, a path or s3://bucket/folder. Of a run that was interrupted: the run goes on where it was."""
    model: str
    """A model folder, or the name of a published checkpoint such as allenai/led-large-16384-arxiv."""
    revision: str | None = None
    """Branch, tag or commit of a published checkpoint."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] | None = None
    """Arithmetic of the model: by default float32, which gives the reference's answers, and float16 on GPUs. int8 (CPUs) is
    faster and less exact."""
    text_column: str = "text"
    """Column that holds the document, as text or as bytes of UTF-8."""
    id_column: str | None = "doc_id"
    """Column that names the document; without one (None), names are made from the file's name, its content and the row."""
    passthrough: tuple[str, ...] = ()
    """Input columns to carry over into the output; folders called year=2024 are columns too."""
    max_input_tokens: int | None = None
    """Longest input, special tokens included; the model's own limit where not set. What is cut is counted in the row."""
    max_document_bytes: int = 16 << 20
    """Longest text in bytes of UTF-8; a longer one is a failed row. To tokenize 16 MiB takes 17 seconds and up to 3 GB."""
    on_bad_shard: Literal["fail", "skip"] = "fail"
    """What a file or shard that cannot be read does: end the run, or give rows with status skipped and the reason."""
    on_duplicate_id: Literal["fail", "keep"] = "fail"
    """What two documents of one name do when a run is planned: end it, or be kept. To look takes a pass over the id columns."""
    max_failed: float | None = None
    """Failed documents that end the run with exit code 3: a number, or below 1 a share of all; committed rows stay."""
    since: tuple[str, ...] = ()
    """Folders of earlier runs, finished or not, the newest first: documents that stand there with the same doc_id and text are
    not done again; their rows are carried over."""
    retry_failed: bool = False
    """Of --since, do documents again that failed."""
    on_changed_settings: Literal["redo", "keep"] = "redo"
    """What to do with the rows of --since where model or settings were others than now: all documents again, or carry over."""
    shard_documents: int = 64
    """Documents of one shard: the unit of work, of loss when a machine dies, and of an output file."""
    actors: int = 0
    """Model copies working side by side; 0 takes one per CPU, or as many as the GPUs hold, of the machines that are there."""
    max_actors: int | None = None
    """Model copies at most, on a cluster that grows: as many as all the machines hold that its autoscaler may start. The run
    begins with what is there, or --actors. By default the cluster is believed to stay as it is."""
    threads: int = 1
    """CPU threads of each model copy."""
    gpus: float = 0.0
    """GPUs of each model copy; a part of 1 lets copies share one."""
    documents_in_flight: int | None = None
    """Documents decoded together by one model copy; by default 16, on a GPU 64."""
    encoder_tokens: int | None = None
    """Tokens encoded together by one model copy; by default 16,384, on a GPU 131,072."""
    memory_gib: float | None = None
    """Memory for the documents that one model copy decodes together; by default a share of what its machine has left."""
    stop_at: str | None = None
    """End the run at this hour (06:00, by this machine's clock, or 2026-11-24T06:00), at a shard border; exit code 130."""
    price_per_hour: float | None = None
    """What an hour of one device costs: of a GPU, or without GPUs of one model copy's CPUs."""
    max_cost: float | None = None
    """End the run at a shard border when it has cost this much, by --price-per-hour; exit code 130."""
    log_file: str | None = None
    """Local file to which structured logs are appended: a line of JSON for each event, with the run's name."""
    metrics_port: int | None = None
    """Port at which a cluster that is started here for the run serves metrics for Prometheus; others have their own."""
    ray_progress: bool = False
    """Show Ray's own progress bars too."""
    accept_unsafe_store: bool = False
    """Go on where the output's store writes over what exists. Then never let two runs write to one folder."""
    ray_address: str | None = None
    """Cluster to join; by default the one of the job or RAY_ADDRESS, else one started here for the run."""

    def __post_init__(self) -> None:
        for name in ("shard_documents", "threads", "documents_in_flight", "encoder_tokens", "max_document_bytes"):
            value = getattr(self, name)
            _rule(value is None or value >= 1, name, value, "it must be at least 1")
        _rule(0 <= self.gpus <= 1, "gpus", self.gpus, "it must be between 0 and 1")
        _rule(not self.gpus or self.dtype != "int8", "dtype", self.dtype, "8 bits are for CPUs: leave it or --gpus away")
        _rule(bool(self.gpus) or self.dtype != "float16", "dtype", self.dtype, "float16 is for GPUs: give --gpus 1")
        memory = self.memory_gib
        _rule(memory is None or memory > 0, "memory_gib", memory, "it must be above 0")
        _rule(self.actors >= 0, "actors", self.actors, "it must be 0 (one per CPU) or more")
        most = self.max_actors
        _rule(most is None or most >= max(1, self.actors), "max_actors", most, "it must be at least 1, and at least --actors")
        _rule(bool(self.input), "input", self.input, "name at least one file or folder")
        failed = self.max_failed
        right = failed is None or 0 <= failed < 1 or (failed >= 1 and failed == int(failed))
        _rule(right, "max_failed", failed, "it must be a whole number, or a share from 0 to below 1")
        _rule(
            bool(self.since) or not self.retry_failed,
            "retry_failed",
            True,
            "it needs --since, the run that they failed in",
        )
        for name in ("price_per_hour", "max_cost"):
            value = getattr(self, name)
            _rule(value is None or value >= 0, name, value, "it must be at least 0")
        _rule(self.max_cost is None or self.price_per_hour is not None, "max_cost", self.max_cost, "it needs --price-per-hour")
        hour_of(self.stop_at, 0.0)  # raises where it names none
        _rule(isinstance(self.since, tuple), "since", self.since, "give a tuple of folders")
        once = len(set(self.passthrough)) == len(self.passthrough)
        _rule(once, "passthrough", self.passthrough, "it must name each column once")
        limit = self.max_input_tokens
        _rule(
            limit is None or limit >= 3, "max_input_tokens", limit, "it must leave room for <s>, one token and </s>: 3 or more"
        )

    def identity(self) -> dict[str, Any]:
        """The settings that can change a row."""
        values = asdict(self) | {"dtype": self.precision}
        return {name: value for name, value in values.items() if name not in OPERATIONAL}

    @property
    def carried_columns(self) -> list[tuple[str, str]]:
        """(flag, column) of the input's columns that are read besides text and id."""
        return [("--passthrough", column) for column in self.passthrough]

    @property
    def precision(self) -> str:
        """The arithmetic in force."""
        return self.dtype or ("float16" if self.gpus else "float32")


@dataclass(frozen=True, kw_only=True)
class DecodingSettings(RunSettings):
    """Settings of runs that write. Where one is not given, the checkpoint's own holds."""

    num_beams: int | None = None
    """Beams of the search; 1 is greedy."""
    max_new_tokens: int | None = None
    """Longest summary."""
    min_new_tokens: int | None = None
    """Shortest summary."""
    length_penalty: float | None = None
    """Above 0 favours longer summaries."""
    no_repeat_ngram_size: int | None = None
    """Never write an n-gram of this many tokens twice."""
    encoder_no_repeat_ngram_size: int | None = None
    """Never write an n-gram of this many tokens that the document holds."""
    repetition_penalty: float | None = None
    """Above 1 makes tokens already written less likely."""
    do_sample: bool | None = None
    """Draw tokens at random."""
    temperature: float | None = None
    """Of drawing: below 1 is more careful, above 1 more daring."""
    top_k: int | None = None
    """Draw among this many tokens."""
    top_p: float | None = None
    """Draw among the likeliest tokens that make up this share."""
    seed: int = 0
    """Of drawing; a document's summary depends on it and on nothing around the document."""


DECODING = tuple(DecodingSettings.__annotations__)  # the settings that go on to the decoding loop


@dataclass(frozen=True, kw_only=True)
class SummarizeSettings(DecodingSettings):
    """Settings of a summarization run."""

    flags: bool = True
    """Measure every summary against its document, and flag what may be worth a look (columns flags and quality)."""
    attention: bool = False
    """Say where in its document each summary looked (column attention: shares of 64 equal parts)."""
    reference_column: str | None = None  # type: ignore[misc]
    """Of --passthrough, the column with the right summary: the report then has ROUGE."""

    def __post_init__(self) -> None:
        super().__post_init__()
        reference = self.reference_column
        _rule(reference is None or reference in self.passthrough, "reference_column", reference, "carry it over: --passthrough")


@dataclass(frozen=True, kw_only=True)
class WindowedSettings(RunSettings):
    """Settings of runs that read a document in windows where it is longer than the model reads at once. In tokens."""

    window_tokens: int | None = None
    """Longest window, question and special tokens included; by default all that the model reads at once."""
    window_overlap: int | None = None
    """Tokens of a document that a window repeats of the one before; by default an eighth of the window."""

    def __post_init__(self) -> None:
        super().__post_init__()
        window, overlap = self.window_tokens, self.window_overlap
        _rule(window is None or window >= 3, "window_tokens", window, "it must leave room for <s>, one token and </s>")
        _rule(overlap is None or overlap >= 0, "window_overlap", overlap, "it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(WindowedSettings):
    """Settings of a classification run. What kind of labels there are the checkpoint says (its problem_type)."""

    pooling: Literal["mean", "max"] | None = None
    """How the logits of windows become those of the document: by default mean, and max where several labels may hold."""
    threshold: float | None = None
    """Probability from which a label holds. By default 0.5 where several may; without, one label always does."""
    label_thresholds: tuple[str, ...] = ()
    """Thresholds of single labels, as name=0.7, over --threshold."""
    labels_only: bool = False
    """Leave the scores of all labels out of the rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        threshold = self.threshold
        _rule(threshold is None or 0 <= threshold <= 1, "threshold", threshold, "it must be a probability, from 0 to 1")
        for given in self.label_thresholds:
            name, equals, value = given.rpartition("=")
            right = bool(name and equals) and value.replace(".", "", 1).isdecimal() and 0 <= float(value) <= 1
            _rule(right, "label_thresholds", given, "write name=0.7, a label and a probability")


@dataclass(frozen=True, kw_only=True)
class AnswerSettings(WindowedSettings):
    """Settings of a question-answering run; the questions come from one of --question, --questions-file, --question-column."""

    question: tuple[str, ...] = ()
    """Questions that every document is asked."""
    questions_file: str | None = None
    """File with such questions, one a line."""
    question_column: str | None = None
    """Column with each document's own: a text, a list of texts, or a list of records with a field `question`."""
    max_answer_tokens: int = 30
    """Longest answer."""
    n_best: int = 1
    """Answers kept of each question, in the column `answers`."""
    no_answer_threshold: float | None = None
    """Give no answer (null) where the probability that there is none exceeds the answer's by more than this. By default there
    is always one."""
    align_to_words: bool = True
    """Widen answers to whole words."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [bool(self.question), self.questions_file is not None, self.question_column is not None]
        _rule(sum(given) == 1, "question", self.question,
              "give the questions in one way: --question, --questions-file or --question-column")  # fmt: skip
        for name in ("max_answer_tokens", "n_best"):
            _rule(getattr(self, name) >= 1, name, getattr(self, name), "it must be at least 1")
        least = self.no_answer_threshold
        _rule(least is None or -1 <= least <= 1, "no_answer_threshold", least, "it must lie between -1 and 1")

    def identity(self) -> dict[str, Any]:
        """The settings that can change a row, but for the questions, which the task names by themselves."""
        where = ("question", "questions_file", "question_column")
        return {name: value for name, value in super().identity().items() if name not in where}

    @property
    def carried_columns(self) -> list[tuple[str, str]]:
        asked = [("--question-column", self.question_column)] if self.question_column else []
        return [*super().carried_columns, *asked]


def fingerprint(facts: dict[str, Any]) -> str:
    """A name of 16 hexadecimal digits for these facts, the same on every machine."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _rule(holds: bool, name: str, value: Any, text: str) -> None:
    if not holds:
        raise UsageError(f"--{name.replace('_', '-')} is {value!r}; {text}.")
