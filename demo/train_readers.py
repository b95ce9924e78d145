"""Train the demo's classifier and question answerer on generated reports, on a CPU.

    python -m demo.train_readers label --out demo/checkpoints/led-reports-label --minutes 20
    python -m demo.train_readers answer --out demo/checkpoints/led-reports-answer --minutes 35

Both models have the `decoder_prompt` `</s><s>`, so the encoder reads the whole report and the decoder two
tokens. Training begins with short reports and continues with longer ones. Weights and tokenizer come from
--start, by default the summarizer's folder.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.reports import LABELS, Report, generate_report
from demo.train_summarizer import TRAINING_SEEDS
from demo.training import Stage, fit
from led.batch.packed_batch import PackedBatch, pack_documents
from led.config import LEDConfig
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.model.pretrained import LEDPreTrainedModel
from led.tokenizer.tokenizer import LEDTokenizer

LONGEST = 8192  # tokens

TOKENIZER_FILES = ("merges.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json")

STAGES = (
    Stage((0, 10), 5_000, 0.25),
    Stage((0, 60), 6_000, 0.40),
    Stage((0, 200), 8_000, 0.55),
    Stage((0, 800), 10_000, 0.75),
    Stage((50, 4600), 16_000, 1.0),
)

# Questions of one report in a batch.
QUESTIONS = 3

Targets = list[Tensor]
Batch = tuple[PackedBatch, Targets]


def last_stages(first: int) -> tuple[Stage, ...]:
    """The stages from number `first` on. They share the whole time in the same proportions."""
    before = STAGES[first - 1].until if first else 0.0
    return tuple(replace(stage, until=(stage.until - before) / (1 - before)) for stage in STAGES[first:])


def draw_report(stage: Stage, rng: random.Random) -> Report:
    """A report that is not in the sample corpus. Its length is distributed evenly on a logarithmic scale."""
    low, high = stage.words
    words = round(math.exp(rng.uniform(math.log(low + 30), math.log(high + 30)))) - 30
    return generate_report(rng.choice(TRAINING_SEEDS), words)


def label_batch(stage: Stage, tokenizer: LEDTokenizer, rng: random.Random) -> Batch:
    """Reports, each with a global `<s>`, and their classes (B,)."""
    documents: list[list[int]] = []
    labels: list[int] = []
    while sum(map(len, documents)) < stage.tokens:
        report = draw_report(stage, rng)
        documents.append(tokenizer.encode(report.text, max_length=LONGEST))
        labels.append(LABELS.index(report.label))
    return pack_documents(documents, [[0]] * len(documents)), [torch.tensor(labels)]


def answer_batch(stage: Stage, tokenizer: LEDTokenizer, rng: random.Random) -> Batch:
    """Inputs `<s> question </s></s> report </s>`, and the first and last token of each answer.

    All tokens before the report are global.
    """
    documents: list[list[int]] = []
    global_positions: list[range] = []
    spans: list[tuple[int, int]] = []
    while sum(map(len, documents)) < stage.tokens:
        report = draw_report(stage, rng)
        encoding = tokenizer.encode_batch([report.text])[0]
        ids = encoding.ids[1:-1]
        for question, answer in rng.sample(report.questions, QUESTIONS):
            before = [*tokenizer.encode(question), tokenizer.eos_token_id]
            if len(before) + len(ids) + 1 > LONGEST:
                continue
            start = report.text.index(answer)
            first, last = encoding.char_to_token(start), encoding.char_to_token(start + len(answer) - 1)
            assert first is not None and last is not None
            documents.append([*before, *ids, tokenizer.eos_token_id])
            global_positions.append(range(len(before)))
            spans.append((len(before) + first - 1, len(before) + last - 1))
    starts, ends = zip(*spans, strict=True)
    return pack_documents(documents, global_positions), [torch.tensor(starts), torch.tensor(ends)]


def label_loss(
    model: LEDForSequenceClassification, batch: PackedBatch, targets: Targets
) -> tuple[Tensor, float]:
    """Mean cross-entropy, and the share of correctly labeled reports."""
    logits = model.forward_packed(batch)
    return F.cross_entropy(logits, targets[0]), (logits.argmax(-1) == targets[0]).float().mean().item()


def answer_loss(model: LEDForQuestionAnswering, batch: PackedBatch, targets: Targets) -> tuple[Tensor, float]:
    """Mean cross-entropy of starts and ends, and the share of answers with both correct."""
    losses, correct = [], []
    for (start, end), first, last in zip(model.forward_packed(batch), *targets, strict=True):
        losses.append(
            (F.cross_entropy(start[None], first[None]) + F.cross_entropy(end[None], last[None])) / 2
        )
        correct.append(float(start.argmax() == first and end.argmax() == last))
    return torch.stack(losses).mean(), sum(correct) / len(correct)


def reader_config(config: LEDConfig, task: str) -> LEDConfig:
    """The summarizer's configuration with the settings of the task."""
    prompt = config.decoder_start_token_id, config.bos_token_id
    if task == "answer":
        return replace(config, decoder_prompt=prompt)
    names = dict(enumerate(LABELS))
    return replace(
        config,
        decoder_prompt=prompt,
        id2label=names,
        num_labels=len(names),
        problem_type="single_label_classification",
    )


def start_model(task: str, start: Path) -> LEDPreTrainedModel:
    """A model of the task with the weights in `start`.

    They are those of an earlier round, or of a summarizer. A summarizer gets a new head.
    """
    model_class, config = TASKS[task][0], LEDConfig.from_pretrained(start)
    if config.decoder_prompt:
        return model_class.from_pretrained(start)
    model = model_class(reader_config(config, task))
    model.load_state_dict(LEDForConditionalGeneration.from_pretrained(start).state_dict(), strict=False)
    return model


TASKS: dict[
    str, tuple[type[LEDPreTrainedModel], Callable[..., Batch], Callable[..., tuple[Tensor, float]]]
] = {
    "label": (LEDForSequenceClassification, label_batch, label_loss),
    "answer": (LEDForQuestionAnswering, answer_batch, answer_loss),
}


def train(
    task: str,
    start: Path,
    out: Path,
    minutes: float,
    peak: float,
    seed: int,
    stages: tuple[Stage, ...] = STAGES,
) -> None:
    """Train for `minutes`, and save the model every 500 steps."""
    _, make_batch, loss_of = TASKS[task]
    tokenizer, model = LEDTokenizer.from_pretrained(start), start_model(task, start)
    out.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if start != out:
            shutil.copy(start / name, out / name)
    rng = random.Random(seed)

    def next_loss(step: int, stage: Stage) -> tuple[Tensor, float]:
        return loss_of(model, *make_batch(stage, tokenizer, rng))

    fit(model, next_loss, lambda: save(model, out), stages=stages, minutes=minutes, peak=peak)


def save(model: LEDPreTrainedModel, out: Path) -> None:
    """Write the model in half precision, which halves the size of the file."""
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=tuple(TASKS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=Path("demo/checkpoints/led-reports-summary"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first-stage", type=int, default=0, help="skip the stages before this one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train(args.task, args.start, args.out, args.minutes, args.peak, args.seed, last_stages(args.first_stage))


if __name__ == "__main__":
    main()
