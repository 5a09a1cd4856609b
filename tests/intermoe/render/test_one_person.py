"""One person in every form that a motion is shown or written in, each read back by other means.

Legend: T frames, P = 1 person, J joints.
"""

import base64
import json
import re
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from gltf_reader import Gltf
from numpy.typing import NDArray
from one_person import motion_features
from PIL import Image, ImageSequence
from scipy.spatial.transform import Rotation

from intermoe.body.heading_features import heading_joints
from intermoe.body.skeletons import HUMANML22
from intermoe.datasets.bvh_file import global_pose, parse_bvh
from intermoe.generation import unsettled_motion
from intermoe.moe.routing_map import RoutingMap
from intermoe.motion import Motion
from intermoe.render.camera import best_azimuth
from intermoe.render.figure import Cell, ground_path, write_figure
from intermoe.render.glb import write_glb
from intermoe.render.page import Panel, Scene, write_page
from intermoe.render.painter import PERSON_COLOURS
from intermoe.render.routing import write_routing_map

LATENT_JOINTS = HUMANML22.pools[-1].names
WALK, WAVE = 0, 1
ORANGE, BLUE = PERSON_COLOURS


def solo(number: int) -> Motion:
    """A motion of Solo as its features hold it."""
    return unsettled_motion(torch.from_numpy(motion_features(number)), "a person moves.", HUMANML22)


@pytest.fixture(scope="module")
def walk() -> Motion:
    return solo(WALK)


def routing(tokens: tuple[str, ...], frames: int, stride: int, latents: int) -> RoutingMap:
    """Three stages, two layers, four experts, half of the gates 0."""
    gates = torch.rand(3, 2, len(tokens), latents, 4, generator=torch.Generator().manual_seed(0))
    assert (latents - 1) * stride < frames <= latents * stride
    return RoutingMap(torch.where(gates < 0.5, 0, gates), ((950, 650), (600, 300), (250, 0)), stride, tokens)


def tones(picture: NDArray[np.int64]) -> Counter[str]:
    """Pixels that are rather orange, or rather blue."""
    red, _, blue = np.moveaxis(picture, -1, 0)
    return Counter({"orange": int((red - blue > 60).sum()), "blue": int((blue - red > 60).sum())})


def pixels(file: Path) -> NDArray[np.int64]:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")).astype(np.int64)


# Files for other programs


def test_the_motion_is_what_its_features_hold(walk: Motion) -> None:
    true_TJ3 = heading_joints(torch.from_numpy(motion_features(WALK)[:, 0]), HUMANML22)
    np.testing.assert_allclose(walk.joints[:, 0], true_TJ3, atol=1e-6)
    assert np.linalg.norm(walk.joints[-1, 0, 0] - walk.joints[0, 0, 0]) > 1


def test_a_saved_motion_comes_back(walk: Motion, tmp_path: Path) -> None:
    assert walk.save(tmp_path / "a.npz") == [tmp_path / "a.npz"]
    again = Motion.load(tmp_path / "a.npz")
    for name in ("joints", "rotations"):
        np.testing.assert_array_equal(getattr(again, name), getattr(walk, name))
    assert (again.fps, again.caption, again.skeleton) == (20, walk.caption, HUMANML22)


@pytest.mark.parametrize("number", range(6))
def test_bvh_has_the_joints_of_the_motion_under_its_own_name(number: int, tmp_path: Path) -> None:
    motion = solo(number)
    assert motion.save(tmp_path / "a.bvh") == [tmp_path / "a.bvh"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.bvh"]
    file = parse_bvh(tmp_path / "a.bvh")
    assert (file.frames, file.fps) == (len(motion.joints), 20)
    place_TN3, _ = global_pose(*file.local_pose(), file.parents)
    order = [file.names.index(name) for name in HUMANML22.joint_names]
    assert np.linalg.norm(place_TN3[:, order].numpy() - motion.joints[:, 0], axis=-1).max() < 1e-3


def test_glb_has_one_figure_with_the_joints_of_the_motion(walk: Motion, tmp_path: Path) -> None:
    assert walk.save(tmp_path / "a.glb") == [tmp_path / "a.glb"]
    glb = Gltf((tmp_path / "a.glb").read_bytes())
    assert len(glb.document["skins"]) == len(glb.document["meshes"]) == 1
    assert [glb.document["nodes"][node]["name"] for node in glb.document["scenes"][0]["nodes"]] == [
        "person1",
        "person1_body",
    ]
    for frame in (0, 30, len(walk.joints) - 1):
        for joint, name in enumerate(HUMANML22.joint_names):
            place_3 = glb.world(glb.node(f"person1_{name}"), frame / 20, walk.caption)[:3, 3]
            np.testing.assert_allclose(place_3, walk.joints[frame, 0, joint], atol=1e-3)
    # And its skin is around them.
    vertex_V3 = glb.skinned(glb.node("person1_body"), 1.5, walk.caption)
    apart_V = np.linalg.norm(vertex_V3[:, None] - walk.joints[30, 0], axis=-1).min(axis=1)
    assert apart_V.max() < 0.3
    assert vertex_V3[:, 1].max() > walk.joints[30, 0, :, 1].max()


def test_several_motions_of_one_person_are_clips_of_one_file(walk: Motion, tmp_path: Path) -> None:
    wave = solo(WAVE)
    write_glb([walk, wave], tmp_path / "a.glb")
    glb = Gltf((tmp_path / "a.glb").read_bytes())
    names = ["a person moves.", "a person moves. (2)"]
    assert [animation["name"] for animation in glb.document["animations"]] == names
    wrist = HUMANML22.index("right_wrist")
    for motion, name in zip((walk, wave), names, strict=True):
        place_3 = glb.world(glb.node("person1_right_wrist"), 1.0, name)[:3, 3]
        np.testing.assert_allclose(place_3, motion.joints[20, 0, wrist], atol=1e-3)


def test_amass_turns_the_bones_of_smpl_as_the_motion_goes(walk: Motion, tmp_path: Path) -> None:
    assert walk.save(tmp_path / "a.amass.npz") == [tmp_path / "a.amass.npz"]
    with np.load(tmp_path / "a.amass.npz", allow_pickle=False) as file:
        turn_TJ = Rotation.from_rotvec(file["poses"].reshape(-1, 3))
        assert (float(file["mocap_frame_rate"]), str(file["surface_model_type"])) == (20.0, "smplx")
        assert file["poses"].shape == (len(walk.joints), 165)
    turn_TJ33 = turn_TJ.as_matrix().reshape(len(walk.joints), 55, 3, 3)[:, :22]
    # Bones of the motion's lengths, as SMPL's T-pose directs them, posed by hand; z is up there, and -y ahead.
    global_33 = [turn_TJ33[:, 0]]
    for joint, parent in list(enumerate(HUMANML22.parents))[1:]:
        global_33.append(global_33[parent] @ turn_TJ33[:, joint])
        rest_3 = np.array(HUMANML22.rest_offsets[joint])
        bone_T3 = walk.joints[:, 0, joint] - walk.joints[:, 0, parent]
        found_T3 = global_33[parent] @ (rest_3 / np.linalg.norm(rest_3))
        expected_T3 = np.stack([bone_T3[:, 0], -bone_T3[:, 2], bone_T3[:, 1]], axis=-1)
        expected_T3 /= np.linalg.norm(expected_T3, axis=-1, keepdims=True)
        assert np.rad2deg(np.arccos((found_T3 * expected_T3).sum(-1).clip(-1, 1))).max() < 3, joint


# Pictures


@pytest.mark.slow
def test_a_video_has_one_figure_in_its_own_time(walk: Motion, tmp_path: Path) -> None:
    walk.save(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == 20
        frames = [frame.to_ndarray(format="rgb24").astype(np.int64) for frame in container.decode(video=0)]
    assert len(frames) == len(walk.joints)
    places = []
    for picture in (frames[0], frames[len(frames) // 2], frames[-1]):
        assert tones(picture)["orange"] > 5000
        assert tones(picture)["blue"] == 0
        places.append(np.nonzero(picture[..., 0] - picture[..., 2] > 60)[1].mean())
    # Who walks goes from the left to the right.
    assert places[0] < places[1] < places[2]
    assert places[2] - places[0] > 200


def test_a_gif_keeps_the_time(walk: Motion, tmp_path: Path) -> None:
    walk.save(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as picture:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(picture)]
    assert durations == [50] * len(walk.joints)


def test_a_strip_shows_one_figure_and_names_nobody(walk: Motion, tmp_path: Path) -> None:
    assert walk.save(tmp_path / "a.png") == [tmp_path / "a.png"]
    picture = pixels(tmp_path / "a.png")
    assert tones(picture)["orange"] > 30_000
    assert tones(picture)["blue"] == 0
    # In the last lines, that would say who is who, no dot of a person's colour.
    assert tones(picture[-40:]) == {"orange": 0, "blue": 0}


def test_who_walks_is_seen_from_the_side_and_who_stands_from_in_front(walk: Motion) -> None:
    def toward(motion: Motion) -> tuple[float, float]:
        """Of the directions in which it faces at first, and to its right, the parts that lead to the camera."""
        azimuth = best_azimuth(motion.joints, HUMANML22)
        # Both motions face +z at first.
        return float(np.cos(azimuth)), float(-np.sin(azimuth))

    ahead, right = toward(walk)
    assert (ahead, right) == (pytest.approx(0.44, abs=0.1), pytest.approx(0.9, abs=0.1))
    assert toward(solo(WAVE))[0] > 0.9


def test_a_figure_has_the_way_of_one_person_and_no_names(walk: Motion, tmp_path: Path) -> None:
    write_figure([("a walk.", [Cell(walk)])], ["ours"], tmp_path / "a.png", frames=3)
    picture = pixels(tmp_path / "a.png")
    assert tones(picture)["blue"] == 0
    # A line in the person's own colour on the ground, as no body has it.
    assert (np.abs(picture - ORANGE).max(-1) < 12).sum() > 200
    assert tones(picture[-50:]) == {"orange": 0, "blue": 0}


def test_a_way_is_a_mean_over_as_long_at_any_rate() -> None:
    def way(fps: int) -> NDArray[np.float64]:
        second_T = np.arange(4 * fps) / fps
        # Walking with a sway of two steps a second.
        return ground_path(np.stack([second_T, 0 * second_T, 0.05 * np.sin(2 * np.pi * 2 * second_T)], axis=1), fps)

    np.testing.assert_allclose(way(20)[::2], way(30)[::3], atol=0.006)
    assert np.abs(way(20)[10:-10, 1]).max() < 0.01


@pytest.mark.parametrize(
    ("tokens", "stride"), [(("person",), 1), (("motion",), 1000), (LATENT_JOINTS, 4)], ids=["mdm", "mld", "salad"]
)
def test_a_routing_map_has_a_panel_of_each_token_in_the_colour_of_the_person(
    walk: Motion, tokens: tuple[str, ...], stride: int, tmp_path: Path
) -> None:
    frames = len(walk.joints)
    shown = routing(tokens, frames, stride, -(-frames // stride))
    write_routing_map(walk, shown, tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    assert tones(picture)["blue"] == 0
    # Below the key frames, what reaches to the right edge is a layer of a panel; white lies between them.
    filled = np.pad((picture[:, -26] < 255).any(axis=1).astype(int), 1)
    starts, ends = (np.nonzero(np.diff(filled) == step)[0] for step in (1, -1))
    layers = list(zip(starts, ends, strict=True))[1:]
    assert len(layers) == 3 * len(tokens) * 2
    left, wide = picture.shape[1] - 24 - 8 * 288, 8 * 288
    columns = [left + int((frame + 0.5) * wide / frames) for frame in range(frames)]
    for number, (start, end) in enumerate(layers):
        stage, token, layer = np.unravel_index(number, (3, len(tokens), 2))
        for expert in range(4):
            row = picture[start + int((expert + 0.5) * (end - start) / 4)][columns]
            gate_T = shown.gate_QMPLE[stage, layer, token, :, expert].numpy()[np.arange(frames) // stride]
            strength_T1 = np.where(gate_T > 0, 0.2 + 0.8 * gate_T, 0)[:, None]
            colour_T3 = np.where(strength_T1 > 0, 255 + strength_T1 * (np.array(ORANGE) - 255), (236, 239, 243))
            np.testing.assert_allclose(row, colour_T3, atol=1)


# The page


def test_a_page_holds_one_person_of_each_motion(walk: Motion, tmp_path: Path) -> None:
    wave, frames = solo(WAVE), len(walk.joints)
    shown = routing(LATENT_JOINTS, frames, 4, -(-frames // 4))
    beside = Scene("beside", (Panel(walk, "recorded"), Panel(walk, "generated", shown)))
    write_page([beside, Scene.of(wave)], tmp_path / "a.html", title="Motions")
    text = (tmp_path / "a.html").read_text("utf-8")
    found = re.search(r'<script type="application/json" id="motions">(.*?)</script>', text)
    assert found is not None
    page = json.loads(found[1])
    assert [len(scene["panels"]) for scene in page["scenes"]] == [2, 1]
    assert list(page["skeletons"]) == ["humanml22"]
    for panel, motion in ((page["scenes"][0]["panels"][1], walk), (page["scenes"][1]["panels"][0], wave)):
        assert (panel["fps"], panel["frames"], len(panel["scale"])) == (20, len(motion.joints), 1)
        root_T3 = np.frombuffer(base64.b64decode(panel["root"]), "<f4").reshape(-1, 3)
        offset_TR3 = np.frombuffer(base64.b64decode(panel["offsets"]), "<i2").reshape(-1, 21, 3) * panel["step"]
        np.testing.assert_array_equal(root_T3, motion.joints[:, 0, 0])
        np.testing.assert_allclose(root_T3[:, None] + offset_TR3, motion.joints[:, 0, 1:], atol=5e-5)
        assert len(base64.b64decode(panel["contacts"])) == len(motion.joints) * 4
    routed = page["scenes"][0]["panels"][1]["routing"]
    assert routed["tokens"] == list(LATENT_JOINTS)
    assert len(base64.b64decode(routed["gates"])) == shown.gate_QMPLE.numel()
    # Nobody is told that two are seen.
    assert "wo people" not in text[: text.index("<script")]
