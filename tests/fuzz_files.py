"""Changes the files of a checkpoint, of a run and of a command at random, and reads them.

    python -m tests.fuzz_files --cases 10000

Every file must be read, or refused by an error of this project, in seconds and with little memory. The first
file that is not is printed with the seed that makes it again.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from jobs import commands
from jobs.options import ReportOptions
from jobs.parsing import parse
from led.checkpoint.files import CheckpointError
from led.config import LEDConfig
from led.generation.config import GenerationConfig
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import PipelineError
from pipeline.output.open_store import open_store
from pipeline.output.verify import status, verify
from pipeline.planning.plan import MANIFEST, PLAN
from pipeline.tasks.settings import SummarizeSettings
from tests.conftest import make_checkpoint

RUN = Path(__file__).parent / "fixtures" / "run-0.1.0" / "summaries"

MOST_SECONDS, MOST_BYTES = 10.0, 500 << 20

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    10**6,
    10**30,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "\x00",
    "../../etc/passwd",
    "a" * 1000,
    "\ud800",
    [],
    {},
    [[[[]]]],
    {"a": {"b": {}}},
    "(a+)+$",
]

YAML = "input: [a]\noutput: o\nmodel: m\nnum_beams: 4\npassthrough: [b, c]\nmax_failed: 0.5\nsince: x\n"

# Errors that say what is wrong with a file.
REFUSED = (PipelineError, CheckpointError, ValueError, FileNotFoundError)


def changed_json(content: bytes, rng: random.Random) -> bytes:
    """The JSON with one or a few values changed, dropped or doubled."""
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 3))):
        places = list(_places(value))
        if not places:
            break
        parent, key = rng.choice(places)
        action = rng.random()
        if action < 0.6:
            parent[key] = copy.deepcopy(rng.choice(ODD))
        elif action < 0.8 and isinstance(parent, dict):
            del parent[key]
        elif isinstance(parent, dict):
            parent[rng.choice(["more", "type", "__class__", "0"])] = copy.deepcopy(rng.choice(ODD))
        else:
            parent.append(copy.deepcopy(rng.choice(ODD)))
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:50]:
        yield value, key
        yield from _places(inner)


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """The bytes with a few of them changed, cut or repeated."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 2, 5))):
        if not data:
            break
        at = rng.randrange(len(data))
        action = rng.randrange(4)
        if action == 0:
            data[at] = rng.randrange(256)
        elif action == 1:
            del data[at : at + rng.randrange(1, 50)]
        elif action == 2:
            data[at:at] = data[at : at + rng.randrange(1, 50)] * rng.choice((1, 20))
        else:
            data[at:at] = rng.choice((b"\x00", b"\xff", b"[" * 5000, b"{", b'"', b"\n- &a [*a, *a]\n"))
    return bytes(data)


def changed_weights(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header."""
    (size,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + size]
    change = rng.choice((changed_json, changed_bytes))
    new = change(header, rng)
    length = len(new) if rng.random() < 0.9 else rng.choice((0, 2**40, 2**63, len(new) + 9))
    return struct.pack("<Q", length) + new + content[8 + size :]


def plain(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((changed_json, changed_bytes))(content, rng)


def read_run(folder: Path) -> None:
    store = open_store(str(folder))
    for action in (status, verify, lambda _: commands.report(ReportOptions(output=str(folder)))):
        try:
            action(store)  # type: ignore[operator]
        except PipelineError:
            continue


def read_yaml(folder: Path) -> None:
    parse(SummarizeSettings, ["--config", str(folder / "settings.yaml")])


Target = tuple[str, Callable[[bytes, random.Random], bytes], Callable[[Path], object]]
CHECKPOINT: list[Target] = [
    ("config.json", plain, LEDForConditionalGeneration.check_pretrained),
    ("config.json", plain, LEDConfig.from_pretrained),
    ("generation_config.json", plain, GenerationConfig.from_pretrained),
    ("tokenizer.json", plain, LEDTokenizer.from_pretrained),
    ("model.safetensors", changed_weights, LEDForConditionalGeneration.from_pretrained),
]
OUTPUT: list[Target] = [(PLAN, plain, read_run), (MANIFEST, plain, read_run)]
COMMAND: list[Target] = [("settings.yaml", changed_bytes, read_yaml)]


def fuzz(target: Target, folder: Path, cases: int, first_seed: int = 0) -> Counter[str]:
    """Read a file `cases` times, each time changed in another way. Returns how many were read and refused.

    Raises:
        AssertionError: a file was neither read nor refused, or took too long or too much memory.
    """
    name, change, read = target
    path = folder / name
    content = path.read_bytes()
    outcomes: Counter[str] = Counter()
    try:
        for seed in range(first_seed, first_seed + cases):
            path.write_bytes(change(content, random.Random(seed)))
            start, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                    read(folder)
                outcomes["read"] += 1
            except REFUSED:
                outcomes["refused"] += 1
            except SystemExit as error:
                assert error.code in (0, 2), f"{name}, seed {seed}: exit code {error.code}"
                outcomes["refused"] += 1
            except BaseException as error:
                raise AssertionError(
                    f"{name}, seed {seed}: {''.join(traceback.format_exception(error))}"
                ) from error
            seconds = time.monotonic() - start
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10
            assert seconds < MOST_SECONDS, f"{name}, seed {seed}: {seconds:.0f} s"
            assert grown < MOST_BYTES, f"{name}, seed {seed}: {grown >> 20} MiB"
    finally:
        path.write_bytes(content)
    return outcomes


def targets(folder: Path) -> Iterator[tuple[Target, Path]]:
    """The files to change, each with the folder that holds it."""
    checkpoint = make_checkpoint(folder / "checkpoint")
    run = Path(shutil.copytree(RUN, folder / "run"))
    (folder / "settings.yaml").write_text(YAML)
    for group, place in ((CHECKPOINT, checkpoint), (OUTPUT, run), (COMMAND, folder)):
        for target in group:
            yield target, place


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for target, place in targets(Path(folder)):
            start = time.monotonic()
            try:
                outcomes = fuzz(target, place, given.cases, given.seed)
                print(f"{target[0]}: {dict(outcomes)} in {time.monotonic() - start:.0f} s", flush=True)
            except AssertionError as error:
                failures += 1
                print(f"FAILED {error}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
