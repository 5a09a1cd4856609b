"""A Ray cluster of two nodes on this machine, with token authentication.

Each node is a network namespace with an address of its own and a private view of two folders: Ray's own, and one that
stands for a disk of the node. Everything else of this machine's files is the same for both. It takes root.

Run as a program, it starts such a cluster, a storage and an MLflow server to try jobs on (docs/cluster.md).
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT, SUPPORT = Path(__file__).resolve().parents[2], Path(__file__).resolve().parent
_RAY_FOLDER = "/tmp/ray"
# What a user's shell needs to send jobs, of the cluster and of S3.
_OF_A_CLIENT = (
    *("RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"),
    *("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"),
)
_START_SECONDS, _OBJECT_STORE_BYTES = 60, 300_000_000


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        name: of its network namespace.
        address: its IP address.
        folder: where its private folders lie, as the host sees them.
    """

    name: str
    address: str
    folder: Path


@dataclass(frozen=True)
class TwoNodes:
    """A running cluster.

    Attributes:
        head: the node that jobs are started on, and where GCS and dashboard are.
        other: the second node.
        host: address of this machine as the nodes see it, for servers that tests start.
        disk: path of the folder that each node has for itself: the same path, another folder on each.
        token_file: file with the token that clients need.
    """

    head: Node
    other: Node
    host: str
    disk: Path
    token_file: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a client of the cluster needs, and what Python needs to find this project."""
        return {
            "RAY_ADDRESS": f"{self.head.address}:6379",
            "RAY_API_SERVER_ADDRESS": f"http://{self.head.address}:8265",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)]),
            "OMP_NUM_THREADS": "1",
        }

    def start(
        self,
        command: Sequence[str],
        *,
        node: Node | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> subprocess.Popen[str]:
        """Start a command on a node, the head by default; its output is piped."""
        node = node or self.head
        return subprocess.Popen(
            _inside(node, self.disk, command),
            env={**os.environ, **self.environment, **(env or {})},
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def intermoe(self, line: str, *, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> subprocess.Popen[str]:
        """Start a line of the command ``intermoe`` on the head."""
        return self.start([sys.executable, "-m", "pipelines.cli", *line.split()], env=env, cwd=cwd)


@contextlib.contextmanager
def cluster(cpus: int = 1) -> Iterator[TwoNodes]:
    """Two nodes of so many CPUs each, for as long as the block runs; skips the test where there can be none."""
    reason = _missing()
    if reason:
        pytest.skip(f"two nodes on one machine need {reason}")
    # Sockets have short paths, so not in pytest's folder.
    with tempfile.TemporaryDirectory(prefix="im-") as folder, contextlib.ExitStack() as undo:
        yield _begin(Path(folder), cpus, undo)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    """A cluster of two nodes of one CPU each."""
    with cluster() as nodes:
        yield nodes


def _begin(folder: Path, cpus: int, undo: contextlib.ExitStack) -> TwoNodes:
    # Names and addresses of this process: other tests may have two nodes of their own.
    mark = os.getpid() % 2**14
    network = f"10.{64 + mark // 256}.{mark % 256}"
    nodes = [
        Node(f"im{mark}-{name}", f"{network}.{number}", folder / name) for number, name in ((2, "head"), (3, "other"))
    ]
    disk, token = folder / "disk", folder / "token"
    disk.mkdir()
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    Path(_RAY_FOLDER).mkdir(exist_ok=True)
    bridge = f"im{mark}"
    undo.callback(_ip, f"link del {bridge}", check=False)
    _ip(f"link add {bridge} type bridge")
    _ip(f"addr add {network}.1/24 dev {bridge}")
    _ip(f"link set {bridge} up")
    for node in nodes:
        for private in ("ray", "disk"):
            (node.folder / private).mkdir(parents=True)
        undo.callback(_ip, f"netns del {node.name}", check=False)
        _ip(f"netns add {node.name}")
        port = f"{node.name[:13]}p{node.address[-1]}"
        _ip(f"link add {port} type veth peer name eth0 netns {node.name}")
        _ip(f"link set {port} master {bridge} up")
        for words in (f"addr add {node.address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            _ip(f"-n {node.name} {words}")
        _ip(f"-n {node.name} route add default via {network}.1")
    found = TwoNodes(nodes[0], nodes[1], f"{network}.1", disk, token)
    undo.callback(_end, nodes)
    for node in nodes:
        _start_ray(found, node, cpus)
    return found


def _start_ray(nodes: TwoNodes, node: Node, cpus: int) -> None:
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={node.address}"]
    ray += [f"--num-cpus={cpus}", f"--object-store-memory={_OBJECT_STORE_BYTES}", "--disable-usage-stats"]
    if node is nodes.head:
        ray += ["--head", "--port=6379", f"--dashboard-host={node.address}"]
    else:
        ray += [f"--address={nodes.head.address}:6379"]
    started = nodes.start(ray, node=node)
    try:
        out, err = started.communicate(timeout=_START_SECONDS)
    except subprocess.TimeoutExpired:
        started.kill()
        raise
    assert started.returncode == 0, out + err


def _end(nodes: Sequence[Node]) -> None:
    """End the processes in the nodes' namespaces, which are all ours."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pids = [int(pid) for node in nodes for pid in _ip(f"netns pids {node.name}", check=False).split()]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def _inside(node: Node, disk: Path, command: Sequence[str]) -> list[str]:
    """The command, on the node: in its network and with its private folders."""
    mounts = f'mount --bind "{node.folder}/ray" {_RAY_FOLDER} && mount --bind "{node.folder}/disk" "{disk}"'
    # The file systems of this machine may be shared with the host: what is mounted here stays here.
    shell = f'{mounts} && exec "$@"'
    return ["ip", "netns", "exec", node.name, "unshare", "--mount", "bash", "-c", shell, "node", *command]


def _ip(words: str, *, check: bool = True) -> str:
    return subprocess.run(["ip", *words.split()], check=check, capture_output=True, text=True).stdout


def _missing() -> str:
    """What this machine lacks; empty if nothing."""
    if os.geteuid() != 0:
        return "root"
    for program in ("ip", "unshare", "mount"):
        if shutil.which(program) is None:
            return f"the program {program}"
    trial = f"im-trial-{os.getpid()}"
    try:
        _ip(f"netns add {trial}")
        command = ["ip", "netns", "exec", trial, "unshare", "--mount", "mount", "--bind", "/tmp", "/tmp"]
        subprocess.run(command, check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        return f"network and mount namespaces: {str(error.stderr).strip()}"
    finally:
        _ip(f"netns del {trial}", check=False)
    return ""


def main() -> int:
    """Start two nodes, S3 and MLflow; print what a user's shell needs; end them all on Ctrl-C."""
    from mlflow_server import PASSWORD, mlflow_server
    from s3 import s3_server

    if reason := _missing():
        sys.stderr.write(f"error: two nodes on one machine need {reason}\n")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory() as folder,
        cluster(cpus=2) as nodes,
        s3_server(nodes.host) as bucket,
        mlflow_server(Path(folder), nodes.host, artifacts=f"{bucket}/mlflow") as mlflow,
    ):
        # Whoever may read the token may send jobs: the user who called sudo, and nobody else.
        nodes.token_file.parent.chmod(0o711)
        os.chown(nodes.token_file, int(os.environ.get("SUDO_UID", os.geteuid())), -1)
        shell = {name: nodes.environment[name] for name in _OF_A_CLIENT if name in nodes.environment}
        shell |= {name: os.environ[name] for name in _OF_A_CLIENT if name in os.environ}
        shell |= {"MLFLOW_TRACKING_URI": mlflow, "MLFLOW_TRACKING_USERNAME": "admin"}
        shell |= {"MLFLOW_TRACKING_PASSWORD": PASSWORD}
        sys.stdout.write("".join(f"export {name}={value}\n" for name, value in shell.items()))
        sys.stdout.write(f"# Two nodes are up. The bucket: {bucket}. Ctrl-C ends them.\n")
        sys.stdout.flush()
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
