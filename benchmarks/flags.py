"""Measures precision, recall and cost of the quality flags on planted faults.

The summaries are the reference summaries of the demo's corpus. Four of five get one fault. The fault is found
if one of its flags is set. Flags of other faults are false alarms.

    python -m benchmarks.flags
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.rival import machine
from pipeline.tasks.quality import quality_columns

CORPUS = Path("demo/corpus")
NAMES = (
    "Okonkwo",
    "Brzezinski",
    "Vandermeer",
    "Yamaguchi",
    "Tsukasa",
    "Fitzwilliam",
    "Delacroix",
    "Novgorod",
)


def repeated(summary: str, document: str, rng: random.Random) -> str:
    """Repeat three to seven words three more times."""
    words = summary.split()
    length = rng.randint(3, 7)
    start = rng.randrange(max(1, len(words) - length))
    return " ".join(
        [*words[: start + length], *(words[start : start + length] * 3), *words[start + length :]]
    )


def other_number(summary: str, document: str, rng: random.Random) -> str:
    """Replace a number with one that does not occur in the document."""
    match = rng.choice(list(re.finditer(r"\d+", summary)))
    while (number := str(rng.randint(10, 99999))) in document:
        pass
    return summary[: match.start()] + number + summary[match.end() :]


def swapped_numbers(summary: str, document: str, rng: random.Random) -> str:
    """Swap two different numbers of the summary."""
    matches = list(re.finditer(r"\d+", summary))
    pairs = [(a, b) for i, a in enumerate(matches) for b in matches[i + 1 :] if a.group() != b.group()]
    if not pairs:
        return other_number(summary, document, rng)
    a, b = rng.choice(pairs)
    return f"{summary[: a.start()]}{b.group()}{summary[a.end() : b.start()]}{a.group()}{summary[b.end() :]}"


def foreign_name(summary: str, document: str, rng: random.Random) -> str:
    """Replace a word within a sentence with a name that does not occur in the document."""
    matches = list(re.finditer(r"(?<=[a-z] )[A-Z][a-z]+", summary))
    match = rng.choice(matches or list(re.finditer(r"(?<=[a-z] )[a-z]+", summary)))
    return summary[: match.start()] + rng.choice(NAMES) + summary[match.end() :]


# By name: the function that plants the fault, and the flags that indicate it.
FAULTS: dict[str, tuple[Callable[[str, str, random.Random], str], set[str]]] = {
    "repeated n-gram": (repeated, {"repetition"}),
    "other number": (other_number, {"numbers"}),
    "swapped numbers": (swapped_numbers, {"misplaced numbers", "numbers"}),
    "foreign name": (foreign_name, {"names"}),
}


def measure(seed: int) -> dict[str, dict[str, float]]:
    """Precision and recall by fault, the share of flagged summaries without a fault, and the cost.

    The cost is in milliseconds per summary.
    """
    rng = random.Random(seed)
    planted, found, alarms, false_alarms = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    flagged, clean, start, count = 0, 0, time.perf_counter(), 0
    for path in sorted(CORPUS.glob("*.parquet")):
        for row in pq.read_table(path, columns=["text", "reference_summary"]).to_pylist():
            fault = rng.choice([None, *FAULTS])
            text, summary = row["text"], row["reference_summary"]
            if fault is not None:
                summary = FAULTS[fault][0](summary, text, rng)
            flags = set(quality_columns(summary, text, None, finished=True)["flags"])
            count += 1
            if fault is None:
                clean += 1
                flagged += bool(flags)
            else:
                planted[fault] += 1
                found[fault] += bool(flags & FAULTS[fault][1])
            for name, (_, indicators) in FAULTS.items():
                alarms[name] += bool(flags & indicators)
                is_found = fault is not None and bool(flags & indicators & FAULTS[fault][1])
                false_alarms[name] += bool(flags & indicators) and not is_found
    by_fault = {
        name: {
            "planted": planted[name],
            "recall": found[name] / planted[name],
            "precision": 1 - false_alarms[name] / alarms[name] if alarms[name] else 1.0,
        }
        for name in FAULTS
    }
    return {
        **by_fault,
        "without a fault": {"summaries": clean, "flagged": flagged / clean},
        "cost": {"milliseconds": (time.perf_counter() - start) / count * 1e3},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    results = measure(args.seed)
    for name, row in results.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
    print(json.dumps({"machine": machine(), **results}))


if __name__ == "__main__":
    main()
