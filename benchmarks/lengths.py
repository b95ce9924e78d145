"""Measures the share of useful tokens among those that an encoder computes, for the lengths of real corpora.

Lengths are log-normal with a median and a 90th percentile in tokens, truncated at 16,384. Those of arXiv and
PubMed were published with LongT5 (arXiv:2112.07916, table 1). Those of GovReport and BookSum chapters are
based on published means (9,400 words and 5,100 tokens), with the spread of arXiv.

For this library, the rows of the feed-forward block are counted, in a small model with the published window
of 1,024. The reference pads each batch to its longest document, rounded up to a multiple of the window.

    python -m benchmarks.lengths --documents 16
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.rival import documents, machine
from led import LEDConfig, LEDForConditionalGeneration, pack_documents
from led.testing import TINY

LONGEST, WINDOW = 16384, 1024
CORPORA = {
    "arXiv": (8519, 20170),
    "PubMed": (3883, 8883),
    "GovReport": (10500, 24900),
    "BookSum": (5100, 12100),
}
SMALL = {**TINY, "vocab_size": 50265, "attention_window": WINDOW, "max_encoder_position_embeddings": LONGEST}


def draw_lengths(corpus: str, count: int, seed: int = 0) -> list[int]:
    """Random lengths of `count` documents of a corpus."""
    median, p90 = CORPORA[corpus]
    spread = math.log(p90 / median) / 1.2816
    noise = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [min(LONGEST, max(16, round(median * math.exp(spread * z)))) for z in noise.tolist()]


def count_rows(layer: torch.nn.Module, call: Callable[[], Any]) -> int:
    """The number of rows that a feed-forward layer processes during `call`."""
    rows = 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal rows
        rows += inputs[0].shape[:-1].numel()

    hook = layer.register_forward_pre_hook(count)
    with torch.inference_mode():
        call()
    hook.remove()
    return rows


def useful_shares(lengths: Sequence[int], reference_batch: int) -> dict[str, float]:
    """Useful divided by computed tokens of both encoders. The reference's batches keep the given order."""
    ours = LEDForConditionalGeneration(LEDConfig(**SMALL)).eval()
    packed = pack_documents([row.tolist() for row in documents(lengths)], [[0]] * len(lengths))
    batches = [lengths[i : i + reference_batch] for i in range(0, len(lengths), reference_batch)]
    computed = {
        "led": count_rows(ours.led.encoder.layers[0].fc1, lambda: ours.led.encoder.encode(packed)),
        "transformers": sum(len(batch) * -(-max(batch) // WINDOW) * WINDOW for batch in batches),
    }
    return {name: sum(lengths) / count for name, count in computed.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--reference-batch", type=int, default=8)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), choices=list(CORPORA))
    args = parser.parse_args(argv)
    results = {}
    for corpus in args.corpora:
        lengths = draw_lengths(corpus, args.documents)
        results[corpus] = useful_shares(lengths, args.reference_batch)
        print(
            f"{corpus}: {len(lengths)} documents of {min(lengths)} to {max(lengths)} tokens; share of useful "
            f"tokens: led {results[corpus]['led']:.3f}, transformers in batches of {args.reference_batch} "
            f"{results[corpus]['transformers']:.3f}",
            flush=True,
        )
    print(json.dumps({"machine": machine(), "documents": args.documents, **results}))


if __name__ == "__main__":
    main()
