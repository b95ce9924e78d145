#!/usr/bin/env python3
"""Runs the steps of infra/Dockerfile without a container engine. A folder replaces the image's root.

    python infra/run_image_steps.py FOLDER [--arg TORCH_INDEX=…] [--system]

The image's own folders (MAPPED) are created below FOLDER, and paths in the steps are mapped to them. Steps
that change the system (apt-get, useradd, /etc) are skipped by default. With --system, they change this
machine, which needs root, so use it on a disposable machine only. Finally, the SMOKE commands run in the
image's environment.

The base image (this Python is used instead), layers and USER are not covered.
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
    "led-corpus --help",
    "python jobs/summarize_corpus.py --help",
    "cd / && python -c 'import led, pipeline, jobs'",
    "ray --version",
    "bash infra/run.sh jobs/summarize_corpus.py --help",
    "python infra/start_scheduled_run.py --help",
)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield (instruction, arguments) of a Dockerfile. Continued lines are joined."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), rest.strip()


class Image:
    """The state of a build: the image's folders below `folder`, variables and working directory."""

    def __init__(self, folder: Path, context: Path, arguments: dict[str, str], system: bool) -> None:
        self.folder, self.context, self.arguments, self.system = folder, context, arguments, system
        inherited = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        self.variables = inherited | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.working_directory = folder

    def step(self, name: str, arguments: str) -> None:
        """Execute one instruction.

        Raises:
            ValueError: the instruction is not supported, or the base image has another Python.
            subprocess.CalledProcessError: a RUN step failed.
        """
        if name == "RUN":
            self.run(arguments)
        elif name == "COPY":
            self.copy(*shlex.split(arguments))
        elif name == "ARG":
            variable, _, default = arguments.partition("=")
            self.variables[variable] = self.arguments.get(variable, default)
        elif name == "ENV":
            for variable, _, value in (word.partition("=") for word in shlex.split(arguments)):
                self.variables[variable] = self.expand(value)
        elif name == "WORKDIR":
            self.working_directory = Path(self.mapped(arguments))
            self.working_directory.mkdir(parents=True, exist_ok=True)
        elif name == "FROM":
            prefix = "python:{}.{}-".format(*sys.version_info)
            if not self.expand(arguments).startswith(prefix):
                raise ValueError(
                    f"the base image is {self.expand(arguments)}, but this Python is {prefix}; run this "
                    "script with the Python of the base image."
                )
        elif name != "USER":
            raise ValueError(f"the instruction {name} is not supported; add it to Image.step.")

    def run(self, command: str) -> None:
        """Execute a RUN step."""
        if SYSTEM.search(command) and not self.system:
            print(f"skipped (changes the system): {command}", flush=True)
            return
        print(f"RUN {command}", flush=True)
        subprocess.run(
            ["/bin/sh", "-c", self.mapped(command)],
            cwd=self.working_directory,
            env=self.variables,
            check=True,
        )

    def copy(self, *paths: str) -> None:
        """Execute a COPY step. The last path is the destination."""
        *names, last = paths
        destination = Path(self.mapped(last)) if last.startswith("/") else self.working_directory / last
        for source in (self.context / name for name in names):
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, destination, ignore=ignore, dirs_exist_ok=True)
            else:
                target = destination / source.name if last.endswith("/") else destination
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def mapped(self, text: str) -> str:
        """The text with the image's folders replaced by those below `folder`."""
        return MAPPED.sub(lambda match: f"{self.folder}{match[0]}", text)

    def expand(self, value: str) -> str:
        """The value with folders mapped and variables replaced."""
        return re.sub(r"\$\{?(\w+)\}?", lambda match: self.variables.get(match[1], ""), self.mapped(value))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--system", action="store_true")
    args = parser.parse_args()
    if args.system and os.geteuid() != 0:
        parser.error("--system needs root")
    variables = {name: value for name, _, value in (word.partition("=") for word in args.arg)}
    image = Image(args.folder.resolve(), ROOT, variables, args.system)
    for name, arguments in instructions((ROOT / "infra" / "Dockerfile").read_text("utf-8")):
        image.step(name, arguments)
    for command in SMOKE:
        print(f"smoke: {command}", flush=True)
        subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=image.working_directory,
            env=image.variables,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    print(f"{len(SMOKE)} smoke commands passed", flush=True)


if __name__ == "__main__":
    main()
