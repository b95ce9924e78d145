"""Train the demo's byte-level BPE on generated reports, and write it in the published layout.

Numbers are split into digits during training. Since no merge joins digits, a model can copy a number digit by
digit. The result is an ordinary byte-level BPE.

    python -m demo.train_tokenizer --out demo/checkpoints/led-reports-summary
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from demo.reports import generate_report
from led.tokenizer.tokenizer import LEDTokenizer


def texts(reports: int, words: int, first_seed: int) -> Iterator[str]:
    """Yield the text and the summary of each report. A report has about `words` words."""
    for seed in range(first_seed, first_seed + reports):
        report = generate_report(seed, words)
        yield report.text
        yield report.summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--reports", type=int, default=2000)
    args = parser.parse_args()
    corpus = texts(args.reports, words=1000, first_seed=10_000_000)
    tokenizer = LEDTokenizer.learn(corpus, args.vocab_size, model_max_length=8192, split_digits=True)
    tokenizer.save_pretrained(args.out)
    print(f"{len(tokenizer)} entries in {args.out}")


if __name__ == "__main__":
    main()
