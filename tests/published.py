"""Tiny folders in the shape of each published LED checkpoint, and the recipe by which its authors run it.

Configurations, tokenizer files and generation settings are those of the published files: sizes and lengths
are scaled down, and weights are random. `Published.recipe` says what the authors do, in terms of the
reference.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from led.config import LEDConfig
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.testing import TINY, spread_weights
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import words

VOCAB = 320

# Keys of configurations that were converted from fairseq or the authors' own code.
_FAIRSEQ = {
    "attention_mode": "sliding_chunks",
    "attention_dilation": [1, 1],
    "autoregressive": False,
    "extra_pos_embeddings": 2,
    "max_position_embeddings": 64,
    "force_bos_token_to_be_generated": False,
    "add_bias_logits": False,
    "normalize_before": False,
    "gradient_checkpointing": False,
    "static_position_embeddings": False,
    "scale_embedding": False,
}
_LABELS = {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}
_CNN = {"summarization": {"num_beams": 4, "max_length": 14, "min_length": 6, "length_penalty": 2.0}}
_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2}

# What a pipeline uses where nobody says anything: 4 beams, and as many of 256 tokens as there are positions.
_DEFAULTS = {"num_beams": 4, "max_new_tokens": 64, "no_repeat_ngram_size": 3}


@dataclass(frozen=True)
class Recipe:
    """How the authors run a checkpoint.

    `generation` has the settings of `generate`. `global_tokens` are global besides `<s>`. With `documents`,
    an input is a list of texts, which are joined by the token `separator`: "primera" by the recipe of
    PRIMERA's authors, "between" with a separator between two. With `parse`, control tokens in a text are
    tokens.
    """

    generation: dict[str, Any]
    global_tokens: tuple[str, ...] = ()
    documents: str = ""
    separator: str = "</s>"
    prefix: str = ""
    parse: bool = False


@dataclass(frozen=True)
class Published:
    """A checkpoint: its configuration, generation settings and tokenizer files, and the flags of a job that
    follow its recipe."""

    name: str
    recipe: Recipe
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] | None = field(default_factory=lambda: dict(_IDS))
    added: tuple[str, ...] = ()
    added_in: str = "special_tokens_map.json"
    tokenizer: str = "vocab.json"
    weights: str = "model.safetensors"
    roles: dict[str, str] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    markers: tuple[str, ...] = ()


def _beams(beams: int, longest: int, **more: Any) -> dict[str, Any]:
    return {"num_beams": beams, "max_length": longest, **more}


_LONG = {"length_penalty": 2.0, "no_repeat_ngram_size": 3, "early_stopping": True}
_BOOK = _beams(
    4,
    40,
    min_length=5,
    no_repeat_ngram_size=3,
    repetition_penalty=3.5,
    length_penalty=0.8,
    early_stopping=True,
)
_PRIMERA_CONFIG = {**_FAIRSEQ, **_LABELS, "attention_window": 4, "max_encoder_position_embeddings": 96}
_PRIMERA_FLAGS = {
    "multi_document": True,
    "truncate": "primera",
    "global_attention": ("first", "separator"),
}


def _primera(name: str, generation: dict[str, Any], written: dict[str, Any], **more: Any) -> Published:
    recipe = Recipe(generation, ("<doc-sep>",), "primera", "<doc-sep>")
    settings: dict[str, Any] = {"added_in": "added_tokens.json", "weights": "pytorch_model.bin", **more}
    return Published(
        name,
        recipe,
        {**_PRIMERA_CONFIG, **settings.pop("config", {})},
        {**_IDS, **written},
        ("<doc-sep>",),
        flags=_PRIMERA_FLAGS,
        **settings,
    )


def _open_mds(name: str, separator: str, generation: dict[str, Any]) -> Published:
    literal = separator == "</s>"
    return Published(
        name,
        Recipe(generation, (separator,), "between", separator, parse=literal),
        generation={**_IDS, **generation},
        added=() if literal else (separator,),
        flags={
            "global_attention": ("first", f"tokens:{separator}"),
            **({"special_tokens": "parse"} if literal else {}),
        },
    )


PUBLISHED = [
    Published(
        "allenai/led-base-16384",
        Recipe(_DEFAULTS),
        {**_FAIRSEQ, **_LABELS},
        None,
        weights="pytorch_model.bin",
    ),
    Published(
        "allenai/led-large-16384", Recipe(_DEFAULTS), {"encoder_layers": 3, "decoder_layers": 3, **_FAIRSEQ}
    ),
    Published(
        "allenai/led-large-16384-arxiv",
        Recipe(_beams(4, 24)),
        {**_FAIRSEQ, **_beams(4, 24)},
        None,
        weights="pytorch_model.bin",
    ),
    Published(
        "patrickvonplaten/led-large-16384-pubmed",
        Recipe(_beams(4, 24, min_length=8, **_LONG), prefix=" "),
        {"prefix": " ", **_beams(4, 24, min_length=8, **_LONG)},
        None,
    ),
    Published("pszemraj/led-base-book-summary", Recipe(_BOOK), generation={**_IDS, **_BOOK}),
    Published(
        "pszemraj/led-large-book-summary",
        Recipe({**_BOOK, "encoder_no_repeat_ngram_size": 3}, prefix=" "),
        {"prefix": " "},
        {**_IDS, **_BOOK},
        flags={"encoder_no_repeat_ngram_size": 3},
    ),
    Published(
        "pszemraj/led-large-book-summary-continued",
        Recipe({**_BOOK, "min_length": 3}),
        generation={**_IDS, **_BOOK, "min_length": 3},
        tokenizer="tokenizer.json",
    ),
    _primera("allenai/PRIMERA", {**_DEFAULTS}, {"no_repeat_ngram_size": 3}),
    _primera("allenai/PRIMERA-arxiv", {**_DEFAULTS}, {"no_repeat_ngram_size": 3}),
    _primera(
        "allenai/PRIMERA-wcep",
        {**_CNN["summarization"], "no_repeat_ngram_size": 3},
        {"no_repeat_ngram_size": 3},
        added_in="special_tokens_map.json",
        config={"task_specific_params": _CNN},
    ),
    _primera(
        "allenai/PRIMERA-multinews",
        {**_CNN["summarization"], "no_repeat_ngram_size": 3},
        {"no_repeat_ngram_size": 3},
        config={"task_specific_params": _CNN},
    ),
    *(
        _primera(f"allenai/primera-multi_lexsum-source-{kind}", _beams(beams, 20), _beams(beams, 20))
        for kind, beams in (("long", 5), ("short", 4), ("tiny", 2))
    ),
    _primera("ratishsp/Centrum-Large", _DEFAULTS, {}, tokenizer="tokenizer.json"),
    Published(
        "allenai/led-base-16384-ms2",
        Recipe(_DEFAULTS, ("</s>",), "between"),
        added=("<bg>",),
        added_in="added_tokens.json",
        flags={
            "multi_document": True,
            "document_separator": "</s>",
            "global_attention": ("first", "separator"),
        },
    ),
    Published(
        "allenai/led-base-16384-cochrane",
        Recipe(_DEFAULTS, ("<study>",)),
        added=("<study>",),
        added_in="added_tokens.json",
        markers=("<study>",),
        flags={"global_attention": ("first", "tokens:<study>")},
    ),
    *(
        Published(
            f"allenai/led-base-16384-multi_lexsum-source-{kind}",
            Recipe(_beams(beams, 20), (), "between"),
            generation={**_IDS, **_beams(beams, 20)},
            flags={"multi_document": True, "document_separator": "</s>"},
        )
        for kind, beams in (("long", 4), ("short", 3), ("tiny", 2))
    ),
    Published(
        "acmc/summarizer_faceted",
        Recipe(_beams(4, 24), ("<background>", "<method>", "<result>")),
        generation={**_IDS, "max_length": 24},
        added=("<background>", "<method>", "<result>", "<a>", "<b>", "<c>", "<d>", "<e>"),
        tokenizer="tokenizer.json",
        markers=("<background>", "<method>", "<result>"),
        flags={"global_attention": ("first", "tokens:<background>,<method>,<result>")},
    ),
    Published(
        "domenicrosati/led-base-biolaysum",
        Recipe(
            {
                "num_beams": 4,
                "max_new_tokens": 64,
                "length_penalty": 2.0,
                "min_length": 6,
                "no_repeat_ngram_size": 3,
            }
        ),
        generation={**_IDS, "length_penalty": 2.0, "min_length": 6},
    ),
    Published(
        "dtorber/BioNLP-led",
        Recipe(
            {
                "num_beams": 4,
                "max_new_tokens": 64,
                "length_penalty": 2.0,
                "min_length": 6,
                "no_repeat_ngram_size": 3,
                "decoder_start_token_id": 0,
            },
            ("<plos>", "<elife>"),
        ),
        {"decoder_start_token_id": 0},
        {**_IDS, "decoder_start_token_id": 0, "length_penalty": 2.0, "min_length": 6},
        ("<plos>", "<elife>", "<x>", "<y>"),
        markers=("<plos>",),
        flags={"global_attention": ("first", "tokens:<plos>,<elife>")},
    ),
    Published(
        "HHousen/distil-led-large-cnn-16384",
        Recipe(_beams(4, 16, min_length=5, length_penalty=2.0, no_repeat_ngram_size=3, early_stopping=True)),
        {
            "encoder_layers": 4,
            "decoder_layers": 2,
            "force_bos_token_to_be_generated": True,
            **_beams(4, 16, min_length=5, length_penalty=2.0, no_repeat_ngram_size=3, early_stopping=True),
        },
        None,
    ),
    Published(
        "MingZhong/DialogLED-base-16384",
        Recipe(_beams(6, 16, min_length=6, no_repeat_ngram_size=3, early_stopping=True)),
        generation={**_IDS, "early_stopping": True},
        flags={"num_beams": 6, "max_new_tokens": 15, "no_repeat_ngram_size": 3, "min_new_tokens": 5},
    ),
    Published(
        "MingZhong/DialogLED-large-5120",
        Recipe({**_DEFAULTS, "early_stopping": True}),
        {"max_encoder_position_embeddings": 48, "encoder_layers": 3},
        {**_IDS, "early_stopping": True},
    ),
    _open_mds("johngiorgi/led-base-16384-multi-news", "</s>", _beams(3, 24, min_length=8, **_LONG)),
    _open_mds("johngiorgi/primera-ms2", "<doc-sep>", _beams(4, 24, min_length=8, **_LONG)),
    Published(
        "esuriddick/led-base-16384-finetuned-govreport",
        Recipe(_beams(2, 24, min_length=8, **_LONG)),
        generation={**_IDS, **_beams(2, 24, min_length=8, **_LONG)},
        tokenizer="tokenizer.json",
    ),
    Published(
        "cnicu/led-booksum",
        Recipe(_beams(2, 30, min_length=8, **_LONG)),
        {**_beams(2, 30, min_length=8, **_LONG)},
        None,
    ),
    Published("nsi319/legal-led-base-16384", Recipe(_DEFAULTS), generation=None, weights="pytorch_model.bin"),
    Published(
        "a fine-tune with max_length 16896",
        Recipe(_beams(4, 24)),
        generation={**_IDS, **_beams(4, 1056)},
        flags={"max_new_tokens": 23},
    ),
    Published(
        "IronOne/led-large-annual-report-merged",
        Recipe({**_DEFAULTS, "eos_token_id": 321, "pad_token_id": 321}),
        {"bos_token_id": 320, "eos_token_id": 321, "pad_token_id": 321},
        {"bos_token_id": 320, "eos_token_id": 321, "pad_token_id": 321, "decoder_start_token_id": 2},
        ("<bos>", "<eos>"),
        added_in="added_tokens.json",
        weights="float16",
        roles={"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<eos>"},
    ),
    Published(
        "a QLoRA adapter of led-large-16384",
        Recipe(_beams(3, 20)),
        generation={**_IDS, **_beams(3, 20)},
        weights="adapter",
    ),
    Published(
        "toanduc/PRIMERA-lora",
        Recipe(_DEFAULTS, ("<doc-sep>",), "primera", "<doc-sep>"),
        _PRIMERA_CONFIG,
        {**_IDS, "no_repeat_ngram_size": 3},
        ("<doc-sep>",),
        weights="adapter",
        flags=_PRIMERA_FLAGS,
    ),
    Published(
        "hf-internal-testing/tiny-random-LED",
        Recipe(_DEFAULTS),
        {"d_model": 16, "attention_window": 4, "encoder_ffn_dim": 4, "decoder_ffn_dim": 4},
    ),
    Published(
        "a KoBART-kind LED", Recipe(_beams(4, 20)), generation={**_IDS, **_beams(4, 20)}, tokenizer="unigram"
    ),
]


def make(checkpoint: Published, folder: Path) -> Path:
    """Write the folder of a checkpoint with random weights. Returns the folder to give to a job."""
    folder.mkdir(parents=True)
    size = VOCAB + len(checkpoint.added)
    values = {**TINY, "vocab_size": size, **checkpoint.config}
    config = LEDConfig.from_dict(values)
    _write_tokenizer(checkpoint, folder, config)
    plain = {"model_type": "led", "architectures": ["LEDForConditionalGeneration"], **_IDS, **values}
    (folder / "config.json").write_text(json.dumps({**plain, "attention_window": config.attention_window}))
    if checkpoint.generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(checkpoint.generation))
    model = LEDForConditionalGeneration(config)
    spread_weights(model, seed=len(checkpoint.name), scale=6)
    with torch.no_grad():
        model.final_logits_bias[0, 1] = -50.0  # padding is what follows the end, in the reference's output
        model.final_logits_bias[0, config.end_token_id] = 1.0
    state = {name: x.clone().contiguous() for name, x in model.state_dict().items()}
    if checkpoint.weights == "float16":
        state = {name: x.half() for name, x in state.items()}
    if checkpoint.weights == "pytorch_model.bin":
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    save_file(state, folder / "model.safetensors")
    return folder if checkpoint.weights != "adapter" else _write_adapter(folder, state)


def _write_adapter(base: Path, state: dict[str, torch.Tensor]) -> Path:
    """An adapter of half of the attention's weights. The file `merged.safetensors` beside it has the sum."""
    folder = base.with_name(f"{base.name}-adapter")
    folder.mkdir()
    generator = torch.Generator().manual_seed(9)
    tensors = {}
    for name, weight in list(state.items()):
        if name.endswith(("query.weight", "value.weight", "q_proj.weight", "v_proj.weight", "fc1.weight")):
            a = torch.randn(2, weight.shape[1], generator=generator) * 0.2
            b = torch.randn(weight.shape[0], 2, generator=generator) * 0.2
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            state[name] = weight + 16 / 2 * (b @ a)
    save_file(tensors, folder / "adapter_model.safetensors")
    save_file(state, folder / "merged.safetensors")
    adapter = {"peft_type": "LORA", "r": 2, "lora_alpha": 16, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return folder


def _write_tokenizer(checkpoint: Published, folder: Path, config: LEDConfig) -> None:
    if checkpoint.tokenizer == "unigram":
        return _write_unigram(folder)
    learned = LEDTokenizer.learn([words(200, 0), "naïve Größe: 日本 🎉 ?!"], vocab_size=VOCAB)
    learned.save_vocabulary(folder)
    settings = {"model_max_length": config.max_encoder_position_embeddings, **checkpoint.roles}
    tokens_map: dict[str, Any] = {}
    ids = {token: VOCAB + i for i, token in enumerate(checkpoint.added)}
    if checkpoint.added and checkpoint.added_in == "added_tokens.json":
        (folder / "added_tokens.json").write_text(json.dumps(ids))
    elif checkpoint.added:
        tokens_map["additional_special_tokens"] = list(checkpoint.added)
    if checkpoint.tokenizer == "tokenizer.json":
        learned.add_tokens(list(checkpoint.added), special_tokens=True)
        learned.backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens_map))


def _write_unigram(folder: Path) -> None:
    pieces = [f"▁{word}" for word in sorted(set(words(200, 0).split()))]
    letters = sorted({letter for word in pieces for letter in word})
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *pieces, *letters]
    names += [f"<unused{i}>" for i in range(VOCAB - len(names))]
    scores = [(name, -1.0 - i / 50) for i, name in enumerate(names)]
    backend = Tokenizer(models.Unigram(scores, unk_id=3))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    backend.save(str(folder / "tokenizer.json"))


def inputs_of(checkpoint: Published, count: int = 20) -> list[str] | list[list[str]]:
    """Texts, or lists of texts, of ragged lengths: one word, several documents, and beyond the limit."""
    lengths = [1, 2, 5, 9, 14, 20, 26, 31, 40, 55, 70, 100, 120, 127, 150, 170, 200, 3, 11, 64][:count]
    if checkpoint.recipe.documents and not checkpoint.recipe.parse and checkpoint.flags.get("multi_document"):
        return [_documents(n, i) for i, n in enumerate(lengths)]
    return [_text(checkpoint, n, i) for i, n in enumerate(lengths)]


def _documents(length: int, seed: int) -> list[str]:
    count = 1 + seed % 6
    return [words(max(1, length * (1 + (seed + i) % 3) // (2 * count)), 31 * seed + i) for i in range(count)]


def _text(checkpoint: Published, length: int, seed: int) -> str:
    pieces: Sequence[str] = [words(max(1, length // 3), 7 * seed + i) for i in range(3)]
    recipe = checkpoint.recipe
    if recipe.documents:
        return recipe.separator.join(pieces)
    if checkpoint.markers:
        return "".join(
            f"{checkpoint.markers[i % len(checkpoint.markers)]} {piece} " for i, piece in enumerate(pieces)
        )
    return words(length, seed)
