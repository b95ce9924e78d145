"""The plan: inputs cut into shards, frozen before anything runs, and what is left to do. Pure functions.

A shard is a range of rows of one file. It is named by what it is (the file's bytes, the range, the settings and the
model), never by its place in a list, and its result has one name: `part-<shard id>.parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config import fingerprint
from pipeline.errors import CorruptOutput
from pipeline.inputs import InputFile

PLAN, MANIFEST, SUCCESS, REPORT = "_plan.json", "_manifest.json", "_SUCCESS", "_report.html"


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop`, end exclusive, of the file at `path`."""

    shard_id: str
    path: str
    start: int
    stop: int

    @property
    def documents(self) -> int:
        """Rows of the shard."""
        return self.stop - self.start

    @property
    def part(self) -> str:
        """The name of its result."""
        return f"part-{self.shard_id}.parquet"


@dataclass(frozen=True)
class Plan:
    """What a run reads, with what, cut how. `facts` are what the rows depend on besides the input: settings, model, code."""

    inputs: tuple[InputFile, ...]
    facts: dict[str, Any]
    shards: tuple[Shard, ...]

    @property
    def documents(self) -> int:
        """Rows of all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """The name of `facts`."""
        return fingerprint(self.facts)

    def to_json(self) -> bytes:
        """The content of `_plan.json`."""
        values = {"version": 1, "facts": self.facts, "inputs": [asdict(f) for f in self.inputs],
                  "shards": [asdict(s) for s in self.shards]}  # fmt: skip
        return (json.dumps(values, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """The plan in a `_plan.json`.

        Raises:
            CorruptOutput: it is not one.
        """
        try:
            values = json.loads(data)
            if values["version"] != 1:
                raise ValueError(f"version {values['version']}")
            inputs = tuple(InputFile(**f) for f in values["inputs"])
            return cls(inputs, dict(values["facts"]), tuple(Shard(**s) for s in values["shards"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptOutput(f"{PLAN} is not a plan of this system ({error!r}); choose another output folder.") from error


def make_plan(inputs: Sequence[InputFile], facts: dict[str, Any], shard_documents: int) -> Plan:
    """Cut every file into shards of `shard_documents` rows, the last one shorter."""
    facts = json.loads(json.dumps(facts, default=str))
    name = fingerprint(facts)
    shards = [
        _shard(file, start, min(start + shard_documents, file.rows), name)
        for file in inputs
        for start in range(0, file.rows, shard_documents)
    ]
    return Plan(tuple(inputs), facts, tuple(shards))


def remaining(plan: Plan, names: Iterable[str]) -> list[Shard]:
    """The shards whose result is not among `names`."""
    there = set(names)
    return [shard for shard in plan.shards if shard.part not in there]


def differences(before: Plan, now: Plan) -> list[str]:
    """What keeps `now` from going on with the work of `before`, a line each; empty where nothing does."""
    lines = []
    for name in sorted({*before.facts, *now.facts}):
        was, is_ = before.facts.get(name), now.facts.get(name)
        if isinstance(was, dict) and isinstance(is_, dict):
            lines += [
                f"{name}.{key}: was {was.get(key)!r}, is {is_.get(key)!r}"
                for key in sorted({*was, *is_})
                if was.get(key) != is_.get(key)
            ]
        elif was != is_:
            lines.append(f"{name}: was {was!r}, is {is_!r}")
    old, new = ({f.path: f for f in plan.inputs} for plan in (before, now))
    lines += [f"input removed: {path}" for path in sorted(old.keys() - new.keys())]
    lines += [f"input added: {path}" for path in sorted(new.keys() - old.keys())]
    lines += [f"input changed: {p}" for p in sorted(old.keys() & new.keys()) if not old[p].same_content(new[p])]
    return lines


def _shard(file: InputFile, start: int, stop: int, facts: str) -> Shard:
    return Shard(
        fingerprint({"file": file.sha256, "path": file.path, "rows": [start, stop], "facts": facts}), file.path, start, stop
    )
