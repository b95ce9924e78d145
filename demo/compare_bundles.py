"""Compare summaries of bundles: how many facts of the latest report they state, and how many outdated ones.

    python -m demo.compare_bundles --names "separators global" --outputs out/demo-bundles

Each output is a folder of a run with the passthrough columns facts and outdated. Rows with the column bundle
are reports of one bundle, and their summaries together count as the bundle's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.dataset as ds


def compare(output: Path) -> tuple[int, float, float]:
    """The number of bundles, the share of their facts that is stated, and the share of outdated facts."""
    table = ds.dataset(sorted(map(str, output.glob("part-*.parquet")))).to_table()
    bundles: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for row in table.to_pylist():
        name = row.get("bundle") or row["doc_id"]
        _, _, summaries = bundles.setdefault(name, (row["facts"], row["outdated"], []))
        summaries.append(row["summary"] or "")
    stated = expected = wrong = outdated = 0
    for facts, earlier, summaries in bundles.values():
        text = "\n".join(summaries)
        stated += sum(fact in text for fact in facts)
        expected += len(facts)
        wrong += sum(fact in text for fact in earlier)
        outdated += len(earlier)
    return len(bundles), stated / expected, wrong / outdated


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", nargs="+", required=True, help="a name for each output")
    parser.add_argument("--outputs", nargs="+", type=Path, required=True)
    args = parser.parse_args()
    print(f"{'':<20}{'bundles':>8}{'facts of the latest report':>28}{'outdated facts':>16}")
    for name, output in zip(args.names, args.outputs, strict=True):
        count, found, outdated = compare(output)
        print(f"{name:<20}{count:>8}{found:>28.1%}{outdated:>16.1%}")


if __name__ == "__main__":
    main()
