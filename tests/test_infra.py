"""The files for a real cluster: valid, safe, of the versions that are tested; and that each rule for them can fail."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import yaml
from infra_rules import (
    ROOT,
    as_gcp,
    compose_faults,
    dashboard_faults,
    dockerfile_faults,
    images,
    launcher_faults,
    manifest_faults,
    secret_faults,
    version_faults,
)
from mlflow.server.auth.config import read_auth_config
from ray.scripts.scripts import cli

from pipelines.grammar import parse

LAUNCHER = "ray_cluster.yaml"
DOCKERFILE = "infra/docker/Dockerfile"
COMPOSE = "infra/mlflow/compose.yaml"
SERVER = "infra/mlflow/kubernetes.yaml"
CLUSTER, JOB = "infra/kuberay/raycluster.yaml", "infra/kuberay/rayjob.yaml"
DASHBOARD = "infra/grafana/intermoe.json"
PAGE = "docs/cluster.md"

RULES: dict[str, Callable[[str], Iterator[str]]] = {
    LAUNCHER: launcher_faults,
    DOCKERFILE: dockerfile_faults,
    COMPOSE: compose_faults,
    SERVER: manifest_faults,
    CLUSTER: manifest_faults,
    JOB: manifest_faults,
    DASHBOARD: dashboard_faults,
}


def text_of(path: str) -> str:
    """A file of the project."""
    return (ROOT / path).read_text("utf-8")


@pytest.mark.parametrize("path", RULES)
def test_each_file_keeps_its_rules(path: str):
    assert list(RULES[path](text_of(path))) == []


def test_the_launcher_file_is_valid_for_gcp():
    assert list(launcher_faults(as_gcp(text_of(LAUNCHER)))) == []


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("#   project_id: YOUR-PROJECT", "#   project_id: 7", "7 is not of type 'string', 'null'"),
        ("provisioningModel: SPOT, ", "", "GPUs are not asked for at the spot price first and on demand then"),
    ],
)
def test_the_lines_for_gcp_can_fail_too(right: str, wrong: str, fault: str):
    text = text_of(LAUNCHER)
    assert right in text
    assert list(launcher_faults(as_gcp(text.replace(right, wrong, 1)))) == [fault]


def test_both_clouds_have_the_same_node_types():
    def shape(text: str) -> dict[str, dict[str, object]]:
        types = yaml.safe_load(text)["available_node_types"]
        return {name: {key: node[key] for key in node if key != "node_config"} for name, node in types.items()}

    aws, gcp = text_of(LAUNCHER), as_gcp(text_of(LAUNCHER))
    assert shape(aws) == shape(gcp)
    assert "type: aws" not in gcp


VERSIONED = (LAUNCHER, DOCKERFILE, "infra/docker/requirements.txt", COMPOSE, SERVER, CLUSTER, JOB, PAGE, "Makefile")


@pytest.mark.parametrize("path", VERSIONED)
def test_each_version_is_the_tested_one(path: str):
    assert list(version_faults(text_of(path))) == []


def test_all_files_name_one_image_and_it_names_the_project_version():
    version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
    for path in (LAUNCHER, DOCKERFILE, COMPOSE, SERVER, CLUSTER, JOB, PAGE):
        assert images(text_of(path)) == {f"registry.example/team/intermoe:{version}-ray2.60.0-py311-gpu"}, path


def test_the_example_of_cluster_env_has_names_only():
    lines = text_of("infra/cluster.env.example").splitlines()
    assert not list(secret_faults("\n".join(line for line in lines if not line.endswith("="))))
    assert all(re.fullmatch(r"#.*|[A-Z_]+=[\w./:-]*|", line) for line in lines)


BROKEN = [
    (LAUNCHER, "idle_timeout_minutes: 10", "target_utilization_fraction: 0.8", "Additional properties are not allowed"),
    (LAUNCHER, "CPU: 16, GPU: 1", "CPU: 16, GPU: 0.5", "0.5 is not of type 'integer'"),
    (LAUNCHER, "head_node_type: head", "head_node_type: haed", "`head_node_type` must be one of"),
    (LAUNCHER, "resources: {CPU: 0}", "resources: {CPU: 4}", "the head takes tasks"),
    (LAUNCHER, "min_workers: 0", "min_workers: 1", "gpu_spot keeps nodes without work"),
    (LAUNCHER, "priority: 1", "priority: 3", "GPUs are not asked for at the spot price first and on demand then"),
    (LAUNCHER, "cache_stopped_nodes: false", "cache_stopped_nodes: true", "stopped nodes are kept"),
    (LAUNCHER, "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "no RAY_AUTH_MODE=token"),
    (LAUNCHER, "--ulimit nofile=65536:65536", "--init", "no --ulimit nofile=65536:65536"),
    (LAUNCHER, "[--shm-size=40g]", "[]", "the worker has Docker's 64 MB of shared memory"),
    (LAUNCHER, "=127.0.0.1", "=0.0.0.0", "the head starts without --dashboard-host=127.0.0.1"),
    (LAUNCHER, "ulimit -n 65536", "ulimit -n 1024", "the head starts without ulimit -n 65536"),
    (
        LAUNCHER,
        "setup_commands: []",
        "setup_commands: [pip install ray]",
        "the head installs what the image should hold",
    ),
    (LAUNCHER, "[.gitignore]", "[]", "data and runs are copied to the nodes"),
    (LAUNCHER, "/home/ray/.ray: ~/.ray", "/home/ray/.x: ~/.x", "the nodes lack the token"),
    (
        LAUNCHER,
        "- -e RAY_AUTH",
        "- -e AWS_SECRET_ACCESS_KEY=abc\n    - -e RAY_AUTH",
        "AWS_SECRET_ACCESS_KEY has a value",
    ),
    (LAUNCHER, "ami-00000000000000000", "AKIA0123456789ABCDEF", "AKIA0123456789ABCDEF is a key"),
    (DOCKERFILE, "FROM rayproject/ray:2.60.0-py311-gpu", "FROM rayproject/ray", "rayproject/ray is not pinned"),
    (DOCKERFILE, "FROM rayproject/ray:2.60.0-py311-gpu", "FROM rayproject/ray:latest", "DL3007: "),
    (DOCKERFILE, "USER 1000", "USER root", "DL3002: "),
    (DOCKERFILE, "USER 1000\n", "", "the image does not end with a user other than root"),
    (
        DOCKERFILE,
        "COPY --chown=1000:100 sweeps",
        "ADD https://example.org/x",
        "ADD https://example.org/x /home/ray/sweeps",
    ),
    (DOCKERFILE, "100 sweeps", "100 tests", "tests is not in the build context"),
    (DOCKERFILE, "100 sweeps", "100 swepes", "swepes does not exist"),
    (DOCKERFILE, "--no-deps", "--upgrade", "not the tested versions: pip install --no-cache-dir --upgrade"),
    (DOCKERFILE, "ENV PYTHON", "ENV AWS_SECRET_ACCESS_KEY=abc PYTHON", "AWS_SECRET_ACCESS_KEY has a value"),
    (COMPOSE, "    restart:", "    restrat:", "$.services.database: Unevaluated properties are not allowed"),
    (COMPOSE, "127.0.0.1:5000:5000", "5000:5000", "mlflow publishes 5000:5000"),
    (COMPOSE, "postgres:17.10-bookworm", "postgres:latest", "postgres:latest is not pinned"),
    (COMPOSE, "${POSTGRES_PASSWORD:?set it in .env}", "hunter2", "POSTGRES_PASSWORD has a value"),
    (COMPOSE, "${POSTGRES_PASSWORD:?set it in .env}", "${POSTGRES_PASSWORD:-hunter2}", "POSTGRES_PASSWORD has a value"),
    (COMPOSE, "#   S3_SECRET", "#   S4_SECRET", "S3_SECRET_ACCESS_KEY is not in the file's head"),
    (
        COMPOSE,
        "    healthcheck:\n      test: [CMD, wget",
        "    x-check:\n      test: [CMD, wget",
        "store has no health check",
    ),
    (COMPOSE, "- --app-name=basic-auth", "- --gunicorn-opts=x", "MLflow starts without --app-name=basic-auth"),
    (COMPOSE, "- --serve-artifacts", "- --no-serve-artifacts", "MLflow starts without --serve-artifacts"),
    (SERVER, "type: ClusterIP", "type: LoadBalancer", "the service can be reached from outside"),
    (SERVER, "replicas: 1", "replica: 1", "spec: Additional properties are not allowed"),
    (SERVER, "kind: Service", "kind: Secret", "a Secret stands in the file"),
    (SERVER, "- {name: AWS_DEFAULT_REGION", "- {name: PGPASSWORD", "PGPASSWORD has a value"),
    (SERVER, "memory: 4Gi", "nvidia.com/gpu: 1", "no limits of memory"),
    (SERVER, "- --app-name=basic-auth", "- --dev", "MLflow starts without --app-name=basic-auth"),
    (CLUSTER, "  authOptions:\n    mode: token\n", "", "Ray answers without a token"),
    (CLUSTER, "authOptions", "authOption", "cluster: unknown field authOption"),
    (CLUSTER, "enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "nothing starts or ends workers"),
    (CLUSTER, 'num-cpus: "0"', 'num-cpus: "4"', "the head takes tasks"),
    (CLUSTER, "minReplicas: 0", "minReplicas: 1", "gpu keeps pods without work"),
    (CLUSTER, "emptyDir: {medium: Memory, sizeLimit: 20Gi}", "emptyDir: {}", "/dev/shm is not in memory"),
    (CLUSTER, "runAsNonRoot: true", "runAsNonRoot: false", "the pod may run as root"),
    (CLUSTER, "- secretRef: {name", "- configMapRef: {name", "no Secret gives the pod its environment"),
    (CLUSTER, "serviceType: ClusterIP", "serviceType: NodePort", "the head can be reached from outside"),
    (CLUSTER, "mountPath: /dev", "mountPaht: /dev", "spec.containers.0.volumeMounts.0: "),
    (JOB, "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "the cluster outlives the job"),
    (JOB, "  ttlSecondsAfterFinished: 300\n", "", "no ttlSecondsAfterFinished"),
    (JOB, "  backoffLimit: 2\n", "", "no backoffLimit"),
    (JOB, "activeDeadlineSeconds", "activeDeadlineSecs", "job: unknown field activeDeadlineSecs"),
    (JOB, " --resume", "", "a retry starts anew"),
    (JOB, "--out s3://BUCKET/", "--out ", "--out is not storage that all nodes share"),
    (JOB, "mode: token", "mode: disabled", "Ray answers without a token"),
    (DASHBOARD, "ray_intermoe_load_imbalance{", "ray_intermoe_imbalance{", "unknown metric ray_intermoe_imbalance"),
    (DASHBOARD, "ray_intermoe_load_imbalance{", "ray_intermoe_step{", "ray_intermoe_load_imbalance is not shown"),
    (DASHBOARD, 'run=~\\"$run\\", ', "", "Samples per second: not only the runs that are chosen"),
]


@pytest.mark.parametrize(("path", "right", "wrong", "fault"), BROKEN)
def test_each_rule_fails_on_what_breaks_it(path: str, right: str, wrong: str, fault: str):
    text = text_of(path)
    assert right in text
    faults = list(RULES[path](text.replace(right, wrong, 1)))
    assert any(fault in line for line in faults), faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("FROM rayproject/ray:2.59.0-py311-gpu", "Ray 2.59.0, not 2.60.0"),
        ("image: registry.example/x:0.1.0-ray2.60.0-py312-gpu", "Python 312, not 311"),
        ('rayVersion: "2.52.0"', "rayVersion 2.52.0, not 2.60.0"),
        ("RUN pip install torch==2.12.0", "torch 2.12.0, not 2.13.0"),
        ("Flask-WTF==1.2.0", "Flask-WTF 1.2.0, not 1.3.0"),
    ],
)
def test_another_version_is_a_fault(text: str, fault: str):
    assert list(version_faults(text)) == [fault]


def test_mlflow_reads_who_may_what_and_finds_no_password_in_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(ROOT / "infra/mlflow/basic_auth.ini"))
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    config = read_auth_config()
    assert (config.default_permission, config.database_uri) == ("EDIT", "postgresql://")
    assert (config.admin_username, config.admin_password) == ("admin", None)


@pytest.mark.parametrize("role", ["head", "worker"])
def test_a_node_starts_ray_with_what_cluster_env_says_or_not_at_all(tmp_path: Path, role: str):
    start = yaml.safe_load(text_of(LAUNCHER))[f"{role}_start_ray_commands"][-1].replace("ulimit -n 65536 && ", "")
    (tmp_path / "ray").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "ray").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def started() -> subprocess.CompletedProcess:
        return subprocess.run(["bash", "-c", start], env=environment, capture_output=True, text=True)

    assert started().returncode != 0
    (tmp_path / ".intermoe").mkdir()
    (tmp_path / ".intermoe/cluster.env").write_text(text_of("infra/cluster.env.example"))
    seen = dict(line.split("=", 1) for line in started().stdout.splitlines() if "=" in line)
    assert (seen["MLFLOW_TRACKING_URI"], seen["AWS_DEFAULT_REGION"]) == ("https://mlflow.example.org", "us-west-2")
    assert "OMP_NUM_THREADS" not in seen


@pytest.mark.parametrize(("begun", "done"), [(False, ["--resume", "start"]), (True, ["--resume"])])
def test_a_retry_of_the_job_resumes_and_a_first_attempt_starts(tmp_path: Path, begun: bool, done: list[str]):
    spec = yaml.safe_load(text_of(JOB))["spec"]
    fake = tmp_path / "intermoe"  # writes down what it was called with; there is nothing to resume unless begun
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase "$*" in *--resume) exit {0 if begun else 2};; esac\n'
    )
    fake.chmod(0o755)
    # KubeRay puts the entrypoint into a line of bash, `ray job submit` joins its words, and the job is a line of sh.
    joined = [sys.executable, "-c", "import shlex, sys; print(shlex.join(sys.argv[1:]))"]
    submitted = f"{shlex.join(joined)} {spec['entrypoint']}"
    line = subprocess.run(["bash", "-c", submitted], capture_output=True, text=True, check=True).stdout.strip()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]}
    subprocess.run(line, shell=True, env=environment, check=True)

    calls = [call.split() for call in (tmp_path / "calls").read_text("utf-8").splitlines()]
    assert ["--resume" if "--resume" in call else "start" for call in calls] == done
    for call in calls:
        request = parse(call)
        assert (request.verb, request.target) == ("train", "denoiser")
        assert request.overrides == ["workers.count=2", "workers.gpu=true"]


def page_commands(text: str) -> list[list[str]]:
    """The words of each command of the page, without comments."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [words for line in blocks.splitlines() if (words := shlex.split(line, comments=True))]


def command_faults(words: list[str]) -> Iterator[str]:
    """What a command of the page names that is not there: a file, a subcommand or an option of Ray's."""
    for word in words:
        named = word.startswith(("infra/", "sweeps/", "ray_cluster")) and not word.endswith("/.env")
        if named and not (ROOT / word).exists():
            yield f"{word} does not exist"
    if words[0] != "ray":
        return
    command: click.Command | None = cli.commands.get(words[1])
    if command is None:
        yield f"ray {words[1]} does not exist"
        return
    options = {option for parameter in command.params for option in parameter.opts}
    yield from (f"ray {words[1]} has no {word}" for word in words[2:] if word[:1] == "-" and word not in options)


def test_the_page_names_files_and_commands_that_exist():
    commands = page_commands(text_of(PAGE))
    assert {"ray", "kubectl", "docker", "intermoe"} <= {words[0] for words in commands}
    assert [fault for words in commands for fault in command_faults(words)] == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("ray upp ray_cluster.yaml", "ray upp does not exist"),
        ("ray up ray_cluster.yml", "ray_cluster.yml does not exist"),
        ("ray up --sure ray_cluster.yaml", "ray up has no --sure"),
        ("kubectl apply -f infra/kuberay/cluster.yaml", "infra/kuberay/cluster.yaml does not exist"),
    ],
)
def test_a_command_of_the_page_that_does_not_exist_is_a_fault(line: str, fault: str):
    assert list(command_faults(shlex.split(line))) == [fault]


def test_links_of_the_page_lead_to_files():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text_of(PAGE))
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    assert links
