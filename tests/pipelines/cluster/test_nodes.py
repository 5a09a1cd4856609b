"""What a node says of itself, and what is said of one that differs; nothing here needs Ray."""

import json
from pathlib import Path

import pytest
import ray

from intermoe.errors import UserError
from pipelines.cluster import nodes, probe
from pipelines.cluster.nodes import Marker, check_nodes, check_view

URI = "http://127.0.0.1:5000"


def difference(here, there, markers=()):
    with pytest.raises(UserError) as caught:
        check_view("10.0.0.2", there, here=here, markers=markers)
    return str(caught.value)


def test_a_node_that_sees_the_same_is_fine(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    marker = Marker(tmp_path / ".marker", "token", "the folder")
    marker.path.write_text("token")
    view = probe.look([str(tmp_path), str(tmp_path / "gone")], [str(marker.path)], None)
    assert view["fingerprints"][str(tmp_path / "gone")] is None
    check_view("10.0.0.2", view, here=view, markers=[marker])


def test_another_environment_is_told_before_all_else():
    here = probe.look([], [], None)
    there = probe.look(["data"], [], "http://127.0.0.1:1", {"Python": "3.9.1"})
    assert there["fingerprints"] == {}
    assert there["server"] is None
    there["versions"] = here["versions"] | {"torch": "not installed"}
    assert difference(here, there) == (
        f"node 10.0.0.2: torch is not installed (allowed: {here['versions']['torch']}, as on the node of the driver)"
    )
    assert set(here["versions"]) == {"Python", "torch", "ray", "intermoe", "pipelines"}
    assert here["versions"]["intermoe"].startswith("source ")


def test_what_is_read_must_be_the_same(tmp_path):
    here = probe.look(["/data"], [], None) | {"fingerprints": {"/data": "1"}}
    allowed = "(allowed: a folder that all nodes share, or a URI such as s3://...)"
    assert difference(here, here | {"fingerprints": {"/data": None}}) == (
        f"node 10.0.0.2: does not have /data {allowed}"
    )
    assert difference(here, here | {"fingerprints": {"/data": "2"}}) == (
        f"node 10.0.0.2: has another /data than the node of the driver {allowed}"
    )


def test_a_fingerprint_tells_documents_names_and_sizes_apart(tmp_path):
    (tmp_path / "motions").mkdir()
    card, shard = tmp_path / "dataset.json", tmp_path / "texts.parquet"
    card.write_text(json.dumps({"frames": 1}))
    shard.write_bytes(b"abc")
    prints = [probe.fingerprint(str(tmp_path))]
    assert probe.fingerprint(str(tmp_path)) == prints[0]
    card.write_text(json.dumps({"frames": 2}))
    prints.append(probe.fingerprint(str(tmp_path)))
    shard.write_bytes(b"abcd")
    prints.append(probe.fingerprint(str(tmp_path)))
    (tmp_path / "motions").rename(tmp_path / "texts")
    prints.append(probe.fingerprint(str(tmp_path)))
    prints += [probe.fingerprint(str(card)), probe.fingerprint(str(shard))]
    assert len({*prints}) == 6


def test_a_server_that_is_not_reached_from_a_node_is_told_with_what_to_set():
    here = probe.look([], [], None)
    there = probe.look([], [], "http://user:secret@127.0.0.1:1", here["versions"])
    assert difference(here, there) == (
        "node 10.0.0.2: http://127.0.0.1:1: MLflow does not answer: [Errno 111] Connection refused"
        " (allowed: MLFLOW_TRACKING_URI=http(s)://..., a server that all nodes reach)"
    )


def answers(monkeypatch, *addresses, change=lambda view: view):
    """Play a cluster of nodes at these addresses, which look at this machine; ``change`` what the last one sees."""
    alive = [{"NodeID": a, "NodeManagerAddress": a, "Alive": True} for a in addresses]
    monkeypatch.setattr(nodes.state.state, "get_draining_nodes", dict)
    monkeypatch.setattr(ray, "nodes", lambda: [*alive, {"NodeID": "", "NodeManagerAddress": "", "Alive": False}])

    def ask(asked, question, versions):
        read, markers, server = question
        views = {address: probe.look(read, markers, server, versions) for address in asked.values()}
        return views | {addresses[-1]: change(views[addresses[-1]])}

    monkeypatch.setattr(nodes, "_ask", ask)


def test_a_node_that_is_to_be_taken_away_is_not_asked(monkeypatch, tmp_path):
    answers(monkeypatch, "10.0.0.1", "10.0.0.2", change=pytest.fail)
    monkeypatch.setattr(nodes.state.state, "get_draining_nodes", lambda: {ray.nodes()[1]["NodeID"]: 0})
    check_nodes(reads=[tmp_path], writes=[tmp_path / "out"], tracking_uri=URI)


def test_one_node_is_not_asked(monkeypatch, tmp_path):
    answers(monkeypatch, "10.0.0.1", change=pytest.fail)
    check_nodes(reads=["/gone"], writes=["/gone/run"], tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


def test_all_folders_are_compared_and_nothing_is_left_in_them(monkeypatch, tmp_path):
    seen = []
    answers(monkeypatch, "10.0.0.1", "10.0.0.2", change=lambda view: seen.append(view) or view)
    check_nodes(
        reads=[tmp_path, None, "s3://bucket/data"],
        writes=[tmp_path / "runs/vae", "s3://bucket/run"],
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
    )
    assert list(seen[0]["fingerprints"]) == [str(tmp_path)]
    assert {Path(marker).parent for marker in seen[0]["markers"]} == {tmp_path}
    assert len(seen[0]["markers"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "which", "message"),
    [
        (
            URI,
            0,
            (
                "does not share the folder of {folder}/runs/vae with the node of the driver"
                " (allowed: a folder that all nodes share, or a URI such as s3://...)"
            ),
        ),
        (
            "sqlite:///{folder}/mlflow.db",
            1,
            (
                "does not share the folder of MLflow's store sqlite:///{folder}/mlflow.db with the node of the driver"
                " (allowed: MLFLOW_TRACKING_URI=http(s)://..., a server that all nodes reach)"
            ),
        ),
        (
            "file://{folder}/mlruns",
            1,
            (
                "does not share the folder of MLflow's store file://{folder}/mlruns with the node of the driver"
                " (allowed: MLFLOW_TRACKING_URI=http(s)://..., a server that all nodes reach)"
            ),
        ),
    ],
)
def test_a_folder_that_a_node_does_not_share_is_told(monkeypatch, tmp_path, uri, which, message):
    def unshared(view):
        markers = view["markers"]
        return view | {"server": None, "markers": markers | {list(markers)[which]: None}}

    answers(monkeypatch, "10.0.0.1", "10.0.0.2", change=unshared)
    monkeypatch.setattr(probe, "_unreachable", lambda server: None)
    with pytest.raises(UserError) as caught:
        check_nodes(writes=[tmp_path / "runs/vae"], tracking_uri=uri.format(folder=tmp_path))
    assert str(caught.value) == f"node 10.0.0.2: {message.format(folder=tmp_path)}"
    assert list(tmp_path.iterdir()) == []
