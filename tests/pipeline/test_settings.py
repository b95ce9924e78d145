"""Settings refuse nonsense, and the fingerprint counts what can change a row and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.errors import UsageError
from pipeline.settings import OPERATIONAL, SummarizeSettings, fingerprint

GOOD = SummarizeSettings(input=("in",), output="out", model="m")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shard_documents", 0),
        ("threads", 0),
        ("replicas", -1),
        ("input", ()),
        ("max_input_tokens", 2),
        ("passthrough", ("a", "a")),
        ("gpus", 2.0),
        ("max_num_seqs", 0),
    ],
)
def test_a_wrong_value_is_named_with_its_flag_and_its_rule(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is .*must|name at least one"):
        replace(GOOD, **{name: value})


def test_operational_settings_are_settings_and_do_not_count() -> None:
    moved = replace(GOOD, output="elsewhere", replicas=7, threads=2, max_num_seqs=3, input=("other",))
    assert moved.fingerprinted_settings() == GOOD.fingerprinted_settings()
    assert set(SummarizeSettings.__dataclass_fields__) >= OPERATIONAL


@pytest.mark.parametrize(
    "change", [{"num_beams": 5}, {"text_column": "body"}, {"dtype": "bfloat16"}, {"seed": 1}]
)
def test_settings_that_change_rows_count(change: dict[str, object]) -> None:
    assert fingerprint(replace(GOOD, **change).fingerprinted_settings()) != fingerprint(
        GOOD.fingerprinted_settings()
    )


def test_float16_is_what_a_gpu_computes_in_unless_told_otherwise() -> None:
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
