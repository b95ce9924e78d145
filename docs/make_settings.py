"""Generates the page of all settings from their dataclasses.

    python -m docs.make_settings > docs/reference/settings.md

Groups and their order are in `GROUPS`. A field without a group is an error, so a new setting cannot be
forgotten.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any

from jobs import options
from pipeline import settings
from pipeline.tasks import settings as task_settings

# Groups of the settings that all tasks share.
GROUPS = {
    "Required": ("input", "output", "model"),
    "Input": (
        "text_column",
        "id_column",
        "passthrough",
        "max_input_tokens",
        "count_truncated_tokens",
        "max_document_bytes",
        "on_bad_shard",
        "on_duplicate_id",
    ),
    "Model": ("revision", "base_model", "dtype", "special_tokens", "global_attention"),
    "Table": ("table", "table_mode"),
    "Earlier runs": ("since", "retry_failed", "on_changed_settings"),
    "Replicas and memory": (
        "replicas",
        "max_replicas",
        "threads",
        "gpus",
        "shard_documents",
        "max_num_seqs",
        "max_num_batched_tokens",
        "memory_gib",
    ),
    "Limits and cost": ("max_failed", "stop_at", "price_per_hour", "max_cost"),
    "Logs and cluster": (
        "log_file",
        "metrics_port",
        "ray_progress",
        "ray_address",
        "ray_start_seconds",
        "accept_unsafe_store",
        "sign_key",
    ),
}

# Sections of one dataclass each, without the fields that all tasks share.
SECTIONS: dict[str, type] = {
    "`led-corpus summarize`": task_settings.SummarizeSettings,
    "`led-corpus classify`": task_settings.ClassifySettings,
    "`led-corpus answer`": task_settings.AnswerSettings,
    "The action `plan`": options.PlanOptions,
    "The action `preview`": options.PreviewOptions,
    "`led-corpus status`": options.OutputOptions,
    "`led-corpus verify`": options.VerifyOptions,
    "`led-corpus report`": options.ReportOptions,
    "`led-corpus evaluate texts` or `summaries`": options.EvaluateTextsOptions,
    "`led-corpus evaluate labels` and `answers`": options.EvaluateOptions,
    "`led-corpus nightly`": options.NightlyOptions,
}

HEAD = """# Settings

<!-- Generated from the dataclasses by `python -m docs.make_settings`. -->

A setting has the same name on the command line, with hyphens, and in a YAML file, with underscores:
`--num-beams 4` is `num_beams: 4`. `led-corpus TASK --help` shows the same texts.

Settings marked with ● can change a row, so they are part of the config fingerprint. A run that resumes needs
the same values. It also needs the same input, model, `--on-duplicate-id` and `--since`. With `--since`, it
needs the same `--retry-failed` and `--on-changed-settings` too. You may change all others, with one
exception. Without `--dtype`, `--gpus` sets the dtype. So a change from `--gpus 0` to `--gpus 1` changes the
fingerprint.

<div class="settings" markdown>

## All tasks"""


@cache
def documented(kind: type) -> dict[str, str]:
    """The fields of a dataclass and its bases, each with the text below it."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        [tree] = ast.parse(inspect.cleandoc(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
            ):
                texts[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return texts


def row(kind: type, field: Field[Any]) -> str:
    """The row of one setting."""
    default = f"`{field.default}`"
    if field.default is MISSING:
        default = "*required*" if field.default_factory is MISSING else "*today's date*"
    elif field.default in (None, ()):
        default = ""
    elif isinstance(field.default, bool):
        default = "on" if field.default else "off"
    is_setting = issubclass(kind, settings.RunSettings)
    mark = " ●" if is_setting and field.metadata.get("affects_output", True) else ""
    flag = f"--{field.name.replace('_', '-')}"
    return f"| `{flag}`{mark} | {default} | {documented(kind)[field.name].replace('|', '/')} |"


def table(kind: type, names: list[str]) -> list[str]:
    """The table of these fields."""
    by_name = {field.name: field for field in fields(kind)}
    return ["", "| setting | default | meaning |", "|---|---|---|", *(row(kind, by_name[n]) for n in names)]


def page() -> str:
    """The content of docs/reference/settings.md."""
    lines = [HEAD]
    shared = [field.name for field in fields(settings.RunSettings)]
    grouped = [name for group in GROUPS.values() for name in group]
    assert sorted(grouped) == sorted(shared), f"not in one group: {set(grouped) ^ set(shared)}"
    for title, names in GROUPS.items():
        lines += ["", f"### {title}", *table(settings.RunSettings, list(names))]
    for title, kind in SECTIONS.items():
        own = [
            field.name
            for field in fields(kind)
            if not (issubclass(kind, settings.RunSettings) and field.name in shared)
        ]
        lines += ["", f"## {title}", *table(kind, own)]
    return "\n".join([*lines, "", "</div>"]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
