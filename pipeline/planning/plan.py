"""The plan: inputs cut into shards, frozen before anything runs, and what is left to do. Pure functions.

A shard is a range of rows of one file, or some files of a folder of texts. It is named by what it is (the file's bytes, the
range, the settings and the model), never by its place in a list, and its result has one name: `part-<shard id>.parquet`.

A plan takes memory by files and shards, not by documents; texts of one file each are the exception, since their names are
the plan.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from pipeline.settings import fingerprint
from pipeline.inputs.splits import Cut, cut_rows
from pipeline.errors import CorruptOutput
from pipeline.inputs.read import InputFile

PLAN, MANIFEST, SUCCESS, REPORT, FORECAST = "_plan.json", "_manifest.json", "_SUCCESS", "_report.html", "_forecast.json"


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop`, end exclusive, of the file at `path`; `offset` and `members` are those of the cut.

    `content` is the file's, as it was planned.
    """

    shard_id: str
    path: str
    start: int
    stop: int
    offset: int = 0
    members: tuple[str, ...] = ()
    content: str = ""

    @property
    def documents(self) -> int:
        """Rows of the shard."""
        return self.stop - self.start

    @property
    def cut(self) -> Cut:
        """Its place in the file."""
        return Cut(self.start, self.stop, self.offset, self.members)

    @property
    def source(self) -> str:
        """The file in short, by which documents without an id are named: equal only for files of one name and one content."""
        return f"{PurePosixPath(self.path).name}-{hashlib.sha256(self.content.encode()).hexdigest()[:12]}"

    @property
    def part(self) -> str:
        """The name of its result."""
        return f"part-{self.shard_id}.parquet"


@dataclass(frozen=True)
class Plan:
    """What a run reads, with what, cut how. `facts` are what the rows depend on besides the input: settings, model, code.

    `passthrough` are the types of the columns carried over, so that rows that cannot be read have them too.
    """

    inputs: tuple[InputFile, ...]
    facts: dict[str, Any]
    shards: tuple[Shard, ...]
    passthrough: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @property
    def documents(self) -> int:
        """Rows of all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """The name of `facts`."""
        return fingerprint(self.facts)

    @property
    def skipped(self) -> list[InputFile]:
        """The files of which nothing is read, each with its reason."""
        return [file for file in self.inputs if file.skipped is not None]

    def to_json(self) -> bytes:
        """The content of `_plan.json`; `sha256` is of all the rest, so that a plan that was changed is none."""
        values = {
            "version": 2,
            "facts": self.facts,
            "inputs": [asdict(f) for f in self.inputs],
            "shards": [asdict(s) for s in self.shards],
            "passthrough": base64.b64encode(self.passthrough.serialize()).decode(),
        }
        return (json.dumps(values | {"sha256": _digest(values)}, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """The plan in a `_plan.json`.

        Raises:
            CorruptOutput: it is not one.
        """
        try:
            values = json.loads(data)
            if values["version"] != 2:
                raise ValueError(f"version {values['version']}")
            if values.pop("sha256") != _digest(values):
                raise ValueError("it was changed after it was written")
            inputs = tuple(InputFile(**f) for f in values["inputs"])
            shards = tuple(Shard(**s | {"members": tuple(s["members"])}) for s in values["shards"])
            passthrough = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(values["passthrough"])))
            return cls(inputs, values["facts"], shards, passthrough)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            raise CorruptOutput(f"{PLAN} is not a plan of this system ({error!r}); choose another output folder.") from error


def make_plan(
    inputs: Sequence[InputFile],
    facts: dict[str, Any],
    shard_documents: int,
    cuts: Mapping[str, Sequence[Cut]] | None = None,
    passthrough: pa.Schema | None = None,
) -> Plan:
    """Every file as shards: by the `cuts` of its path, else of `shard_documents` rows, the last one shorter."""
    facts = json.loads(json.dumps(facts, default=str))
    name = fingerprint(facts)
    cuts = cuts or {}
    shards = [
        _shard(file, cut, name)
        for file in inputs
        for cut in (cuts[file.path] if file.path in cuts else cut_rows(file.rows, shard_documents))
    ]
    return Plan(tuple(inputs), facts, tuple(shards), passthrough or pa.schema([]))


def remaining(plan: Plan, names: Iterable[str]) -> list[Shard]:
    """The shards whose result is not among `names`."""
    there = set(names)
    return [shard for shard in plan.shards if shard.part not in there]


def differences(before: Plan, now: Plan) -> list[str]:
    """What keeps `now` from going on with the work of `before`, a line each; empty where nothing does."""
    lines = fact_differences(before.facts, now.facts)
    old, new = ({f.path: f for f in plan.inputs} for plan in (before, now))
    lines += [f"input removed: {path}" for path in sorted(old.keys() - new.keys())]
    lines += [f"input added: {path}" for path in sorted(new.keys() - old.keys())]
    for path in sorted(old.keys() & new.keys()):
        if not old[path].same_content(new[path]):
            lines.append(f"input changed: {path}")
        elif old[path].skipped and not new[path].skipped:
            lines.append(f"input skipped before, readable now: {path}")
    return lines


def fact_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What rows depended on before and depend on now, where it differs, a line each."""
    lines = []
    for name in sorted({*before, *now}):
        was, is_ = before.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(is_, dict):
            lines += [
                f"{name}.{key}: was {was.get(key)!r}, is {is_.get(key)!r}"
                for key in sorted({*was, *is_})
                if was.get(key) != is_.get(key)
            ]
        elif was != is_:
            lines.append(f"{name}: was {was!r}, is {is_!r}")
    return lines


def _shard(file: InputFile, cut: Cut, facts: str) -> Shard:
    what = {"file": file.content, "path": file.path, "rows": [cut.start, cut.stop], "facts": facts}
    return Shard(fingerprint(what), file.path, cut.start, cut.stop, cut.offset, cut.members, file.content)


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
