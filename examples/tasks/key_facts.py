"""Key facts of every document as JSON, from a model that writes JSON.

What the model writes is checked against `Facts`. Text that was cut is repaired where that is possible, and a
document whose text is not valid fails with the reason.

led-corpus examples/tasks/key_facts.py:KeyFacts --input corpus/ --output out/facts --model my-model
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from led_corpus import Generated, TextTask


class Facts(BaseModel):
    """The facts of a report."""

    model_config = ConfigDict(extra="forbid")

    site: str
    cause: str | None = None
    parts: list[str] = []


class KeyFacts(TextTask):
    """Extract key facts of every document as JSON."""

    name = "key-facts"
    title = "Key facts"
    columns = pa.schema(
        [
            pa.field(
                "facts",
                pa.struct(
                    [
                        pa.field("site", pa.string()),
                        pa.field("cause", pa.string()),
                        pa.field("parts", pa.list_(pa.string())),
                    ]
                ),
            ),
            pa.field("repaired", pa.bool_()),
        ]
    )

    def row(self, generated: Generated) -> dict[str, Any]:
        values, was_repaired = parse(generated.text)
        try:
            facts = Facts.model_validate(values, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the object"
            raise ValueError(f"the JSON is not valid: {place}: {first['msg']}") from error
        return {"facts": facts.model_dump(), "repaired": was_repaired}


def parse(text: str) -> tuple[Any, bool]:
    """The JSON object in a text, and whether it had to be repaired.

    Raises:
        ValueError: there is none.
    """
    start = text.find("{")
    if start < 0:
        raise ValueError(f"the model wrote no JSON object but {text[:40]!r}")
    try:
        return json.JSONDecoder().raw_decode(text, start)[0], False
    except ValueError:
        pass
    # Cut off: close what is open, after ever fewer of its last characters.
    for end in range(len(text), start, -1):
        try:
            return json.loads(text[start:end].rstrip(", \n") + closing_brackets(text[start:end])), True
        except ValueError:
            continue
    raise ValueError(f"the model wrote no JSON object but {text[:40]!r}")


def closing_brackets(text: str) -> str:
    """What closes the strings, arrays and objects that are open at the end of a text."""
    open_brackets: list[str] = []
    in_string = is_escaped = False
    for character in text:
        if in_string:
            in_string, is_escaped = (
                is_escaped or character != '"',
                character == "\\" and not is_escaped,
            )
        elif character == '"':
            in_string = True
        elif character in "{[":
            open_brackets.append("}" if character == "{" else "]")
        elif character in "}]" and open_brackets:
            open_brackets.pop()
    return '"' * in_string + "".join(reversed(open_brackets))
