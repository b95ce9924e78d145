"""The command `led-corpus`, and the packages behind it.

The packages `led`, `pipeline` and `jobs` have names that other projects use too. This module has a name of
its own, and makes every process import them from the folder that it is in, whatever the working directory or
PYTHONPATH holds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_PACKAGES = frozenset({"led", "pipeline", "jobs"})
_ROOT = str(Path(__file__).resolve().parent)


class _OwnPackages:
    """A finder of modules for the packages of this project."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package beside this file if `name` is one of this project's."""
        return PathFinder.find_spec(name, [_ROOT], target) if name in _PACKAGES else None


def use_own_packages() -> None:
    """Import the packages of this project from where this module is. Ray calls this in every worker."""
    if _OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, _OwnPackages)


def console() -> None:
    """The entry point of the command `led-corpus`."""
    use_own_packages()
    from jobs import cli

    cli.console()


def script(task: str) -> None:
    """The entry point of the scripts in jobs/, one for each task."""
    use_own_packages()
    from jobs import cli

    cli.script(task)


if __name__ == "__main__":
    console()
