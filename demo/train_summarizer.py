"""Train the demo's small LED to summarize generated reports, on a CPU in 80 minutes.

Training begins with short reports and continues with longer ones. When reports get longer than the learned
positions, the learned part of the encoder's position table is copied behind itself. LED's authors extended
BART's table in the same way (arXiv:2004.05150, section 7). The loss is on the summaries alone.

    python -m demo.train_summarizer --out demo/checkpoints/led-reports-summary --minutes 50
    python -m demo.train_summarizer --out demo/checkpoints/led-reports-summary --minutes 30 --peak 1e-3 \\
        --seed 2 --from demo/checkpoints/led-reports-summary

The second round improves the order of digits. The folder must have the tokenizer already
(demo.train_tokenizer).
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.reports import generate_report
from demo.training import Stage, fit
from led.batch.packed_batch import PackedBatch, pack_documents
from led.config import LEDConfig
from led.generation.config import GenerationConfig
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.tokenizer.tokenizer import LEDTokenizer

TRAINING_SEEDS = range(100_000_000, 2_000_000_000)  # the held-out corpus has other seeds

PERIOD = 256  # tokens


STAGES = (
    Stage((0, 40), 6_000, 0.40),
    Stage((0, 250), 8_000, 0.60),
    Stage((0, 1000), 12_000, 0.75),
    Stage((50, 4600), 20_000, 1.0),
)


def small_config(vocab_size: int) -> LEDConfig:
    """The configuration of a model with about 2.6 million parameters."""
    return LEDConfig(
        vocab_size=vocab_size,
        max_encoder_position_embeddings=8192,
        max_decoder_position_embeddings=256,
        d_model=128,
        encoder_layers=3,
        encoder_ffn_dim=512,
        encoder_attention_heads=4,
        decoder_layers=2,
        decoder_ffn_dim=512,
        decoder_attention_heads=4,
        attention_window=128,
        dropout=0.0,
    )


def make_batch(stage: Stage, tokenizer: LEDTokenizer, rng: random.Random) -> tuple[PackedBatch, Tensor]:
    """A packed batch of reports, each with a global `<s>`, and their summaries as labels (B, T).

    Labels are padded with -100.
    """
    documents: list[list[int]] = []
    targets: list[list[int]] = []
    while sum(map(len, documents)) < stage.tokens:
        low, high = stage.words
        words = round(math.exp(rng.uniform(math.log(low + 30), math.log(high + 30)))) - 30
        report = generate_report(rng.choice(TRAINING_SEEDS), words)
        documents.append(tokenizer.encode(report.text, max_length=8192))
        targets.append(tokenizer.encode(report.summary))
    labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(t) for t in targets], True, -100)
    return pack_documents(documents, [[0]] * len(documents)), labels


def loss_and_accuracy(
    model: LEDForConditionalGeneration, batch: PackedBatch, labels: Tensor
) -> tuple[Tensor, float]:
    """Mean cross-entropy of the summaries, and the share of tokens that get the highest score."""
    cross_attention = model.led.decoder.cross_attention_cache(model.led.encoder.encode(batch), batch)
    decoder_ids = model.prepare_decoder_input_ids_from_labels(labels)
    logits = model.logits(model.led.decoder(decoder_ids, cross_attention)).flatten(0, 1)
    flat = labels.flatten()
    accuracy = (logits.argmax(-1) == flat)[flat != -100].float().mean().item()
    return F.cross_entropy(logits, flat), accuracy


@torch.no_grad()
def start_weights(model: LEDForConditionalGeneration) -> None:
    """Initialize the weights so that training is fast.

    Positions are sinusoids whose periods divide `PERIOD`. The preceding token is then the same rotation at
    every position, and copies of the table fit together. Cross-attention passes its input on unchanged, so
    to copy a word the decoder only has to learn its position.
    """
    led = model.led
    led.shared.weight.mul_(2.5)
    frequencies = torch.arange(1, model.config.d_model // 2 + 1) * 2 * math.pi / PERIOD
    for table in (led.encoder.embed_positions.weight, led.decoder.embed_positions.weight):
        angles = torch.arange(len(table))[:, None] * frequencies
        table.copy_(0.04 * torch.cat([angles.sin(), angles.cos()], dim=1))
    for layer in led.decoder.typed_layers:
        for projection in (layer.encoder_attn.v_proj, layer.encoder_attn.out_proj):
            torch.nn.init.eye_(projection.weight)


@torch.no_grad()
def grow_positions(model: LEDForConditionalGeneration, learned: int) -> None:
    """Repeat the learned positions, in whole periods, until the table is full."""
    table = model.led.encoder.embed_positions.weight
    learned = math.ceil(learned / PERIOD) * PERIOD
    for start in range(learned, len(table), learned):
        table[start : start + learned] = table[: min(learned, len(table) - start)]


def train(
    model: LEDForConditionalGeneration,
    tokenizer: LEDTokenizer,
    minutes: float,
    peak: float,
    seed: int,
    out: Path,
    stages: tuple[Stage, ...] = STAGES,
) -> None:
    """Train for `minutes`, and save the model every 500 steps. Positions grow with the longest report."""
    rng = random.Random(seed)
    learned = 1

    def next_loss(step: int, stage: Stage) -> tuple[Tensor, float]:
        nonlocal learned
        batch, labels = make_batch(stage, tokenizer, rng)
        longest = max(batch.lengths)
        if longest > learned * 1.05:
            if step:
                grow_positions(model, learned)
            learned = longest
            print(f"learned positions: {learned}", flush=True)
        return loss_and_accuracy(model, batch, labels)

    fit(model, next_loss, lambda: save(model, out), stages=stages, minutes=minutes, peak=peak)


def save(model: LEDForConditionalGeneration, out: Path) -> None:
    """Write the model in half precision, which halves the size of the file, and its generation settings."""
    copy = LEDForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(num_beams=4, max_length=96)
    copy.half().save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="start", type=Path, help="continue from this checkpoint")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = LEDTokenizer.from_pretrained(args.out)
    if args.start:
        model = LEDForConditionalGeneration.from_pretrained(args.start)
    else:
        model = LEDForConditionalGeneration(small_config(len(tokenizer)))
        start_weights(model)
    train(model, tokenizer, args.minutes, args.peak, args.seed, args.out)


if __name__ == "__main__":
    main()
