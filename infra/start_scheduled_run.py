#!/usr/bin/env python3
"""Starts a scheduled run on KubeRay, as a copy of the suspended RayJob.

This script runs in the CronJob of kuberay/base/nightly.yaml. The setting `output` is the folder of all
scheduled runs. The run 2026-11-24 writes to OUTPUT/2026-11-24. Its --since has the earlier runs, back to the
newest one with a _SUCCESS file. A stop time gets its date, so a retry has the same command.

An unfinished run is not resumed, because its plan does not fit a corpus that has changed. Its rows are
reused.

Environment variables:
  NAME    name of the run (default: today's date)
  FLAGS   additional settings of the run

Exit codes:
  0   the run exists
  1   another run is still active, or the API server refused
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
LABEL = "led-corpus/scheduled-run"
ENDED = ("Complete", "Failed", "ValidationFailed")

# KubeRay's limit of a RayJob's name, less the characters around the run's name in led-NAME-xxxxx.
_MAX_NAME_LENGTH = 47 - len("led--xxxxx")


class RayJobs:
    """The RayJobs of a namespace, accessed through the API server."""

    def __init__(self, server: str, namespace: str, token: str, authority: str | None) -> None:
        self._url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._token, self._context = token, ssl.create_default_context(cafile=authority)

    def request(self, method: str, path: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request to the API server. Returns the parsed response.

        Raises:
            urllib.error.HTTPError: the server refused.
        """
        request = urllib.request.Request(
            self._url + path, None if body is None else json.dumps(body).encode(), method=method
        )
        request.add_header("Authorization", f"Bearer {self._token}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, context=self._context, timeout=60) as response:
            content: dict[str, Any] = json.load(response)
            return content


def scheduled_run(template: dict[str, Any], name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The RayJob of the run `name`: the suspended RayJob with additional arguments.

    Raises:
        ValueError: the name is not valid or too long, or an argument needs quotes in a shell.
    """
    unsafe = [argument for argument in arguments if shlex.quote(argument) != argument]
    if not NAME.fullmatch(name):
        unsafe.append(name)
    if unsafe:
        raise ValueError(
            f"{unsafe} cannot be part of the run's command; use a name such as 2026-11-24 or "
            "2026-11-24-again, and folders without spaces or quotes."
        )
    if len(name) > _MAX_NAME_LENGTH:
        raise ValueError(
            f"the name {name} has {len(name)} characters; KubeRay allows {_MAX_NAME_LENGTH}. Use a shorter "
            "name."
        )
    spec = template["spec"]
    entrypoint = " ".join([spec["entrypoint"].strip(), *arguments])
    labels = {**template["metadata"].get("labels", {}), LABEL: name}
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {"generateName": f"led-{name}-", "labels": labels},
        "spec": {**spec, "suspend": False, "entrypoint": entrypoint},
    }


def start(jobs: RayJobs, template: str, name: str, arguments: Sequence[str], keep: int) -> int:
    """Start the run `name` unless a run is active, and delete the oldest ended RayJobs.

    Returns the exit code.
    """
    existing = sorted(
        jobs.request("GET", f"?labelSelector={LABEL}")["items"],
        key=lambda job: job["metadata"]["creationTimestamp"],
    )
    ended = [job for job in existing if job.get("status", {}).get("jobDeploymentStatus") in ENDED]
    for job in existing:
        if job not in ended:
            is_same = job["metadata"]["labels"][LABEL] == name
            print(
                f"{job['metadata']['name']} is still active"
                + ("." if is_same else f"; {name} was not started.")
            )
            return 0 if is_same else 1
    run = scheduled_run(jobs.request("GET", f"/{template}"), name, arguments)
    # With strict validation, a field that this version of KubeRay lacks is an error and is not dropped.
    started = jobs.request("POST", "?fieldValidation=Strict", run)["metadata"]["name"]
    print(f"{started}: {run['spec']['entrypoint']}")
    for job in ended[: max(0, len(ended) - keep)]:
        jobs.request("DELETE", f"/{job['metadata']['name']}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="settings of the run; its output is the folder of all scheduled runs",
    )
    parser.add_argument("--template", required=True, help="name of the suspended RayJob")
    parser.add_argument("--keep", type=int, default=14, help="number of ended RayJobs to keep")
    args = parser.parse_args()
    settings = yaml.safe_load(args.config.read_text("utf-8"))
    folder, name = settings["output"].rstrip("/"), os.environ.get("NAME") or date.today().isoformat()
    namespace, token = ((ACCOUNT / file).read_text("utf-8") for file in ("namespace", "token"))
    jobs = RayJobs("https://kubernetes.default.svc", namespace, token, str(ACCOUNT / "ca.crt"))
    try:
        arguments = run_arguments(
            folder, name, earlier_runs(folder, name), settings.get("stop_at"), time.time()
        )
        arguments += shlex.split(os.environ.get("FLAGS", ""))
        return start(jobs, args.template, name, arguments, args.keep)
    except urllib.error.HTTPError as error:
        print(
            f"error: {error.url} answered {error.code}: {error.read().decode()[:2000]}",
            file=sys.stderr,
        )
    except (OSError, ValueError, PipelineError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
