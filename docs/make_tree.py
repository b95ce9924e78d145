"""Generates the page of the repository tree.

    python -m docs.make_tree > docs/develop/tree.md

A Python file is described by the first sentence of its docstring, a page of the documentation by its title.
Other files need an entry in `FILES`, and folders one in
`FOLDERS`. A file without a description is an error.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Folders in the order of the page, with their descriptions.
FOLDERS = {
    "jobs": "The command line.",
    "led": "The model library: LED in plain PyTorch.",
    "led/pipelines": "From texts to summaries, labels and answers.",
    "led/heads": "The three heads.",
    "led/generation": "Text generation.",
    "led/model": "Encoder, decoder and what they share.",
    "led/kv_cache": "Keys and values that are kept between decoding steps.",
    "led/ops": "Attention and linear layers as functions and kernels.",
    "led/batch": "Packed batches.",
    "led/tokenizer": "The tokenizer.",
    "led/checkpoint": "Checkpoints: from a name to weights.",
    "pipeline": "The batch system: documents in, rows out.",
    "pipeline/api": "The Python API: what `import led_corpus` gives.",
    "pipeline/forecast": "What a run will take.",
    "pipeline/cluster": "Everything that talks to Ray.",
    "pipeline/report": "The report and the scores of a run.",
    "pipeline/monitor": "Progress, metrics and limits of a run.",
    "pipeline/workers": "What reader and predictor processes do, without Ray.",
    "pipeline/tasks": "The tasks: summaries, labels, answers.",
    "pipeline/output": "The output folder.",
    "pipeline/tables": "Tables of Delta Lake and Iceberg.",
    "pipeline/planning": "The plan of a run.",
    "pipeline/inputs": "Input files and their formats.",
    "demo": "Sample data and checkpoints, and the scripts that made them.",
    "demo/corpus": "240 sample reports as Parquet.",
    "demo/bundles": "120 sample bundles of reports about one site, as Parquet.",
    "demo/checkpoints": "Five small checkpoints: summaries, labels, answers, bundles, years.",
    "examples": "What users write.",
    "examples/tasks": "Tasks of one's own.",
    "benchmarks": "Measurements, run by hand.",
    "infra": "Clusters, images, dashboards and alerts.",
    "infra/kuberay": "Kustomization for KubeRay: base, components, and an example overlay.",
    "docs": "The documentation site.",
    "docs/tutorials": "Lessons for new users.",
    "docs/how-to": "Guides for single jobs.",
    "docs/reference": "Commands, settings, columns, metrics and APIs.",
    "docs/concepts": "How it works, with diagrams.",
    "docs/develop": "For contributors.",
    "docs/images": "Diagrams and screenshots.",
    "docs/figures": "Figures of the benchmarks, drawn by `benchmarks/plot.py`.",
    "docs/stylesheets": "Styles of the site.",
    "tools": "Checks of the repository itself.",
    "tests": "The tests, in the layout of the packages.",
    "tests/led": "Tests of the model library.",
    "tests/pipeline": "Tests of the batch system.",
    "tests/jobs": "Tests of the command line.",
    "tests/infra": "Tests of manifests, alerts and images.",
    "tests/examples": "Tests of the examples.",
    "tests/benchmarks": "Tests of the benchmarks.",
    "tests/demo": "Tests of the sample data.",
    "tests/tools": "Tests of the tools.",
    "tests/fixtures": "Output of earlier versions.",
}

# Folders whose files are described by the folder's own line.
SUMMARIZED = (
    "demo/corpus",
    "demo/bundles",
    "demo/checkpoints",
    "docs/images",
    "docs/figures",
    "docs/stylesheets",
    "tests/fixtures",
    "tests/infra/schemas",
)

FILES = {
    ".ci/run": "What CI runs on a bare Debian 12.",
    ".editorconfig": "Settings for editors.",
    ".gitignore": "What git leaves out, and `ray job submit` too.",
    ".pre-commit-config.yaml": "Checks before a commit.",
    ".github/ISSUE_TEMPLATE/bug_report.md": "Template of a bug report.",
    ".github/ISSUE_TEMPLATE/feature_request.md": "Template of a feature request.",
    "CHANGELOG.md": "What changed in each version.",
    "CONTRIBUTING.md": "How to set up, test and commit.",
    "LICENSE": "Apache-2.0.",
    "Makefile": "Targets: demo, quality, bundles, test, lint, docs and more.",
    "README.md": "The first page.",
    "constraints.txt": "The versions that are tested.",
    "mkdocs.yml": "Settings of the documentation site.",
    "pyproject.toml": "The package, its dependencies, and the settings of the checks.",
    "requirements-parity.txt": "transformers 4.57, for the parity tests.",
    "benchmarks/loading.md": "Time and memory of loading a checkpoint.",
    "benchmarks/real_documents.md": "A run over a thousand real documents.",
    "benchmarks/results-epyc.jsonl": "Last lines of the benchmarks on an EPYC.",
    "benchmarks/results-h200.jsonl": "Last line of the benchmark on an H200.",
    "benchmarks/results.jsonl": "Last lines of the benchmarks on a Xeon.",
    "benchmarks/results.md": "All measurements, with hardware, commit and command.",
    "infra/Dockerfile": "The image of all pods.",
    "infra/Dockerfile.dockerignore": "What the image leaves out.",
    "infra/alerts.yml": "Alert rules for Prometheus.",
    "infra/grafana-dashboard.json": "The dashboard, generated by `infra/dashboard.py`.",
    "infra/run.sh": "The entry point of a run on KubeRay.",
    "infra/runtime-env.yaml": "Dependencies for `ray job submit --runtime-env`.",
    "infra/arm64.sh": "Tests of `led` and a small job on aarch64, under emulation.",
    "infra/s3-server.sh": "An S3 server on this machine, for trials and tests.",
    "tests/pipeline/output/faulty_calls.c": "A library that makes one system call of a process fail.",
    "infra/kuberay/base/kustomization.yaml": "The base: cluster, run and schedule.",
    "infra/kuberay/base/nightly.yaml": "The CronJob that starts scheduled runs.",
    "infra/kuberay/base/raycluster.yaml": "The pods of all runs, and the permanent cluster.",
    "infra/kuberay/base/rayjob.yaml": "One run, suspended, as the template of scheduled runs.",
    "infra/kuberay/components/gpu/kustomization.yaml": "Workers with a GPU each.",
    "infra/kuberay/components/monitoring/kustomization.yaml": "Monitors and rules for Prometheus.",
    "infra/kuberay/components/monitoring/podmonitor.yaml": "What the Prometheus operator scrapes.",
    "infra/kuberay/components/monitoring/rules.yaml": "The rules of `infra/alerts.yml`, for the operator.",
    "infra/kuberay/components/scheduled-only/kustomization.yaml": "No permanent cluster.",
    "infra/kuberay/components/run-pods/kustomization.yaml": "Gives runs the pods of the cluster.",
    "infra/kuberay/components/spot/kustomization.yaml": "Workers on machines that may be taken away.",
    "infra/kuberay/overlays/example/kustomization.yaml": "Values of an example deployment.",
    "infra/kuberay/overlays/example/run.yaml": "Settings of the example's runs.",
    "pipeline/report/page.html.j2": "Template of the report.",
    "docs/develop/tree.md": "Repository tree, generated.",
    "docs/reference/settings.md": "Settings, generated.",
    "tools/old_words.toml": "Words that the project no longer uses.",
    "tools/mutation.toml": "Settings of cosmic-ray, the mutation testing tool.",
}

_IGNORED = re.compile(r"(?:^|/)(?:__pycache__/|\.|py\.typed$)")


def files_in(folder: str) -> list[str]:
    """The files of a folder and of its subfolders that are not folders of the page themselves."""
    paths = (
        path.relative_to(ROOT).as_posix() for path in sorted((ROOT / folder).rglob("*")) if path.is_file()
    )
    return [path for path in paths if not _IGNORED.search(path) and folder_of(path) == folder]


def folder_of(path: str) -> str:
    """The folder of the page that a file belongs to: the innermost one."""
    folder = Path(path).parent.as_posix()
    return folder if folder in FOLDERS else folder_of(folder)


def is_summarized(path: str) -> bool:
    """Whether a file is described by its folder's line."""
    return path.startswith(tuple(f"{folder}/" for folder in SUMMARIZED))


def description(path: str) -> str:
    """One line about a file.

    Raises:
        ValueError: the file has no description.
    """
    text = FILES.get(path, "")
    if not text and path.startswith("docs/") and path.endswith(".md"):
        text = re.sub(r"^# (.*)\n(?s:.*)", r"\1", (ROOT / path).read_text("utf-8"))
    if not text and path.endswith(".py"):
        docstring = ast.get_docstring(ast.parse((ROOT / path).read_text("utf-8"))) or ""
        paragraph = " ".join(docstring.split("\n\n")[0].split())
        text = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]
    if not text:
        raise ValueError(
            f"{path} has no description; give it a docstring, or an entry in {Path(__file__).name}."
        )
    return text.replace("|", "\\|")


def rows(folder: str) -> list[str]:
    """The table rows of a folder. Files `__init__.py` without content are left out."""
    paths = [path for path in files_in(folder) if not is_summarized(path)]
    paths = [
        path for path in paths if not (path.endswith("__init__.py") and not (ROOT / path).read_text().strip())
    ]
    return [f"| `{path.removeprefix(f'{folder}/')}` | {description(path)} |" for path in paths]


def page() -> str:
    """The content of docs/develop/tree.md.

    Raises:
        ValueError: a file has no description, or a description has no file.
    """
    missing = [name for name in (*FILES, *FOLDERS) if not (ROOT / name).exists()]
    if missing:
        raise ValueError(f"{', '.join(missing)} does not exist; remove it from {Path(__file__).name}.")
    lines = [
        "# Repository tree",
        "",
        "<!-- Generated from the files by `python -m docs.make_tree`. -->",
        "",
        "Every package and file, top layer first. Empty `__init__.py` files are left out.",
        "",
        "## Top",
        "",
        "| file | purpose |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {FILES[name]} |" for name in FILES if "/" not in name or name.startswith(".")]
    for folder, text in FOLDERS.items():
        level = "##" if "/" not in folder else "###"
        lines += ["", f"{level} {folder}/", "", text]
        table = rows(folder)
        if table:
            lines += ["", "| file | purpose |", "|---|---|", *table]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
