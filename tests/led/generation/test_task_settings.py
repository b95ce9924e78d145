"""What a task generates with, by what the checkpoint, its task parameters and the caller say."""

from __future__ import annotations

from typing import Any

import pytest

from led.generation.config import GenerationConfig
from led.generation.task_settings import task_settings
from led.testing import tiny_config

PARAMS = {"summarization": {"num_beams": 3, "max_length": 42, "min_length": 6, "no_repeat_ngram_size": 2}}


def in_force(
    generation: dict[str, Any], given: dict[str, Any] | None = None, **config: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings in force that are not the reference's defaults, and their sources."""
    found = task_settings(tiny_config(extra=config), GenerationConfig(**generation), "summarization", given)
    values = {name: getattr(found.generation, name) for name in found.sources}
    return values, found.sources


@pytest.mark.parametrize("generation", [{}, {"eos_token_id": 3, "decoder_start_token_id": 0}])
def test_a_checkpoint_that_says_nothing_gets_the_defaults(generation: dict[str, Any]) -> None:
    values, sources = in_force(generation)
    # The tiny model's decoder has 64 positions.
    assert values == {"num_beams": 4, "max_new_tokens": 64, "no_repeat_ngram_size": 3}
    assert set(sources.values()) == {"default"}


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"no_repeat_ngram_size": 2}, {"num_beams": 4, "max_new_tokens": 64, "no_repeat_ngram_size": 2}),
        ({"num_beams": 2, "max_length": 50}, {"num_beams": 2, "max_length": 50}),
        ({"max_new_tokens": 9}, {"num_beams": 4, "max_new_tokens": 9}),
        ({"num_beams": 2}, {"num_beams": 2, "max_new_tokens": 64}),
        (
            {"length_penalty": 2.0, "min_length": 30},
            {
                "length_penalty": 2.0,
                "min_length": 30,
                "num_beams": 4,
                "max_new_tokens": 64,
                "no_repeat_ngram_size": 3,
            },
        ),
    ],
)
def test_what_the_checkpoint_says_is_kept(generation: dict[str, Any], expected: dict[str, Any]) -> None:
    values, sources = in_force(generation)
    assert values == expected
    assert {name for name, source in sources.items() if source == "checkpoint"} == set(generation)


def test_task_parameters_fill_what_the_checkpoint_does_not_say() -> None:
    values, sources = in_force({}, task_specific_params=PARAMS)
    assert values == PARAMS["summarization"] and set(sources.values()) == {"task_specific_params"}
    values, sources = in_force({"num_beams": 2, "max_new_tokens": 9}, task_specific_params=PARAMS)
    assert values == {"num_beams": 2, "max_new_tokens": 9, "min_length": 6, "no_repeat_ngram_size": 2}
    assert sources["num_beams"] == "checkpoint" and sources["min_length"] == "task_specific_params"
    unknown = {"summarization": {**PARAMS["summarization"], "beams": 4}}
    assert in_force({}, task_specific_params=unknown) == in_force({}, task_specific_params=PARAMS)
    others = {"translation_en_to_de": PARAMS["summarization"]}
    assert in_force({}, task_specific_params=others) == in_force({})


def test_the_caller_decides() -> None:
    given = {"num_beams": 1, "max_new_tokens": 5, "no_repeat_ngram_size": 0, "seed": None}
    values, sources = in_force({}, given, task_specific_params=PARAMS)
    assert values["num_beams"] == 1 and values["max_new_tokens"] == 5 and values["no_repeat_ngram_size"] == 0
    assert sources["num_beams"] == sources["max_new_tokens"] == "given" and "seed" not in sources
    # A length of the caller replaces the default one, whichever of the two it sets.
    assert "max_new_tokens" not in in_force({}, {"max_length": 8})[0]


@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        ({}, ""),
        ({"prefix": None}, ""),
        ({"prefix": " "}, " "),
        (
            {"prefix": "a", "task_specific_params": {"summarization": {"prefix": "summarize: "}}},
            "summarize: ",
        ),
    ],
)
def test_the_prefix(config: dict[str, Any], prefix: str) -> None:
    found = task_settings(tiny_config(extra=config), GenerationConfig(), "summarization")
    assert found.prefix == prefix
    assert (f"prefix {prefix!r} (checkpoint)" in found.describe()) == bool(prefix)
    assert found.describe().startswith("max_new_tokens 64 (default), no_repeat_ngram_size 3 (default)")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prefix": 3}, "prefix in config.json is 3; it must be a text"),
        ({"task_specific_params": {"summarization": 4}}, "must have an object of settings for summarization"),
        ({"task_specific_params": [1]}, "must have an object of settings for summarization"),
        (
            {"task_specific_params": {"summarization": {"num_beam_groups": 2}}},
            "have num_beam_groups=2, which is not supported",
        ),
    ],
)
def test_malformed_parameters_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_settings(tiny_config(extra=config), GenerationConfig(), "summarization")
