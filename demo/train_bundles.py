"""Train the demo's multi-document LED: bundles of reports to the summary of the latest one, on a CPU.

    python -m demo.train_bundles --out demo/checkpoints/led-reports-bundle --minutes 24

Training continues from the summarizer of single reports. The tokenizer gets the token `<doc-sep>`, which has
global attention, as in PRIMERA (arXiv:2110.08499). The summarizer's position table repeats after 256 tokens,
so its slowest sinusoids are replaced by slower ones. A token then knows on which side of a separator it
stands.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import torch
from torch import Tensor

from demo.bundles import generate_bundle
from demo.train_summarizer import TRAINING_SEEDS, loss_and_accuracy, save
from demo.training import Stage, fit
from led.batch.packed_batch import PackedBatch, pack_documents
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.pipelines.global_attention import GlobalAttention
from led.pipelines.inputs import InputRules, InputText, encode_inputs
from led.pipelines.joining import separator_ids
from led.tokenizer.tokenizer import LEDTokenizer

SEPARATOR = "<doc-sep>"

# Periods in tokens of the sinusoids that replace the slowest ones.
PERIODS = (512, 1024, 2048, 4096)

# Words of one report.
STAGES = (Stage((0, 20), 6_000, 0.3), Stage((0, 90), 7_000, 0.6), Stage((0, 300), 9_000, 1.0))


def make_batch(
    stage: Stage, tokenizer: LEDTokenizer, rules: InputRules, rng: random.Random
) -> tuple[PackedBatch, Tensor]:
    """A packed batch of bundles, with global `<s>` and separators, and their summaries as labels (B, T)."""
    inputs, targets, count = [], [], 0
    while count < stage.tokens:
        low, high = stage.words
        words = round(math.exp(rng.uniform(math.log(low + 30), math.log(high + 30)))) - 30
        bundle = generate_bundle(rng.choice(TRAINING_SEEDS), words)
        inputs += encode_inputs(tokenizer, [InputText(bundle.texts)], 8192, rules)
        targets.append(torch.tensor(tokenizer.encode(bundle.summary)))
        count += len(inputs[-1].input_ids)
    labels = torch.nn.utils.rnn.pad_sequence(targets, True, -100)
    return pack_documents([i.input_ids for i in inputs], [i.global_positions for i in inputs]), labels


@torch.no_grad()
def start_model(start: Path, tokenizer: LEDTokenizer) -> LEDForConditionalGeneration:
    """The summarizer in `start` with the separator's embedding, slower sinusoids, and global projections that
    begin as the local ones."""
    model = LEDForConditionalGeneration.from_pretrained(start)
    model.resize_token_embeddings(len(tokenizer))
    embedding = model.get_input_embeddings().weight
    embedding[-1] = embedding[tokenizer.sep_token_id]
    table = model.led.encoder.embed_positions.weight
    half = table.shape[1] // 2
    for i, period in enumerate(PERIODS):
        angles = torch.arange(len(table)) * 2 * math.pi / period
        table[:, i], table[:, half + i] = 0.04 * angles.sin(), 0.04 * angles.cos()
    return model


def train(
    model: LEDForConditionalGeneration, tokenizer: LEDTokenizer, minutes: float, peak: float, out: Path
) -> None:
    """Train for `minutes`, and save the model every 250 steps."""
    rng = random.Random(7)
    separator = separator_ids(tokenizer)
    rules = GlobalAttention.parse(("first", "separator")).resolve(tokenizer, separator)
    inputs = InputRules(rules, separator)

    def next_loss(step: int, stage: Stage) -> tuple[Tensor, float]:
        return loss_and_accuracy(model, *make_batch(stage, tokenizer, inputs, rng))

    fit(
        model,
        next_loss,
        lambda: save(model, out),
        stages=STAGES,
        minutes=minutes,
        peak=peak,
        save_every=250,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=Path("demo/checkpoints/led-reports-summary"))
    parser.add_argument("--minutes", type=float, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=float, default=1.2e-3, help="highest learning rate")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    tokenizer = LEDTokenizer.from_pretrained(args.start)
    tokenizer.add_special_tokens({"additional_special_tokens": [SEPARATOR]})
    tokenizer.save_pretrained(args.out)
    train(start_model(args.start, tokenizer), tokenizer, args.minutes, args.peak, args.out)


if __name__ == "__main__":
    main()
