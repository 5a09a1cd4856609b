"""The page's program, run by Node without a browser: it draws what the videos draw."""

import json
import shutil
import subprocess
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch

from intermoe.body.skeletons import HUMANML22, SMPL22
from intermoe.moe.routing_map import RoutingMap
from intermoe.motion import Motion
from intermoe.render.body import Body
from intermoe.render.page import Panel, Scene, document
from intermoe.render.page.encode import encoded_scene, encoded_skeleton

NODE = shutil.which("node") or ""
pytestmark = pytest.mark.skipif(not NODE, reason="Node runs the page's program, and is not on this machine")
ASSETS = files("intermoe.render.page") / "assets"


def run(lines: str, data: Any = None) -> Any:
    """The value that JavaScript gives to ``answer``, after the files that touch no document."""
    names = ("data", "body", "camera", "player", "strip")
    program = "\n".join((ASSETS / f"{name}.js").read_text("utf-8") for name in names)
    # Typed arrays become plain ones.
    program = (
        f'"use strict";\nconst data = JSON.parse(require("fs").readFileSync(0));\n{program}\nlet answer;\n{lines}\n'
        "console.log(JSON.stringify(answer, (_, value) => ArrayBuffer.isView(value) ? Array.from(value) : value));"
    )
    ran = subprocess.run(
        [NODE, "-e", program], input=json.dumps(data), capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def page(meeting) -> dict:
    scene = Scene("a", [Panel(meeting(20)), Panel(meeting(9, fps=10))])
    return {"scene": encoded_scene(scene), "skeletons": {"smpl22": encoded_skeleton(SMPL22)}}


def test_the_program_has_no_error_of_syntax(tmp_path):
    (tmp_path / "page.js").write_text(document.script())
    ran = subprocess.run([NODE, "--check", tmp_path / "page.js"], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_bodies_have_the_points_of_the_videos(page, meeting):
    answer = run(
        """
        const panel = readPanel(data.scene.panels[0], data.skeletons);
        const joints = new Float32Array(132);
        const frame = pose(panel, 7 / 30, joints);
        answer = [frame, [0, 1].map(person => bodyPoints(panel.skeleton, joints, person, panel.scale[person]))];
        """,
        page,
    )
    joints_TPJ3 = meeting(20).joints.astype(np.float64)
    body = Body(SMPL22)
    assert answer[0] == 7
    expected = body.points(joints_TPJ3, body.scale(joints_TPJ3))[7]
    np.testing.assert_allclose(np.array(answer[1]), expected, atol=2e-4)


def test_between_two_frames_joints_are_between_them_and_after_the_last_they_rest(page, meeting):
    answer = run(
        """
        const panel = readPanel(data.scene.panels[0], data.skeletons), joints = new Float32Array(132);
        answer = [7.25, 99].map(frame => [pose(panel, frame / 30, joints), Array.from(joints)]);
        """,
        page,
    )
    joints = meeting(20).joints.reshape(20, -1)
    (between, halfway), (last, rest) = answer
    assert (between, last) == (7, 19)
    np.testing.assert_allclose(halfway, 0.75 * joints[7] + 0.25 * joints[8], atol=1e-4)
    np.testing.assert_allclose(rest, joints[19], atol=1e-4)


@pytest.mark.parametrize("aspect", [0.5, 1.4, 4.0])
def test_the_first_view_has_all_joints_of_all_frames_above_what_is_kept_free(page, meeting, aspect):
    standing, following = run(
        f"""
        const panel = readPanel(data.scene.panels[0], data.skeletons);
        panel.track = trackOf(panel);
        const frame = framing(panel, data.scene.azimuth, {aspect}, 0.1, null);
        const near = framing(panel, data.scene.azimuth, {aspect}, 0.1, panel.track);
        const camera = newCamera(data.scene.azimuth);
        answer = [viewOf(camera, frame, frame.distance, {aspect}, [0, 0]).matrix, Array.from({{ length: 20 }}, (_, n) =>
          viewOf(camera, near, near.distance, {aspect}, trackAt(panel, n / 30)).matrix)];
        """,
        page,
    )
    # A camera that stands sees all frames, one that follows sees each where it is then.
    joints = meeting(20).joints.reshape(20, -1, 3)
    homogeneous = np.concatenate([joints, np.ones((20, 44, 1))], axis=2)
    for matrices in (np.tile(standing, (20, 1)), np.array(following)):
        clip = (homogeneous @ matrices.reshape(20, 4, 4)).reshape(-1, 4)
        x, y, z = (clip[:, :3] / clip[:, 3:]).T
        assert clip[:, 3].min() > 0.5
        assert np.abs(x).max() < 1
        assert y.min() > -0.8
        assert y.max() < 1
        assert np.abs(z).max() < 1
        # And it is the nearest: something comes near an edge.
        assert max(np.abs(x).max(), y.max(), -y.min() + 0.2) > 0.7


def test_the_camera_follows_the_middle_of_the_two_steadily(page, meeting):
    track = run(
        """
        const panel = readPanel(data.scene.panels[0], data.skeletons);
        answer = trackOf(panel);
        """,
        page,
    )
    joints = meeting(20).joints[..., [0, 2]]
    middle = (joints.min((1, 2)) + joints.max((1, 2))) / 2
    reach = [min(8, n, 19 - n) for n in range(20)]
    expected = [middle[n - near : n + near + 1].mean(0) for n, near in enumerate(reach)]
    np.testing.assert_allclose(np.reshape(track, (20, 2)), expected, atol=1e-4)


def test_motions_of_other_lengths_and_rates_share_a_clock(page):
    answer = run(
        """
        const panels = data.scene.panels.map(panel => readPanel(panel, data.skeletons));
        const player = newPlayer(panels);
        const seen = [];
        const note = () => seen.push(panels.map(panel => frameOf(player, panel)));
        note(); goTo(player, 5); note(); stepped(player, 1); note(); stepped(player, -100); note();
        player.speed = 0.25; advanced(player, 0.4); note(); player.speed = 2; advanced(player, 0.45); note();
        goTo(player, 99); note(); advanced(player, 0.1); note();
        answer = [player.length, seen];
        """,
        page,
    )
    # The second one is longer, 9 frames at 10 a second: it counts.
    assert answer == [0.9, [[0, 0], [15, 5], [18, 6], [0, 0], [3, 1], [3, 1], [19, 8], [3, 1]]]


def test_the_strip_has_each_gate_in_its_row_and_its_frames(meeting):
    gates = torch.zeros(2, 3, 2, 5, 4)
    gates[0, 1, 0, 2, 3] = 1.0  # first stage, second layer, first person, third latent frame, last expert
    gates[1, 2, 1, 4, 0] = 0.5
    scene = encoded_scene(Scene.of(meeting(18), RoutingMap(gates, ((9, 5), (4, 0)), stride=4)))
    answer = run(
        """
        const panel = readPanel(data.scene.panels[0], data.skeletons);
        const rows = stripRows(panel);
        const seen = stage => [].concat(...rows.filter(row => row.kind === "expert").map(row =>
          Array.from({ length: panel.frames }, (_, frame) => [row.layer, row.person, row.expert, frame,
            Math.round(100 * strengthOf(panel, row, frame, stage))])).map(cells => cells.filter(cell => cell[4] > 0)));
        const apart = rows.slice(1).every((row, number) => row.top >= rows[number].top + rows[number].high);
        answer = { seen: [-1, 0, 1].map(seen), apart: apart, feet: rows.filter(row => row.kind === "foot").length,
          words: describeCell(panel, rows.filter(row => row.layer === 1 && row.expert === 3)[0], 9, 0) };
        """,
        {"scene": scene, "skeletons": {"smpl22": encoded_skeleton(SMPL22)}},
    )
    first = [[1, 0, 3, frame] for frame in range(8, 12)]
    second = [[2, 1, 0, frame] for frame in (16, 17)]
    # A gate of 1 in one of two stages is 0.5 over both: 0.2 + 0.8 x 0.5.
    assert answer["seen"] == [
        [[*cell, 60] for cell in first] + [[*cell, 40] for cell in second],
        [[*cell, 100] for cell in first],
        [[*cell, 60] for cell in second],
    ]
    assert (answer["apart"], answer["feet"]) == (True, 4)
    assert answer["words"] == "0.30 s: first person, layer 1, expert 3: gate 1.00"


def one_person(tokens: tuple[str, ...], stride: int, latents: int) -> dict[str, Any]:
    """Data of 16 frames of one person, anywhere; the gate of token p in latent frame l is (10 p + l + 1) / 100."""
    motion = Motion(
        np.random.default_rng(0).standard_normal((16, 1, 22, 3)).astype(np.float32),
        np.tile(np.array([1, 0, 0, 1, 0, 0], np.float32), (16, 1, 21, 1)),
        20,
        "a person stands.",
        HUMANML22,
    )
    gates = 10 * torch.arange(len(tokens))[:, None] + torch.arange(latents) + 1
    gates = (gates / 100)[None, None, :, :, None].expand(2, 3, -1, -1, 4)
    scene = encoded_scene(Scene.of(motion, RoutingMap(gates, ((9, 5), (4, 0)), stride, tokens)))
    return {"scene": scene, "skeletons": {"humanml22": encoded_skeleton(HUMANML22)}}


@pytest.mark.parametrize(
    ("tokens", "stride", "latents", "names"),
    [
        (("person",), 1, 16, ["feet", "layer 0", "layer 1", "layer 2"]),
        (("motion",), 60, 1, ["feet", "layer 0", "layer 1", "layer 2"]),
        (HUMANML22.pools[-1].names, 4, 4, ["feet", *HUMANML22.pools[-1].names]),
    ],
    ids=["mdm", "mld", "salad"],
)
def test_the_strip_of_one_person_has_the_rows_of_each_token(tokens, stride, latents, names):
    data = one_person(tokens, stride, latents)
    answer = run(
        """
        const panel = readPanel(data.scene.panels[0], data.skeletons);
        const rows = stripRows(panel), experts = rows.filter(row => row.kind === "expert");
        answer = { names: rowNames(panel, rows).map(entry => entry[0]), persons: panel.persons, high: stripHeight(rows),
          feet: rows.filter(row => row.kind === "foot").length,
          gates: experts.map(row => data.latents.map(latent => gateOf(panel.routing, row, latent, -1))),
          tones: toneOf(panel, experts[experts.length - 1], { tones: { middle: ["orange", "blue"] } }),
          words: [describeCell(panel, rows[0], 3, -1), describeCell(panel, experts[experts.length - 1], 15, -1)] };
        """,
        data | {"latents": list(range(latents))},
    )
    assert (answer["names"], answer["persons"], answer["feet"]) == (names, 1, 2)
    assert answer["tones"] == "orange"
    expected = np.repeat([10 * token + np.arange(latents) + 1 for token in range(len(tokens))], 12, axis=0) / 100
    np.testing.assert_allclose(answer["gates"], expected, atol=1 / 255)
    assert answer["words"][0] in ("0.15 s: left foot in the air", "0.15 s: left foot on the ground")
    gate = np.ceil(expected[-1, -1] * 255) / 255
    assert answer["words"][1] == f"0.75 s: {tokens[-1]}, layer 2, expert 3: gate {gate:.2f}"
    # The rows of seven tokens leave room for the motion.
    assert answer["high"] < 270


def test_the_camera_of_one_person_follows_it():
    data = one_person(("person",), 1, 16)
    answer = run(
        """
        const panel = readPanel(data.scene.panels[0], data.skeletons), joints = new Float32Array(66);
        answer = [trackOf(panel), Array.from(panel.joints), pose(panel, 7 / 20, joints), joints, panel.contacts.length];
        """,
        data,
    )
    joints_TJ3 = np.reshape(answer[1], (16, 22, 3))
    np.testing.assert_array_equal(np.reshape(answer[3], (22, 3)), joints_TJ3[7])
    assert (answer[2], answer[4]) == (7, 16 * 4)
    middle_T2 = (joints_TJ3.min(1) + joints_TJ3.max(1))[:, [0, 2]] / 2
    reach = [min(5, n, 15 - n) for n in range(16)]
    expected = [middle_T2[n - near : n + near + 1].mean(0) for n, near in enumerate(reach)]
    np.testing.assert_allclose(np.reshape(answer[0], (16, 2)), expected, atol=1e-5)
