"""Settings of a run: frozen dataclasses that validate every value, and the fingerprint that names their
results.

Each field states its type and constraints in its annotation. Rules that involve several fields are in
`__post_init__`. The text under a field is its help text on the command line and in the documentation.

A field with the metadata `affects_output=False` cannot change a row, so it is not part of the fingerprint. A
run can therefore resume with more replicas. The fingerprint covers the model by the bytes of its weights and
tokenizer, and the input by the bytes of its files. Their names do not count.

This module imports neither pyarrow nor torch, so that `--help` is fast.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from os import PathLike
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, MinLen
from pydantic import TypeAdapter, ValidationError

from led.generation.limits import SchedulerLimits
from led.pipelines.chunking import ChunkEnds
from led.pipelines.global_attention import GlobalAttention
from led.pipelines.joining import Truncation
from pipeline.errors import UsageError, check_no_credentials, hint
from pipeline.stop_time import parse_stop_time

Probability = Annotated[float, Interval(ge=0, le=1)]
Count = Annotated[int, Ge(1)]

PASSTHROUGH_FLAG = "--passthrough"


def omitted_by_default(default: Any) -> Any:
    """A field that is left out of the fingerprint at its default, which is what runs without the setting
    did."""
    return field(default=default, metadata={"omit_default": True})


def operational(default: Any = MISSING) -> Any:
    """A field that cannot change a row: `affects_output=False`."""
    return field(default=default, metadata={"affects_output": False})


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings that all tasks share. Lengths are in tokens.

    Raises:
        UsageError: a value has the wrong type or breaks a rule.
    """

    reference_column: ClassVar[str | None] = None

    input: Annotated[tuple[str, ...], MinLen(1)] = operational()
    """Files, folders or globs on local disks, s3:// or hf://. Formats: Parquet, JSON lines (.jsonl, .gz,
    .zst), text (.txt)."""
    output: str = operational()
    """Folder for the results: a path or s3://bucket/folder. If it holds an interrupted run, that run
    resumes."""
    model: str = operational()
    """A model folder, or the name of a published checkpoint such as allenai/led-large-16384-arxiv."""
    revision: str | None = operational(None)
    """Branch, tag or commit of a published checkpoint."""
    base_model: str | None = operational(None)
    """Base of a LoRA adapter: a model folder or the name of a published checkpoint. Default: the base that
    the adapter names."""
    dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] | None = None
    """Arithmetic of the model. Default: float32, which gives the reference's answers, or float16 on GPUs.
    auto is the fastest type that gives the reference's answers: float32 on every device. bfloat16 becomes
    float32 on CPUs without bfloat16 products. int8 (CPU only) is faster and less exact."""
    text_column: str = "text"
    """Column that holds the document, as text or as UTF-8 bytes."""
    id_column: str | None = "doc_id"
    """Column that holds the document ID. With None, the ID is made from the file name, the file's content and
    the row."""
    passthrough: tuple[str, ...] = ()
    """Input columns to copy to the output. Folders named year=2024 count as columns."""
    max_input_tokens: Annotated[int, Ge(3)] | None = None
    """Longest input, special tokens included. Default: the model's own limit. Each row counts the tokens that
    were cut off."""
    max_document_bytes: Count = 16 << 20
    """Longest text in UTF-8 bytes. A longer text is a failed row. Tokenizing 16 MiB takes 17 seconds."""
    count_truncated_tokens: bool = omitted_by_default(False)
    """Tokenize the rest of documents that are much longer than the input limit, only to count its tokens. By
    default their truncated_tokens is null. truncated_characters is always there."""
    special_tokens: Literal["additional", "parse", "none"] | None = omitted_by_default(None)
    """Special tokens that count as tokens where they occur in a text: only those that the checkpoint added
    (additional), also control tokens such as </s> (parse), or none. Default: split_special_tokens in
    tokenizer_config.json, or else additional. With parse, a document can end itself or hide parts from the
    model, so use it only for texts of your own."""
    global_attention: tuple[str, ...] = omitted_by_default(())
    """Tokens with global attention: first (<s>), none, separator (between documents), question (tokens of a
    question or prefix), prefix:N, every:N, tokens:A,B, or column:NAME (spans in characters). Several rules
    may be given. Default: first, and for answers question."""
    on_bad_shard: Literal["fail", "skip"] = operational("fail")
    """What to do with a file or shard that cannot be read: fail the run, or write rows with status skipped
    and the reason."""
    on_duplicate_id: Literal["fail", "keep"] = operational("fail")
    """How to handle duplicate document IDs. The check reads the ID columns once, when the run is planned."""
    max_failed: Annotated[float, Ge(0)] | None = operational(None)
    """Stop with exit code 3 if more documents fail: a number, or below 1 a share of all. Committed rows
    stay."""
    since: tuple[str, ...] = operational(())
    """Folders of earlier runs, finished or not, newest first. Rows of documents with the same ID and text are
    reused."""
    retry_failed: bool = operational(False)
    """Recompute the documents that failed in the runs of --since."""
    on_changed_settings: Literal["redo", "keep"] = operational("redo")
    """What to do if the model or settings of --since differ from this run's: recompute all documents, or
    reuse the rows."""
    shard_documents: Count = 64
    """Documents per shard. A shard is the unit of work, of loss when a machine dies, and one output file."""
    replicas: Annotated[int, Ge(0)] = operational(0)
    """Model replicas that work in parallel. 0 starts one per CPU, or as many as the GPUs hold, on the
    machines present."""
    max_replicas: Count | None = operational(None)
    """Most replicas on an autoscaling cluster, over all machines that the autoscaler may start. The run
    starts with --replicas, or with as many as fit now. Without it, the cluster size is fixed."""
    threads: Count = operational(1)
    """CPU threads of each replica."""
    gpus: Annotated[float, Interval(ge=0, le=1)] = operational(0.0)
    """GPUs of each replica. With a fraction, replicas share a GPU."""
    max_num_seqs: Count | None = operational(None)
    """Documents that one replica decodes together (slots). Default: 16, or on a GPU up to 256, by its
    memory."""
    max_num_batched_tokens: Count | None = operational(None)
    """Tokens that one replica encodes together. Default: 16,384, or 131,072 on a GPU."""
    memory_gib: Annotated[float, Gt(0)] | None = operational(None)
    """Memory in GiB for the documents that one replica decodes together. Default: a share of the machine's
    free memory."""
    stop_at: str | None = operational(None)
    """Stop gracefully at this time: 06:00 by this machine's clock, or 2026-11-24T06:00. Exit code 130."""
    price_per_hour: Annotated[float, Ge(0)] | None = operational(None)
    """Price of one device-hour: a GPU's, or without GPUs that of one replica's CPUs."""
    max_cost: Annotated[float, Ge(0)] | None = operational(None)
    """Stop gracefully once the run has cost this much. Needs --price-per-hour. Exit code 130."""
    log_file: str | None = operational(None)
    """Local file to append structured logs to, one JSON object per line."""
    metrics_port: Annotated[int, Interval(ge=0, le=65535)] | None = operational(None)
    """Port for Prometheus metrics if the run starts its own local cluster. Other clusters have their own
    port."""
    ray_progress: bool = operational(False)
    """Show Ray's own progress bars as well."""
    accept_unsafe_store: bool = operational(False)
    """Allow an output store without conditional writes. Two runs must then never write to the same folder."""
    sign_key: str | None = operational(None)
    """File with a secret key that signs the manifest. verify --sign-key then detects a forged output."""
    table: str | None = operational(None)
    """Table to register the finished run in, in one commit: iceberg://CATALOG/NAMESPACE.TABLE, or the folder
    of a Delta table, which --output is inside of."""
    table_mode: Literal["append", "replace"] = operational("append")
    """Whether the rows of the run are added to those of --table, or replace them."""
    ray_address: str | None = operational(None)
    """Address of the cluster to join. Default: the job's own cluster or RAY_ADDRESS, otherwise a new local
    cluster."""
    ray_start_seconds: Annotated[float, Gt(0)] = operational(300.0)
    """How long to try to start a local cluster. A busy machine may need several attempts."""

    def __post_init__(self) -> None:
        for f in fields(self):
            check_setting(type(self), f.name, getattr(self, f.name))
        self.check_rules()

    def check_rules(self) -> None:
        """Check the rules that involve several settings, or that an annotation cannot express.

        Raises:
            UsageError: a rule is broken.
        """
        require(
            not self.gpus or self.dtype != "int8",
            "dtype",
            self.dtype,
            "int8 is for CPUs: leave it or --gpus out",
        )
        require(
            bool(self.gpus) or self.dtype != "float16",
            "dtype",
            self.dtype,
            "float16 is for GPUs: give --gpus 1",
        )
        most = self.max_replicas
        require(most is None or most >= self.replicas, "max_replicas", most, "it must be at least --replicas")
        failed = self.max_failed
        rule = "it must be a whole number, or a share from 0 to below 1"
        require(failed is None or failed < 1 or failed == int(failed), "max_failed", failed, rule)
        require(
            bool(self.since) or not self.retry_failed,
            "retry_failed",
            True,
            "it needs --since, the run that they failed in",
        )
        require(
            self.max_cost is None or self.price_per_hour is not None,
            "max_cost",
            self.max_cost,
            "it needs --price-per-hour",
        )
        for name in ("input", "output", "since", "model", "base_model", "table"):
            given = getattr(self, name)
            for address in given if isinstance(given, tuple) else (given or "",):
                check_no_credentials(address, f"--{name.replace('_', '-')}")
        require(
            self.table is None or not self.since or self.table_mode == "replace",
            "table_mode",
            self.table_mode,
            "with --since every run has the rows of all documents: give --table-mode replace",
        )
        parse_stop_time(self.stop_at, 0.0)
        try:
            GlobalAttention.parse(self.global_attention)
        except ValueError as error:
            require(False, "global_attention", self.global_attention, str(error))
        once = len(set(self.passthrough)) == len(self.passthrough)
        require(once, "passthrough", self.passthrough, "it must name each column once")

    def fingerprinted_settings(self) -> dict[str, Any]:
        """The settings that can change a row."""
        values = asdict(self) | {"dtype": self.precision}
        return {
            f.name: values[f.name]
            for f in fields(self)
            if f.metadata.get("affects_output", True)
            and not (f.metadata.get("omit_default") and values[f.name] == f.default)
        }

    @property
    def extra_columns(self) -> list[tuple[str, str]]:
        """(flag, column) of the input columns that are read besides text and ID."""
        spans = self.span_column
        return [
            *((PASSTHROUGH_FLAG, column) for column in self.passthrough),
            *([("--global-attention", spans)] if spans else []),
        ]

    @property
    def span_column(self) -> str | None:
        """The column with the character spans of global tokens."""
        return GlobalAttention.parse(self.global_attention).column

    @property
    def group_column(self) -> str | None:
        """The column whose rows with one value are one document."""
        return None

    @property
    def document_id_column(self) -> str | None:
        """The column with the document IDs."""
        return self.group_column or self.id_column

    @property
    def joins_documents(self) -> bool:
        """Whether a list of texts is one input."""
        return False

    @property
    def fuses_chunks(self) -> bool:
        """Whether what is written for the chunks of a document is read again."""
        return False

    @property
    def slots(self) -> int:
        """The most documents that one replica decodes together."""
        return SchedulerLimits(self.max_num_seqs).num_seqs("cuda" if self.gpus else "cpu")

    @property
    def precision(self) -> str:
        """The arithmetic that the run asks for."""
        if self.dtype == "auto":
            return "float32"
        return self.dtype or ("float16" if self.gpus else "float32")


@dataclass(frozen=True, kw_only=True)
class DocumentSettings(RunSettings):
    """Settings of tasks that read a prefix, or several documents, as one input."""

    multi_document: bool = omitted_by_default(False)
    """The text column holds lists of texts: the documents of one input, joined by separators. Rows then say
    how many tokens of each document were read and cut (column documents)."""
    group_by: str | None = omitted_by_default(None)
    """Column whose rows with one value are the documents of one input. They must follow one another in one
    file. The value is the document ID, and other columns are those of the first row. Implies
    --multi-document."""
    document_separator: str | None = omitted_by_default(None)
    """Separator of the documents: a token of the vocabulary, or a text. Default: the checkpoint's own token,
    such as <doc-sep>, or else its sep token."""
    truncate: Truncation = omitted_by_default("equal")
    """How documents are shortened that together exceed the limit: to equal shares, where short documents pass
    on what they leave (equal), in proportion to their lengths (proportional), from the end (last), or by the
    recipe of PRIMERA's authors (primera)."""
    prefix: str | None = omitted_by_default(None)
    """Text to put before every document, such as a query. Default: prefix in the checkpoint's config.json."""
    prefix_column: str | None = omitted_by_default(None)
    """Column with each document's own prefix, such as a facet marker. The rows repeat it (column prefix)."""

    def check_rules(self) -> None:
        super().check_rules()
        rule = "it needs --multi-document"
        separator, truncate = self.document_separator, self.truncate
        require(self.joins_documents or separator is None, "document_separator", separator, rule)
        require(self.joins_documents or truncate == "equal", "truncate", truncate, rule)
        require(
            self.prefix is None or self.prefix_column is None,
            "prefix",
            self.prefix,
            "give either --prefix or --prefix-column",
        )
        require(
            not (self.joins_documents and self.span_column),
            "global_attention",
            self.global_attention,
            "column: needs one text per document, so leave out --multi-document and --group-by",
        )

    @property
    def extra_columns(self) -> list[tuple[str, str]]:
        column = self.prefix_column
        return [*super().extra_columns, *([("--prefix-column", column)] if column else [])]

    @property
    def group_column(self) -> str | None:
        return self.group_by

    @property
    def joins_documents(self) -> bool:
        return self.multi_document or self.group_by is not None


@dataclass(frozen=True, kw_only=True)
class DecodingSettings(DocumentSettings):
    """Settings of text generation. An unset one keeps the checkpoint's own value."""

    num_beams: Count | None = None
    """Number of beams. 1 is greedy search."""
    max_new_tokens: Count | None = None
    """Longest summary."""
    min_new_tokens: Annotated[int, Ge(0)] | None = None
    """Shortest summary."""
    length_penalty: float | None = None
    """Length penalty of beam search. Above 0 favors longer summaries."""
    no_repeat_ngram_size: Annotated[int, Ge(0)] | None = None
    """Never write an n-gram of this size twice."""
    encoder_no_repeat_ngram_size: Annotated[int, Ge(0)] | None = None
    """Never write an n-gram of this size that occurs in the document."""
    repetition_penalty: Annotated[float, Gt(0)] | None = None
    """Above 1 makes tokens that were already written less likely."""
    do_sample: bool | None = None
    """Sample tokens instead of taking the most likely ones."""
    temperature: Annotated[float, Gt(0)] | None = None
    """Sampling temperature."""
    top_k: Annotated[int, Ge(0)] | None = None
    """Sample from this many of the most likely tokens."""
    top_p: Annotated[float, Gt(0), Le(1)] | None = None
    """Sample from the most likely tokens that together have this probability."""
    seed: int = 0
    """Sampling seed. A document's summary depends on the seed and not on the documents around it."""


DECODING = tuple(
    DecodingSettings.__annotations__
)  # the settings that override the checkpoint's generation config


@dataclass(frozen=True, kw_only=True)
class ChunkedSettings(RunSettings):
    """Settings of tasks that read a document in chunks if it exceeds the model's input limit. Units:
    tokens."""

    chunk_tokens: Annotated[int, Ge(3)] | None = None
    """Longest chunk, question or prefix and special tokens included. Default: the model's input limit."""
    chunk_overlap: Annotated[int, Ge(0)] | None = None
    """Tokens that a chunk repeats from the chunk before it. Default: an eighth of the chunk."""
    chunk_ends: ChunkEnds | None = omitted_by_default(None)
    """Where chunks end. token ends them at a fixed number of tokens, sentence at the end of a paragraph,
    sentence or word near it. Default: token for labels and answers, sentence for summaries."""


Settings = TypeVar("Settings", bound=RunSettings)

# Settings in which `~` is the home directory. On a command line, the shell does this.
PATHS = ("input", "output", "model", "base_model", "since", "table", "log_file", "questions_file", "sign_key")


def make_settings(settings_class: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Settings from values by name, of which a list may be any sequence or a single value, and a path an
    object.

    Raises:
        UsageError: a name is not a setting, a required setting is missing, or a value breaks a rule.
    """
    names = {f.name: f for f in fields(settings_class)}
    for name in values:
        if name not in names:
            raise UsageError(f"{name!r} is not a setting; {hint(name, names, 'known:')}")
    missing = [
        name for name, f in names.items() if f.default is f.default_factory is MISSING and name not in values
    ]
    if missing:
        raise UsageError(f"{', '.join(missing)} must be given.")
    return settings_class(**{name: as_setting(settings_class, name, value) for name, value in values.items()})


def as_setting(settings_class: type[RunSettings], name: str, value: Any) -> Any:
    """A value from a file or a call as a setting: lists become tuples, also a single value of a list setting,
    and paths become texts."""
    if name in PATHS:
        values = value if isinstance(value, list | tuple) else [value]
        values = [os.path.expanduser(each) if isinstance(each, str | PathLike) else each for each in values]
        value = values if isinstance(value, list | tuple) else values[0]
    annotation = str(settings_class.__dataclass_fields__[name].type)
    if "tuple[" in annotation:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    return value


def check_setting(settings: type, name: str, value: Any) -> None:
    """Check one value against the annotation of its field.

    Raises:
        UsageError: the value has the wrong type or breaks a constraint.
    """
    try:
        _adapters(settings)[name].validate_python(value, strict=True)
    except ValidationError as error:
        require(False, name, value, _rule(error))


@cache
def _adapters(settings: type) -> dict[str, TypeAdapter[Any]]:
    """The validator of each field. Resolving the annotations of a class takes a millisecond."""
    hints = get_type_hints(settings, include_extras=True)
    return {f.name: TypeAdapter(hints[f.name]) for f in fields(settings)}


# Pydantic's error types, and the rule to show the user. `{}` takes the constraint's values.
_RULES = {
    "greater_than_equal": "it must be at least {ge}",
    "greater_than": "it must be above {gt}",
    "less_than_equal": "it must be at most {le}",
    "literal_error": "it must be {expected}",
    "too_short": "it must have at least {min_length} entry",
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "bool_type": "it must be true or false",
    "string_type": "it must be a text",
    "tuple_type": "it must be a list",
}


def _rule(error: ValidationError) -> str:
    """The broken rule, in words. Of an optional setting's alternatives, None is left out."""
    first = next((e for e in error.errors() if e["type"] != "none_required"), error.errors()[0])
    return _RULES.get(first["type"], first["msg"]).format(**first.get("ctx", {}))


def require(holds: bool, name: str, value: Any, rule: str) -> None:
    """Check a rule of the setting `name`.

    Raises:
        UsageError: it does not hold. The message has the flag, the value and the rule.
    """
    if not holds:
        raise UsageError(f"--{name.replace('_', '-')} is {value!r}; {rule}.")


def fingerprint(values: dict[str, Any]) -> str:
    """16 hexadecimal digits that identify these values, the same on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
