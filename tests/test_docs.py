"""What docs/ shows runs, what it names exists, and every public name says what it takes, gives and
refuses."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import led
from docs.make_settings import page as settings_page
from led import chunks
from led.batch import packed_batch as packing
from led.checkpoint import hub
from led.generation import scheduler as generation

PAGES = sorted(Path("docs").glob("*.md"))


def test_the_guides_snippets_run_one_after_the_other(tmp_path: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", Path("docs/guide.md").read_text("utf-8"), re.DOTALL)
    script = "import torch\ntorch.set_num_threads(1)\n" + "\n".join(snippets).replace(
        "out/my-model", str(tmp_path / "model")
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }


def test_the_imports_the_other_pages_show_work() -> None:
    for path in PAGES:
        for line in re.findall(r"^from led.*$", path.read_text("utf-8"), re.MULTILINE):
            exec(line, {})


@pytest.mark.parametrize("page", [*PAGES, Path("README.md")], ids=str)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_pages_name_only_what_is_there() -> None:
    public = set(led.__all__) | {
        name for module in (generation, hub, packing, chunks) for name in vars(module)
    }
    for page in ("guide.md", "coming-from-transformers.md"):
        for name in re.findall(r"`((?:LED|Generat|Decod)\w+)`", Path("docs", page).read_text("utf-8")):
            assert name in public or name == "DecoderCache", f"{page}: {name}"


def public_callables() -> list[tuple[str, Any]]:
    """(name, thing) for every public class and function, and every method they offer themselves."""
    found: list[tuple[str, Any]] = []
    for name in led.__all__:
        thing = getattr(led, name)
        found.append((name, thing))
        if inspect.isclass(thing):
            for key, value in vars(thing).items():
                value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                if isinstance(value, FunctionType) and (not key.startswith("_") or key == "__call__"):
                    found.append((f"{name}.{key}", value))
                elif isinstance(value, property) and not key.startswith("_"):
                    found.append((f"{name}.{key}", value.fget))
    return found


@pytest.mark.parametrize(("name", "thing"), public_callables(), ids=[name for name, _ in public_callables()])
def test_every_public_name_says_what_it_is(name: str, thing: Any) -> None:
    own = inspect.getdoc(thing) or ""  # a method may inherit its docstring
    if "." in name and not own:
        cls, method = name.split(".")
        own = next(
            (
                inspect.getdoc(vars(base)[method]) or ""
                for base in getattr(led, cls).__mro__
                if method in vars(base) and inspect.getdoc(vars(base)[method])
            ),
            "",
        )
    assert own.strip(), "no docstring"
    assert own.strip().split("\n\n")[0].rstrip()[-1] in ".:?", "the first paragraph is no sentence"
    if not isinstance(thing, FunctionType):
        return
    source = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    raises = {
        node.exc.func.id
        for node in ast.walk(source)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    for error in raises:
        assert "Raises:" in own and (error in own or error == "KeyError"), (
            f"{error} is raised and not documented"
        )
    annotations = " ".join(str(a) for a in thing.__annotations__.values())
    if re.search(r"\bTensor\b", annotations):
        assert re.search(r"\([A-Zn.][\w.,*+ ]*\)|\(\)|LEDInputs|led\.generate", own), "tensors without shapes"


def test_every_model_and_module_names_its_source() -> None:
    for name in led.__all__:
        thing = getattr(led, name)
        if inspect.isclass(thing) and name.startswith("LED") and "Tokenizer" not in name:
            text = (inspect.getdoc(thing) or "") + (inspect.getdoc(sys.modules[thing.__module__]) or "")
            assert "arXiv:2004.05150" in text, name


def test_the_settings_page_is_made_from_the_dataclasses() -> None:
    assert Path("docs/settings.md").read_text("utf-8") == settings_page(), (
        "run: python -m docs.make_settings > docs/settings.md"
    )
