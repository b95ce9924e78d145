"""The Kubernetes manifests and the image: what the API server and KubeRay would refuse is refused here.

Schemas: Kubernetes' own (kubernetes-validate), and schemas/ for what others define; unknown fields are
errors in both. Not covered: a real API server, admission policies, pulling and running the image.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from referencing import Registry, Resource

from infra.run_image_steps import Image, instructions
from infra.start_scheduled_run import scheduled_run
from jobs.parsing import parse
from pipeline.errors import UsageError
from pipeline.scheduled import run_arguments
from pipeline.tasks.settings import SummarizeSettings

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "infra" / "kuberay"
RUN_YAML = KUBERAY / "overlays" / "example" / "run.yaml"
PROMTOOL = shutil.which("promtool")
KUBERNETES = "1.32"
K8S = "https://kubernetes.io/api/_definitions.json"

Manifest = dict[str, Any]


def kustomize() -> list[str] | None:
    """What renders kustomizations here: components and replacements need kustomize 5, kubectl has it from
    1.27 on."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        said = subprocess.run(
            ["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, check=False
        ).stdout
        if said and json.loads(said).get("kustomizeVersion", "").startswith("v5"):
            return ["kubectl", "kustomize"]
    return None


KUSTOMIZE = kustomize()
NO_KUSTOMIZE = "no kustomize 5 here: neither kustomize nor a kubectl from 1.27 on"


def read(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]


def unrendered() -> list[Manifest]:
    """The manifests as they stand in the files, run-pods' one replacement made here."""
    found = [
        m
        for path in sorted(KUBERAY.glob("base/*.yaml"))
        if path.name != "kustomization.yaml"
        for m in read(path)
    ]
    found += [
        m
        for name in ("podmonitor", "rules")
        for m in read(KUBERAY / "components" / "monitoring" / f"{name}.yaml")
    ]
    one(found, "RayJob")["spec"]["rayClusterSpec"] = copy.deepcopy(one(found, "RayCluster")["spec"])
    return found


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the kustomizations with two more overlays: the example with a cluster that stands, and on
    GPUs."""
    folder = tmp_path_factory.mktemp("kustomize") / "kuberay"
    shutil.copytree(KUBERAY, folder)
    example = (folder / "overlays" / "example" / "kustomization.yaml").read_text("utf-8")
    standing = re.sub(r".*scheduled-only.*\n", "", example)
    for name, text in {
        "standing": standing,
        "gpu": standing.replace("components/spot", "components/gpu"),
    }.items():
        shutil.copytree(folder / "overlays" / "example", folder / "overlays" / name)
        (folder / "overlays" / name / "kustomization.yaml").write_text(text, "utf-8")
    return folder / "overlays"


@cache
def rendered(folder: Path) -> list[Manifest]:
    assert KUSTOMIZE is not None
    done = subprocess.run([*KUSTOMIZE, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(params=["files", "example", "standing", "gpu"])
def manifests(request: pytest.FixtureRequest, overlays: Path) -> list[Manifest]:
    """The files themselves, and each overlay where kustomize can render it."""
    if request.param == "files":
        return unrendered()
    if KUSTOMIZE is None:
        pytest.skip(NO_KUSTOMIZE)
    return copy.deepcopy(rendered(overlays / request.param))


def one(found: list[Manifest], kind: str) -> Manifest:
    [manifest] = [m for m in found if m["kind"] == kind]
    return manifest


def pods(value: Any) -> Iterator[Manifest]:
    """All pod specs inside."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from pods(each)


@cache
def custom_schemas() -> tuple[Any, Registry[Any]]:
    text = (Path(__file__).parent / "schemas" / "custom.yaml").read_text("utf-8")
    text = re.sub(r"K8S\.(core\.v1\.\w+)", rf"'{K8S}#/$defs/io.k8s.api.\1'", text)
    text = re.sub(r"K8S\.(meta\.v1\.\w+)", rf"'{K8S}#/$defs/io.k8s.apimachinery.pkg.apis.\1'", text)
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    kubernetes = json.loads((folder / "_definitions.json").read_text("utf-8"))
    return yaml.safe_load(text), Registry().with_resource(K8S, Resource.from_contents(kubernetes))


def check(manifest: Manifest) -> None:
    """Hold a manifest against its kind's schema.

    Raises:
        jsonschema.ValidationError: a field is unknown, missing or of another type.
    """
    custom, registry = custom_schemas()
    if manifest["kind"] in custom:
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": f"#/$defs/{manifest['kind']}",
            "$defs": custom,
        }
        jsonschema.Draft202012Validator(schema, registry=registry).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_every_field_is_one_that_its_kind_has(manifests: list[Manifest]) -> None:
    assert {"RayJob", "CronJob", "Role", "RoleBinding", "ServiceAccount"} <= {m["kind"] for m in manifests}
    for manifest in manifests:
        check(manifest)


CLUSTER = "spec.workerGroupSpecs.0"
WRONG = {
    "a misspelt field of RayJob": ("RayJob", "spec.backofLimit", 2),
    "a misspelt field of a worker group": ("RayCluster", f"{CLUSTER}.minReplica", 1),
    "a misspelt field of a pod": ("RayCluster", f"{CLUSTER}.template.spec.terminationGracePeriodSecond", 60),
    "a misspelt field of a container": ("RayCluster", f"{CLUSTER}.template.spec.containers.0.resource", {}),
    "a misspelt field of a volume": ("RayCluster", f"{CLUSTER}.template.spec.volumes.0.emptyDir.size", "4Gi"),
    "a misspelt field of the submitter": ("RayJob", "spec.submitterPodTemplate.spec.restartpolicy", "Never"),
    "a field in the wrong place": ("RayJob", "spec.enableInTreeAutoscaling", True),
    "a start parameter that is no text": ("RayCluster", "spec.headGroupSpec.rayStartParams.num-cpus", 0),
    "replicas that are a text": ("RayCluster", f"{CLUSTER}.replicas", "4"),
    "a way to submit that there is not": ("RayJob", "spec.submissionMode", "K8SJobMode"),
    "no head": ("RayJob", "spec.rayClusterSpec", {}),
    "a misspelt field of CronJob": ("CronJob", "spec.concurencyPolicy", "Forbid"),
    "a misspelt field of Role": ("Role", "rules.0.verb", ["get"]),
    "a misspelt field of an alert": ("PrometheusRule", "spec.groups.0.rules.0.sumary", "x"),
    "a duration that is none": ("PrometheusRule", "spec.groups.0.rules.0.for", "half an hour"),
}


@pytest.mark.parametrize("kind, path, value", WRONG.values(), ids=WRONG)
def test_a_field_that_is_wrong_is_refused(kind: str, path: str, value: Any) -> None:
    manifest = one(unrendered(), kind)
    *above, last = path.split(".")
    place: Any = manifest
    for step in above:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        check(manifest)


def test_what_kuberays_controller_refuses_is_not_there(manifests: list[Manifest]) -> None:
    job = one(manifests, "RayJob")["spec"]
    assert job["shutdownAfterJobFinishes"], (
        "suspended, or with a time to live, it must be shut down when it ends"
    )
    assert job["activeDeadlineSeconds"] > 0 and "clusterSelector" not in job
    clusters = [m["spec"] for m in manifests if m["kind"] == "RayCluster"]
    for cluster in [job["rayClusterSpec"], *clusters]:
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        assert not any("restartPolicy" in group["template"]["spec"] for group in groups), (
            "the autoscaler's to set"
        )
        assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups[1:])
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert not any("ports" in container for pod in pods(cluster) for container in pod["containers"])
    assert not set(job["entrypoint"]) & set("\"'$`;|&<>()\\\n"), (
        "KubeRay puts it into a shell's line as it is"
    )


def test_a_run_has_the_pods_of_the_cluster_and_machines_to_start_on(manifests: list[Manifest]) -> None:
    """Components are in the run's pods too; without a CPU or GPU at the start a run is refused."""
    spec = one(manifests, "RayJob")["spec"]["rayClusterSpec"]
    assert all(m["spec"] == spec for m in manifests if m["kind"] == "RayCluster")
    assert sum(group["minReplicas"] for group in spec["workerGroupSpecs"]) > 0


def test_components_reach_the_runs_pods(overlays: Path) -> None:
    if KUSTOMIZE is None:
        pytest.skip(NO_KUSTOMIZE)
    example, gpu = (
        one(rendered(overlays / name), "RayJob")["spec"]["rayClusterSpec"] for name in ("example", "gpu")
    )
    assert example["workerGroupSpecs"][0]["template"]["spec"]["nodeSelector"] == {
        "karpenter.sh/capacity-type": "spot"
    }
    assert [group["replicas"] for group in gpu["workerGroupSpecs"]] == [0, 1]
    assert gpu["workerGroupSpecs"][1]["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert [m["kind"] for m in rendered(overlays / "example")].count("RayCluster") == 0
    assert [m["kind"] for m in rendered(overlays / "standing")].count("RayCluster") == 1


def test_pods_meet_the_restricted_pod_security_standard(manifests: list[Manifest]) -> None:
    found = [pod for manifest in manifests for pod in pods(manifest)]
    assert len(found) >= 5  # head, two groups, submitter, CronJob
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            asked, most = container["resources"]["requests"], container["resources"]["limits"]
            assert asked["memory"] == most["memory"] and "cpu" in asked
    job = one(manifests, "RayJob")["spec"]["rayClusterSpec"]
    assert job["autoscalerOptions"]["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_object_store_fits_its_memory(manifests: list[Manifest]) -> None:
    cluster = one(manifests, "RayJob")["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        [shm] = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm"]
        assert shm["medium"] == "Memory"
        gib = int(shm["sizeLimit"].removesuffix("Gi"))
        assert int(group["rayStartParams"]["object-store-memory"]) < gib * 2**30
        assert gib < int(pod["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi")) / 2


def test_secrets_are_named_and_never_written(manifests: list[Manifest]) -> None:
    assert "Secret" not in {m["kind"] for m in manifests}
    written = {
        e["name"]
        for m in manifests
        for pod in pods(m)
        for c in pod["containers"]
        for e in c.get("env", ())
        if "value" in e
    }
    assert written <= {"RAY_idle_worker_killing_time_threshold_ms"}, (
        "all else in the environment comes from secrets"
    )


def test_images_have_a_version(manifests: list[Manifest], request: pytest.FixtureRequest) -> None:
    images = {
        container["image"]
        for manifest in manifests
        for pod in pods(manifest)
        for container in pod["containers"]
    }
    if "files" in request.node.callspec.id:
        assert images == {"led-corpus", "led-corpus-cuda"}, "the names that overlays replace"
    else:
        assert all(re.fullmatch(r"registry\.example\.com/[\w-]+:\d[\w.-]*", image) for image in images), (
            images
        )


def test_the_service_account_has_no_unneeded_rights(manifests: list[Manifest]) -> None:
    [rule] = one(manifests, "Role")["rules"]
    source = (ROOT / "infra" / "start_scheduled_run.py").read_text("utf-8")
    asked = {"GET": {"get", "list"}, "POST": {"create"}, "DELETE": {"delete"}}
    assert rule["apiGroups"] == ["ray.io"] and rule["resources"] == ["rayjobs"]
    assert set(rule["verbs"]) == {
        right for method in set(re.findall(r'request\("(\w+)"', source)) for right in asked[method]
    }
    assert one(manifests, "RoleBinding")["roleRef"]["name"] == one(manifests, "Role")["metadata"]["name"]
    cron = one(manifests, "CronJob")["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    account = cron["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"]
    assert account == one(manifests, "ServiceAccount")["metadata"]["name"]


def settings_of(entrypoint: str, config: Path) -> SummarizeSettings:
    """What a run's command means, with `config` where the pods have /etc/led/run.yaml."""
    words = entrypoint.replace("/etc/led/run.yaml", str(config)).split()
    assert words[:3] == ["bash", "/app/infra/run.sh", "/app/jobs/summarize_corpus.py"]
    return parse(SummarizeSettings, words[3:])[0]


def test_the_commands_parse(manifests: list[Manifest]) -> None:
    job = one(manifests, "RayJob")
    once = settings_of(job["spec"]["entrypoint"], RUN_YAML)
    words = run_arguments(once.output, "2026-11-24", ["2026-11-23", "2026-11-21"], None, 0)
    run = scheduled_run(job, "2026-11-24", [*words, "--num-beams", "2", "--retry-failed"])
    settings = settings_of(run["spec"]["entrypoint"], RUN_YAML)
    assert settings.output == f"{once.output}/2026-11-24"
    assert settings.since == (f"{once.output}/2026-11-23", f"{once.output}/2026-11-21")
    assert settings.retry_failed and settings.num_beams == 2 and not run["spec"]["suspend"]
    check(run)
    with pytest.raises(SystemExit):
        settings_of(job["spec"]["entrypoint"] + " --num-beems 2", RUN_YAML)


def test_an_unknown_key_in_run_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN_YAML.read_text("utf-8") + "num_beems: 4\n", "utf-8")
    with pytest.raises(UsageError, match="num_beems"):
        settings_of(
            "bash /app/infra/run.sh /app/jobs/summarize_corpus.py --config /etc/led/run.yaml",
            tmp_path / "run.yaml",
        )


def test_what_the_manifests_call_is_in_the_image(manifests: list[Manifest]) -> None:
    sources = [word for name, rest in DOCKERFILE if name == "COPY" for word in rest.split()[:-1]]
    called = set(re.findall(r"/app/([\w./]+)", json.dumps(manifests)))
    assert {"infra/run.sh", "infra/start_scheduled_run.py", "jobs/summarize_corpus.py"} <= called
    for path in called:
        assert (ROOT / path).exists() and any(
            path == source or path.startswith(f"{source}/") for source in sources
        ), path


def test_the_rules_are_the_alerts() -> None:
    [rules] = read(KUBERAY / "components" / "monitoring" / "rules.yaml")
    assert rules["spec"] == yaml.safe_load((ROOT / "infra" / "alerts.yml").read_text("utf-8"))


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (Debian's package prometheus)")
def test_the_alerts_on_kuberays_metrics_fire(tmp_path: Path) -> None:
    """A run that failed, one that waits, and a CronJob whose last run started 27 hours ago; a finished
    run is quiet."""
    status = 'kuberay_job_deployment_status{{name="{}", namespace="led", deployment_status="{}"}}'
    series = {
        status.format("led-a", "Failed"): "1x200",
        status.format("led-b", "Initializing"): "1x200",
        status.format("led-c", "Complete"): "1x200",
        status.format("other", "Failed"): "1x200",
        status.format("led-d", "ValidationFailed"): "1x200",
        'kube_cronjob_created{namespace="led", cronjob="led-nightly"}': "0x2000",
        'kube_cronjob_status_last_successful_time{namespace="led", cronjob="led-nightly"}': "3600x2000",
    }
    expected = [
        ("LedRunFailed", "5m", ["led-a", "led-d"]),
        ("LedRunWaits", "30m", []),
        ("LedRunWaits", "90m", ["led-b"]),
        ("LedNightMissing", "26h", []),
        ("LedNightMissing", "28h", [None]),
    ]
    rules = yaml.safe_load((ROOT / "infra" / "alerts.yml").read_text("utf-8"))["groups"]
    texts = {rule["alert"]: rule["annotations"] for group in rules for rule in group["rules"]}

    def alert(kind: str, name: str | None) -> dict[str, Any]:
        labels = {"severity": "page"} | ({"name": name} if name else {"cronjob": "led-nightly"})
        said = {key: text.replace("{{ $labels.name }}", name or "") for key, text in texts[kind].items()}
        return {"exp_labels": labels, "exp_annotations": said}

    test = {
        "rule_files": [str(ROOT / "infra" / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [
                    {"alertname": kind, "eval_time": at, "exp_alerts": [alert(kind, name) for name in names]}
                    for kind, at, names in expected
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test), "utf-8")
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(tmp_path / "test.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


DOCKERFILE = list(instructions((ROOT / "infra" / "Dockerfile").read_text("utf-8")))


def test_the_image_is_pinned_and_nobody_is_root_in_it() -> None:
    arguments = dict(rest.split("=", 1) for name, rest in DOCKERFILE if name == "ARG")
    assert (
        re.fullmatch(r"python:3\.1[1-3]-slim-[a-z]+", arguments["BASE"]) and ("FROM", "${BASE}") in DOCKERFILE
    )
    assert [rest for name, rest in DOCKERFILE if name == "USER"] == ["1000:1000"] and DOCKERFILE[-1][
        0
    ] == "USER"
    installs = [rest for name, rest in DOCKERFILE if name == "RUN" and "pip install" in rest]
    assert installs and all("-c constraints.txt" in rest and "--no-cache-dir" in rest for rest in installs)
    assert not any(name == "ADD" or "curl" in rest for name, rest in DOCKERFILE)
    assert any("wget" in rest and "procps" in rest for _, rest in DOCKERFILE), "KubeRay's probes"


def test_the_image_has_the_ray_that_the_manifests_name(manifests: list[Manifest]) -> None:
    version = one(manifests, "RayJob")["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text("utf-8").splitlines()


def test_the_build_is_sent_what_it_copies_and_nothing_else() -> None:
    sent = {
        line[1:]
        for line in (ROOT / "infra" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
        if line[:1] == "!"
    }
    copied = {word for name, rest in DOCKERFILE if name == "COPY" for word in rest.split()[:-1]}
    assert sent == {
        word for word in copied if not any(str(parent) in copied for parent in Path(word).parents)
    }
    assert all((ROOT / path).exists() for path in copied)


def test_the_steps_run_in_a_folder(tmp_path: Path) -> None:
    """Folders of the image lie below the folder, variables are known, steps that change the system are left
    out."""
    (tmp_path / "context" / "led").mkdir(parents=True)
    (tmp_path / "context" / "led" / "code.py").write_text("x = 1\n", "utf-8")
    image = Image(tmp_path / "root", tmp_path / "context", {"GIVEN": "here"}, system=False)
    steps = """
    ENV PATH=/opt/venv/bin:$PATH
    WORKDIR /app
    ARG GIVEN=
    RUN mkdir -p /opt/venv \\
        && echo "$GIVEN in $PWD, $PATH" >/opt/venv/said
    COPY led led
    RUN useradd nobody-of-that-name && touch /app/not-this
    USER 1000:1000
    """
    for name, rest in instructions(steps):
        image.step(name, rest)
    root = tmp_path / "root"
    assert (
        (root / "opt" / "venv" / "said").read_text().startswith(f"here in {root}/app, {root}/opt/venv/bin:")
    )
    assert (root / "app" / "led" / "code.py").exists() and not (root / "app" / "not-this").exists()
    with pytest.raises(subprocess.CalledProcessError):
        image.step("RUN", "false")
    with pytest.raises(ValueError, match="ADD"):
        image.step("ADD", "a b")
    with pytest.raises(ValueError, match="this Python is"):
        image.step("FROM", "python:3.9-slim")


def test_a_run_may_grow_to_all_workers(manifests: list[Manifest]) -> None:
    """No autoscaler says how many machines it may start, so the settings do."""
    cpu, gpu = one(manifests, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    copies = int(cpu["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) * cpu["maxReplicas"]
    component = (KUBERAY / "components" / "gpu" / "kustomization.yaml").read_text("utf-8")
    said = yaml.safe_load(RUN_YAML.read_text("utf-8")) if copies else yaml.safe_load(component.split("`")[3])
    assert said["max_replicas"] == (copies or gpu["maxReplicas"])
