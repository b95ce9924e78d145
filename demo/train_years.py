"""Train the demo's LED for documents of any length, on a CPU.

    OUT=demo/checkpoints/led-reports-year
    python -m demo.train_years --out $OUT --minutes 42
    python -m demo.train_years --out $OUT --start $OUT --minutes 26 --peak 1e-3 --seed 12 --first-stage 1
    python -m demo.train_years --out $OUT --start $OUT --minutes 18 --peak 5e-4 --seed 13 --first-stage 2

Training continues from the summarizer of single reports. Half of the examples are parts of a year's file,
whose summaries leave unknown what the part does not say. The other half are such summaries, one after
another, and the summary of all of them. So one model writes the summaries of chunks and fuses them. The
second and third round improve the order of digits.
"""

from __future__ import annotations

import argparse
import math
import random
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from demo.train_summarizer import TRAINING_SEEDS, loss_and_accuracy, save
from demo.training import Stage, fit
from demo.years import generate_notes, generate_part
from led.batch.packed_batch import PackedBatch, pack_documents
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.tokenizer.tokenizer import LEDTokenizer

# Words of a part.
STAGES = (
    Stage((0, 60), 6_000, 0.35),
    Stage((0, 400), 8_000, 0.6),
    Stage((0, 1500), 12_000, 0.8),
    Stage((100, 5500), 20_000, 1.0),
)

# Most summaries that are fused at once.
MOST_NOTES = 60


def make_batch(stage: Stage, tokenizer: LEDTokenizer, rng: random.Random) -> tuple[PackedBatch, Tensor]:
    """A packed batch of parts and notes, each with a global `<s>`, and their summaries as labels (B, T)."""
    documents: list[list[int]] = []
    targets: list[Tensor] = []
    low, high = stage.words
    # As many notes as fit into the longest part.
    most = min(MOST_NOTES, max(4, high // 40))
    while sum(map(len, documents)) < stage.tokens:
        source = random.Random(rng.choice(TRAINING_SEEDS))
        if rng.random() < 0.5:
            words = round(math.exp(rng.uniform(math.log(low + 30), math.log(high + 30)))) - 30
            text, summary = generate_part(source, words)
        else:
            count = round(math.exp(rng.uniform(math.log(1.5), math.log(most))))
            text, summary = generate_notes(source, count)
        documents.append(tokenizer.encode(text, max_length=8192))
        targets.append(torch.tensor(tokenizer.encode(summary)))
    labels = torch.nn.utils.rnn.pad_sequence(targets, True, -100)
    return pack_documents(documents, [[0]] * len(documents)), labels


def later_stages(first: int) -> list[Stage]:
    """The stages from this one on, over the whole time."""
    before = STAGES[first - 1].until if first else 0.0
    return [replace(stage, until=(stage.until - before) / (1 - before)) for stage in STAGES[first:]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=Path("demo/checkpoints/led-reports-summary"))
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=float, default=1.2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--first-stage", type=int, default=0, help="leave out the stages before this one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = LEDTokenizer.from_pretrained(args.start)
    model = LEDForConditionalGeneration.from_pretrained(args.start)
    tokenizer.save_pretrained(args.out)
    rng = random.Random(args.seed)
    fit(
        model,
        lambda step, stage: loss_and_accuracy(model, *make_batch(stage, tokenizer, rng)),
        lambda: save(model, args.out),
        stages=later_stages(args.first_stage),
        minutes=args.minutes,
        peak=args.peak,
        save_every=250,
    )


if __name__ == "__main__":
    main()
