"""What is looked at before a Ray is started."""

import os

import pytest
import ray
import torch

from intermoe.errors import UserError
from pipelines.cluster.session import ray_session
from pipelines.settings import WorkersConfig


def test_more_gpus_than_this_machine_has_are_refused_before_ray_starts(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(UserError, match=r"workers\.count = 2 with workers\.gpu \(allowed: as many as there are GPUs: 1"),
        ray_session(WorkersConfig(count=2, gpu=True)),
    ):
        pass


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_cluster_may_have_what_this_machine_has_not(monkeypatch, gpus):
    began = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *words, **_: began.append(words))
    monkeypatch.setattr(ray, "shutdown", lambda: began.append("ended"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    with ray_session(WorkersConfig(count=2, gpu=True)):
        assert began == [()]
    assert began == [(), "ended"]


def test_a_temporary_folder_with_too_long_a_path_is_refused_before_ray_starts(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray is started"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folder = "/tmp/" + 40 * "x"
    monkeypatch.setenv("TMPDIR", folder)
    with pytest.raises(UserError) as caught, ray_session():
        pass
    assert str(caught.value) == (
        f"{folder}: the path of the temporary folder has 45 bytes, too long for Ray's sockets"
        " (allowed: up to 39: set RAY_TMPDIR to a shorter one)"
    )


def test_what_a_ray_of_our_own_starts_finds_its_dashboard_whatever_else_runs_here(monkeypatch):
    """With several Rays on one machine, Ray Train does not look for it, and a stopped trial's CPUs are never free."""
    addresses = []

    def start(*_: object, dashboard_host: str, dashboard_port: int, **__: object) -> None:
        assert os.environ["RAY_API_SERVER_ADDRESS"] == f"http://{dashboard_host}:{dashboard_port}"
        addresses.append(dashboard_port)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for before in (None, "http://elsewhere:8265"):
        if before is not None:
            monkeypatch.setenv("RAY_API_SERVER_ADDRESS", before)
        with ray_session():
            assert os.environ.get("RAY_API_SERVER_ADDRESS") == before
    assert len(addresses) == 2
