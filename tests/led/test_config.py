"""LEDConfig refuses invalid values by name, accepts published files, and writes back what it read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from led.config import ACTIVATIONS, LEDConfig, check_labels
from led.testing import TINY, tiny_config

WHOLE = "whole number"
SIZES = (
    "vocab_size",
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "max_encoder_position_embeddings",
    "max_decoder_position_embeddings",
)
RATES = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "classifier_dropout",
    "encoder_layerdrop",
    "decoder_layerdrop",
)
IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")

WRONG: list[tuple[str, Any, str]] = [
    *((name, "many", WHOLE) for name in (*SIZES, *IDS)),
    *((name, value, WHOLE) for name in ("d_model", "pad_token_id") for value in (True, None, 8.0)),
    *((name, value, "at least 1") for name in SIZES for value in (0, -1)),
    *((name, value, r"\[0, 1\)") for name in RATES for value in (1, 1.5, -0.1)),
    *((name, float("nan"), "must be a number") for name in RATES),
    *((name, value, "number") for name in (*RATES, "init_std") for value in ("0.1", None, True)),
    *((name, value, "vocab_size") for name in IDS for value in (-1, 99)),
    ("encoder_attention_heads", 5, "multiple"),
    ("decoder_attention_heads", 3, "multiple"),
    ("activation_function", "tanh", "|".join(ACTIVATIONS)),
    ("attention_window", 7, "even"),
    ("attention_window", 0, "even"),
    ("attention_window", -2, "even"),
    ("attention_window", "512", "even"),
    ("attention_window", 8.0, "even"),
    ("attention_window", True, "even"),
    ("attention_window", None, "even"),
    ("attention_window", [8, 7], "even"),
    ("attention_window", [8, 0], "even"),
    ("attention_window", [8, "8"], "even"),
    ("attention_window", [8], "one per encoder layer"),
    ("attention_window", [8, 8, 8], "one per encoder layer"),
]


@pytest.mark.parametrize(("name", "value", "rule"), WRONG, ids=lambda x: str(x))
def test_an_error_names_setting_value_and_rule(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as error:
        tiny_config(**{name: value})
    message = str(error.value)
    assert name in message
    if not isinstance(value, list):
        assert str(value) in message
    elif len(value) == 2:
        assert repr(value[1]) in message
    else:
        assert str(len(value)) in message


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_window": 2},
        {"attention_window": [2, 512]},
        {"dropout": 0},
        *({"activation_function": name} for name in ACTIVATIONS),
    ],
    ids=str,
)
def test_values_at_the_edge_of_a_rule_pass(changes: dict[str, Any]) -> None:
    tiny_config(**changes)


def test_a_window_is_given_once_or_per_layer() -> None:
    assert tiny_config(attention_window=8).attention_windows == (8, 8)
    assert tiny_config(attention_window=[4, 8]).attention_windows == (4, 8)


def test_an_unknown_setting_is_refused_in_code_and_kept_from_a_file() -> None:
    with pytest.raises(TypeError, match="d_modle"):
        LEDConfig(d_modle=8)
    assert LEDConfig.from_dict({"d_modle": 8}).extra == {"d_modle": 8}


def test_a_configuration_cannot_change() -> None:
    with pytest.raises(AttributeError):
        tiny_config().d_model = 64


LEGACY: dict[str, Any] = {
    "_name_or_path": "x",
    "_num_labels": 3,
    "architectures": ["LEDForConditionalGeneration"],
    "attention_dilation": [1, 1],
    "attention_mode": "sliding_chunks",
    "force_bos_token_to_be_generated": False,
    "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    "max_length": 512,
    "max_position_embeddings": 4096,
    "num_beams": 4,
    "output_past": False,
    "prefix": " ",
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.2.0.dev0",
    "use_cache": True,
}


def test_legacy_keys_are_kept_and_written_back() -> None:
    config = LEDConfig.from_dict({**TINY, **LEGACY, "model_type": "led"})
    read = {"id2label", "label2id", "use_cache", "tie_word_embeddings"}
    assert {name: config.extra[name] for name in LEGACY if name not in read} == {
        name: value for name, value in LEGACY.items() if name not in read
    }
    assert config.to_dict().items() >= LEGACY.items()
    assert (config.num_labels, config.labels[2], config.label2id["LABEL_1"]) == (3, "LABEL_2", 1)


def test_nulls_of_rates_and_switches_are_their_defaults() -> None:
    config = LEDConfig.from_dict({**TINY, "classifier_dropout": None, "use_cache": None, "dropout": None})
    assert (config.classifier_dropout, config.use_cache, config.dropout) == (0.0, True, 0.1)
    with pytest.raises(ValueError, match="d_model is None; it must be a whole number"):
        LEDConfig.from_dict({**TINY, "d_model": None})


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("swish", "silu"),
        ("gelu_fast", "gelu_new"),
        ("gelu_pytorch_tanh", "gelu_new"),
        ("gelu_python", "gelu"),
    ],
)
def test_other_names_of_activations(name: str, function: str) -> None:
    assert LEDConfig.from_dict({**TINY, "activation_function": name}).activation_function == function


def test_several_tokens_may_end_a_text() -> None:
    config = LEDConfig.from_dict({**TINY, "eos_token_id": [2, 7]})
    assert config.eos_token_id == (2, 7) and config.end_token_id == 2
    assert config.to_dict()["eos_token_id"] == [2, 7]
    with pytest.raises(ValueError, match=r"eos_token_id is \(2, 99\); it must lie in \[0, vocab_size = 99\)"):
        LEDConfig.from_dict({**TINY, "eos_token_id": [2, 99]})


def test_labels_are_named_or_counted() -> None:
    assert LEDConfig().labels == {0: "LABEL_0", 1: "LABEL_1"}
    assert LEDConfig(num_labels=4).labels[3] == "LABEL_3"
    assert LEDConfig.from_dict({"id2label": {"0": 10, "1": 20}}).labels == {0: "10", 1: "20"}
    assert LEDConfig(id2label={0: "no", 1: "yes", 2: "maybe"}).num_labels == 3
    with pytest.raises(
        ValueError, match=r"id2label is .*; it must name the classes 0 to num_labels - 1 \(2\)"
    ):
        check_labels(LEDConfig(num_labels=3, id2label={0: "no", 1: "yes"}))
    with pytest.raises(ValueError, match="problem_type is 'ranking'; use one of regression"):
        LEDConfig(problem_type="ranking")


def test_other_names_and_kept_keys_read_as_attributes() -> None:
    config = pickle.loads(pickle.dumps(LEDConfig.from_dict({**TINY, "prefix": " "})))
    assert (config.hidden_size, config.num_hidden_layers, config.prefix) == (
        config.d_model,
        config.encoder_layers,
        " ",
    )
    with pytest.raises(AttributeError, match="has no 'prefx'"):
        config.prefx  # noqa: B018


def test_other_names_of_a_setting_are_read_and_the_proper_name_wins() -> None:
    config = LEDConfig.from_dict(
        {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "attention_probs_dropout_prob": 0.2,
            "initializer_range": 0.5,
            "classif_dropout": 0.3,
        }
    )
    assert (config.d_model, config.encoder_layers, config.encoder_attention_heads) == (32, 3, 4)
    assert (config.attention_dropout, config.init_std, config.classifier_dropout) == (0.2, 0.5, 0.3)
    for values in (
        {"num_hidden_layers": 12, "encoder_layers": 2},
        {"encoder_layers": 2, "num_hidden_layers": 12},
    ):
        assert LEDConfig.from_dict(values).encoder_layers == 2


@pytest.mark.parametrize("window", [8, (4, 16)])
def test_a_configuration_survives_its_file(tmp_path: Path, window: int | tuple[int, ...]) -> None:
    config = LEDConfig.from_dict({**TINY, **LEGACY, "attention_window": window})
    config.save_pretrained(tmp_path / "new" / "folder")
    once = LEDConfig.from_pretrained(tmp_path / "new" / "folder")
    once.save_pretrained(tmp_path)
    assert LEDConfig.from_pretrained(tmp_path) == once
    assert once.to_dict() == config.to_dict()
    assert once.attention_windows == config.attention_windows


def test_a_configuration_made_in_code_comes_back_equal() -> None:
    assert LEDConfig.from_dict(tiny_config().to_dict()) == tiny_config()


def test_the_reference_reads_what_is_written_here_and_the_other_way_round(tmp_path: Path) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="the reference, transformers 5, is not installed"
    )
    shared = {
        **TINY,
        "attention_window": [4, 8],
        "dropout": 0.2,
        "encoder_layerdrop": 0.3,
        "activation_function": "relu",
    }
    LEDConfig(**shared).save_pretrained(tmp_path)
    theirs = transformers.LEDConfig.from_pretrained(tmp_path)
    assert {name: getattr(theirs, name) for name in shared} == shared
    theirs.save_pretrained(tmp_path)
    ours = LEDConfig.from_pretrained(tmp_path).to_dict()
    assert {name: ours[name] for name in shared} == shared


def test_the_defaults_are_the_references() -> None:
    transformers = pytest.importorskip(
        "transformers", reason="the reference, transformers 5, is not installed"
    )
    ours, theirs = LEDConfig().to_dict() | {"id2label": LEDConfig().labels}, transformers.LEDConfig()
    assert {name: getattr(theirs, name) for name in ours} == ours


def test_a_folder_without_config_is_no_model_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        LEDConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "rule"),
    [("{", "not valid JSON"), (json.dumps({"model_type": "bart"}), "'bart'.*'led'"), ("[1]", "'led'")],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rule):
        LEDConfig.from_pretrained(tmp_path)
