"""What a cluster installs for a job is what the project needs, in the versions that are tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
WITH_RAY = {"ray", "numpy", "pyarrow", "pyyaml"}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=]", requirement)[0].lower().replace("_", "-")


def test_the_runtime_environment_has_what_ray_does_not_bring() -> None:
    pins = yaml.safe_load((ROOT / "infra" / "runtime-env.yaml").read_text("utf-8"))["pip"]
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    assert {name_of(pin) for pin in pins} == {name_of(each) for each in needed} - WITH_RAY
    constraints = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert set(pins) <= set(constraints)
