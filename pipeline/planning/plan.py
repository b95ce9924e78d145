"""The plan: inputs split into shards, frozen before the run, and the shards that remain. Pure functions.

A shard is a range of rows of one file, or some files of a folder of texts. Its ID is a hash of its content
(the file's bytes, the range, the settings and the model), never of its position in a list. Its result has one
name: `part-<shard id>.parquet`.

The memory of a plan grows with files and shards, not with documents. Text files are the exception, since each
is a document and its name is part of the plan.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import CorruptOutput, first_problem, listed, printable
from pipeline.inputs.read import InputFile
from pipeline.inputs.splits import Split, split_rows
from pipeline.schema import TaskInfo
from pipeline.settings import fingerprint
from pipeline.versions import task_info, upgrade_plan

PLAN, MANIFEST, SUCCESS, REPORT, FORECAST = (
    "_plan.json",
    "_manifest.json",
    "_SUCCESS",
    "_report.html",
    "_forecast.json",
)

PLAN_VERSION = 3

# The version of `_forecast.json`. `forecast/calibrate.py` writes it, and `report/page.py` reads it.
FORECAST_VERSION = 2

# Names of files that are left out, kept in a plan.
_LEFT_OUT_EXAMPLES = 20


@dataclass(frozen=True)
class Shard:
    """Documents `start` to `stop`, exclusive, of the file at `path`, with the other fields of the split.

    `content` is the content ID of the file when it was planned.
    """

    shard_id: str
    path: str
    start: int
    stop: int
    offset: int = 0
    members: tuple[str, ...] = ()
    content: str = ""
    group_rows: tuple[int, ...] = ()
    skipped_rows: int = 0

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self.stop - self.start

    @property
    def split(self) -> Split:
        """Its range of the file."""
        return Split(self.start, self.stop, self.offset, self.members, self.group_rows, self.skipped_rows)

    @property
    def source(self) -> str:
        """A short name of the file: its base name and a hash of its content. Documents without an ID are
        named after it."""
        content = hashlib.sha256(self.content.encode()).hexdigest()
        return f"{printable(PurePosixPath(self.path).name)}-{content[:12]}"

    @property
    def part(self) -> str:
        """The name of its result file."""
        return f"part-{self.shard_id}.parquet"


_SHARD_ID = re.compile(r"[\w-]+")
_INPUTS = TypeAdapter(tuple[InputFile, ...])
_SHARDS = TypeAdapter(tuple[Shard, ...])
_TASK = TypeAdapter(TaskInfo)


@dataclass(frozen=True)
class Plan:
    """What a run reads, with which configuration, in which shards.

    `config` holds everything that the rows depend on besides the input: settings, checkpoint hashes, code
    version. `fingerprint` is its hash. `passthrough` has the types of the columns that are copied, so that
    rows that cannot be read have them too. `left_out` is the number of files in the folders of the input that
    are not read, and `left_out_examples` are some of them. `task` describes the task to readers of the plan.
    `tables` has the version of each table among the inputs, by its address.
    """

    inputs: tuple[InputFile, ...]
    config: dict[str, Any]
    shards: tuple[Shard, ...]
    passthrough: pa.Schema = field(default_factory=lambda: pa.schema([]))
    fingerprint: str = ""
    left_out: int = 0
    left_out_examples: tuple[str, ...] = ()
    task: TaskInfo = field(default_factory=TaskInfo)
    tables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint(self.config))

    @property
    def documents(self) -> int:
        """Number of documents in all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def skipped(self) -> list[InputFile]:
        """The files that are not read, each with its reason."""
        return [file for file in self.inputs if file.skipped is not None]

    @property
    def id_column(self) -> str | None:
        """The column with the document IDs. None if they are made from file and row."""
        settings = self.config.get("settings", {})
        return settings.get("group_by") or settings.get("id_column")

    @property
    def left_out_note(self) -> str:
        """The files that are left out, in words. Empty if there are none."""
        if not self.left_out:
            return ""
        return f"{self.left_out} files are left out: {listed(self.left_out_examples, 5)}"

    def to_json(self) -> bytes:
        """The content of `_plan.json`. Its field `sha256` covers all other fields, so a changed file is
        detected."""
        values = {
            "version": PLAN_VERSION,
            "config": self.config,
            "inputs": [asdict(file) for file in self.inputs],
            "shards": [_values(shard) for shard in self.shards],
            "passthrough": base64.b64encode(self.passthrough.serialize()).decode(),
            "task": asdict(self.task),
        }
        if self.tables:
            values["tables"] = self.tables
        if self.left_out:
            values["left_out"] = {"files": self.left_out, "examples": self.left_out_examples}
        return (json.dumps(values | {"sha256": _digest(values)}, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """The plan in a `_plan.json`, of this version or an earlier one.

        Raises:
            CorruptOutput: it is not a plan, or it was changed after it was written.
        """
        try:
            values = json.loads(data)
            if values.pop("sha256") != _digest(values):
                raise ValueError("it was changed after it was written")
            name = ""
            if values["version"] != PLAN_VERSION:
                values, name = upgrade_plan(values)
            _INPUTS.validate_json(_valid_json(values["inputs"]), strict=True)
            _SHARDS.validate_json(_valid_json(values["shards"]), strict=True)
            inputs = tuple(InputFile(**file) for file in values["inputs"])
            shards = tuple(
                Shard(
                    **shard
                    | {"members": tuple(shard["members"]), "group_rows": tuple(shard.get("group_rows", ()))}
                )
                for shard in values["shards"]
            )
            if not isinstance(values["config"], dict):
                raise TypeError("its config is no object")
            if not all(_SHARD_ID.fullmatch(shard.shard_id) for shard in shards):
                raise ValueError("the name of a shard is no plain name")
            passthrough = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(values["passthrough"])))
            left_out = values.get("left_out", {"files": 0, "examples": ()})
            return cls(
                inputs,
                values["config"],
                shards,
                passthrough,
                name,
                int(left_out["files"]),
                tuple(left_out["examples"]),
                _TASK.validate_json(
                    _valid_json(values.get("task") or task_info(values["config"])), strict=True
                ),
                {str(address): str(version) for address, version in values.get("tables", {}).items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else repr(error)
            raise CorruptOutput(
                f"{PLAN} is not a plan of this system ({reason}); choose another output folder."
            ) from error


def make_plan(
    inputs: Sequence[InputFile],
    config: dict[str, Any],
    shard_documents: int,
    splits: Mapping[str, Sequence[Split]] | None = None,
    passthrough: pa.Schema | None = None,
    left_out: Sequence[str] = (),
    task: TaskInfo | None = None,
    tables: Mapping[str, str] | None = None,
) -> Plan:
    """Turn every file into shards: the `splits` of its path, or else `shard_documents` rows each, the last
    one shorter."""
    config = json.loads(json.dumps(config, default=str))
    name = fingerprint(config)
    splits = splits or {}
    shards = [
        _shard(file, split, name)
        for file in inputs
        for split in (splits[file.path] if file.path in splits else split_rows(file.rows, shard_documents))
    ]
    return Plan(
        tuple(inputs),
        config,
        tuple(shards),
        passthrough or pa.schema([]),
        left_out=len(left_out),
        left_out_examples=tuple(printable(path) for path in left_out[:_LEFT_OUT_EXAMPLES]),
        task=task or TaskInfo(),
        tables=dict(tables or {}),
    )


def remaining(plan: Plan, names: Iterable[str]) -> list[Shard]:
    """The shards whose result file is not among `names`."""
    committed = set(names)
    return [shard for shard in plan.shards if shard.part not in committed]


def execution_order(shards: Sequence[Shard]) -> list[Shard]:
    """The order in which a run processes its shards.

    It is random, so early throughput predicts the rest, except that shards of one row group or one compressed
    file follow one another, so that it is decoded once. A shard ID is a hash.
    """
    units: dict[tuple[str, int], list[Shard]] = {}
    for shard in shards:
        first = shard.group_rows[0] if shard.group_rows else shard.start
        units.setdefault((shard.path, first - shard.skipped_rows), []).append(shard)
    in_units = (sorted(unit, key=lambda shard: shard.start) for unit in units.values())
    return [shard for unit in sorted(in_units, key=lambda unit: unit[0].shard_id) for shard in unit]


def plan_differences(before: Plan, now: Plan) -> list[str]:
    """Why a run with plan `now` cannot resume one with plan `before`, one line each. Empty if it can."""
    lines = config_differences(before.config, now.config)
    old, new = ({file.path: file for file in plan.inputs} for plan in (before, now))
    lines += [f"input removed: {path}" for path in sorted(old.keys() - new.keys())]
    lines += [f"input added: {path}" for path in sorted(new.keys() - old.keys())]
    for path in sorted(old.keys() & new.keys()):
        if not old[path].same_content(new[path]):
            lines.append(f"input changed: {path}")
        elif old[path].skipped and not new[path].skipped:
            lines.append(f"input skipped before, readable now: {path}")
    return lines


def config_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two run configs, one line each."""
    lines = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += [
                f"{name}.{key}: was {old.get(key)!r}, is {new.get(key)!r}"
                for key in sorted({*old, *new})
                if old.get(key) != new.get(key)
            ]
        elif old != new:
            lines.append(f"{name}: was {old!r}, is {new!r}")
    return lines


def _shard(file: InputFile, split: Split, config_fingerprint: str) -> Shard:
    content = {
        "file": file.content,
        "path": file.path,
        "rows": [split.start, split.stop],
        "config": config_fingerprint,
    }
    shard_id = fingerprint(content)
    return Shard(shard_id, file.path, content=file.content, **vars(split))


def _valid_json(value: Any) -> bytes:
    """A value as JSON in UTF-8. Bytes of file names that are not UTF-8 become question marks."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _values(shard: Shard) -> dict[str, Any]:
    """A shard's entry in the plan. What few shards have is left out, as in plans of earlier versions."""
    values = asdict(shard)
    return {
        name: value for name, value in values.items() if value or name not in ("group_rows", "skipped_rows")
    }


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
