"""Rules that the files for a real cluster keep: each a function from a file's text to what breaks it.

What a schema can say is left to it: Ray's own for the cluster launcher, Kubernetes' and Compose's from packages.
KubeRay's is in no package, so the fields that the manifests use are listed here.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
METRICS = {
    f"ray_intermoe_{name}"
    for name in ("samples_per_second", "share_waiting_for_data", "load_imbalance", "experts_per_token", "step")
}
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|(ACCESS|API)_KEY$")

# The fields of KubeRay's objects (1.5.1 and later) that may stand in our manifests.
CLUSTER_FIELDS = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
}  # fmt: skip
HEAD_FIELDS = {"serviceType", "rayStartParams", "template"}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
JOB_FIELDS = {
    "entrypoint", "runtimeEnvYAML", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
    "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec",
}  # fmt: skip


def constraints() -> dict[str, str]:
    """The version of each package of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def version_faults(text: str) -> Iterator[str]:
    """A version of Ray, Python or a package other than the one that is tested."""
    pinned = constraints()
    for ray, python in re.findall(r"\bray:?(\d[\d.]*)-py(\d+)", text):
        if ray != pinned["ray"]:
            yield f"Ray {ray}, not {pinned['ray']}"
        if python != "311":
            yield f"Python {python}, not 311"
    for ray in re.findall(r'rayVersion: "?([\d.]+)', text):
        if ray != pinned["ray"]:
            yield f"rayVersion {ray}, not {pinned['ray']}"
    for name, version in re.findall(r"^[^#\n]*?\b([A-Za-z][\w.-]*)(?:\[\w+\])?==([\w.]+)", text, re.MULTILINE):
        if version != pinned.get(name, version):
            yield f"{name} {version}, not {pinned[name]}"


def images(text: str) -> set[str]:
    """The names of the project's own image in a text."""
    return set(re.findall(r"registry\.example/[\w./:-]+", text))


def as_gcp(text: str) -> str:
    """The launcher's file for GCP, made from the one for AWS as the file itself says."""
    text = re.sub(r"# ---- The cloud: AWS.*?# ---- End of AWS[^\n]*\n", "", text, flags=re.DOTALL)
    before, block, after = re.split(r"# ---- The cloud: GCP[^\n]*\n|# ---- End of GCP[^\n]*\n", text)
    return before + re.sub(r"^# ?", "", block, flags=re.MULTILINE) + after


def is_spot(node: dict[str, Any]) -> bool:
    """Whether a node type of the launcher is bought at the spot price."""
    config = node["node_config"]
    market = config.get("InstanceMarketOptions", {}).get("MarketType"), config.get("scheduling", {})
    return market[0] == "spot" or market[1].get("provisioningModel") == "SPOT"


def launcher_faults(text: str) -> Iterator[str]:
    """What Ray's own validation refuses in a launcher's file, then what costs money, data or safety."""
    try:
        config = prepare_config(yaml.safe_load(text))
        validate_config(config)
    except (jsonschema.ValidationError, ValueError, AssertionError) as error:
        yield getattr(error, "message", str(error))
        return
    types = dict(config["available_node_types"])
    if types.pop(config["head_node_type"])["resources"] != {"CPU": 0}:
        yield "the head takes tasks"
    yield from (f"{name} keeps nodes without work" for name, node in types.items() if node["min_workers"])
    gpus = sorted((node for node in types.values() if node["resources"].get("GPU")), key=lambda node: -node["priority"])
    if [is_spot(node) for node in gpus] != [True, False]:
        yield "GPUs are not asked for at the spot price first and on demand then"
    if config["provider"]["type"] == "aws" and config["provider"].get("cache_stopped_nodes") is not False:
        yield "stopped nodes are kept"
    options = " ".join(config["docker"]["run_options"])
    yield from (f"no {part}" for part in ("RAY_AUTH_MODE=token", "--ulimit nofile=65536:65536") if part not in options)
    for role in ("head", "worker"):
        if "--shm-size=" not in " ".join(config["docker"][f"{role}_run_options"]):
            yield f"the {role} has Docker's 64 MB of shared memory"
        start = config[f"{role}_start_ray_commands"][-1]
        needed = ["ulimit -n 65536", ". ~/.intermoe/cluster.env", "unset OMP_NUM_THREADS"]
        needed += ["--dashboard-host=127.0.0.1", "--autoscaling-config="] if role == "head" else ["$RAY_HEAD_IP"]
        yield from (f"the {role} starts without {part}" for part in needed if part not in start)
        if config[f"{role}_setup_commands"]:
            yield f"the {role} installs what the image should hold"
    if "." in config["file_mounts"].values() and config["rsync_filter"] != [".gitignore"]:
        yield "data and runs are copied to the nodes"
    if "~/.ray" not in config["file_mounts"].values():
        yield "the nodes lack the token"
    yield from secret_faults(text)


def secret_faults(text: str) -> Iterator[str]:
    """A password or key that stands in a file."""
    for name, value in re.findall(r"(\w+)[=:] *([^\s,}]+)", text):
        if SECRET.search(name) and name.isupper() and not value.startswith("${"):
            yield f"{name} has a value"
    yield from (f"{key} is a key" for key in re.findall(r"\bAKIA[0-9A-Z]{16}\b", text))


def image_faults(image: str) -> Iterator[str]:
    """An image whose content may change from one day to the next."""
    tag = image.rpartition("/")[2].partition(":")[2]
    if not re.search(r"\d+\.\d+", tag):
        yield f"{image} is not pinned"


def schema_faults(manifest: dict[str, Any]) -> Iterator[str]:
    """What Kubernetes itself would refuse in an object."""
    try:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"


def pod_faults(spec: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a pod: its schema, its image, its rights, what it may use, and secrets in it."""
    yield from schema_faults({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec})
    if spec.get("securityContext", {}).get("runAsNonRoot") is not True:
        yield "the pod may run as root"
    for container in spec["containers"]:
        yield from image_faults(container["image"])
        resources = container.get("resources", {})
        for kind in ("requests", "limits"):
            yield from (f"no {kind} of {name}" for name in ("cpu", "memory") if name not in resources.get(kind, {}))
        if not any("secretRef" in source for source in container.get("envFrom", [])):
            yield "no Secret gives the pod its environment"
        for variable in container.get("env", []):
            if SECRET.search(variable["name"]) and "value" in variable:
                yield f"{variable['name']} has a value"


def ray_pod_faults(template: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a pod of Ray's: what is with any, and shared memory of Docker's 64 MB."""
    spec = template["spec"]
    yield from pod_faults(spec)
    memory = {volume["name"] for volume in spec["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"}
    mounts = {mount["name"] for mount in spec["containers"][0]["volumeMounts"] if mount.get("mountPath") == "/dev/shm"}
    if not mounts & memory:
        yield "/dev/shm is not in memory"


def unknown(where: str, given: dict[str, Any], known: set[str]) -> Iterator[str]:
    """Fields that KubeRay does not have, or that these manifests have no need of."""
    yield from (f"{where}: unknown field {name}" for name in sorted(given.keys() - known))


def ray_cluster_faults(spec: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the cluster of a RayCluster or a RayJob."""
    yield from unknown("cluster", spec, CLUSTER_FIELDS)
    if spec.get("authOptions") != {"mode": "token"}:
        yield "Ray answers without a token"
    if spec.get("enableInTreeAutoscaling") is not True:
        yield "nothing starts or ends workers"
    head = spec["headGroupSpec"]
    yield from unknown("head", head, HEAD_FIELDS)
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "the head takes tasks"
    if head["serviceType"] != "ClusterIP":
        yield "the head can be reached from outside"
    yield from ray_pod_faults(head["template"])
    for group in spec["workerGroupSpecs"]:
        yield from unknown(group["groupName"], group, GROUP_FIELDS)
        if group["replicas"] or group["minReplicas"]:
            yield f"{group['groupName']} keeps pods without work"
        yield from ray_pod_faults(group["template"])
    gpus = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in spec["workerGroupSpecs"]]
    if not any("nvidia.com/gpu" in limits for limits in gpus):
        yield "no group has GPUs"


def ray_job_faults(spec: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a RayJob: its cluster, and what would leave GPUs running or lose a run."""
    yield from unknown("job", spec, JOB_FIELDS)
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield "the cluster outlives the job"
    for name in ("ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit"):
        if spec.get(name, 0) <= 0:
            yield f"no {name}"
    if "--resume" not in spec["entrypoint"]:
        yield "a retry starts anew"
    request = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RUN"]
    for option in ("--data", "--out"):
        if f"{option} s3://" not in request:
            yield f"{option} is not storage that all nodes share"
    yield from ray_cluster_faults(spec["rayClusterSpec"])


def manifest_faults(text: str) -> Iterator[str]:
    """What is wrong with the objects of a file for Kubernetes."""
    for manifest in yaml.safe_load_all(text):
        match manifest["kind"]:
            case "RayCluster" | "RayJob" as kind:
                if manifest["apiVersion"] != "ray.io/v1":
                    yield f"apiVersion {manifest['apiVersion']}"
                yield from (ray_job_faults if kind == "RayJob" else ray_cluster_faults)(manifest["spec"])
            case "Secret":
                yield "a Secret stands in the file"
            case "Deployment":
                yield from schema_faults(manifest)
                pod = manifest["spec"]["template"]["spec"]
                yield from pod_faults(pod)
                yield from server_faults(pod["containers"][0]["command"])
            case _:
                yield from schema_faults(manifest)
                if manifest["spec"].get("type") != "ClusterIP":
                    yield "the service can be reached from outside"


def server_faults(command: list[str]) -> Iterator[str]:
    """What an MLflow server for a team must be started with."""
    needed = ("--app-name=basic-auth", "--serve-artifacts", "--artifacts-destination=s3://", "--backend-store-uri=post")
    yield from (f"MLflow starts without {part}" for part in needed if not any(part in word for word in command))


def compose_faults(text: str) -> Iterator[str]:
    """What is wrong with a Compose file: its schema, then ports, passwords, images and health checks."""
    compose = yaml.safe_load(text)
    schema = resources.files("check_jsonschema.builtin_schemas.vendor").joinpath("compose-spec.json").read_text("utf-8")
    for error in jsonschema.Draft202012Validator(json.loads(schema)).iter_errors(compose):
        yield f"{error.json_path}: {error.message}"
    head = text.partition("\nname:")[0]
    for name, service in compose["services"].items():
        yield from image_faults(service["image"])
        if "test" not in service.get("healthcheck", {}):
            yield f"{name} has no health check"
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{name} publishes {port}"
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable) and not re.fullmatch(r"\$\{\w+:\?.+\}", value):
                yield f"{variable} has a value"
    for variable in sorted(set(re.findall(r"\$\{(\w+)", text))):
        if f"#   {variable}=" not in head:
            yield f"{variable} is not in the file's head"
    yield from server_faults(compose["services"]["mlflow"]["command"])


def dockerfile_faults(text: str) -> Iterator[str]:
    """What hadolint finds in a Dockerfile, an unpinned base, root's rights, downloads, and files that are not there."""
    hadolint = [str(Path(sys.executable).with_name("hadolint")), "--no-fail", "--format", "json", "-"]
    findings = json.loads(subprocess.run(hadolint, input=text, capture_output=True, text=True, check=True).stdout)
    yield from (f"{finding['code']}: {finding['message']}" for finding in findings)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    for instruction, *rest in words:
        if instruction == "FROM":
            yield from image_faults(rest[0])
        elif instruction == "ADD":
            yield f"ADD {' '.join(rest)}"
        elif instruction == "COPY":
            sources = [source for source in rest if not source.startswith("--")][:-1]
            kept = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
            yield from (f"{source} does not exist" for source in sources if not (ROOT / source).exists())
            yield from (f"{source} is not in the build context" for source in sources if f"!{source}" not in kept)
        elif instruction == "RUN" and "install" in rest:
            for command in " ".join(rest).split("&&"):
                if "--constraint constraints.txt" not in command and "--no-deps" not in command:
                    yield f"not the tested versions: {command.strip()}"
    users = [rest[0] for instruction, *rest in words if instruction == "USER"]
    if not users or not users[-1].isdigit() or users[-1] == "0":
        yield "the image does not end with a user other than root"
    yield from secret_faults(text)


def dashboard_faults(text: str) -> Iterator[str]:
    """Expressions of a Grafana dashboard that name no metric of ours or leave out whose it is; metrics not shown."""
    dashboard = json.loads(text)
    shown: set[str] = set()
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    if len(set(identifiers)) < len(identifiers):
        yield "two panels have one id"
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            names = set(re.findall(r"\bray_\w+", target["expr"]))
            shown |= names
            yield from (f"{panel['title']}: unknown metric {name}" for name in sorted(names - METRICS))
            if not all(label in target["expr"] for label in ('run=~"$run"', 'target=~"$target"')):
                yield f"{panel['title']}: not only the runs that are chosen"
    yield from (f"{name} is not shown" for name in sorted(METRICS - shown))
