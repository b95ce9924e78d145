"""LEDConfig: the published `config.json` as a validated dataclass.

Source: the published checkpoints of arXiv:2004.05150. Their `attention_window` is two-sided: a token attends
to `attention_window // 2` tokens on each side and to itself. The paper's own code counts one side.

All values are validated when the configuration is created, so a model never fails on them later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from led.checkpoint.hub import resolve

ACTIVATIONS = ("gelu", "relu", "silu", "gelu_new")

# Other names of these functions in published files. All tanh approximations of GELU are the same function.
_ACTIVATION_ALIASES = {
    "swish": "silu",
    "gelu_python": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
}

# Other names of these settings that occur in published files.
_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
    "attention_probs_dropout_prob": "attention_dropout",
    "initializer_range": "init_std",
    "classif_dropout": "classifier_dropout",
}

# Keys that have the same value in the file of every LED.
_CONSTANTS = {"model_type": "led", "is_encoder_decoder": True}

# Keys that are derived from others and not read.
_DERIVED = ("label2id",)

# The most classes without names of their own.
_MOST_LABELS = 1 << 20

# The widest window, as a multiple of the positions. A wider one would only take memory.
_WIDEST_WINDOW = 64

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


@dataclass(frozen=True)
class LEDConfig:
    """Configuration of a Longformer-Encoder-Decoder (arXiv:2004.05150, section 7).

    `attention_window` is two-sided, in tokens. It is one even number for all encoder layers, or one per
    layer. Positions, tokens and sizes are counts, and dropouts are rates.

    `id2label` has the names of the classes. By default there are `num_labels` of them, or 2, named `LABEL_0`,
    `LABEL_1`, and so on. `problem_type` is "regression", "single_label_classification" or
    "multi_label_classification". For None, the labels determine it.

    Without `tie_word_embeddings`, the language-model head has weights of its own. Encoder and decoder share
    one embedding in any case. `eos_token_id` is one token or several.

    `output_attentions`, `output_hidden_states`, `use_cache` and `return_dict` are the defaults of a call.

    The reference has no `decoder_prompt`. It is for classifiers and question answerers that were trained with
    it: the decoder then reads these token ids instead of the document. Without it, the decoder reads the
    document up to its number of positions, as in the reference.

    Keys of the file that LED does not use are kept in `extra` and written back unchanged. They can be read as
    attributes, and so can the other names of a setting, such as `hidden_size`.

    Raises:
        ValueError: a value breaks a rule. The message has the value, the rule and what to do.
    """

    vocab_size: int = 50265
    max_encoder_position_embeddings: int = 16384
    max_decoder_position_embeddings: int = 1024
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    attention_window: int | tuple[int, ...] = 512
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    classifier_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    init_std: float = 0.02
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int | tuple[int, ...] = 2
    decoder_start_token_id: int = 2
    id2label: Mapping[int, str] | None = None
    num_labels: int = 0
    problem_type: str | None = None
    decoder_prompt: tuple[int, ...] = ()
    tie_word_embeddings: bool = True
    use_cache: bool = True
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.attention_window, list):
            object.__setattr__(self, "attention_window", tuple(self.attention_window))
        if isinstance(self.eos_token_id, list):
            object.__setattr__(self, "eos_token_id", tuple(self.eos_token_id))
        if isinstance(self.activation_function, str):
            activation = _ACTIVATION_ALIASES.get(self.activation_function, self.activation_function)
            object.__setattr__(self, "activation_function", activation)
        if isinstance(self.decoder_prompt, list):
            object.__setattr__(self, "decoder_prompt", tuple(self.decoder_prompt))
        names = self.id2label if isinstance(self.id2label, Mapping) else {}
        count = self.num_labels or len(names) or 2
        if self.id2label is None and is_whole(count) and count <= _MOST_LABELS:
            object.__setattr__(self, "id2label", {i: f"LABEL_{i}" for i in range(count)})
        object.__setattr__(self, "num_labels", count)
        _check(self)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            if name in _ALIASES:
                return getattr(self, _ALIASES[name])
            extra = self.__dict__.get("extra", {})
            if name in extra:
                return extra[name]
        raise AttributeError(f"{type(self).__name__} has no {name!r}.")

    @property
    def labels(self) -> dict[int, str]:
        """The name of each class."""
        return {i: str(name) for i, name in (self.id2label or {}).items()}

    @property
    def end_token_id(self) -> int:
        """The token that ends a text: `eos_token_id`, or the first of several."""
        return self.eos_token_id if isinstance(self.eos_token_id, int) else self.eos_token_id[0]

    @property
    def label2id(self) -> dict[str, int]:
        """The number of each class by name."""
        return {name: i for i, name in self.labels.items()}

    @property
    def attention_windows(self) -> tuple[int, ...]:
        """The two-sided window of each encoder layer, in tokens."""
        if isinstance(self.attention_window, int):
            return (self.attention_window,) * self.encoder_layers
        return self.attention_window

    @property
    def parameters(self) -> int:
        """About the number of weights that a model of this configuration has, at least."""
        d = self.d_model
        embeddings = (
            self.vocab_size + self.max_encoder_position_embeddings + self.max_decoder_position_embeddings
        )
        encoder = self.encoder_layers * (7 * d + 2 * self.encoder_ffn_dim)
        decoder = self.decoder_layers * (8 * d + 2 * self.decoder_ffn_dim)
        return d * (embeddings + encoder + decoder)

    @property
    def max_input_tokens(self) -> int:
        """The most tokens that a classifier or question answerer reads at once.

        The limit is the number of encoder positions and, without a `decoder_prompt`, of decoder positions.
        """
        positions = self.max_encoder_position_embeddings
        return positions if self.decoder_prompt else min(positions, self.max_decoder_position_embeddings)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LEDConfig:
        """The configuration from a parsed `config.json`. Unknown keys are kept in `extra`. A null stands for
        the default of a rate or a switch.

        Raises:
            ValueError: a value breaks a rule.
        """
        types = {f.name: f.type for f in fields(cls)}
        known = types.keys() - {"extra"}
        settings: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for key, value in values.items():
            if key in _CONSTANTS or key in _DERIVED:
                continue
            if key == "id2label" and isinstance(value, dict):
                value = {int(i) if str(i).isdigit() else i: name for i, name in value.items()}
            name = _ALIASES.get(key, key)
            if name not in known:
                extra[key] = value
            elif value is None and types[name] in ("float", "bool"):
                continue
            elif name == key or name not in values:
                settings[name] = value
        if settings.get("id2label"):
            settings.pop("num_labels", None)
        return cls(**settings, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`, including `extra`."""
        values = asdict(self)
        extra = values.pop("extra")
        values.pop("num_labels")
        values["id2label"] = {str(i): name for i, name in self.labels.items()}
        if isinstance(self.attention_window, tuple):
            values["attention_window"] = list(self.attention_window)
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        prompt = list(values.pop("decoder_prompt"))
        return {
            **extra,
            **values,
            **({"decoder_prompt": prompt} if prompt else {}),
            **_CONSTANTS,
            "label2id": self.label2id,
            "num_hidden_layers": self.encoder_layers,
        }

    @classmethod
    def from_pretrained(cls, model: str | Path, **location: Any) -> LEDConfig:
        """The configuration in the `config.json` of a model folder or a published checkpoint.

        `location` may have `revision`, `cache_dir` and `local_files_only`, as in `LEDModel.from_pretrained`.

        Raises:
            FileNotFoundError: the folder, checkpoint or file does not exist.
            ValueError: the file is not JSON, or is for another architecture.
        """
        folder = resolve(str(model), weights=False, **location).folder
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no config.json; give a model folder.")
        try:
            values = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON ({error}); download the file again.") from error
        model_type = values.get("model_type", "led") if isinstance(values, dict) else None
        if model_type != "led":
            raise ValueError(
                f"{path} has model_type {model_type!r}; it must be 'led'. Use an LED checkpoint."
            )
        return cls.from_dict(values)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `folder/config.json`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        (Path(folder) / "config.json").write_text(text, "utf-8")


def is_whole(value: Any) -> bool:
    """Whether `value` is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(config: LEDConfig) -> None:
    for f in fields(config):
        value = getattr(config, f.name)
        if f.type == "int" and not is_whole(value):
            raise ValueError(f"{f.name} is {value!r}; it must be a whole number.")
        if f.type == "bool" and not isinstance(value, bool):
            raise ValueError(f"{f.name} is {value!r}; it must be true or false.")
        if f.type == "float":
            if not is_number(value):
                raise ValueError(f"{f.name} is {value!r}; it must be a number.")
            if f.name != "init_std" and not 0 <= value < 1:
                raise ValueError(f"{f.name} is {value}; it must lie in [0, 1).")
    for name in (
        "vocab_size",
        "d_model",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "max_encoder_position_embeddings",
        "max_decoder_position_embeddings",
        "encoder_layers",
        "decoder_layers",
    ):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least 1.")
    for name in ("encoder_attention_heads", "decoder_attention_heads"):
        if config.d_model % getattr(config, name):
            raise ValueError(
                f"d_model is {config.d_model}; it must be a multiple of {name} ({getattr(config, name)})."
            )
    if config.activation_function not in ACTIVATIONS:
        raise ValueError(
            f"activation_function is {config.activation_function!r}; use one of {', '.join(ACTIVATIONS)}."
        )
    windows = config.attention_window
    if not isinstance(windows, int | tuple) or isinstance(windows, bool):
        raise ValueError(
            f"attention_window is {windows!r}; it must be an even number, or one per encoder layer."
        )
    if isinstance(windows, tuple) and len(windows) != config.encoder_layers:
        raise ValueError(
            f"attention_window has {len(windows)} entries; it must have one per encoder layer "
            f"({config.encoder_layers})."
        )
    for window in windows if isinstance(windows, tuple) else (windows,):
        if not isinstance(window, int) or window < 2 or window % 2:
            raise ValueError(
                f"attention_window has {window!r}; it must be an even number of at least 2, for both sides."
            )
        if window > _WIDEST_WINDOW * config.max_encoder_position_embeddings:
            raise ValueError(
                f"attention_window has {window}; it must be at most {_WIDEST_WINDOW} times "
                f"max_encoder_position_embeddings ({config.max_encoder_position_embeddings})."
            )
    if not isinstance(config.id2label, Mapping):
        raise ValueError(
            f"id2label is {config.id2label!r}; it must map the number of each class to its name."
        )
    if config.problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(f"problem_type is {config.problem_type!r}; use one of {', '.join(PROBLEM_TYPES)}.")
    prompt, max_tokens = config.decoder_prompt, config.max_decoder_position_embeddings
    has_valid_ids = isinstance(prompt, tuple) and all(
        is_whole(token) and 0 <= token < config.vocab_size for token in prompt
    )
    if not has_valid_ids or len(prompt) > max_tokens:
        raise ValueError(
            f"decoder_prompt is {prompt!r}; it must be a list of at most {max_tokens} token ids below the "
            f"vocab_size, {config.vocab_size}."
        )
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
        value = getattr(config, name)
        several = value if isinstance(value, tuple) else (value,)
        if not several or not all(is_whole(i) for i in several):
            raise ValueError(f"{name} is {value!r}; it must be a whole number, or for eos_token_id several.")
        if not all(0 <= i < config.vocab_size for i in several):
            raise ValueError(f"{name} is {value}; it must lie in [0, vocab_size = {config.vocab_size}).")


def check_labels(config: LEDConfig) -> None:
    """Check that `id2label` names the classes 0 to num_labels - 1, as a classifier needs.

    Raises:
        ValueError: it does not.
    """
    labels = config.id2label or {}
    if sorted(labels, key=str) != sorted(range(config.num_labels), key=str):
        raise ValueError(
            f"id2label is {labels!r}; it must name the classes 0 to num_labels - 1 ({config.num_labels - 1})."
        )
