"""GenerationConfig: rules, limits, and where a model folder's settings come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from led.generation.config import GenerationConfig
from led.generation.generate import generate
from led.generation.logits_processors import build_processors
from led.testing import TINY, tiny_config, tiny_model

# Settings whose rules apply to sampling alone.
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"max_length": 0}, "max_length is 0", "at least 1"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0", "at least 1"),
    ({"min_length": -1}, "min_length is -1", "0 or more"),
    ({"min_new_tokens": -2}, "min_new_tokens is -2", "0 or more"),
    ({"num_beams": 0}, "num_beams is 0", "at least 1"),
    ({"num_return_sequences": 0}, "num_return_sequences is 0", "at least 1"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3", "at most num_beams (2)"),
    ({"num_return_sequences": 2}, "num_return_sequences is 2", "set num_beams or do_sample"),
    ({"temperature": 0.0}, "temperature is 0.0", "do_sample=False"),
    ({"temperature": -1.0}, "temperature is -1.0", "above 0"),
    ({"temperature": float("nan")}, "temperature is nan", "must be a number"),
    ({"top_k": -1}, "top_k is -1", "0 (off)"),
    ({"top_p": 0.0}, "top_p is 0.0", "(0, 1]"),
    ({"top_p": 1.1}, "top_p is 1.1", "(0, 1]"),
    ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0", "above 0"),
    ({"repetition_penalty": -2.0}, "repetition_penalty is -2.0", "above 0"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1", "0 (off)"),
    ({"encoder_no_repeat_ngram_size": -1}, "encoder_no_repeat_ngram_size is -1", "0 (off)"),
    ({"early_stopping": "always"}, "early_stopping is 'always'", '"never"'),
    ({"early_stopping": None}, "early_stopping is None", '"never"'),
    ({"bad_words_ids": [[5], []]}, "bad_words_ids is [[5], []]", "at least one token"),
    ({"min_p": -0.1}, "min_p is -0.1", "[0, 1]"),
    ({"min_p": 1.5}, "min_p is 1.5", "None (off)"),
    ({"top_h": 0.0}, "top_h is 0.0", "(0, 1]"),
    ({"top_h": 2}, "top_h is 2", "None (off)"),
    ({"typical_p": 0.0}, "typical_p is 0.0", "(0, 1]"),
    ({"typical_p": 1.2}, "typical_p is 1.2", "1 is off"),
    ({"epsilon_cutoff": -0.1}, "epsilon_cutoff is -0.1", "0 is off"),
    ({"epsilon_cutoff": 1.0}, "epsilon_cutoff is 1.0", "[0, 1)"),
    ({"eta_cutoff": 1}, "eta_cutoff is 1", "[0, 1)"),
    ({"encoder_repetition_penalty": 0.0}, "encoder_repetition_penalty is 0.0", "above 0"),
    ({"sequence_bias": {(5,): 1.0}}, "sequence_bias is {(5,): 1.0}", "[token ids, finite bias]"),
    ({"sequence_bias": [[[], 1.0]]}, "sequence_bias is [[[], 1.0]]", "[token ids, finite bias]"),
    ({"sequence_bias": [[[5], -float("inf")]]}, "sequence_bias is [[[5], -inf]]", "bad_words_ids"),
    ({"sequence_bias": [[5, 6]]}, "sequence_bias is [[5, 6]]", "pairs"),
    ({"suppress_tokens": [-1]}, "suppress_tokens is [-1]", "None (off)"),
    (
        {"suppress_tokens": [2, 9], "forced_eos_token_id": 2},
        "forced_eos_token_id is 2",
        "suppress_tokens forbids it",
    ),
    (
        {"suppress_tokens": [2, 9], "forced_eos_token_id": [9, 2]},
        "forced_eos_token_id is [9, 2]",
        "from one of the two",
    ),
    (
        {"suppress_tokens": [0], "forced_bos_token_id": 0},
        "forced_bos_token_id is 0",
        "suppress_tokens forbids it",
    ),
    ({"begin_suppress_tokens": 5}, "begin_suppress_tokens is 5", "must be a list of token ids"),
    ({"exponential_decay_length_penalty": [5]}, "exponential_decay_length_penalty is [5]", "(start, factor)"),
    (
        {"exponential_decay_length_penalty": (-1, 1.1)},
        "exponential_decay_length_penalty is (-1, 1.1)",
        "0 or more",
    ),
    (
        {"exponential_decay_length_penalty": (5, -1.1)},
        "exponential_decay_length_penalty is (5, -1.1)",
        "above 0",
    ),
    ({"forced_eos_token_id": []}, "forced_eos_token_id is []", "a token id, several, or None"),
]


@pytest.mark.parametrize(("settings", "value", "rule"), WRONG, ids=lambda x: str(x))
def test_an_error_names_setting_value_and_rule(settings: dict[str, Any], value: str, rule: str) -> None:
    with pytest.raises(ValueError) as error:
        GenerationConfig(**{"do_sample": settings.keys() <= SAMPLING, **settings})
    assert value in str(error.value) and rule in str(error.value)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_p": 0}, {"top_k": -1}, {"typical_p": 0.0}])
def test_rules_of_sampling_do_not_apply_without_it(settings: dict[str, Any]) -> None:
    config = GenerationConfig.from_dict({**settings, "do_sample": False, "num_beams": 2})
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is "):
        config.updated(do_sample=True)


@pytest.mark.parametrize("settings", [{"output_scores": True}, {"prompt_lookup_num_tokens": 3}])
def test_what_changes_no_token_is_ignored_in_a_file(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        assert GenerationConfig.from_dict(settings) == GenerationConfig()
    assert f"{next(iter(settings))} in the checkpoint's generation settings changes no token" in caplog.text


MISTYPED: list[tuple[str, Any]] = [
    ("max_length", "20"),
    ("num_beams", 2.5),
    ("num_beams", "4"),
    ("top_k", None),
    ("early_stopping", 1),
    ("do_sample", "no"),
    ("length_penalty", "1"),
    ("length_penalty", float("nan")),
    ("eos_token_id", "2"),
    ("bad_words_ids", [5]),
    ("pad_token_id", None),
    ("min_p", "0.1"),
    ("typical_p", None),
    ("eta_cutoff", float("nan")),
    ("encoder_repetition_penalty", True),
    ("renormalize_logits", 1),
    ("remove_invalid_values", None),
    ("sequence_bias", "5"),
    ("sequence_bias", [[[5], "1"]]),
    ("sequence_bias", [[[5.0], 1.0]]),
    ("suppress_tokens", ""),
    ("suppress_tokens", [2.0]),
    ("begin_suppress_tokens", "5"),
    ("exponential_decay_length_penalty", 1.1),
    ("exponential_decay_length_penalty", (5.0, 1.1)),
    ("forced_eos_token_id", "2"),
    ("forced_eos_token_id", [True]),
]


@pytest.mark.parametrize(("name", "value"), MISTYPED, ids=str)
def test_a_value_of_another_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        GenerationConfig(**{name: value})


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (write(tmp_path, {}) / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"generation_config\.json"):
        GenerationConfig.from_pretrained(tmp_path)


def test_updates_are_checked_too() -> None:
    with pytest.raises(ValueError, match="num_beams is 0"):
        GenerationConfig().updated(num_beams=0)
    with pytest.raises(ValueError, match=r"num_beam is not a generation setting; use one of .*num_beams"):
        GenerationConfig().updated(num_beam=2)
    assert GenerationConfig(num_beams=2).updated(max_length=9) == GenerationConfig(num_beams=2, max_length=9)


@pytest.mark.parametrize(
    ("settings", "prompt", "longest"),
    [
        ({}, 1, 21),
        ({}, 5, 25),
        ({"max_length": 10}, 1, 10),
        ({"max_length": 10}, 4, 10),
        ({"max_new_tokens": 10}, 4, 14),
        ({"max_length": 3, "max_new_tokens": 10}, 4, 14),
    ],
)
def test_max_length_counts_the_prompt_and_max_new_tokens_does_not(
    settings: dict[str, Any], prompt: int, longest: int
) -> None:
    assert GenerationConfig(**settings).max_sequence_length(tiny_config(), prompt) == longest


@pytest.mark.parametrize("prompt", [3, 4])
def test_a_prompt_must_leave_room(prompt: int) -> None:
    with pytest.raises(ValueError, match=f"{prompt} tokens and max_length is 3"):
        GenerationConfig(max_length=3).max_sequence_length(tiny_config(), prompt)


def test_an_output_may_not_outgrow_the_decoders_positions() -> None:
    model = tiny_config(max_decoder_position_embeddings=16)
    assert GenerationConfig(max_length=17).max_sequence_length(model) == 17
    for config in (GenerationConfig(max_length=18), GenerationConfig(max_new_tokens=17), GenerationConfig()):
        with pytest.raises(ValueError, match=r"max_length is \d+; .* has 16 positions .* at most 17"):
            config.max_sequence_length(model)
    with pytest.raises(ValueError, match="at most 17"):
        generate(tiny_model(max_decoder_position_embeddings=16), torch.tensor([[5]]), max_length=18)


def test_the_longest_allowed_output_can_be_written() -> None:
    model = tiny_model(max_decoder_position_embeddings=16)
    out = generate(model, torch.tensor([[5, 6, 7]]), max_length=17, min_length=17)
    assert out.sequences.shape == (1, 17)


# A model folder.


def write(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
    values = {**tiny_config(pad_token_id=3, eos_token_id=4).to_dict(), **config}
    (folder / "config.json").write_text(json.dumps(values))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_generation_config_json_stands_alone_where_there_is_one(tmp_path: Path) -> None:
    config = GenerationConfig.from_pretrained(
        write(tmp_path, {"num_beams": 4, "max_length": 9}, {"max_length": 50})
    )
    assert (config.num_beams, config.max_length) == (1, 50)


def test_config_json_has_the_settings_where_there_is_no_other_file(tmp_path: Path) -> None:
    folder = write(
        tmp_path, {"num_beams": 4, "max_length": 9, "early_stopping": True, "no_repeat_ngram_size": 3}
    )
    config = GenerationConfig.from_pretrained(folder)
    assert (config.num_beams, config.max_length, config.early_stopping, config.no_repeat_ngram_size) == (
        4,
        9,
        True,
        3,
    )


@pytest.mark.parametrize("generation", [None, {}, {"pad_token_id": None, "max_length": None}])
def test_ids_come_from_the_model_where_the_file_has_none(
    tmp_path: Path, generation: dict[str, Any] | None
) -> None:
    config = GenerationConfig.from_pretrained(write(tmp_path, {}, generation))
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id, config.decoder_start_token_id) == (
        3,
        4,
        0,
        2,
    )
    assert config.max_sequence_length(tiny_config()) == 21


def test_ids_of_the_file_win_over_the_models(tmp_path: Path) -> None:
    config = GenerationConfig.from_pretrained(
        write(tmp_path, {}, {"pad_token_id": 5, "eos_token_id": [6, 7]})
    )
    assert (config.pad_token_id, config.eos_token_ids) == (5, (6, 7))


def test_the_reference_finds_the_same_settings_in_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="the reference, transformers 5, is not installed"
    )
    settings = {
        "num_beams": 3,
        "max_length": 30,
        "length_penalty": 0.8,
        "early_stopping": "never",
        "forced_bos_token_id": 0,
    }
    transformers.GenerationConfig(**settings, eos_token_id=[2, 9]).save_pretrained(tmp_path)
    ours = GenerationConfig.from_pretrained(write(tmp_path, {}))
    assert {name: getattr(ours, name) for name in settings} == settings
    assert ours.eos_token_ids == (2, 9)


def test_the_defaults_are_the_references() -> None:
    transformers = pytest.importorskip(
        "transformers", reason="the reference, transformers 5, is not installed"
    )
    theirs = transformers.GenerationConfig()._get_default_generation_params()
    ours = {name: getattr(GenerationConfig(), name) for name in theirs if hasattr(GenerationConfig(), name)}
    ours.pop("max_length")  # None here: twenty more than the prompt, as the reference makes of its 20
    assert len(ours) > 10
    assert {name: theirs[name] for name in ours} == ours


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "num_beams": 4,
            "num_return_sequences": 2,
            "early_stopping": "never",
            "length_penalty": -1.0,
            "max_length": 512,
        },
        {"do_sample": True, "seed": 0, "top_k": 0, "top_p": 0.5, "temperature": 2.0, "min_new_tokens": 0},
        {"bad_words_ids": [[5], [6, 7]], "eos_token_id": [2, 9], "forced_eos_token_id": 2, "pad_token_id": 8},
        {
            "sequence_bias": [[[5], 1.0], [[6, 7], -2.5]],
            "forced_eos_token_id": [2, 9],
            "remove_invalid_values": True,
        },
        {
            "suppress_tokens": [5, 6],
            "begin_suppress_tokens": [2],
            "exponential_decay_length_penalty": [5, 1.2],
        },
        {
            "min_p": 0.1,
            "top_h": 0.5,
            "typical_p": 0.9,
            "epsilon_cutoff": 0.01,
            "eta_cutoff": 0.02,
            "renormalize_logits": True,
        },
    ],
    ids=str,
)
def test_settings_survive_their_file(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = GenerationConfig(**settings)
    config.save_pretrained(tmp_path / "new" / "folder")
    write(tmp_path / "new" / "folder", {"num_beams": 7})
    assert GenerationConfig.from_pretrained(tmp_path / "new" / "folder") == config


SCORE_RULES: dict[str, Any] = {
    "do_sample": True,
    "min_p": 0.0,
    "top_h": 1,
    "typical_p": 0.9,
    "epsilon_cutoff": 1e-3,
    "eta_cutoff": 1e-3,
    "repetition_penalty": 2,
    "encoder_repetition_penalty": 2,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "sequence_bias": (((5,), 1), ((6, 7), -2.5)),
    "suppress_tokens": (8,),
    "begin_suppress_tokens": (9,),
    "exponential_decay_length_penalty": (3, 1.1),
    "forced_eos_token_id": (2, 9),
}


def test_the_reference_generates_with_a_saved_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="the reference, transformers 5, is not installed"
    )
    GenerationConfig(**SCORE_RULES).save_pretrained(tmp_path)
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert theirs.sequence_bias == [[[5], 1.0], [[6, 7], -2.5]]
    model = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**TINY)).eval()
    torch.manual_seed(0)
    expected = model.generate(torch.tensor([[5, 6, 7]]), generation_config=theirs)
    ours = tiny_model()
    ours.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    config = GenerationConfig.from_pretrained(write(tmp_path, {}))
    assert torch.equal(
        generate(ours, torch.tensor([[5, 6, 7]]), generation_config=config).sequences, expected
    )


@pytest.mark.parametrize(
    "name",
    ["bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id"],
)
def test_every_token_named_must_be_in_the_vocabulary(name: str) -> None:
    vocabulary = tiny_config().vocab_size
    for token in (vocabulary - 1, vocabulary):
        value = {"bad_words_ids": [[5, token]], "sequence_bias": [[[5, token], 1.0]]}.get(name, [5, token])
        config = GenerationConfig(**{name: value})
        if token < vocabulary:
            config.max_sequence_length(tiny_config())
        else:
            with pytest.raises(
                ValueError, match=f"token {token} is named .* below the vocabulary's size, {vocabulary}"
            ):
                config.max_sequence_length(tiny_config())


NEUTRAL: list[tuple[str, Any]] = [
    ("min_p", None),
    ("top_h", None),
    ("typical_p", 1.0),
    ("typical_p", 1),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0),
    ("encoder_repetition_penalty", 1.0),
    ("renormalize_logits", False),
    ("remove_invalid_values", False),
    ("sequence_bias", None),
    ("sequence_bias", []),
    ("suppress_tokens", []),
    ("begin_suppress_tokens", []),
    ("exponential_decay_length_penalty", None),
]


@pytest.mark.parametrize(("name", "value"), NEUTRAL)
def test_neutral_values_of_published_files_change_nothing(name: str, value: Any) -> None:
    for neutral in (value, None):
        config = GenerationConfig.from_dict({name: neutral})
        assert len(build_processors(config.updated(do_sample=True, top_k=0), 1)) == 0


# Settings of the reference that are not offered: (name, a value that changes nothing, one that does).
NOT_OFFERED: list[Any] = [
    ("num_beam_groups", 1, 2),
    ("diversity_penalty", 0.0, 0.5),
    ("penalty_alpha", 0.0, 0.6),
    ("guidance_scale", 1.0, 2.0),
    ("force_words_ids", None, [[5]]),
    ("constraints", None, ["x"]),
    ("stop_strings", None, ["."]),
    ("watermarking_config", None, {"bias": 2.0}),
    ("dola_layers", None, "high"),
    ("max_time", None, 1.0),
    ("token_healing", False, True),
]


@pytest.mark.parametrize(("name", "neutral", "active"), NOT_OFFERED)
def test_what_is_not_offered_is_refused_unless_neutral(
    tmp_path: Path, name: str, neutral: Any, active: Any
) -> None:
    for value in (neutral, None):
        assert GenerationConfig().updated(**{name: value}) == GenerationConfig()
        folder = write(tmp_path, {}, {name: value, "pad_token_id": 1, "eos_token_id": 2})
        assert GenerationConfig.from_pretrained(folder) == GenerationConfig()
    with pytest.raises(ValueError, match=f"{name}=.*not supported"):
        GenerationConfig().updated(**{name: active})
    with pytest.raises(ValueError, match=rf"{name}=.*\s.*generation_config\.json"):
        GenerationConfig.from_pretrained(write(tmp_path, {}, {name: active}))


def test_other_keys_of_a_file_are_left_aside() -> None:
    values = {
        "_from_model_config": True,
        "transformers_version": "5.23.0",
        "use_cache": True,
        "max_length": 9,
    }
    assert GenerationConfig.from_dict(values) == GenerationConfig(max_length=9)
