"""Reads and writes the files of a tokenizer.

The backend is read from `tokenizer.json`, or from `vocab.json` with `merges.txt`. Settings and special tokens
are read from `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, all optional.

The arguments of a call override the files. If two files define the same special token,
`tokenizer_config.json` takes precedence if it lists its added tokens. Otherwise `special_tokens_map.json`
does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from led.tokenizer.backend_checks import check_backend, panics_as_errors
from led.tokenizer.truncation import set_flags, with_special

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
# The list of additional special tokens. transformers 5 renamed it.
EXTRA = ("additional_special_tokens", "extra_special_tokens")
SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "clean_up_tokenization_spaces",
    "model_input_names",
    "split_special_tokens",
)
BACKEND_FLAGS = ("add_prefix_space", "trim_offsets")
KEYWORDS = (*ROLES, *EXTRA, *SETTINGS, *BACKEND_FLAGS, "errors")


@dataclass
class TokenizerParts:
    """The parts of a tokenizer.

    `roles` has the special token of each role, and `extra` the additional special tokens.
    """

    backend: Tokenizer
    roles: dict[str, str]
    extra: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


def read_folder(folder: Path, overrides: Mapping[str, Any]) -> TokenizerParts:
    """The tokenizer in `folder`. `overrides` replace special tokens and settings of its files.

    Raises:
        FileNotFoundError: there is neither tokenizer.json nor vocab.json with merges.txt.
        TypeError: `overrides` has an unknown keyword.
        ValueError: a file is malformed, files contradict each other, or the vocabulary lacks a special token.
    """
    if unknown := sorted(set(overrides) - set(KEYWORDS)):
        raise TypeError(
            f"from_pretrained has no argument {', '.join(unknown)}; it accepts {', '.join(KEYWORDS)}."
        )
    if overrides.get("errors", "replace") != "replace":
        raise ValueError(
            f"errors is {overrides['errors']!r}; it must be 'replace', the only way to decode invalid UTF-8 "
            "here."
        )
    config = _read_object(folder / "tokenizer_config.json")
    by_id = _tokens_by_id(folder, config)
    backend = _read_backend(folder)
    defined = _defined_tokens(folder, config, overrides)
    flags = {
        token.content: token for token in (*backend.get_added_tokens_decoder().values(), *by_id.values())
    }
    extra = [_as_token(value, flags, f"{folder}: {EXTRA[0]}") for value in _extra(defined, folder)]
    roles = {
        role: _as_token(defined.get(role) or default, flags, f"{folder}: {role}")
        for role, default in ROLES.items()
    }
    special = {token.content: token for token in (*roles.values(), *extra)}
    _add_by_id(backend, by_id, special, folder)
    _check_vocabulary(backend, [token for role, token in roles.items() if not defined.get(role)])
    existing = set(added_tokens(backend))
    backend.add_tokens(
        [with_special(token, True) for content, token in special.items() if content not in existing]
    )
    if backend.post_processor is None:
        set_format(backend, roles["cls_token"].content, roles["sep_token"].content)
    if backend_flags := {
        name: bool(value)
        for name in BACKEND_FLAGS
        if (value := overrides.get(name, config.get(name))) is not None
    }:
        set_flags(backend, **backend_flags)
    settings = _checked_settings(
        {name: value for name in SETTINGS if (value := overrides.get(name, config.get(name))) is not None},
        folder,
    )
    return TokenizerParts(
        backend,
        {role: token.content for role, token in roles.items()},
        list(dict.fromkeys(token.content for token in extra)),
        settings,
    )


def _checked_settings(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    types: dict[str, Any] = {
        "model_max_length": (int, float),
        "clean_up_tokenization_spaces": bool,
        "model_input_names": (list, tuple),
        "split_special_tokens": bool,
    }
    for name, value in settings.items():
        if not isinstance(value, types.get(name, str)) or (
            name == "model_max_length" and (isinstance(value, bool) or value < 1)
        ):
            raise ValueError(
                f"{name} is {value!r}, which is not valid; correct it in the call or in "
                f"{folder / 'tokenizer_config.json'}."
            )
    return settings


def _read_backend(folder: Path) -> Tokenizer:
    """The backend in tokenizer.json.

    Without this file, it is built from vocab.json and merges.txt, without added tokens and format.
    """
    whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.is_file():
        try:
            text = whole.read_text("utf-8")
            check_backend(json.loads(text))
            with panics_as_errors():
                return Tokenizer.from_str(text)
        except Exception as error:  # the backend raises bare Exception
            raise ValueError(
                f"{whole} is not a tokenizer file ({error}); download it again, or remove it if the folder "
                "has vocab.json and merges.txt."
            ) from error
    if not (vocab.is_file() and merges.is_file()):
        raise FileNotFoundError(
            f"{folder} has no tokenizer; it needs tokenizer.json, or vocab.json with merges.txt."
        )
    try:
        return _plain_backend(*models.BPE.read_file(str(vocab), str(merges)))
    except Exception as error:
        raise ValueError(
            f"{vocab} and {merges} do not form a vocabulary ({error}); download them again."
        ) from error


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or an empty one if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); correct it, or download it again.") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} holds a {type(value).__name__}; it must be a JSON object. Correct it, or download it "
            "again."
        )
    return value


def _defined_tokens(folder: Path, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens that the files or the call define, by role. A null in a file is ignored."""
    names = (*ROLES, *EXTRA)
    tokens_map = _read_object(folder / "special_tokens_map.json")
    files = (tokens_map, config) if "added_tokens_decoder" in config else (config, tokens_map)
    return {
        name: source[name] for source in (*files, overrides) for name in names if source.get(name) is not None
    }


def _extra(defined: Mapping[str, Any], folder: Path) -> list[Any]:
    tokens: list[Any] = []
    for name in EXTRA:
        value = defined.get(name, [])
        if not isinstance(value, list | tuple | dict):
            raise ValueError(f"{folder}: {name} is {value!r}; it must be a list of tokens.")
        tokens += value.values() if isinstance(value, dict) else value
    return tokens


def _as_token(value: Any, flags: Mapping[str, AddedToken], place: str) -> AddedToken:
    """The token that a file or a call defines as an AddedToken, a dict of its flags, or a string.

    `flags` has tokens that other files describe. `place` identifies the token in error messages.
    """
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, dict):
        return read_token(value, place)
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"{place} is {value!r}; it must be a token's text, or an object with content, lstrip, rstrip, "
            "normalized."
        )
    return flags.get(value) or default_token(value)


def default_token(content: str) -> AddedToken:
    """A special token that no file describes. `<mask>` includes the space before it, as a word does."""
    return AddedToken(content, lstrip=content == "<mask>", normalized=True, special=True)


def read_token(state: Mapping[str, Any], place: str) -> AddedToken:
    """A token from its flags in a file. `place` identifies it in error messages.

    Raises:
        ValueError: there is no content, or a flag is not true or false.
    """
    content = state.get("content")
    flags = {
        name: state[name]
        for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
        if name in state
    }
    if (
        not isinstance(content, str)
        or not content
        or not all(isinstance(flag, bool) for flag in flags.values())
    ):
        raise ValueError(
            f"{place} is {dict(state)!r}; it must have the token's text as content, and flags that are true "
            "or false."
        )
    return AddedToken(content, **flags)


def _tokens_by_id(folder: Path, config: Mapping[str, Any]) -> dict[int, AddedToken]:
    """The added tokens whose ids are in the files."""
    path = folder / "tokenizer_config.json"
    if "added_tokens_decoder" in config:
        decoder = config["added_tokens_decoder"]
        if not isinstance(decoder, dict) or not all(
            k.isdecimal() and isinstance(v, dict) for k, v in decoder.items()
        ):
            raise ValueError(
                f"{path}: added_tokens_decoder must map ids to tokens; correct it, or download the file "
                "again."
            )
        return {
            int(number): read_token(state, f"{path}: added token {number}")
            for number, state in decoder.items()
        }
    path = folder / "added_tokens.json"
    ids = _read_object(path)
    if wrong := [
        token
        for token, number in ids.items()
        if not isinstance(number, int) or isinstance(number, bool) or not token
    ]:
        raise ValueError(f"{path}: {wrong[0]!r} has the id {ids[wrong[0]]!r}; it must be a whole number.")
    return {
        number: AddedToken(token, lstrip=token == "<mask>", normalized=True) for token, number in ids.items()
    }


def _add_by_id(
    backend: Tokenizer, by_id: Mapping[int, AddedToken], special: Mapping[str, AddedToken], folder: Path
) -> None:
    """Add the tokens that the backend lacks, at the ids in the files."""
    existing = set(added_tokens(backend))
    for number, token in sorted(by_id.items()):
        if token.content not in existing:
            known = special.get(token.content)
            backend.add_tokens([token if known is None else with_special(known, True)])
        actual = backend.token_to_id(token.content)
        if actual != number:
            raise ValueError(
                f"{folder}: the added token {token.content} is listed with id {number}, but the vocabulary "
                f"gives it {actual}; correct added_tokens.json or tokenizer_config.json."
            )


def _check_vocabulary(backend: Tokenizer, tokens: Iterable[AddedToken]) -> None:
    missing = {token.content for token in tokens if backend.token_to_id(token.content) is None}
    if missing:
        names = ", ".join(token for token in SPECIAL_TOKENS if token in missing)
        raise ValueError(
            f"the vocabulary lacks {names}; LED needs {', '.join(SPECIAL_TOKENS)}. Check the folder, or pass "
            "other tokens, for example pad_token='[PAD]'."
        )


def added_tokens(backend: Tokenizer) -> dict[str, AddedToken]:
    """The added tokens by text, in the order of their ids. They are never split."""
    return {token.content: token for _, token in sorted(backend.get_added_tokens_decoder().items())}


def _plain_backend(vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    backend = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def build_backend(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """The published tokenizer, built from its vocabulary and merges."""
    backend = _plain_backend(vocab, merges)
    backend.add_special_tokens([default_token(token) for token in SPECIAL_TOKENS])
    set_format(backend, "<s>", "</s>")
    return backend


def set_format(backend: Tokenizer, cls_token: str, sep_token: str) -> None:
    """Format one text as `<s> A </s>` and a pair as `<s> A </s></s> B </s>`, with these tokens."""
    add_prefix_space = (
        json.loads(backend.pre_tokenizer.__getstate__()).get("add_prefix_space", False)
        if backend.pre_tokenizer
        else False
    )
    ids = backend.get_vocab()
    backend.post_processor = processors.RobertaProcessing(
        (sep_token, ids[sep_token]),
        (cls_token, ids[cls_token]),
        trim_offsets=True,
        add_prefix_space=add_prefix_space,
    )


def write_folder(folder: Path, parts: TokenizerParts, *, filename_prefix: str | None) -> list[Path]:
    """Write the vocabulary's files, tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    `added_tokens.json` is written, too, if there are tokens after the vocabulary. Returns the paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"{filename_prefix}-" if filename_prefix else ""
    paths = write_vocabulary(folder, parts.backend, filename_prefix)
    paths.append(folder / f"{prefix}tokenizer.json")
    parts.backend.save(str(paths[-1]))
    added = dict(sorted(parts.backend.get_added_tokens_decoder().items()))
    states = {token.content: _token_state(token) for token in added.values()}
    config: dict[str, Any] = {**parts.settings, **parts.roles, "tokenizer_class": "LEDTokenizer"}
    config |= _backend_flags(parts.backend)
    config["added_tokens_decoder"] = {
        str(number): {**states[token.content], "special": token.special} for number, token in added.items()
    }
    tokens_map: dict[str, Any] = {role: states.get(content, content) for role, content in parts.roles.items()}
    if parts.extra:
        config[EXTRA[0]] = parts.extra
        tokens_map[EXTRA[0]] = [states[content] for content in parts.extra]
    paths.append(_write_json(folder / f"{prefix}tokenizer_config.json", config))
    paths.append(_write_json(folder / f"{prefix}special_tokens_map.json", tokens_map))
    size = parts.backend.get_vocab_size(with_added_tokens=False)
    if after_vocabulary := {token.content: number for number, token in added.items() if number >= size}:
        paths.append(_write_json(folder / f"{prefix}added_tokens.json", after_vocabulary))
    return paths


def write_vocabulary(folder: Path, backend: Tokenizer, filename_prefix: str | None) -> list[Path]:
    """Write vocab.json and merges.txt, without added tokens, or the file of another model, such as
    unigram.json. Returns the paths."""
    return [Path(path) for path in backend.model.save(str(folder), filename_prefix)]


def _token_state(token: AddedToken) -> dict[str, Any]:
    return {
        "content": token.content,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
    }


def _backend_flags(backend: Tokenizer) -> dict[str, bool]:
    states = [
        json.loads(part.__getstate__())
        for part in (backend.pre_tokenizer, backend.post_processor)
        if part is not None
    ]
    return {name: state[name] for state in states for name in BACKEND_FLAGS if name in state}


def _write_json(path: Path, value: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path
