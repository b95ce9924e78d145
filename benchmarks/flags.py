"""Do the quality flags find faults that were planted? Precision and recall, and what measuring costs.

The corpus is the demo's: its reference summaries, four in five with one fault. A fault is found where a flag
that stands for it is up; a flag that stands for no fault of that summary is a false alarm.

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
    """A piece of three to seven words that is written three times."""
    words = summary.split()
    length = rng.randint(3, 7)
    start = rng.randrange(max(1, len(words) - length))
    return " ".join(
        [*words[: start + length], *(words[start : start + length] * 3), *words[start + length :]]
    )


def other_number(summary: str, document: str, rng: random.Random) -> str:
    """A number with other digits, which the document has nowhere."""
    places = list(re.finditer(r"\d+", summary))
    place = rng.choice(places)
    while (number := str(rng.randint(10, 99999))) in document:
        pass
    return summary[: place.start()] + number + summary[place.end() :]


def swapped_numbers(summary: str, document: str, rng: random.Random) -> str:
    """Two different numbers of the summary in one another's place."""
    places = list(re.finditer(r"\d+", summary))
    pairs = [(a, b) for i, a in enumerate(places) for b in places[i + 1 :] if a.group() != b.group()]
    if not pairs:
        return other_number(summary, document, rng)
    a, b = rng.choice(pairs)
    return f"{summary[: a.start()]}{b.group()}{summary[a.end() : b.start()]}{a.group()}{summary[b.end() :]}"


def foreign_name(summary: str, document: str, rng: random.Random) -> str:
    """A name that is not the document's, in the place of a word within a sentence."""
    places = [m for m in re.finditer(r"(?<=[a-z] )[A-Z][a-z]+", summary)] or list(
        re.finditer(r"(?<=[a-z] )[a-z]+", summary)
    )
    place = rng.choice(places)
    return summary[: place.start()] + rng.choice(NAMES) + summary[place.end() :]


FAULTS: dict[str, tuple[Callable[[str, str, random.Random], str], set[str]]] = {
    "repeated n-gram": (repeated, {"repetition"}),
    "other number": (other_number, {"numbers"}),
    "swapped numbers": (swapped_numbers, {"misplaced numbers", "numbers"}),
    "foreign name": (foreign_name, {"names"}),
}


def measure(seed: int) -> dict[str, dict[str, float]]:
    """Precision and recall by fault, and of summaries without one the share that is flagged; milliseconds a
    summary."""
    rng = random.Random(seed)
    planted, found, alarms, false = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    flagged, clean, begun, count = 0, 0, time.perf_counter(), 0
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
            for name, (_, stand_for) in FAULTS.items():
                alarms[name] += bool(flags & stand_for)
                false[name] += bool(flags & stand_for) and not (
                    fault and flags & stand_for & FAULTS[fault][1]
                )
    each = {
        name: {
            "planted": planted[name],
            "recall": found[name] / planted[name],
            "precision": 1 - false[name] / alarms[name] if alarms[name] else 1.0,
        }
        for name in FAULTS
    }
    rest = {"summaries": clean, "flagged": flagged / clean}
    return {
        **each,
        "without a fault": rest,
        "cost": {"milliseconds": (time.perf_counter() - begun) / count * 1e3},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    found = measure(args.seed)
    for name, row in found.items():
        print(f"{name}: " + ", ".join(f"{what} {value:.3g}" for what, value in row.items()))
    print(json.dumps({"machine": machine(), **found}))


if __name__ == "__main__":
    main()
