"""Writes the reference of all settings from the dataclasses that hold them.

python -m docs.make_settings > docs/settings.md
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import MISSING, fields

from jobs import evaluate_summaries
from jobs.cli import VERBS, EvaluationSettings, OutputSettings, PlanOptions, ReportSettings, SampleOptions
from jobs.nightly import NightlySettings
from jobs.verify_output import VerifySettings
from pipeline import settings as config

_JOBS = {
    "All jobs": config.RunSettings,
    "`summarize_corpus.py`": config.SummarizeSettings,
    "`classify_corpus.py`": config.ClassifySettings,
    "`answer_corpus.py`": config.AnswerSettings,
    "The verb `plan`": PlanOptions,
    "The verb `sample`": SampleOptions,
    "The verbs `status` and `verify`": OutputSettings,
    "The verb `report`": ReportSettings,
    "`nightly.py`": NightlySettings,
    "`verify_output.py`": VerifySettings,
    "`evaluate_summaries.py`": evaluate_summaries.EvaluationSettings,
    "`evaluate_labels.py` and `evaluate_answers.py`": EvaluationSettings,
}


def documented(kind: type) -> dict[str, str]:
    """The fields of a dataclass and of what it inherits, each with the text that stands after it."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        [tree] = ast.parse(inspect.getsource(each)).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
            ):
                found[field.target.id] = inspect.cleandoc(ast.literal_eval(text.value)).replace("\n", " ")
    return found


def page() -> str:
    """The reference."""
    lines = [
        "# Settings",
        "",
        "Made from the dataclasses by `python -m docs.make_settings`; `--help` says the same.",
        "In a YAML file they have underscores: `num_beams: 4`.",
        "",
        "## Verbs",
        "",
    ]
    lines += [f"* `{name}`: {what}" for name, what in VERBS.items()]
    general = {f.name for f in fields(config.RunSettings)}
    for title, kind in _JOBS.items():
        lines += ["", f"## {title}", "", "| setting | default | what it is |", "|---|---|---|"]
        texts = documented(kind)
        for field in fields(kind):
            if (
                kind is not config.RunSettings
                and issubclass(kind, config.RunSettings)
                and field.name in general
            ):
                continue
            default = f"`{field.default}`"
            if field.default is MISSING:
                default = "*required*" if field.default_factory is MISSING else "*of the day*"
            lines.append(
                f"| `--{field.name.replace('_', '-')}` | {default} | {texts[field.name].replace('|', '/')} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
