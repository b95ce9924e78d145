"""Compares classification and question answering with transformers, for documents of up to 1,024 tokens.

Both libraries have the same weights and process the same documents alternately in one process. This library
packs them in `read_chunks`. The reference gets padded batches, sorted by length. transformers 5 has no
classification head, so the reference is its model followed by this library's head. Logits are compared for
each document.

    python -m benchmarks.readers --task answer --documents 32
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.rival import LED_BASE, documents, in_both_environments, interleaved, machine, padded
from led import LEDConfig, LEDForQuestionAnswering, LEDForSequenceClassification
from led.pipelines.chunk_reader import read_chunks
from led.pipelines.chunking import ChunkInput
from led.testing import TINY, spread_weights

MODEL_CLASSES: dict[str, type[LEDForSequenceClassification | LEDForQuestionAnswering]] = {
    "label": LEDForSequenceClassification,
    "answer": LEDForQuestionAnswering,
}


def mixed_lengths(count: int, longest: int, seed: int = 0) -> list[int]:
    """Lengths distributed evenly on a logarithmic scale, from a sixteenth of `longest` to `longest`."""
    draws = torch.rand(count - 1, generator=torch.Generator().manual_seed(seed))
    return [round(longest * 16 ** (x - 1)) for x in draws.tolist()] + [longest]


def reference_outputs(
    task: str, reference: Any, head: Any, rows: Sequence[Tensor], batch_size: int
) -> list[Any]:
    """The reference's logits for each document, in padded batches of documents of similar length."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    outputs: dict[int, Any] = {}
    for start in range(0, len(rows), batch_size):
        batch = order[start : start + batch_size]
        inputs = padded([rows[i] for i in batch])
        if task == "answer":
            out = reference(**inputs)
            for row, i in enumerate(batch):
                n = len(rows[i])
                outputs[i] = torch.stack([out.start_logits[row, :n], out.end_logits[row, :n]])
        else:
            states = reference(**inputs, use_cache=False).last_hidden_state
            ends = torch.tensor([len(rows[i]) - 1 for i in batch])
            outputs |= dict(zip(batch, head(states[torch.arange(len(batch)), ends]), strict=True))
    return [outputs[i] for i in range(len(rows))]


def measure(
    task: str, count: int, longest: int, batch_size: int, rounds: int, tiny: bool
) -> dict[str, float]:
    """CPU seconds of both libraries, their ratio, and the largest difference of logits."""
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    shape = TINY if tiny else LED_BASE
    ours = MODEL_CLASSES[task](LEDConfig(**shape)).eval()
    spread_weights(ours, seed=0, scale=2)
    is_answer = task == "answer"
    reference_class = transformers.LEDForQuestionAnswering if is_answer else transformers.LEDModel
    reference = reference_class(transformers.LEDConfig(**shape)).eval()
    state = ours.state_dict()
    if task == "label":
        state = {name.removeprefix("led."): x for name, x in state.items() if name.startswith("led.")}
    reference.load_state_dict(state)
    head = getattr(ours, "classification_head", None)
    ours.pack()
    vocab = shape.get("vocab_size", 50265)
    rows = [
        torch.cat([x[:1], x[1:-1] % (vocab - 5) + 5, x[-1:]])
        for x in documents(mixed_lengths(count, longest))
    ]
    chunks = [ChunkInput(row.tolist(), 0, len(row) - 2, 1, [0]) for row in rows]
    with torch.inference_mode():
        seconds, results = interleaved(
            {
                "led": lambda: read_chunks(ours, chunks, 16384),
                "transformers": lambda: reference_outputs(task, reference, head, rows, batch_size),
            },
            rounds,
        )
    logits = [torch.stack(list(x)) if is_answer else x for x in results["led"]]
    pairs = zip(logits, results["transformers"], strict=True)
    difference = max(float((a - b).abs().max()) for a, b in pairs)
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
    parser.add_argument("--task", choices=list(MODEL_CLASSES), default="answer")
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8, help="batch size of the reference")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="use tiny models")
    parser.add_argument("--here", action="store_true", help="measure in this process and environment")
    args = parser.parse_args(argv)
    if args.here:
        row = measure(args.task, args.documents, args.longest, args.batch, args.rounds, args.tiny)
        print(json.dumps(row))
        return
    options = [
        f"--{name}={getattr(args, name)}" for name in ("task", "documents", "longest", "batch", "rounds")
    ]
    rows = in_both_environments("benchmarks.readers", [*options, *(["--tiny"] if args.tiny else [])])
    for name, row in rows.items():
        case = f"{args.task}, {args.documents} documents of up to {args.longest} tokens, {name}"
        print(
            f"{case}: led {row['led']:.2f} s, transformers {row['transformers']:.2f} s, {row['ratio']:.2f} "
            f"x; logits differ by {row['difference']:.1e}"
        )
    print(json.dumps({"machine": machine(), "task": args.task, "documents": args.documents, **rows}))


if __name__ == "__main__":
    main()
