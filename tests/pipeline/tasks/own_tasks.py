"""Tasks as a user writes them, for tests."""

from __future__ import annotations

import sys
from pathlib import Path

SHOUT = '''
"""A task in a file, with a helper beside it."""

from dataclasses import dataclass

import pyarrow as pa

from led_corpus import TextSettings, TextTask
from shouting import shout


@dataclass(frozen=True, kw_only=True)
class ShoutSettings(TextSettings):
    """Settings of shouting."""

    mark: str = "!"
    """What ends a shout."""


class Shout(TextTask):
    """Shout what the model writes."""

    name = "shout"
    settings_class = ShoutSettings
    columns = pa.schema([("shout", pa.string()), ("letters", pa.int32())])

    def inputs(self, document):
        if document.text.startswith("rose"):
            raise ValueError("roses are not shouted")
        return "plant " + document.text

    def row(self, generated):
        return {"shout": shout(generated.text) + self.settings.mark, "letters": len(generated.text)}
'''

SHOUTING = """
def shout(text):
    return text.upper()
"""


def write_shout(folder: Path) -> str:
    """Write the task and its helper. Returns its name on the command line."""
    folder.mkdir(exist_ok=True)
    for name in ("shout_task", "shouting"):  # of another test
        loaded = sys.modules.get(name)
        if loaded is not None and Path(str(loaded.__file__)).parent != folder:
            del sys.modules[name]
    (folder / "shout_task.py").write_text(SHOUT)
    (folder / "shouting.py").write_text(SHOUTING)
    return f"{folder}/shout_task.py:Shout"
