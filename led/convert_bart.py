"""Convert a BART checkpoint to an LED, as LED's authors did (arXiv:2004.05150, section 7).

    python -m led.convert_bart --bart facebook/bart-base --out led-from-bart

BART's learned positions are copied one after another until the encoder's table is full. Global projections
begin as copies of the local ones. All other weights stay as they are. Within half a window and without global
tokens, the LED then computes what the BART does. It needs training on long documents to be good at them.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from led.checkpoint.entries import read_file
from led.checkpoint.files import CheckpointError, weight_files
from led.checkpoint.hub import resolve
from led.config import LEDConfig
from led.generation.config import GenerationConfig

# BART's position tables begin with two rows that no token has.
_OFFSET = 2

# Keys of a BART configuration that LED has too.
_SHARED_KEYS = (
    *("vocab_size", "d_model", "activation_function", "init_std"),
    *("encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", "encoder_layerdrop"),
    *("decoder_layers", "decoder_ffn_dim", "decoder_attention_heads", "decoder_layerdrop"),
    *("dropout", "attention_dropout", "activation_dropout"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
)
_PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt"),
)


def convert_bart(bart: str | Path, out: str | Path, *, positions: int = 16384, window: int = 1024) -> None:
    """Write the LED of a BART folder or published checkpoint to the folder `out`.

    `positions` is the longest input in tokens, and `window` the two-sided attention window of every layer.

    Raises:
        FileNotFoundError: the BART does not exist.
        CheckpointError: its weights are not those of a BART.
        ValueError: it is another architecture, or a size breaks a rule.
    """
    folder, out = resolve(str(bart)).folder, Path(out)
    values = json.loads((folder / "config.json").read_text("utf-8"))
    if values.get("model_type") != "bart":
        raise ValueError(f"{folder} has model_type {values.get('model_type')!r}; it must be 'bart'.")
    if values.get("scale_embedding"):
        raise ValueError(f"{folder} has scale_embedding, which LED does not; it cannot be converted.")
    config = LEDConfig.from_dict(
        {
            **{name: values[name] for name in _SHARED_KEYS if values.get(name) is not None},
            "max_encoder_position_embeddings": positions,
            "max_decoder_position_embeddings": values["max_position_embeddings"],
            "attention_window": window,
            "architectures": ["LEDForConditionalGeneration"],
        }
    )
    files = [path for path in weight_files(folder) if path.suffix in (".safetensors", ".bin")]
    weights = {entry.published: entry.load() for path in files for entry in read_file(path)}
    converted = convert_weights(weights, positions)
    config.save_pretrained(out)
    save_file(converted, str(out / "model.safetensors"), metadata={"format": "pt"})
    GenerationConfig.from_dict({}, config).save_pretrained(out)
    for name in _TOKENIZER:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    _raise_length(out / "tokenizer_config.json", positions)


def convert_weights(weights: dict[str, Tensor], positions: int) -> dict[str, Tensor]:
    """The weights of an LED from those of a BART, with `positions` rows in the encoder's table.

    Raises:
        CheckpointError: they are not those of a BART.
    """
    plain = {name.removeprefix("model."): x for name, x in weights.items()}
    if "encoder.embed_positions.weight" not in plain or "shared.weight" not in plain:
        raise CheckpointError("the weights are not those of a BART: they lack its positions or embedding.")
    converted: dict[str, Tensor] = {}
    for name, x in plain.items():
        own = re.fullmatch(r"(encoder\.layers\.\d+\.self_attn)\.(\w+_proj)\.(weight|bias)", name)
        if name.endswith("embed_tokens.weight") or name == "lm_head.weight":
            continue
        if name == "encoder.embed_positions.weight":
            x = grow_positions(x[_OFFSET:], positions)
        elif name == "decoder.embed_positions.weight":
            x = x[_OFFSET:]
        if own is not None and own[2] in _PROJECTIONS:
            local = f"led.{own[1]}.longformer_self_attn.{_PROJECTIONS[own[2]]}"
            converted[f"{local}.{own[3]}"] = x.clone()
            converted[f"{local}_global.{own[3]}"] = x.clone()
        elif own is not None:
            converted[f"led.{own[1]}.output.{own[3]}"] = x.clone()
        else:
            converted[name if name == "final_logits_bias" else f"led.{name}"] = x.clone().contiguous()
    return converted


def grow_positions(learned: Tensor, positions: int) -> Tensor:
    """(positions, E) the learned positions (n, E), copied one after another."""
    copies = -(-positions // len(learned))
    return torch.cat([learned] * copies)[:positions].clone()


def _raise_length(path: Path, positions: int) -> None:
    settings: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    settings |= {"model_max_length": positions, "tokenizer_class": "LEDTokenizer"}
    path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bart", required=True, help="BART folder or name of a published checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the LED to")
    parser.add_argument("--positions", type=int, default=16384, help="longest input in tokens")
    parser.add_argument("--window", type=int, default=1024, help="two-sided attention window in tokens")
    args = parser.parse_args()
    convert_bart(args.bart, args.out, positions=args.positions, window=args.window)
    print(f"{args.out}: an LED that reads {args.positions} tokens")


if __name__ == "__main__":
    main()
