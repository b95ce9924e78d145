"""Classification and question answering against transformers, documents of mixed lengths up to 1,024 tokens.

Both libraries have the same weights and read the same documents in one process, taking turns: ours
packed, by `read_windows`; the reference's model in padded batches, sorted by length. transformers 5 has
no classification head any more: there the reference is its model with the head's four operations behind
it. Logits are compared document by document.

    python -m benchmarks.readers --task answer --documents 32
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import torch
from led.chunks import Chunk
from torch import Tensor

from benchmarks.rival import LED_BASE, documents, in_both_environments, interleaved, machine, padded
from led import LEDConfig, LEDForQuestionAnswering, LEDForSequenceClassification
from led.pipelines.chunk_reader import read_chunks
from led.testing import TINY, spread_weights

KINDS = {"label": LEDForSequenceClassification, "answer": LEDForQuestionAnswering}


def mixed_lengths(count: int, max_bytes: int, seed: int = 0) -> list[int]:
    """Lengths spread evenly on a logarithmic scale from a sixteenth of `longest`; the last document is as
    long as may be."""
    draws = torch.rand(count - 1, generator=torch.Generator().manual_seed(seed))
    return [round(max_bytes * 16 ** (x - 1)) for x in draws.tolist()] + [max_bytes]


def reference_outputs(task: str, reference: Any, head: Any, rows: Sequence[Tensor], batch: int) -> list[Any]:
    """What the reference gives for each document, in padded batches of documents of like length."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    outputs: dict[int, Any] = {}
    for start in range(0, len(rows), batch):
        together = order[start : start + batch]
        inputs = padded([rows[i] for i in together])
        if task == "answer":
            out = reference(**inputs)
            for place, i in enumerate(together):
                n = len(rows[i])
                outputs[i] = torch.stack([out.start_logits[place, :n], out.end_logits[place, :n]])
        else:
            states = reference(**inputs, use_cache=False).last_hidden_state
            ends = torch.tensor([len(rows[i]) - 1 for i in together])
            outputs |= dict(zip(together, head(states[torch.arange(len(together)), ends]), strict=True))
    return [outputs[i] for i in range(len(rows))]


def measure(task: str, count: int, max_bytes: int, batch: int, rounds: int, tiny: bool) -> dict[str, float]:
    """CPU seconds of both, their ratio, and the largest difference of logits."""
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    shape = TINY if tiny else LED_BASE
    ours = KINDS[task](LEDConfig(**shape)).eval()
    spread_weights(ours, seed=0, scale=2)
    kind = transformers.LEDForQuestionAnswering if task == "answer" else transformers.LEDModel
    reference = kind(transformers.LEDConfig(**shape)).eval()
    state = ours.state_dict()
    if task == "label":
        state = {name.removeprefix("led."): x for name, x in state.items() if name.startswith("led.")}
    reference.load_state_dict(state)
    head = getattr(ours, "classification_head", None)
    ours.pack()
    vocab = shape.get("vocab_size", 50265)
    rows = [
        torch.cat([x[:1], x[1:-1] % (vocab - 5) + 5, x[-1:]])
        for x in documents(mixed_lengths(count, max_bytes))
    ]
    chunks = [Chunk(row.tolist(), 0, len(row) - 2, 1) for row in rows]
    with torch.inference_mode():
        seconds, found = interleaved(
            {
                "led": lambda: read_chunks(ours, chunks, 16384),
                "transformers": lambda: reference_outputs(task, reference, head, rows, batch),
            },
            rounds,
        )
    mine = [torch.stack(list(x)) if task == "answer" else x for x in found["led"]]
    difference = max(float((a - b).abs().max()) for a, b in zip(mine, found["transformers"], strict=True))
    return {
        **seconds,
        "ratio": seconds["transformers"] / seconds["led"],
        "difference": difference,
        "documents_per_second": count / seconds["led"],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=list(KINDS), default="answer")
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8, help="documents of the reference's batches")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    parser.add_argument("--here", action="store_true", help="in this process and environment")
    args = parser.parse_args(argv)
    if args.here:
        found = measure(args.task, args.documents, args.max_bytes, args.batch, args.rounds, args.tiny)
        print(json.dumps(found))
        return
    options = [
        f"--{name}={getattr(args, name)}" for name in ("task", "documents", "longest", "batch", "rounds")
    ]
    rows = in_both_environments("benchmarks.readers", [*options, *(["--tiny"] if args.tiny else [])])
    for name, row in rows.items():
        what = f"{args.task}, {args.documents} documents of up to {args.max_bytes} tokens, {name}"
        print(
            f"{what}: led {row['led']:.2f} s, transformers {row['transformers']:.2f} s, {row['ratio']:.2f} x; "
            f"logits differ by {row['difference']:.1e}"
        )
    print(json.dumps({"machine": machine(), "task": args.task, "documents": args.documents, **rows}))


if __name__ == "__main__":
    main()
