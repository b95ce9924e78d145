"""`led` lists its public names once for type checkers and once for lazy loading, and both lists agree."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import led

SOURCE = Path(led.__file__).read_text("utf-8")


def names_for_type_checkers() -> dict[str, str]:
    """Name to module, from the imports under `if TYPE_CHECKING`."""
    [block] = [
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    names: dict[str, str] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names:
            assert alias.asname == alias.name and alias.name not in names, (
                "a public name is imported as itself"
            )
            names[alias.name] = node.module
    return names


def test_both_lists_have_the_same_names_and_modules() -> None:
    assert names_for_type_checkers() == led._MODULES
    assert list(led._MODULES) == sorted(led._MODULES)


@pytest.mark.parametrize("name", led._MODULES)
def test_every_name_is_that_of_its_module(name: str) -> None:
    value = getattr(led, name)
    assert value is getattr(import_module(led._MODULES[name]), name)
    assert value.__module__ == led._MODULES[name], "the table must name the module that defines it"


def test_dir_and_all_list_every_name() -> None:
    assert led.__all__ == list(led._MODULES)
    assert set(led.__all__) <= set(dir(led))


@pytest.mark.parametrize("old", led._RENAMED)
def test_an_old_name_warns_and_gives_the_new_one(old: str) -> None:
    new = led._RENAMED[old]
    with pytest.warns(DeprecationWarning, match=rf"led\.{old} is now led\.{new}"):
        assert getattr(led, old) is getattr(led, new)
    assert old not in led.__all__


def test_the_old_names_are_those_of_the_scheduler() -> None:
    assert set(led._RENAMED.values()) == {"Scheduler", "SchedulerLimits"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'led' has no attribute 'LEDNothing'"):
        _ = led.LEDNothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["LEDTokenizer", "LEDConfig", "GenerationConfig", "CheckpointError"])
def test_a_name_that_needs_no_torch_does_not_import_it(name: str) -> None:
    script = f"import sys, led; led.{name}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_listed_name_exists() -> None:
    for name in dir(led):
        assert getattr(led, name) is not None
