"""What a job is sent with."""

import mmap
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from intermoe.errors import UserError
from pipelines.cluster import submit
from pipelines.cluster.submit import check_sendable, entrypoint, handed_on, new_job_id, packed, runtime_environment
from pipelines.grammar import parse

SCRIPT = Path(submit.__file__).with_name("entrypoint.sh")
STORAGE = "(allowed: a URI such as s3://BUCKET/FOLDER, or an absolute path on storage that all nodes share)"
KEPT = ["conf/a.yaml", "notes.txt", "sub/runs/kept.yaml", "sweep.yml"]
LEFT_OUT = [
    ".env",
    ".cache/x",
    "__pycache__/a.pyc",
    "checkpoint/manifest.json",
    "env/pyvenv.cfg",
    "env/lib/a.py",
    "mlflow.db",
    "mlflow.db-wal",
    "mlruns/0/meta.yaml",
    "motion.npz",
    "runs/x/config.json",
    "shards/dataset.json",
    "shards/part.parquet",
    "sub/video.MP4",
    "sweeps-out/sweep.json",
]


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def sent(root):
    with packed(root) as package:
        staged = sorted(f.relative_to(package.folder).as_posix() for f in package.folder.rglob("*") if f.is_file())
        assert staged == list(package.files)
        assert package.num_bytes == sum((package.folder / name).stat().st_size for name in staged)
        assert (package.folder / "pipelines/cli.py").read_text() == (SCRIPT.parents[1] / "cli.py").read_text()
    assert not package.folder.exists()
    return [name for name in staged if not name.startswith(("intermoe/", "pipelines/"))]


def test_data_runs_caches_environments_and_hidden_files_are_not_sent(tmp_path):
    write(tmp_path, *KEPT, *LEFT_OUT)
    assert sent(tmp_path) == KEPT


def test_what_git_ignores_is_not_sent(tmp_path):
    write(tmp_path, *KEPT, *LEFT_OUT, "big/ignored.txt")
    (tmp_path / ".gitignore").write_text("big/\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert sent(tmp_path) == KEPT


def test_the_code_of_this_process_replaces_what_bears_its_name(tmp_path):
    write(tmp_path, "intermoe/old.py", "pipelines/cli.py", "a.yaml")
    with packed(tmp_path) as package:
        assert not (package.folder / "intermoe/old.py").exists()
        assert "def main" in (package.folder / "pipelines/cli.py").read_text()
        assert {"a.yaml", "pipelines/presets/duet.yaml", "pipelines/cluster/entrypoint.sh"} <= set(package.files)
        assert str(package) == f"{len(package.files)} files, {package.num_bytes / 1e6:.1f} MB"


def test_too_much_is_refused_with_the_largest_files(tmp_path, monkeypatch):
    monkeypatch.setattr(submit, "_walk", lambda root, keep: ["a", "b", "c", "d"] if root == tmp_path else [])
    for name, size in (("a", 4), ("b", 70), ("c", 50), ("d", 30)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size * 10**6)
    with pytest.raises(UserError) as caught, packed(tmp_path):
        pass
    assert str(caught.value) == (
        f"{tmp_path}: 4 files, 154.0 MB, are too much to send; the largest: b (70.0 MB), c (50.0 MB), d (30.0 MB)"
        " (allowed: 100 MB: keep data elsewhere, or let Git ignore it)"
    )


@pytest.mark.parametrize("file", ["../a.yaml", ".hidden.yaml", "runs/a.yaml", "missing.yaml"])
def test_a_file_that_is_not_sent_is_refused(tmp_path, file):
    write(tmp_path, "conf/a.yaml", "runs/a.yaml", ".hidden.yaml")
    with packed(tmp_path) as package:
        package.check_file("--config", "conf/../conf/a.yaml")
        package.check_file("--config", "/shared/a.yaml")
        with pytest.raises(UserError) as caught:
            package.check_file("--config", file)
    assert str(caught.value) == (
        f"--config {file}: is not among the files that are sent"
        " (allowed: a file below the working directory that Git does not ignore and that is not hidden)"
    )


def test_variables_are_handed_on_by_name():
    environment = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_PROFILE": "p",
        "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/key.json",
        "GOOGLE_CLOUD_PROJECT": "project",
        "HF_HOME": "/home/me/hf",
        "HF_TOKEN": "",
        "INTERMOE_X": "1",
        "MLFLOW_TRACKING_URI": "http://m",
        "PATH": "/bin",
    }
    assert handed_on(environment) == (
        {
            "AWS_ACCESS_KEY_ID": "a",
            "GOOGLE_CLOUD_PROJECT": "project",
            "INTERMOE_X": "1",
            "MLFLOW_TRACKING_URI": "http://m",
        },
        ("GOOGLE_APPLICATION_CREDENTIALS",),
    )


def test_a_job_is_stopped_as_by_ctrl_c(tmp_path):
    with packed(tmp_path) as package:
        assert runtime_environment(package, {"HF_TOKEN": "t"}) == {
            "working_dir": str(package.folder),
            "env_vars": {"HF_TOKEN": "t", "RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"},
        }


def test_every_job_has_an_id_of_its_own():
    ids = {new_job_id("train") for _ in range(9)}
    assert len(ids) == 9
    assert all(job_id.startswith("intermoe-train-") for job_id in ids)


def test_what_only_this_machine_sees_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    train = ["train", "evaluator", "--config", "interhuman", "--data", "s3://b/d", "--out", "s3://b/o"]

    def refusal(words, **environment):
        with pytest.raises(UserError) as caught:
            check_sendable(parse(words), environment)
        return str(caught.value)

    folder = tmp_path / "weights"
    for option in ("--text-folder", "--word-vectors"):
        assert refusal([*train, option, str(folder)]) == (
            f"{option} {folder}: is in the home folder of this machine {STORAGE}"
        )
    assert refusal(train, AWS_ENDPOINT_URL="http://localhost:9000") == (
        "AWS_ENDPOINT_URL http://localhost:9000: is an address of this machine alone"
        " (allowed: one that every node reaches)"
    )
    assert refusal(train, MLFLOW_TRACKING_URI="http://[::1]:5000") == (
        "MLFLOW_TRACKING_URI http://[::1]:5000: is an address of this machine alone"
        " (allowed: the address of an MLflow server that every node reaches, such as https://mlflow.example.org)"
    )
    check_sendable(parse([*train, "--text-folder", "/shared/clip"]), {"MLFLOW_TRACKING_URI": "https://m"})


def environment_with_ray(root):
    """A folder like a virtual environment that holds Ray's library, and a Python that prints what it is given."""
    library = root / "lib/python3.11/site-packages/ray/_raylet.so"
    python = root / "bin/python"
    for file in (library, python):
        file.parent.mkdir(parents=True)
    library.write_bytes(bytes(mmap.PAGESIZE))
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" {shlex.quote(root.name)} "$@"\n')
    python.chmod(0o755)
    return library


def as_a_job(line, folder, library=None, path="/usr/bin:/bin"):
    """What a shell line prints when a process that has mapped a library runs it, as a job's supervisor does."""
    parent = (
        "import mmap, subprocess, sys\n"
        "if sys.argv[2]:\n"
        "    file = open(sys.argv[2], 'rb')\n"
        "    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "sys.exit(subprocess.run(sys.argv[1], shell=True, env={'PATH': sys.argv[3]}).returncode)\n"
    )
    command = [sys.executable, "-c", parent, line, str(library or ""), path]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.fixture
def working_directory(tmp_path):
    folder = tmp_path / "work" / "pipelines" / "cluster"
    folder.mkdir(parents=True)
    (folder / "entrypoint.sh").write_bytes(SCRIPT.read_bytes())
    return tmp_path / "work"


needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
WORDS = ["generate", "Two people's bow; $HOME", "--out", "s3://b/o"]


@needs_proc
def test_a_job_runs_with_the_python_of_its_ray(tmp_path, working_directory):
    library = environment_with_ray(tmp_path / "an env")
    assert as_a_job(entrypoint(WORDS), working_directory, library) == ["an env", "-m", "pipelines.cli", *WORDS]


def test_a_job_runs_with_the_python_on_the_path_where_rays_is_not_found(tmp_path, working_directory):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("python", "python3"):
        (bin_folder / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@"\n')
        (bin_folder / name).chmod(0o755)
    path = f"{bin_folder}:/usr/bin:/bin"
    assert as_a_job(entrypoint(WORDS), working_directory, path=path) == ["python3", "-m", "pipelines.cli", *WORDS]
