"""The generation settings of a task: the checkpoint's own, then `task_specific_params`, then defaults.

The reference's pipelines did the same, while `generate` uses the checkpoint's settings alone. A checkpoint
that states neither lengths nor beams, as published base models do, would otherwise write 20 greedy tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from led.config import LEDConfig
from led.generation.config import GenerationConfig

# What a task writes with where neither the checkpoint nor the caller says anything.
NUM_BEAMS, MAX_NEW_TOKENS, NO_REPEAT_NGRAM_SIZE = 4, 256, 3

_LENGTHS = ("max_length", "max_new_tokens")


@dataclass(frozen=True)
class TaskSettings:
    """The settings in force. `sources` says where each comes from that is not the library's own default.

    `prefix` is a text to put before each document.
    """

    generation: GenerationConfig
    sources: dict[str, str]
    prefix: str
    prefix_source: str = "checkpoint"

    def describe(self) -> str:
        """The settings in force that matter most, and who stated them, as in `num_beams 4 (checkpoint)`."""
        generation, sources = self.generation, dict(self.sources)
        if not generation.do_sample:
            sources.pop("seed", None)
        values = {name: getattr(generation, name) for name in sources}
        named = [f"{name} {values[name]} ({source})" for name, source in sorted(sources.items())]
        if self.prefix:
            named.append(f"prefix {self.prefix!r} ({self.prefix_source})")
        return ", ".join(named)


def task_settings(
    config: LEDConfig,
    generation: GenerationConfig,
    task: str,
    given: Mapping[str, Any] | None = None,
    *,
    defaults: bool = True,
) -> TaskSettings:
    """The settings of `task` for a checkpoint with this configuration. `given` has those of the caller.
    Without `defaults`, what nobody states stays as in `generate`.

    Raises:
        ValueError: `task_specific_params` is malformed, or a setting is unknown, not supported or breaks a
            rule.
    """
    given = {name: value for name, value in (given or {}).items() if value is not None}
    sources = dict.fromkeys(_stated(generation), "checkpoint")
    params = _task_params(config, task)
    prefix = params.pop("prefix", config.extra.get("prefix")) or ""
    if not isinstance(prefix, str):
        raise ValueError(f"prefix in config.json is {prefix!r}; it must be a text.")
    if any(name in sources for name in _LENGTHS):
        params = {name: value for name, value in params.items() if name not in _LENGTHS}
    GenerationConfig.from_dict(params)  # refuses what is not supported
    known = {f.name for f in fields(generation)} - sources.keys()  # others are ignored, as in the checkpoint
    from_task = {name: value for name, value in params.items() if name in known and value is not None}
    merged = generation.updated(**from_task)
    sources |= dict.fromkeys(_stated(merged) - sources.keys(), "task_specific_params")
    unstated = _defaults(config, merged, given) if defaults else {}
    sources |= dict.fromkeys(unstated, "default") | dict.fromkeys(given, "given")
    return TaskSettings(merged.updated(**{**unstated, **given}), sources, prefix)


def _defaults(config: LEDConfig, merged: GenerationConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that nobody states."""
    has_length = merged.max_length is not None or merged.max_new_tokens is not None
    defaults: dict[str, Any] = {}
    if not has_length:
        defaults["max_new_tokens"] = min(MAX_NEW_TOKENS, config.max_decoder_position_embeddings)
    if merged.num_beams == 1:
        defaults["num_beams"] = NUM_BEAMS
    if not has_length and merged.num_beams == 1 and not merged.no_repeat_ngram_size:
        defaults["no_repeat_ngram_size"] = NO_REPEAT_NGRAM_SIZE
    if any(name in given for name in _LENGTHS):
        defaults.pop("max_new_tokens", None)
    return {name: value for name, value in defaults.items() if name not in given}


def _task_params(config: LEDConfig, task: str) -> dict[str, Any]:
    params = config.extra.get("task_specific_params") or {}
    of_task = params.get(task) if isinstance(params, dict) else params
    if of_task is not None and not isinstance(of_task, dict):
        raise ValueError(
            f"task_specific_params in config.json is {params!r}; it must have an object of settings for "
            f"{task}."
        )
    return dict(of_task or {})


def _stated(generation: GenerationConfig) -> set[str]:
    """The settings that differ from the reference's defaults, without the ids."""
    return {
        f.name
        for f in fields(generation)
        if not f.name.endswith("_token_id") and getattr(generation, f.name) != f.default
    }
