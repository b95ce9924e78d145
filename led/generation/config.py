"""GenerationConfig: how a model writes, the published `generation_config.json` as a checked dataclass.

Lengths count decoder tokens with the start token, as in the reference; `max_new_tokens` and `min_new_tokens`
count what is written after the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from led.checkpoint.hub import resolve
from led.config import LEDConfig, is_number, is_whole

# Settings of the reference that this library does not offer, with the values that change nothing.
_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,),
    "diversity_penalty": (0, 0.0),
    "penalty_alpha": (0, 0.0),
    "guidance_scale": (1, 1.0),
    "force_words_ids": (),
    "constraints": (),
    "stop_strings": (),
    "prompt_lookup_num_tokens": (),
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

# Settings of the reference that say how it works, not what comes out; any value is accepted and none is
# needed.
_WITHOUT_EFFECT = ("use_cache", "cache_implementation", "low_memory", "synced_gpus")


@dataclass(frozen=True)
class GenerationConfig:
    """How to write; the defaults are the reference's.

    `max_length` (20 more than the prompt when neither it nor `max_new_tokens` is set) and `min_length` count
    the start token. `early_stopping` is True, False or "never". With a `seed`, every document draws from a
    generator of its own that starts there, so a document's samples do not depend on its neighbours; without,
    from torch's global one.

    `sequence_bias` lists [token ids, bias]. `exponential_decay_length_penalty` is (start, factor): the end of
    sequence gains from `start` tokens after the prompt on. `begin_suppress_tokens` may not be the first token
    written, a forced one aside.

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
        return _several(self.eos_token_id)

    @property
    def forced_eos_token_ids(self) -> tuple[int, ...]:
        """The tokens of which one must be the last at `max_length`; none where nothing is forced."""
        return _several(self.forced_eos_token_id)

    def max_sequence_length(self, model: LEDConfig, prompt_length: int = 1) -> int:
        """The longest sequence, in tokens, that `model` would write after a prompt of this length.

        Raises:
            ValueError: the prompt leaves no room, the sequence would outgrow the decoder's positions, or
                a token is not in the vocabulary.
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
                f"token {outside[0]} is named in the generation settings; the vocabulary has {model.vocab_size}."
            )
        longest = prompt_length + 20
        if self.max_new_tokens is not None:
            longest = prompt_length + self.max_new_tokens
        elif self.max_length is not None:
            longest = self.max_length
        if prompt_length >= longest:
            raise ValueError(
                f"the decoder prompt has {prompt_length} tokens and max_length is {longest}; it must be longer."
            )
        positions = model.max_decoder_position_embeddings
        if longest - 1 > positions:
            raise ValueError(
                f"max_length is {longest}; this model's decoder has {positions} positions "
                f"(max_decoder_position_embeddings), so it must be at most {positions + 1}."
            )
        return longest

    def updated(self, **changes: Any) -> GenerationConfig:
        """The same settings with some changed.

        Raises:
            ValueError: a name is not a setting of this class.
        """
        known = {f.name for f in fields(self)}
        unset = {f.name for f in fields(self) if f.default is not None}  # None leaves these as they are
        changes = {
            name: value
            for name, value in changes.items()
            if name not in _WITHOUT_EFFECT and not (value is None and name in unset)
        }
        for name, value in changes.items():
            if name in _NOT_OFFERED and value is not None and value not in _NOT_OFFERED[name]:
                raise ValueError(f"{name}={value!r} is not offered by this library; leave it out.")
            if name not in known and name not in _NOT_OFFERED:
                raise ValueError(f"{name} is not a generation setting; known: {', '.join(sorted(known))}.")
        return replace(self, **{name: value for name, value in changes.items() if name in known})

    @classmethod
    def from_dict(cls, values: dict[str, Any], model: LEDConfig | None = None) -> GenerationConfig:
        """The settings among `values`, ids taken from `model` where `values` has none; other keys are left
        aside.

        Raises:
            ValueError: `values` asks for something this library does not offer.
        """
        known = {f.name for f in fields(cls)}
        given = {name: value for name, value in values.items() if value is not None}
        for name, neutral in _NOT_OFFERED.items():
            if name in given and given[name] not in neutral:
                raise ValueError(
                    f"the checkpoint's generation settings ask for {name}={given[name]!r}, which this library "
                    "does not offer; remove it from generation_config.json."
                )
        settings = {name: value for name, value in given.items() if name in known}
        if model is not None:
            for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id"):
                settings.setdefault(name, getattr(model, name))
        return cls(**settings)

    @classmethod
    def from_pretrained(cls, model: str | Path, **where: Any) -> GenerationConfig:
        """The settings of a model folder or a published checkpoint.

        They are those of its generation_config.json alone where there is one, else of its config.json.
        `where` is `revision`, `cache_dir` and `local_files_only`, as in `LEDModel.from_pretrained`.

        Raises:
            FileNotFoundError: there is no such folder or checkpoint, or it has no config.json.
            ValueError: a file is malformed, or asks for something this library does not offer.
        """
        folder = resolve(str(model), weights=False, **where).folder
        config = LEDConfig.from_pretrained(folder)
        path = folder / "generation_config.json"
        if path.is_file():
            try:
                values = json.loads(path.read_text("utf-8"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} is not valid JSON ({error}); fetch the file again.") from error
            if not isinstance(values, dict):
                raise ValueError(f"{path} holds no settings by name; fetch the file again.")
            return cls.from_dict(values, config)
        return cls.from_dict(config.extra, config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `folder/generation_config.json`: the ids, and what differs from the defaults."""
        plain = GenerationConfig()
        ids = ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id")
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("repetition_penalty", "encoder_repetition_penalty"):
            values[name] = float(values[name])  # the reference takes no whole numbers here, nor as a bias
        if self.sequence_bias is not None:
            values["sequence_bias"] = [[list(ids), float(bias)] for ids, bias in self.sequence_bias]
        kept = {name: value for name, value in values.items() if name in ids or value != getattr(plain, name)}
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "generation_config.json").write_text(
            json.dumps(kept, indent=2, sort_keys=True) + "\n", "utf-8"
        )


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (is_whole, "a whole number"),
    "float": (is_number, "a number"),
    "bool": (lambda value: isinstance(value, bool), "True or False"),
    "None": (lambda value: value is None, "None"),
}


def _are_ids(ids: Any) -> bool:
    return isinstance(ids, Sequence) and len(ids) > 0 and all(is_whole(i) and i >= 0 for i in ids)


def _several(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


def _is_bias(entry: Any) -> bool:
    return isinstance(entry, Sequence) and len(entry) == 2 and _are_ids(entry[0]) and is_number(entry[1])


def _is_decay(pair: Any) -> bool:
    if not (isinstance(pair, Sequence) and len(pair) == 2):
        return False
    return is_whole(pair[0]) and pair[0] >= 0 and is_number(pair[1]) and pair[1] > 0


def _check(config: GenerationConfig) -> None:
    def rule(holds: bool, name: str, text: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {getattr(config, name)!r}; {text}.")

    for f in fields(config):
        kinds = str(f.type).split(" | ")
        if set(kinds) <= _KINDS.keys():
            value = getattr(config, f.name)
            rule(any(_KINDS[kind][0](value) for kind in kinds), f.name, f"it must be {_KINDS[kinds[0]][1]}")
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
            "greedy decoding has one; use beams or do_sample",
        )
    rule(config.temperature > 0, "temperature", "it must be above 0; for the best token use do_sample=False")
    rule(config.top_k >= 0, "top_k", "it must be 0 (off) or more")
    rule(0 < config.top_p <= 1, "top_p", "it must lie in (0, 1]")
    rule(config.min_p is None or 0 <= config.min_p <= 1, "min_p", "it must lie in [0, 1], or be None (off)")
    rule(config.top_h is None or 0 < config.top_h <= 1, "top_h", "it must lie in (0, 1], or be None (off)")
    rule(0 < config.typical_p <= 1, "typical_p", "it must lie in (0, 1] (1 is off)")
    for name in ("epsilon_cutoff", "eta_cutoff"):
        rule(0 <= getattr(config, name) < 1, name, "it must lie in [0, 1) (0 is off)")
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
        "it must list [token ids, finite bias] pairs; to forbid a sequence name it in bad_words_ids",
    )
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        rule(
            getattr(config, name) in (None, [], ()) or _are_ids(getattr(config, name)),
            name,
            "it must list token ids, or be None (off)",
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
        ("forced_bos_token_id", _several(config.forced_bos_token_id)),
        ("forced_eos_token_id", config.forced_eos_token_ids),
    ):
        rule(
            not forced or not set(forced) <= set(config.suppress_tokens or ()),
            name,
            "suppress_tokens forbids it; take it out of one of the two",
        )
