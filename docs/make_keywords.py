"""Generates the types of the keyword arguments of the Python API from the settings.

python -m docs.make_keywords > pipeline/api/keywords.py
"""

from __future__ import annotations

from dataclasses import MISSING, fields

from pipeline.settings import PATHS, RunSettings
from pipeline.tasks.registry import BUILT_IN

HEAD = '''"""The types of the keyword arguments of the Python API. Generated from the settings by
`python -m docs.make_keywords`."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Literal, Required, TypedDict

from led.pipelines.chunking import ChunkEnds, Overflow
from led.pipelines.joining import Truncation
'''


def main() -> None:
    print(HEAD)
    print()
    shared = {f.name for f in fields(RunSettings)}
    print(_class("RunKeywords", "TypedDict, total=False", RunSettings, shared))
    for name, entry in BUILT_IN.items():
        own = {f.name for f in fields(entry.settings_class)} - shared
        print("\n")
        print(_class(f"{name.capitalize()}Keywords", "RunKeywords, total=False", entry.settings_class, own))


def _class(name: str, bases: str, settings: type[RunSettings], names: set[str]) -> str:
    lines = [f"class {name}({bases}):", f'    """Keyword arguments of {settings.__name__}."""', ""]
    for f in fields(settings):
        if f.name in names:
            kind = _kind(f.name, str(f.type))
            lines.append(f"    {f.name}: {f'Required[{kind}]' if f.default is MISSING else kind}")
    return "\n".join(lines)


def _kind(name: str, annotation: str) -> str:
    """The type of a keyword, from the annotation of its setting."""
    optional = " | None" if annotation.endswith("| None") or "] | None" in annotation else ""
    text = annotation.removesuffix(" | None")
    text = {"Count": "int", "Probability": "float"}.get(text, text)
    if text.startswith("Annotated["):
        text = text.removeprefix("Annotated[").rpartition("]")[0]
        depth = 0
        for i, character in enumerate(text):
            depth += character in "[(" or -(character in ")]")
            if character == "," and not depth:
                text = text[:i]
                break
    path = "str | PathLike[str]" if name in PATHS else "str"
    if text.startswith("tuple["):
        return f"{path} | Sequence[{path}]{optional}"
    return (path if text == "str" else text) + optional


if __name__ == "__main__":
    main()
