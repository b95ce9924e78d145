"""Simulates the scheduler without a model: documents per second and slot utilization from a table of costs.

The simulation takes the decisions of `led.generation.admission`. Summaries end at natural lengths:
log-normal, with a mean of half the maximum. The table is for an H200 with led-base in float16 and four beams,
from costs that were measured there with all summaries of equal length.

- `shards` encodes a document whenever a slot is free, and fills the slots from one shard of 64 at a time
- `stream` fills them from one shard after another
- `ahead` also encodes documents ahead of their slots
- `slots` also has 256 slots instead of 64, as the memory of an H200 allows
- the limit has 256 full slots and full batches

Time to admit an encoded document is not modeled.

    python -m benchmarks.simulate_scheduler --documents 4000
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from led.generation.admission import ENCODING_COSTS, AdmissionRules, EncodingCosts, Pack
from led.generation.limits import SchedulerLimits


class Document(NamedTuple):
    """The tokens of a document, and the steps until its summary ends."""

    tokens: int
    steps: int


@dataclass(frozen=True)
class StepCosts:
    """Seconds of a decoding step: a fixed time, and more for each document and each of its tokens."""

    fixed_s: float
    document_s: float
    token_s: float

    def seconds(self, documents: int, tokens: int) -> float:
        """The time of a step of these documents, with so many tokens together."""
        return self.fixed_s + self.document_s * documents + self.token_s * tokens


@dataclass(frozen=True)
class Simulated:
    """Seconds of encoding and decoding, and the share of the slots that held a document."""

    encode_s: float
    decode_s: float
    slot_utilization: float

    @property
    def seconds(self) -> float:
        """The time of the run."""
        return self.encode_s + self.decode_s


def simulate(
    documents: Sequence[Document],
    slots: int,
    rules: AdmissionRules,
    encoding: EncodingCosts,
    step: StepCosts,
) -> Simulated:
    """A run of one scheduler over these documents. The memory is not limited."""
    waiting, encoded, active = deque(documents), deque[Document](), list[list[int]]()
    encode_s = decode_s = 0.0
    steps = document_steps = 0
    while waiting or encoded or active:
        free = slots - len(active)
        if free > len(encoded) and waiting:
            pack = Pack(rules, free - len(encoded))
            while waiting and pack.accepts(waiting[0].tokens):
                pack.add(waiting[0].tokens)
                encoded.append(waiting.popleft())
            encode_s += encoding.seconds(pack.tokens)
        for _ in range(min(free, len(encoded))):
            active.append(list(encoded.popleft()))
        # All steps until the next summary ends.
        count = min(left for _, left in active)
        decode_s += count * step.seconds(len(active), sum(tokens for tokens, _ in active))
        steps += count
        document_steps += count * len(active)
        for document in active:
            document[1] -= count
        active = [document for document in active if document[1]]
    return Simulated(encode_s, decode_s, document_steps / (steps * slots))


def draw_steps(count: int, most: int, seed: int = 0) -> list[int]:
    """Random lengths of `count` summaries of at most `most` tokens: log-normal, with a mean of half of it."""
    rng = random.Random(seed)
    return [max(2, min(most, round(0.46 * most * math.exp(rng.gauss(0, 0.5))))) for _ in range(count)]


# From benchmarks/results.md: steps of 8 and 64 documents of 1,024 to 16,384 tokens.
H200_STEP = StepCosts(0.6e-3, 5.5e-6, 4.45e-9)
_SHARD, _FEW_SLOTS, _SLOTS = 64, 64, 256


def h200(tokens: int, written: int, count: int) -> dict[str, float]:
    """Documents per second on an H200, of each way to fill the slots."""
    encoding = ENCODING_COSTS["cuda"]
    limits = SchedulerLimits()
    ahead = AdmissionRules.for_device(limits, "cuda", 768 * 2, 2**36)
    alone = replace(ahead, ahead_tokens=0)
    documents = [Document(tokens, steps) for steps in draw_steps(count, written)]
    shards = [documents[i : i + _SHARD] for i in range(0, count, _SHARD)]
    runs = {
        "shards": [simulate(shard, _FEW_SLOTS, alone, encoding, H200_STEP) for shard in shards],
        "stream": [simulate(documents, _FEW_SLOTS, alone, encoding, H200_STEP)],
        "ahead": [simulate(documents, _FEW_SLOTS, ahead, encoding, H200_STEP)],
        "slots": [simulate(documents, _SLOTS, ahead, encoding, H200_STEP)],
    }
    found = {name: count / sum(run.seconds for run in several) for name, several in runs.items()}
    steps = sum(document.steps for document in documents) / count
    pack = limits.num_batched_tokens("cuda") // tokens
    least = encoding.seconds(pack * tokens) / pack
    least += steps * H200_STEP.seconds(_SLOTS, _SLOTS * tokens) / _SLOTS
    return {**found, "limit": 1 / least}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=4000)
    args = parser.parse_args(argv)
    found = {}
    for tokens in (1024, 4096, 16384):
        for written in (64, 128, 256):
            row = found[f"{tokens}/{written}"] = h200(tokens, written, args.documents)
            text = ", ".join(f"{name} {value:.1f}" for name, value in row.items())
            print(f"simulated H200, {tokens} tokens, at most {written} written: documents per s {text}")
    print(json.dumps({"documents": args.documents, "h200": found}))


if __name__ == "__main__":
    main()
