"""Write the held-out sample of bundles: one row per report, the reports of a bundle one after another.

    python -m demo.make_bundles --out demo/bundles

The columns are doc_id, bundle, text, and for the whole bundle facts and outdated. `facts` are those of the
latest report, and `outdated` those of the earlier ones. No bundle can be in the training data.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from demo.bundles import generate_bundle

SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.string()),
        pa.field("bundle", pa.string()),
        pa.field("text", pa.string()),
        pa.field("facts", pa.list_(pa.string())),
        pa.field("outdated", pa.list_(pa.string())),
    ]
)

WORDS = (60, 300)  # of one report


def make_rows(bundles: int, seed: int) -> list[dict[str, object]]:
    """The rows of the sample. All seeds must be below those of the training."""
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    for i in range(bundles):
        words = round(math.exp(rng.uniform(math.log(WORDS[0]), math.log(WORDS[1]))))
        bundle = generate_bundle(seed + i, words)
        for n, text in enumerate(bundle.texts):
            rows.append(
                {
                    "doc_id": f"bundle-{i:03d}/{n}",
                    "bundle": f"bundle-{i:03d}",
                    "text": text,
                    "facts": list(bundle.facts),
                    "outdated": list(bundle.outdated),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundles", type=int, default=120)
    parser.add_argument("--seed", type=int, default=2_000_000)
    args = parser.parse_args()
    rows = make_rows(args.bundles, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), args.out / "reports.parquet", compression="zstd")
    print(f"{args.bundles} bundles of {len(rows)} reports in {args.out}")


if __name__ == "__main__":
    main()
