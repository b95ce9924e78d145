"""The rows of a report: count the columns of every row, rank and sample rows, and read the selected rows.

Each file is read once for the counted columns, and once more if some of its rows are shown.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.commit import read_columns
from pipeline.output.store import Store
from pipeline.output.truncated import dropped_tokens
from pipeline.planning.plan import Plan
from pipeline.schema import TRUNCATED
from pipeline.versions import with_current_names

# Numbers of rows shown: the worst, the best, and random ones.
WORST, BEST, RANDOM = 20, 10, 20

# Random rows whose ROUGE scores are computed.
_MAX_SCORED = 500

# The columns that are read for every row, besides the task's score.
COUNTED_COLUMNS = (
    "status",
    "input_tokens",
    *TRUNCATED,
    "output_tokens",
    "flags",
    "quality.mean_log_probability",
    "attention",
)

# Attention is summed beyond these numbers of tokens, the input limits of shorter models.
REACHES = (1024, 4096)

_FILES_AT_ONCE = 16  # reading a file is mostly waiting for the store

Row = dict[str, Any]


class Position(NamedTuple):
    """The position of a row: its file, and its number in that file."""

    part: str
    row: int


Ranked = tuple[Any, Position]


@dataclass
class Findings:
    """Lengths and attention of the ok rows of some files, and the positions of the rows to show.

    Findings of several files can be added up. `lengths` counts rows by their tokens before truncation, and
    `output_lengths` by their output tokens. `profiles` counts the rows with a cross-attention profile.
    `attention_beyond` sums the shares of attention beyond each of `REACHES`.

    `worst` ranks rows by the number of their quality flags, then by how unlikely they are for the model.
    `sampled` pairs each position with a random number, so the sample does not depend on the order of the
    files. `rows` has the selected rows, once they are read.
    """

    max_sampled: int = RANDOM
    lengths: Counter[int] = field(default_factory=Counter)
    output_lengths: Counter[int] = field(default_factory=Counter)
    profiles: int = 0
    attention_beyond: dict[int, float] = field(default_factory=lambda: dict.fromkeys(REACHES, 0.0))
    worst: list[Ranked] = field(default_factory=list)
    best: list[Ranked] = field(default_factory=list)
    sampled: list[Ranked] = field(default_factory=list)
    rows: dict[Position, Row] = field(default_factory=dict)

    def add(self, other: Findings) -> None:
        """Add the findings of another file."""
        self.lengths.update(other.lengths)
        self.output_lengths.update(other.output_lengths)
        self.profiles += other.profiles
        for reach in REACHES:
            self.attention_beyond[reach] += other.attention_beyond[reach]
        self.worst = heapq.nlargest(WORST, [*self.worst, *other.worst])
        self.best = heapq.nsmallest(BEST, [*self.best, *other.best])
        self.sampled = heapq.nsmallest(self.max_sampled, [*self.sampled, *other.sampled])

    def selected(self) -> dict[str, set[int]]:
        """The numbers of the rows to read, by file."""
        rows: dict[str, set[int]] = {}
        for _, position in (*self.worst, *self.best, *self.sampled):
            rows.setdefault(position.part, set()).add(position.row)
        return rows

    def rows_at(self, ranked: Sequence[Ranked]) -> list[Row]:
        """The rows at these positions."""
        return [self.rows[position] for _, position in ranked]


def findings_of(part: str, table: pa.Table, seed: str, score: str | None = "score") -> Findings:
    """The findings of one file, from those of `COUNTED_COLUMNS` and the column `score` that it has. `seed`
    determines the sample."""
    ok = pc.equal(table["status"], "ok")
    numbers, table = pc.indices_nonzero(ok).to_pylist(), table.filter(ok)
    findings, names = Findings(), table.column_names
    tokens = table["input_tokens"].to_pylist()
    findings.lengths.update(n + more for n, more in zip(tokens, dropped_tokens(table), strict=True))
    if "output_tokens" in names:
        findings.output_lengths.update(table["output_tokens"].to_pylist())
    if "attention" in names:
        for profile, n in zip(table["attention"].to_pylist(), tokens, strict=True):
            if profile:
                findings.profiles += 1
                for reach in REACHES:
                    findings.attention_beyond[reach] += share_beyond(profile, n, reach)
    flags = [len(row or ()) for row in table["flags"].to_pylist()] if "flags" in names else [0] * len(table)
    ranks = zip(flags, (-likelihood for likelihood in _likelihoods(table, score)), strict=True)
    rng = random.Random(f"{seed} {part}")
    positions = [Position(part, number) for number in numbers]
    ranked = list(zip(ranks, positions, strict=True))
    findings.worst, findings.best = ranked, ranked
    findings.sampled = [(rng.random(), position) for position in positions]
    return findings


def _likelihoods(table: pa.Table, score: str | None) -> list[float]:
    """The model's score of each row. For a summary with quality measures it is the mean over its tokens."""
    names = table.column_names
    scores = [table[score].to_pylist()] if score in names else []
    if "quality" in names:
        quality = table["quality"].to_pylist()
        scores.insert(0, [(measures or {}).get("mean_log_probability") for measures in quality])
    if not scores:
        return [0.0] * len(table)
    return [next((score for score in row if score is not None), 0.0) for row in zip(*scores, strict=True)]


def share_beyond(profile: Sequence[float], tokens: int, reach: int) -> float:
    """The share of attention beyond the first `reach` tokens of a document with `tokens` tokens."""
    total = sum(profile)
    if tokens <= reach or not total:
        return 0.0
    border = reach / tokens * len(profile)
    part = int(border)
    return (sum(profile[part + 1 :]) + profile[part] * (part + 1 - border)) / total


def collect_findings(
    store: Store, plan: Plan, parts: Iterable[str], reference_column: str | None = None
) -> Findings:
    """The findings of these files, with the selected rows. Several files are read at once.

    Of the passthrough columns only the reference is read. The others may be whole documents.
    """
    passthrough = set(plan.passthrough.names)
    score = plan.task.score
    counted = [name for name in (*COUNTED_COLUMNS, score) if name is not None and name not in passthrough]
    unread = passthrough - {reference_column}
    findings = Findings(RANDOM if reference_column is None else _MAX_SCORED)

    def count(part: str) -> Findings:
        return findings_of(part, read_columns(store, part, counted), plan.fingerprint, score)

    def read(selected: tuple[str, set[int]]) -> dict[Position, Row]:
        return _read_rows(store, *selected, unread)

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        for of_file in pool.map(count, sorted(parts)):
            findings.add(of_file)
        for rows in pool.map(read, findings.selected().items()):
            findings.rows |= rows
    return findings


def _read_rows(
    store: Store, part: str, numbers: Iterable[int], unread: Collection[str]
) -> dict[Position, Row]:
    """These rows of a file, without the unread columns."""
    ordered = sorted(numbers)
    with store.open(part) as opened:
        file = pq.ParquetFile(opened)
        names = [name for name in file.schema_arrow.names if name not in unread]
        table = with_current_names(file.read(columns=names))
    rows = table.take(ordered).to_pylist()
    return {Position(part, number): row for number, row in zip(ordered, rows, strict=True)}
