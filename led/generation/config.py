"""GenerationConfig: the published `generation_config.json` as a validated dataclass.

Lengths are in decoder tokens and include the start token, as in the reference. Only `max_new_tokens` and
`min_new_tokens` count the tokens after the prompt.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from led.checkpoint.hub import resolve
from led.config import LEDConfig, is_number, is_whole

# Settings of the reference that are not supported here, with the values that have no effect.
_NOT_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,),
    "diversity_penalty": (0, 0.0),
    "penalty_alpha": (0, 0.0),
    "guidance_scale": (1, 1.0),
    "force_words_ids": (),
    "constraints": (),
    "stop_strings": (),
    "watermarking_config": (),
    "dola_layers": (),
    "max_time": (),
    "token_healing": (False,),
    "stopping_criteria": ([],),
    "streamer": (),
    "assistant_model": (),
    **dict.fromkeys(
        ("output_scores", "output_logits", "output_attentions", "output_hidden_states"), (False,)
    ),
}

# Settings of the reference that do not change its results. All values are accepted and ignored.
_WITHOUT_EFFECT = (
    "use_cache",
    "cache_implementation",
    "low_memory",
    "synced_gpus",
    "prompt_lookup_num_tokens",
)

# Settings in a checkpoint's files that change no token there: what a call returns besides tokens, and guesses
# of tokens that the model then checks.
_NO_TOKEN = (
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
    "prompt_lookup_num_tokens",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of text generation. The defaults are the reference's.

    `max_length` and `min_length` include the start token. If neither `max_length` nor `max_new_tokens` is
    set, at most 20 tokens are generated. `early_stopping` is True, False or "never". With a `seed`, every
    document has its own random generator with that seed, so its samples do not depend on other documents.
    Without one, torch's global generator is used.

    `sequence_bias` is a list of [token ids, bias]. `exponential_decay_length_penalty` is (start, factor):
    `start` tokens after the prompt, the score of the end of sequence begins to grow. `begin_suppress_tokens`
    cannot be the first token, or the second if the first one is forced.

    Raises:
        ValueError: a value breaks a rule.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] | None = None
    sequence_bias: Sequence[Sequence[Any]] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    exponential_decay_length_penalty: Sequence[Any] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    decoder_start_token_id: int = 2
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int | Sequence[int] = 2

    def __post_init__(self) -> None:
        _check(self)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The end-of-sequence tokens."""
        return _as_tuple(self.eos_token_id)

    @property
    def forced_eos_token_ids(self) -> tuple[int, ...]:
        """The tokens of which one must be the last at `max_length`. Empty if no token is forced."""
        return _as_tuple(self.forced_eos_token_id)

    def max_sequence_length(self, model: LEDConfig, prompt_length: int = 1) -> int:
        """The longest sequence that `model` generates after a prompt of this length, in tokens.

        Raises:
            ValueError: the prompt leaves no room, the decoder has too few positions, or a token is not in
                the vocabulary.
        """
        single = (self.decoder_start_token_id, self.pad_token_id, self.forced_bos_token_id)
        several = (
            self.eos_token_ids,
            self.forced_eos_token_ids,
            self.suppress_tokens or (),
            self.begin_suppress_tokens or (),
        )
        words = (*(self.bad_words_ids or ()), *(ids for ids, _ in self.sequence_bias or ()))
        named = [*single, *(i for ids in (*several, *words) for i in ids)]
        outside = [i for i in named if i is not None and not 0 <= i < model.vocab_size]
        if outside:
            raise ValueError(
                f"token {outside[0]} is named in the generation settings; it must be below the vocabulary's "
                f"size, {model.vocab_size}."
            )
        max_length = prompt_length + 20
        if self.max_new_tokens is not None:
            max_length = prompt_length + self.max_new_tokens
        elif self.max_length is not None:
            max_length = self.max_length
        if prompt_length >= max_length:
            raise ValueError(
                f"the decoder prompt has {prompt_length} tokens and max_length is {max_length}; it must be "
                "larger than the prompt."
            )
        positions = model.max_decoder_position_embeddings
        if max_length - 1 > positions:
            raise ValueError(
                f"max_length is {max_length}; this model's decoder has {positions} positions "
                f"(max_decoder_position_embeddings), so it must be at most {positions + 1}."
            )
        return max_length

    def updated(self, **changes: Any) -> GenerationConfig:
        """A copy with some settings changed.

        Raises:
            ValueError: a setting is unknown or not supported, or a value breaks a rule.
        """
        known = {f.name for f in fields(self)}
        not_nullable = {f.name for f in fields(self) if f.default is not None}  # None does not change these
        changes = {
            name: value
            for name, value in changes.items()
            if name not in _WITHOUT_EFFECT and not (value is None and name in not_nullable)
        }
        for name, value in changes.items():
            if name in _NOT_SUPPORTED and value is not None and value not in _NOT_SUPPORTED[name]:
                raise ValueError(f"{name}={value!r} is not supported; leave it out.")
            if name not in known and name not in _NOT_SUPPORTED:
                raise ValueError(
                    f"{name} is not a generation setting; use one of {', '.join(sorted(known))}."
                )
        return replace(self, **{name: value for name, value in changes.items() if name in known})

    @classmethod
    def from_dict(cls, values: dict[str, Any], model: LEDConfig | None = None) -> GenerationConfig:
        """The generation settings in `values`. Other keys are ignored, and missing ids come from `model`.

        Raises:
            ValueError: `values` has a setting that is not supported.
        """
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in values.items() if value is not None}
        for name in _NO_TOKEN:
            if values.pop(name, None):
                logger.debug(
                    "%s in the checkpoint's generation settings changes no token and is ignored", name
                )
        for name, neutral in _NOT_SUPPORTED.items():
            if name in values and values[name] not in neutral:
                raise ValueError(
                    f"the checkpoint's generation settings have {name}={values[name]!r}, which is not "
                    "supported; remove it from generation_config.json."
                )
        settings = {name: value for name, value in values.items() if name in known}
        if model is not None:
            for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id"):
                settings.setdefault(name, getattr(model, name))
        return cls(**settings)

    @classmethod
    def from_pretrained(cls, model: str | Path, **location: Any) -> GenerationConfig:
        """The settings of a model folder or a published checkpoint.

        They are read from its generation_config.json. Without this file, they are read from its config.json.
        `location` may have `revision`, `cache_dir` and `local_files_only`, as in `LEDModel.from_pretrained`.

        Raises:
            FileNotFoundError: the folder or checkpoint does not exist, or has no config.json.
            ValueError: a file is malformed, or has a setting that is not supported.
        """
        folder = resolve(str(model), weights=False, **location).folder
        config = LEDConfig.from_pretrained(folder)
        path = folder / "generation_config.json"
        if path.is_file():
            try:
                values = json.loads(path.read_text("utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path} is not valid JSON ({error}); download the file again.") from error
            if not isinstance(values, dict):
                raise ValueError(
                    f"{path} holds a {type(values).__name__}; it must be a JSON object. Download the file "
                    "again."
                )
            return cls.from_dict(values, config)
        return cls.from_dict(config.extra, config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the ids and all settings that differ from the defaults to `generation_config.json`."""
        defaults = GenerationConfig()
        ids = ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id")
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("repetition_penalty", "encoder_repetition_penalty"):
            values[name] = float(values[name])  # the reference accepts only floats here, and as a bias
        if self.sequence_bias is not None:
            values["sequence_bias"] = [[list(ids), float(bias)] for ids, bias in self.sequence_bias]
        written = {
            name: value for name, value in values.items() if name in ids or value != getattr(defaults, name)
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "generation_config.json").write_text(
            json.dumps(written, indent=2, sort_keys=True) + "\n", "utf-8"
        )


# By type annotation: the check of a value, and its description.
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (is_whole, "a whole number"),
    "float": (is_number, "a number"),
    "bool": (lambda value: isinstance(value, bool), "True or False"),
    "None": (lambda value: value is None, "None"),
}


def _are_ids(ids: Any) -> bool:
    return isinstance(ids, Sequence) and len(ids) > 0 and all(is_whole(i) and i >= 0 for i in ids)


def _as_tuple(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


def _is_bias(entry: Any) -> bool:
    return isinstance(entry, Sequence) and len(entry) == 2 and _are_ids(entry[0]) and is_number(entry[1])


def _is_decay(pair: Any) -> bool:
    if not (isinstance(pair, Sequence) and len(pair) == 2):
        return False
    return is_whole(pair[0]) and pair[0] >= 0 and is_number(pair[1]) and pair[1] > 0


def _check_sampling(config: GenerationConfig, rule: Callable[[bool, str, str], None]) -> None:
    """The rules of settings that only sampling reads."""
    rule(
        config.temperature > 0,
        "temperature",
        "it must be above 0; use do_sample=False for the most likely token",
    )
    rule(config.top_k >= 0, "top_k", "it must be 0 (off) or more")
    rule(0 < config.top_p <= 1, "top_p", "it must lie in (0, 1]")
    rule(config.min_p is None or 0 <= config.min_p <= 1, "min_p", "it must lie in [0, 1], or be None (off)")
    rule(config.top_h is None or 0 < config.top_h <= 1, "top_h", "it must lie in (0, 1], or be None (off)")
    rule(0 < config.typical_p <= 1, "typical_p", "it must lie in (0, 1] (1 is off)")
    for name in ("epsilon_cutoff", "eta_cutoff"):
        rule(0 <= getattr(config, name) < 1, name, "it must lie in [0, 1) (0 is off)")


def _check(config: GenerationConfig) -> None:
    def rule(holds: bool, name: str, text: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {getattr(config, name)!r}; {text}.")

    for f in fields(config):
        types = str(f.type).split(" | ")
        if set(types) <= _TYPES.keys():
            value = getattr(config, f.name)
            rule(any(_TYPES[name][0](value) for name in types), f.name, f"it must be {_TYPES[types[0]][1]}")
    for name in ("max_length", "max_new_tokens"):
        rule(getattr(config, name) is None or getattr(config, name) >= 1, name, "it must be at least 1")
    rule(config.min_length >= 0, "min_length", "it must be 0 or more")
    rule(
        config.min_new_tokens is None or config.min_new_tokens >= 0, "min_new_tokens", "it must be 0 or more"
    )
    rule(config.num_beams >= 1, "num_beams", "it must be at least 1")
    rule(config.num_return_sequences >= 1, "num_return_sequences", "it must be at least 1")
    if config.num_beams > 1:
        rule(
            config.num_return_sequences <= config.num_beams,
            "num_return_sequences",
            f"beam search returns at most num_beams ({config.num_beams})",
        )
    elif not config.do_sample:
        rule(
            config.num_return_sequences == 1,
            "num_return_sequences",
            "greedy decoding returns one; set num_beams or do_sample",
        )
    if config.do_sample:
        _check_sampling(config, rule)
    for name in ("repetition_penalty", "encoder_repetition_penalty"):
        rule(getattr(config, name) > 0, name, "it must be above 0 (1 is off)")
    rule(config.no_repeat_ngram_size >= 0, "no_repeat_ngram_size", "it must be 0 (off) or more")
    rule(
        config.encoder_no_repeat_ngram_size >= 0, "encoder_no_repeat_ngram_size", "it must be 0 (off) or more"
    )
    rule(
        isinstance(config.early_stopping, bool) or config.early_stopping == "never",
        "early_stopping",
        'it must be True, False or "never"',
    )
    words = config.bad_words_ids
    rule(
        words is None or (isinstance(words, Sequence) and all(_are_ids(word) for word in words)),
        "bad_words_ids",
        "each entry must hold at least one token id",
    )
    biases = config.sequence_bias
    rule(
        biases is None or (isinstance(biases, list | tuple) and all(_is_bias(entry) for entry in biases)),
        "sequence_bias",
        "it must be a list of [token ids, finite bias] pairs; to forbid a sequence, use bad_words_ids",
    )
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        rule(
            getattr(config, name) in (None, [], ()) or _are_ids(getattr(config, name)),
            name,
            "it must be a list of token ids, or None (off)",
        )
    decay = config.exponential_decay_length_penalty
    rule(
        decay is None or _is_decay(decay),
        "exponential_decay_length_penalty",
        "it must be (start, factor), a whole number of 0 or more and a number above 0, or None (off)",
    )
    eos, last = config.eos_token_id, config.forced_eos_token_id
    rule(_are_ids([eos] if is_whole(eos) else eos), "eos_token_id", "it must be a token id, or several")
    rule(
        last is None or _are_ids([last] if is_whole(last) else last),
        "forced_eos_token_id",
        "it must be a token id, several, or None (off)",
    )
    for name, forced in (
        ("forced_bos_token_id", _as_tuple(config.forced_bos_token_id)),
        ("forced_eos_token_id", config.forced_eos_token_ids),
    ):
        rule(
            not forced or not set(forced) <= set(config.suppress_tokens or ()),
            name,
            "suppress_tokens forbids it; remove it from one of the two",
        )
