#!/usr/bin/env python3
"""Runs the steps of infra/Dockerfile without a container engine, in a folder that stands for the image's
root.

    python infra/run_image_steps.py FOLDER [--arg TORCH_INDEX=…] [--system]

The image's own folders (MAPPED) lie below FOLDER, and the steps see them there by the same names. Steps that
change the system (apt-get, useradd, /etc) run only for root and with --system, on this machine itself: for
one that is thrown away. At the end the SMOKE commands run in the image's environment. Not covered: the base
image (this Python stands in), layers, USER.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAPPED = re.compile(r"(?<![\w.-])/(?:app|opt/venv)\b")
SYSTEM = re.compile(r"\b(?:apt-get|useradd)\b|/etc/")
SMOKE = (
    "python jobs/summarize_corpus.py --help",
    "cd / && python -c 'import led, pipeline, jobs'",
    "ray --version",
    "bash infra/run.sh jobs/summarize_corpus.py --help",
    "python infra/night.py --help",
)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """(instruction, what stands after it) of a Dockerfile, continued lines joined."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), rest.strip()


class Image:
    """The image's folders below `folder`, its variables, and the folder that its steps stand in."""

    def __init__(self, folder: Path, context: Path, arguments: dict[str, str], system: bool) -> None:
        self.folder, self.context, self.arguments, self.system = folder, context, arguments, system
        mine = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        self.variables = mine | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.at = folder

    def step(self, name: str, rest: str) -> None:
        """One instruction.

        Raises:
            ValueError: it is none of those that the Dockerfile uses.
            subprocess.CalledProcessError: a RUN step failed.
        """
        if name == "RUN":
            self.run(rest)
        elif name == "COPY":
            self.copy(*shlex.split(rest))
        elif name == "ARG":
            variable, _, default = rest.partition("=")
            self.variables[variable] = self.arguments.get(variable, default)
        elif name == "ENV":
            for variable, _, value in (word.partition("=") for word in shlex.split(rest)):
                self.variables[variable] = self.expand(value)
        elif name == "WORKDIR":
            self.at = Path(self.mapped(rest))
            self.at.mkdir(parents=True, exist_ok=True)
        elif name == "FROM":
            mine = "python:{}.{}-".format(*sys.version_info)
            if not self.expand(rest).startswith(mine):
                raise ValueError(f"the image stands on {self.expand(rest)}; this Python is {mine}")
        elif name != "USER":
            raise ValueError(f"{name} is not known here")

    def run(self, command: str) -> None:
        if SYSTEM.search(command) and not self.system:
            print(f"left out (changes the system): {command}", flush=True)
            return
        print(f"RUN {command}", flush=True)
        subprocess.run(["/bin/sh", "-c", self.mapped(command)], cwd=self.at, env=self.variables, check=True)

    def copy(self, *words: str) -> None:
        to = Path(self.mapped(words[-1])) if words[-1].startswith("/") else self.at / words[-1]
        for source in (self.context / word for word in words[:-1]):
            if source.is_dir():
                shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                target = to / source.name if words[-1].endswith("/") else to
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def mapped(self, text: str) -> str:
        return MAPPED.sub(lambda found: f"{self.folder}{found[0]}", text)

    def expand(self, value: str) -> str:
        return re.sub(r"\$\{?(\w+)\}?", lambda found: self.variables.get(found[1], ""), self.mapped(value))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--system", action="store_true")
    given = parser.parse_args()
    if given.system and os.geteuid() != 0:
        parser.error("--system is for root")
    arguments = {name: value for name, _, value in (word.partition("=") for word in given.arg)}
    image = Image(given.folder.resolve(), ROOT, arguments, given.system)
    for name, rest in instructions((ROOT / "infra" / "Dockerfile").read_text("utf-8")):
        image.step(name, rest)
    for command in SMOKE:
        print(f"smoke: {command}", flush=True)
        subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=image.at,
            env=image.variables,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    print(f"{len(SMOKE)} smoke commands passed", flush=True)


if __name__ == "__main__":
    main()
