"""Compares whole runs with transformers where summaries end at natural lengths, and with the simulator.

Each document has its own number of tokens to write, log-normal with a mean of half the maximum, which both
libraries are held to. transformers gets one document at a time, which is its best batch on a CPU: it pads
nothing and ends with each summary. The simulator predicts the time of this library's run from the costs of
encoding and of steps, which are measured before it with other documents.

    python -m benchmarks.natural_lengths --tokens 4096 --written 128 --documents 8 --rival 1
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.rival import LED_BASE, documents, in_both_environments, machine, padded, pair
from benchmarks.simulate_scheduler import Document, StepCosts, draw_steps, simulate
from led import GenerationConfig, Scheduler, SchedulerLimits, pack_documents
from led.generation.admission import AdmissionRules, EncodingCosts
from led.generation.scheduler import Request
from led.testing import TINY

BEAMS = 4
SMALL = {**TINY, "vocab_size": 50265, "max_encoder_position_embeddings": 256}


def requests(rows: Sequence[torch.Tensor], steps: Sequence[int]) -> list[Request]:
    """The documents, each with the number of tokens that it writes."""
    return [Request(pack_documents([row.tolist()], [[0]]), n) for row, n in zip(rows, steps, strict=True)]


def decode(
    model: Any, slots: int, written: int, given: Sequence[Request]
) -> tuple[list[Any], dict[str, float]]:
    """The sequences of the documents, and what the scheduler measured. `</s>` ends no summary early."""
    config = GenerationConfig().updated(num_beams=BEAMS, max_new_tokens=written, min_new_tokens=written)
    scheduler = Scheduler(model, config, SchedulerLimits(max_num_seqs=slots))
    start = time.process_time()
    found = dict(scheduler.run(given))
    measured = {**scheduler.measured, "cpu_s": time.process_time() - start}
    return [found[i].sequences[0] for i in range(len(given))], measured


def measure_costs(model: Any, tokens: int, slots: int) -> tuple[EncodingCosts, StepCosts]:
    """The costs of encoding and of steps, from runs of equal lengths."""
    encode, step = [], []
    for count, length in ((1, tokens), (1, tokens // 4), (slots, tokens // 4), (slots // 2, tokens)):
        given = requests(documents([length] * count, seed=9), [8] * count)
        measured = decode(model, count, 8, given)[1]
        encode.append((1.0, float(count * length), measured["encode_seconds"]))
        step.append((1.0, count, count * length, measured["decode_seconds"] / measured["steps"]))
    return EncodingCosts(*fit(encode)), StepCosts(*fit(step))


def fit(rows: Sequence[Sequence[float]]) -> list[float]:
    """Non-negative factors of all columns but the last, which they sum up to. Relative errors count."""
    table = np.array(rows, float)
    features, target = table[:, :-1] / table[:, -1:], np.ones(len(table))
    kept = list(range(features.shape[1]))
    while True:
        factors = np.linalg.lstsq(features[:, kept], target, rcond=None)[0]
        if (factors >= 0).all() or len(kept) == 1:
            break
        kept.pop(int(factors.argmin()))
    result = np.zeros(features.shape[1])
    result[kept] = factors
    return result.tolist()


def measure(
    tokens: int, written: int, count: int, slots: int, dtype: str, rival: int, shape: dict[str, Any]
) -> dict[str, Any]:
    """Seconds of a document of both libraries, slot utilization, and the simulated time by the measured."""
    ours, reference = pair(dtype, shape)
    rng = random.Random(1)
    lengths = [rng.randint(tokens // 2, tokens) for _ in range(count)]
    rows, steps = documents(lengths, seed=1), draw_steps(count, written, seed=1)
    given = requests(rows, steps)
    encoding, step = measure_costs(ours, tokens, slots)
    sequences, measured = decode(ours, slots, written, given)
    rules = AdmissionRules.for_device(SchedulerLimits(), "cpu", shape["d_model"] * 4, 2**40)
    simulated = simulate(list(map(Document, lengths, steps)), slots, rules, encoding, step)
    row: dict[str, Any] = {
        "led_s": measured["cpu_s"] / count,
        "slot_utilization": measured["document_steps"] / measured["slot_steps"],
        "encoding share": measured["encode_seconds"]
        / (measured["encode_seconds"] + measured["decode_seconds"]),
        "simulated": simulated.seconds / (measured["encode_seconds"] + measured["decode_seconds"]),
        "costs": [encoding.fixed_s, encoding.token_s, step.fixed_s, step.document_s, step.token_s],
    }
    if rival:
        seconds, same = 0.0, 0
        chosen = range(count)[:: max(1, count // rival)][:rival]
        for i in chosen:
            start = time.process_time()
            with torch.inference_mode():
                tokens_of = reference.generate(
                    **padded([rows[i]]), num_beams=BEAMS, max_new_tokens=steps[i], min_new_tokens=steps[i]
                )[0].tolist()
            seconds += time.process_time() - start
            same += tokens_of == list(sequences[i])
        # The rival's time is that of the documents it had, scaled by what they read and write.
        _, own = decode(ours, slots, written, [given[i] for i in chosen])
        row |= {
            "transformers_s": seconds / len(chosen),
            "ratio_alone": seconds / own["cpu_s"],
            "same_tokens": f"{same} of {len(chosen)}",
        }
    return row


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--written", type=int, default=128)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rival", type=int, default=0, help="documents that transformers gets as well")
    parser.add_argument("--here", action="store_true", help="measure in this process and environment")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try this benchmark")
    args = parser.parse_args(argv)
    if args.here:
        given = args.tokens, args.written, args.documents, args.slots, args.dtype, args.rival
        print(json.dumps(measure(*given, SMALL if args.tiny else LED_BASE)))
        return
    names = ("tokens", "written", "documents", "slots", "dtype", "rival")
    options = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    results = in_both_environments("benchmarks.natural_lengths", options)
    for name, row in results.items():
        rival = ""
        if args.rival:
            rival = (
                f"; transformers {row['transformers_s']:.1f} s, {row['ratio_alone']:.1f} x, same tokens: "
                f"{row['same_tokens']}"
            )
        print(
            f"natural lengths, {args.dtype}, {args.documents} documents of up to {args.tokens} tokens, at "
            f"most {args.written} written, {name}: led {row['led_s']:.2f} s a document, slot utilization "
            f"{row['slot_utilization']:.2f}, simulated time {row['simulated']:.2f} of the measured{rival}"
        )
    print(json.dumps({"machine": machine(), **{name: getattr(args, name) for name in names}, **results}))


if __name__ == "__main__":
    main()
