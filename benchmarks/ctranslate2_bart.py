"""Compares decoding steps with CTranslate2, which is very fast on CPUs. It has no LED, so its BART is used.

BART-base has the shape of led-base except for the encoder's window. Weights are random, documents have 1,024
tokens, and both libraries use four beams, int8 and one thread. They run alternately. The time of a step is
the difference between generating n and 3 n tokens, divided by steps and documents. Encoding cancels out.

    pip install ctranslate2==4.8.5
    python -m benchmarks.ctranslate2_bart --documents 8
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.rival import LED_BASE, documents, interleaved, machine, padded
from led import LEDConfig, LEDForConditionalGeneration
from led.testing import TINY, spread_weights


def bart(folder: Path, shape: dict[str, Any], int8: bool) -> Any:
    """CTranslate2's translator for a BART of this shape with random weights, and its vocabulary."""
    import ctranslate2
    import transformers

    shared = {
        name: value
        for name, value in shape.items()
        if "attention_window" not in name and "encoder_position" not in name
    }
    config = transformers.BartConfig(**{**shared, "max_position_embeddings": 1024})
    # Fields of transformers 4 that the converter reads.
    for name, value in (
        ("normalize_before", False),
        ("add_final_layer_norm", False),
        ("normalize_embedding", True),
        ("static_position_embeddings", False),
        ("extra_pos_embeddings", 2),
    ):
        setattr(config, name, value)
    model = transformers.BartForConditionalGeneration(config).eval()
    spread_weights(model, seed=0, scale=2)
    model.save_pretrained(folder / "bart")
    config.save_pretrained(folder / "bart")
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(4, shape.get("vocab_size", 50265)))]
    converter = ctranslate2.converters.TransformersConverter(str(folder / "bart"))
    converter.load_model = lambda kind, name, **options: model
    converter.load_tokenizer = lambda kind, name, **options: _Words(words)
    converter.convert(str(folder / "converted"), quantization="int8" if int8 else "float32")
    return ctranslate2.Translator(
        str(folder / "converted"), inter_threads=1, intra_threads=1, device="cpu"
    ), words


class _Words:
    """The part of a tokenizer that the converter uses."""

    bos_token, eos_token, pad_token, unk_token = "<s>", "</s>", "<pad>", "<unk>"
    unk_token_id = 3

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def get_vocab(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self._words)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return self._words[token]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--float32", action="store_true", help="use float32 instead of int8")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    shape = {**TINY, "max_encoder_position_embeddings": 1024} if args.tiny else LED_BASE
    ours = LEDForConditionalGeneration(LEDConfig(**shape)).eval()
    spread_weights(ours, seed=0, scale=2)
    ours.pack(int8=not args.float32)
    rows = [
        row % (shape.get("vocab_size", 50265) - 5) + 4 for row in documents([args.tokens] * args.documents)
    ]
    with tempfile.TemporaryDirectory() as name:
        translator, words = bart(Path(name), shape, not args.float32)
        texts = [[words[token] for token in row.tolist()] for row in rows]

        def led(new_tokens: int) -> Callable[[], Any]:
            return lambda: ours.generate(
                **padded(rows), num_beams=4, max_new_tokens=new_tokens, min_new_tokens=new_tokens
            )

        def ctranslate2(new_tokens: int) -> Callable[[], Any]:
            return lambda: [
                len(result.hypotheses[0])
                for result in translator.translate_batch(
                    texts, beam_size=4, max_decoding_length=new_tokens, min_decoding_length=new_tokens
                )
            ]

        few, many = args.steps, 3 * args.steps
        seconds, results = interleaved(
            {
                f"{f.__name__} {n}": torch.inference_mode()(f(n))
                for n in (few, many)
                for f in (led, ctranslate2)
            },
            args.rounds,
        )
    assert results[f"ctranslate2 {many}"] == [many] * args.documents, (
        "CTranslate2 generated another number of tokens"
    )
    step = {
        name: (seconds[f"{name} {many}"] - seconds[f"{name} {few}"]) / (many - few) / args.documents * 1e3
        for name in ("led", "ctranslate2")
    }
    whole = {name: seconds[f"{name} {few}"] / args.documents for name in step}
    dtype = "float32" if args.float32 else "int8"
    print(
        f"{dtype}, {args.documents} x {args.tokens} tokens, 4 beams: led {step['led']:.1f} ms per step and "
        f"document, CTranslate2's BART {step['ctranslate2']:.1f}; whole documents with {few} new tokens "
        f"{whole['led']:.2f} s and {whole['ctranslate2']:.2f} s"
    )
    print(
        json.dumps(
            {
                "machine": machine(),
                "dtype": dtype,
                "documents": args.documents,
                "ms per step": step,
                "whole": whole,
            }
        )
    )


if __name__ == "__main__":
    main()
