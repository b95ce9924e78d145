"""The Python API, the command `led-corpus`, and the packages behind them.

    import led_corpus

    results = led_corpus.summarize(input="corpus/", output="out/", model="my-model")

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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import *  # noqa: F403

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
    """Import the packages of this project from where this module is. Ray calls this in every worker.

    Raises:
        ImportError: another package with one of these names is imported already.
    """
    if _OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, _OwnPackages)
    for name in sorted(_PACKAGES & sys.modules.keys()):
        found = str(getattr(sys.modules[name], "__file__", None))
        if not Path(found).is_relative_to(_ROOT):
            raise ImportError(
                f"led_corpus has a package named {name!r}, and so has {found}, which is imported already. "
                "Import led_corpus first, or use it in a process of its own."
            )


def __getattr__(name: str) -> Any:
    """A name of `pipeline.api`, which is imported when one of its names is used first."""
    if name.startswith("_") and name not in ("__all__", "__version__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    use_own_packages()
    from pipeline import api

    if name != "__all__" and name not in api.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(api, name)


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
