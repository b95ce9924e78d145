"""The types of the keyword arguments of the Python API. Generated from the settings by
`python -m docs.make_keywords`."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Literal, Required, TypedDict

from led.pipelines.chunking import ChunkEnds, Overflow
from led.pipelines.joining import Truncation


class RunKeywords(TypedDict, total=False):
    """Keyword arguments of RunSettings."""

    input: Required[str | PathLike[str] | Sequence[str | PathLike[str]]]
    output: Required[str | PathLike[str]]
    model: Required[str | PathLike[str]]
    revision: str | None
    base_model: str | PathLike[str] | None
    dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] | None
    text_column: str
    id_column: str | None
    passthrough: str | Sequence[str]
    max_input_tokens: int | None
    max_document_bytes: int
    count_truncated_tokens: bool
    special_tokens: Literal["additional", "parse", "none"] | None
    global_attention: str | Sequence[str]
    on_bad_shard: Literal["fail", "skip"]
    on_duplicate_id: Literal["fail", "keep"]
    max_failed: float | None
    since: str | PathLike[str] | Sequence[str | PathLike[str]]
    retry_failed: bool
    on_changed_settings: Literal["redo", "keep"]
    shard_documents: int
    replicas: int
    max_replicas: int | None
    threads: int
    gpus: float
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    memory_gib: float | None
    stop_at: str | None
    price_per_hour: float | None
    max_cost: float | None
    log_file: str | PathLike[str] | None
    metrics_port: int | None
    ray_progress: bool
    accept_unsafe_store: bool
    sign_key: str | PathLike[str] | None
    table: str | PathLike[str] | None
    table_mode: Literal["append", "replace"]
    ray_address: str | None
    ray_start_seconds: float


class SummarizeKeywords(RunKeywords, total=False):
    """Keyword arguments of SummarizeSettings."""

    reference_column: str | None
    chunk_tokens: int | None
    chunk_overlap: int | None
    chunk_ends: ChunkEnds | None
    multi_document: bool
    group_by: str | None
    document_separator: str | None
    truncate: Truncation
    prefix: str | None
    prefix_column: str | None
    num_beams: int | None
    max_new_tokens: int | None
    min_new_tokens: int | None
    length_penalty: float | None
    no_repeat_ngram_size: int | None
    encoder_no_repeat_ngram_size: int | None
    repetition_penalty: float | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int
    overflow: Overflow
    generation_defaults: Literal["pipeline", "generate"]
    summary_tokens_per_input: float | None
    keep_partial_summaries: bool
    flags: bool
    attention: bool


class ClassifyKeywords(RunKeywords, total=False):
    """Keyword arguments of ClassifySettings."""

    multi_document: bool
    group_by: str | None
    document_separator: str | None
    truncate: Truncation
    prefix: str | None
    prefix_column: str | None
    chunk_tokens: int | None
    chunk_overlap: int | None
    chunk_ends: ChunkEnds | None
    pooling: Literal["mean", "max"] | None
    threshold: float | None
    label_thresholds: str | Sequence[str]
    labels_only: bool


class AnswerKeywords(RunKeywords, total=False):
    """Keyword arguments of AnswerSettings."""

    chunk_tokens: int | None
    chunk_overlap: int | None
    chunk_ends: ChunkEnds | None
    question: str | Sequence[str]
    questions_file: str | PathLike[str] | None
    question_column: str | None
    max_answer_tokens: int
    n_best: int
    no_answer_threshold: float | None
    align_to_words: bool
