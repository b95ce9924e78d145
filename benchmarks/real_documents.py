"""Write a corpus of a thousand real documents, and a led-base with random weights to run over it.

The run checks that no real text makes it fail, and that each document gets a row. The summaries themselves
are meaningless. The documents are files of a Debian machine with Python: changelogs, copyright files, manual
pages and Python sources.

    python -m benchmarks.real_documents --out /tmp/real
    python jobs/summarize_corpus.py --input /tmp/real/corpus --output /tmp/real/out --model /tmp/real/model \\
        --num-beams 2 --max-new-tokens 8 --passthrough source

With `--longest`, only the longest of these files are taken, and texts of books beside them. Debian has some,
for example jargon-text (`/usr/share/doc/jargon-text/jargon.txt.gz`).

    python -m benchmarks.real_documents --out /tmp/long --longest 10 --books jargon.txt.gz
"""

from __future__ import annotations

import argparse
import gzip
import random
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from led.config import LEDConfig
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.testing import spread_weights
from led.tokenizer.tokenizer import LEDTokenizer

PLACES = (
    ("/usr/share/doc", "changelog*"),
    ("/usr/share/doc", "copyright"),
    ("/usr/share/man", "*.gz"),
    (sysconfig.get_path("stdlib"), "*.py"),
)

LED_BASE = LEDConfig(
    d_model=768,
    encoder_layers=6,
    decoder_layers=6,
    encoder_attention_heads=12,
    decoder_attention_heads=12,
    encoder_ffn_dim=3072,
    decoder_ffn_dim=3072,
    attention_window=1024,
)


def read_text(path: Path) -> str:
    """The text of a file, decompressed. Invalid UTF-8 is replaced."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", errors="replace")


def collect(documents: int, seed: int) -> list[tuple[str, str]]:
    """(path, text) of `documents` files, if possible the same number from each of `PLACES`."""
    rng = random.Random(seed)
    corpus: list[tuple[str, str]] = []
    for i, (root, pattern) in enumerate(PLACES):
        paths = sorted(p for p in Path(root).rglob(pattern) if p.is_file() and not p.is_symlink())
        rng.shuffle(paths)
        count = (documents - len(corpus)) // (len(PLACES) - i)
        corpus += [(str(p), read_text(p)) for p in paths[:count]]
    return corpus


def collect_longest(documents: int) -> list[tuple[str, str]]:
    """(path, text) of the longest files of `PLACES`."""
    paths = {p.resolve() for root, pattern in PLACES for p in Path(root).rglob(pattern) if p.is_file()}
    texts = [(str(p), read_text(p)) for p in sorted(paths)]
    return sorted(texts, key=lambda pair: -len(pair[1]))[:documents]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=int, help="take only this many files, the longest")
    parser.add_argument("--books", type=Path, nargs="*", default=(), help="further texts")
    args = parser.parse_args()
    corpus = collect(args.documents, args.seed) if args.longest is None else collect_longest(args.longest)
    corpus += [(str(path), read_text(path)) for path in args.books]
    (args.out / "corpus").mkdir(parents=True)
    for start in range(0, len(corpus), 250):
        names, texts = zip(*corpus[start : start + 250], strict=True)
        table = pa.table(
            {"doc_id": [f"real-{start + i}" for i in range(len(names))], "source": names, "text": texts}
        )
        pq.write_table(table, args.out / "corpus" / f"real-{start:04d}.parquet", compression="zstd")
    tokenizer = LEDTokenizer.learn((text for _, text in corpus), 50265, model_max_length=16384)
    tokenizer.save_pretrained(args.out / "model")
    torch.manual_seed(args.seed)
    model = LEDForConditionalGeneration(LED_BASE)
    spread_weights(model, args.seed, scale=2)
    model.save_pretrained(args.out / "model")
    lengths = sorted(len(e.ids) for e in tokenizer.encode_batch([text for _, text in corpus]))
    print(
        f"{len(corpus)} documents, {sum(lengths)} tokens; median {lengths[len(lengths) // 2]}, longest "
        f"{lengths[-1]}"
    )
    print(f"vocabulary {len(tokenizer)}; weights in {args.out / 'model'}")


if __name__ == "__main__":
    main()
