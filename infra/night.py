#!/usr/bin/env python3
"""Starts a night's run on KubeRay: a copy of the suspended RayJob, with the night's folder and the nights
before it.

Runs in the CronJob of kuberay/base/nightly.yaml. With --output of the settings as the folder of all nights,
the night of 2026-11-24 writes to OUTPUT/2026-11-24, --since are the nights before it back to the newest that
has a _SUCCESS, and an hour to stop at gets its date: so a retry has the same command. An unfinished night is
not gone on with, since a corpus that has changed would not fit its plan; what it did is carried over.

Environment: NIGHT, the night's name (default: today); FLAGS, more settings for its run.
Exit codes: 0 the run is there; 1 another night is still at work, or the API server refused.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import PipelineError
from pipeline.scheduled import NAME, earlier_runs, run_arguments

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LABEL = "led-corpus/night"
ENDED = ("Complete", "Failed", "ValidationFailed")

# What KubeRay takes as the name of a RayJob, less what stands around the night's in it: led-NIGHT-xxxxx.
_LONGEST_NIGHT = 47 - len("led--xxxxx")


class RayJobs:
    """The RayJobs of a namespace, through the API server."""

    def __init__(self, server: str, namespace: str, token: str, authority: str | None) -> None:
        self._url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._token, self._context = token, ssl.create_default_context(cafile=authority)

    def ask(self, method: str, path: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            self._url + path, None if body is None else json.dumps(body).encode(), method=method
        )
        request.add_header("Authorization", f"Bearer {self._token}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, context=self._context, timeout=60) as answer:
            said: dict[str, Any] = json.load(answer)
            return said


def run_of(template: dict[str, Any], night: str, words: Sequence[str]) -> dict[str, Any]:
    """The RayJob of a night, from the suspended one, with these settings beside its own.

    Raises:
        ValueError: a name would be read by a shell otherwise than it stands, or is too long.
    """
    odd = [word for word in words if shlex.quote(word) != word]
    if odd or not NAME.fullmatch(night):
        raise ValueError(
            f"{[*odd, night]}: name nights 2026-11-24 or 2026-11-24-again, and folders without blanks or quotes."
        )
    if len(night) > _LONGEST_NIGHT:
        raise ValueError(
            f"the night {night} has {len(night)} characters; KubeRay takes {_LONGEST_NIGHT}: name it shorter."
        )
    spec = template["spec"]
    entrypoint = " ".join([spec["entrypoint"].strip(), *words])
    labels = {**template["metadata"].get("labels", {}), LABEL: night}
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {"generateName": f"led-{night}-", "labels": labels},
        "spec": {**spec, "suspend": False, "entrypoint": entrypoint},
    }


def start(jobs: RayJobs, template: str, night: str, words: Sequence[str], keep: int) -> int:
    """Start `night` unless a night is at work, and take the oldest ended RayJobs away; the exit code."""
    before = sorted(
        jobs.ask("GET", f"?labelSelector={LABEL}")["items"],
        key=lambda job: job["metadata"]["creationTimestamp"],
    )
    ended = [job for job in before if job.get("status", {}).get("jobDeploymentStatus") in ENDED]
    for job in before:
        if job not in ended:
            same = job["metadata"]["labels"][LABEL] == night
            print(
                f"{job['metadata']['name']} is still at work" + ("." if same else f"; {night} is not begun.")
            )
            return 0 if same else 1
    run = run_of(jobs.ask("GET", f"/{template}"), night, words)
    # Strict, so that a field which this KubeRay does not know is an error and not left out.
    begun = jobs.ask("POST", "?fieldValidation=Strict", run)["metadata"]["name"]
    print(f"{begun}: {run['spec']['entrypoint']}")
    for job in ended[: max(0, len(ended) - keep)]:
        jobs.ask("DELETE", f"/{job['metadata']['name']}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="the run's settings; its output is the folder of nights"
    )
    parser.add_argument("--template", required=True, help="name of the suspended RayJob")
    parser.add_argument("--keep", type=int, default=14, help="ended RayJobs that stay to be looked at")
    given = parser.parse_args()
    settings = yaml.safe_load(given.config.read_text("utf-8"))
    nights, night = settings["output"].rstrip("/"), os.environ.get("NIGHT") or date.today().isoformat()
    namespace, token = ((ACCOUNT / name).read_text("utf-8") for name in ("namespace", "token"))
    jobs = RayJobs("https://kubernetes.default.svc", namespace, token, str(ACCOUNT / "ca.crt"))
    try:
        words = run_arguments(
            nights, night, earlier_runs(nights, night), settings.get("stop_at"), time.time()
        )
        return start(
            jobs, given.template, night, [*words, *shlex.split(os.environ.get("FLAGS", ""))], given.keep
        )
    except urllib.error.HTTPError as error:
        print(f"error: {error.url} said {error.code}: {error.read().decode()[:2000]}", file=sys.stderr)
    except (OSError, ValueError, PipelineError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
