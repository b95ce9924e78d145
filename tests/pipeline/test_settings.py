"""Settings refuse invalid values. The fingerprint covers exactly the settings that can change a row."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from pipeline.errors import UsageError
from pipeline.settings import fingerprint
from pipeline.tasks.settings import SummarizeSettings

NOT_FINGERPRINTED = {
    *(
        "input",
        "output",
        "model",
        "revision",
        "base_model",
        "ray_address",
        "ray_start_seconds",
        "accept_unsafe_store",
        "sign_key",
        "table",
        "table_mode",
    ),
    *("replicas", "max_replicas", "threads", "gpus", "memory_gib", "max_num_seqs", "max_num_batched_tokens"),
    *("on_bad_shard", "on_duplicate_id", "max_failed", "stop_at", "price_per_hour", "max_cost"),
    *("since", "retry_failed", "on_changed_settings", "reference_column", "generation_defaults"),
    *("log_file", "metrics_port", "ray_progress"),
}
# Settings that are fingerprinted unless they have their default, and another value.
OMITTED = {
    "count_truncated_tokens": True,
    "special_tokens": "parse",
    "global_attention": ("first", "separator"),
    "multi_document": True,
    "group_by": "site",
    "document_separator": "|",
    "truncate": "last",
    "prefix": "query: ",
    "prefix_column": "facet",
    "overflow": "concat",
    "chunk_tokens": 64,
    "chunk_overlap": 0,
    "chunk_ends": "token",
    "summary_tokens_per_input": 0.1,
    "keep_partial_summaries": True,
}
# What a setting needs beside it.
OF_CHUNKS = ("chunk_tokens", "chunk_overlap", "chunk_ends", "keep_partial_summaries")
NEEDED: dict[str, dict[str, object]] = {
    "document_separator": {"multi_document": True},
    "truncate": {"multi_document": True},
    **{name: {"overflow": "fuse"} for name in OF_CHUNKS},
}

GOOD = SummarizeSettings(input=("in",), output="out", model="m")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shard_documents", 0),
        ("threads", 0),
        ("replicas", -1),
        ("input", ()),
        ("max_input_tokens", 2),
        ("overflow", "cut"),
        ("summary_tokens_per_input", 0.0),
        ("summary_tokens_per_input", 1.1),
        ("passthrough", ("a", "a")),
        ("gpus", 2.0),
        ("max_num_seqs", 0),
    ],
)
def test_a_wrong_value_is_named_with_its_flag_and_its_rule(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^--{name.replace('_', '-')} is .*; it must "):
        replace(GOOD, **{name: value})


def test_operational_settings_are_not_in_the_fingerprint() -> None:
    moved = replace(GOOD, output="elsewhere", replicas=7, threads=2, max_num_seqs=3, input=("other",))
    assert moved.fingerprinted_settings() == GOOD.fingerprinted_settings()
    names = {f.name for f in fields(SummarizeSettings)}
    fingerprinted = names - NOT_FINGERPRINTED
    assert names >= NOT_FINGERPRINTED
    assert GOOD.fingerprinted_settings().keys() == fingerprinted - OMITTED.keys()
    for name, value in OMITTED.items():
        assert name in replace(GOOD, **{**NEEDED.get(name, {}), name: value}).fingerprinted_settings()


@pytest.mark.parametrize(
    "change", [{"num_beams": 5}, {"text_column": "body"}, {"dtype": "bfloat16"}, {"seed": 1}]
)
def test_settings_that_change_rows_are_in_the_fingerprint(change: dict[str, object]) -> None:
    assert fingerprint(replace(GOOD, **change).fingerprinted_settings()) != fingerprint(
        GOOD.fingerprinted_settings()
    )


@pytest.mark.parametrize("name", OF_CHUNKS)
def test_settings_of_chunks_need_an_overflow(name: str) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UsageError, match=f"^{flag} is .*; it needs --overflow concat or fuse"):
        replace(GOOD, **{name: OMITTED[name]})


def test_auto_is_the_fastest_exact_dtype() -> None:
    assert [replace(GOOD, dtype="auto", gpus=gpus).precision for gpus in (0, 1)] == ["float32", "float32"]
    assert replace(GOOD, dtype="auto").fingerprinted_settings() == GOOD.fingerprinted_settings()


def test_gpus_use_float16_by_default() -> None:
    assert (GOOD.precision, replace(GOOD, gpus=0.5).precision) == ("float32", "float16")
    assert (
        replace(GOOD, gpus=1, dtype="float32").fingerprinted_settings()
        == GOOD.fingerprinted_settings()
        == replace(GOOD, dtype="float32").fingerprinted_settings()
    )
    assert replace(GOOD, gpus=1).fingerprinted_settings() != GOOD.fingerprinted_settings()
    for settings, advice in (({"gpus": 1, "dtype": "int8"}, "leave it"), ({"dtype": "float16"}, "--gpus 1")):
        with pytest.raises(UsageError, match=f"--dtype is .*{advice}"):
            replace(GOOD, **settings)
