"""The page: what it holds, read back by other means; that nothing in it is run or asked for that is not its own."""

import base64
import dataclasses
import json
import re
import struct
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from intermoe.body.features import FeatureLayout, motion_features
from intermoe.body.skeletons import SMPL22, Skeleton
from intermoe.errors import UserError
from intermoe.moe.routing_map import RoutingMap
from intermoe.motion import Motion
from intermoe.render.page import Panel, Scene, write_page
from intermoe.render.page.encode import ground_contacts

HOSTILE = '</script></title><img src=x onerror="alert(1)">\n@@SCRIPT@@ & \\u003c \0 ‮ שלום <!-- 二人'


class Elements(HTMLParser):
    """The elements of a page, and the text of those with an id."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self._within = [], {}, None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, sorted(name for name, _ in attrs)))
        self._within = dict(attrs).get("id", tag)

    def handle_endtag(self, tag):
        self._within = None

    def handle_data(self, data):
        if self._within:
            self.texts[self._within] = self.texts.get(self._within, "") + data


@pytest.fixture
def routing() -> RoutingMap:
    gates = torch.rand(3, 4, 2, 30, 8, generator=torch.Generator().manual_seed(0))
    return RoutingMap(torch.where(gates < 0.5, 0, gates), ((950, 650), (600, 300), (250, 0)), stride=4)


@pytest.fixture
def read(tmp_path):
    """A function that writes a page of scenes and gives its data."""

    def read(*scenes: Scene) -> dict:
        write_page(scenes, tmp_path / "a.html", title="Motions")
        return json.loads(Elements((tmp_path / "a.html").read_text("utf-8")).texts["motions"])

    return read


def decoded(panel: dict, num_joints: int) -> np.ndarray:
    """The joints of a panel, number by number as the page's words on its form say."""
    root, offsets = base64.b64decode(panel["root"]), base64.b64decode(panel["offsets"])
    roots = [number for (number,) in struct.iter_unpack("<f", root)]
    steps = [number for (number,) in struct.iter_unpack("<h", offsets)]
    joints = np.zeros((panel["frames"], 2, num_joints, 3))
    for frame in range(panel["frames"]):
        for person in range(2):
            for axis in range(3):
                origin = roots[(frame * 2 + person) * 3 + axis]
                joints[frame, person, 0, axis] = origin
                for joint in range(1, num_joints):
                    place = ((frame * 2 + person) * (num_joints - 1) + joint - 1) * 3 + axis
                    joints[frame, person, joint, axis] = origin + steps[place] * panel["step"]
    return joints


@pytest.mark.parametrize("away", [0.0, 700.0])
def test_joints_are_off_by_less_than_a_twentieth_of_a_millimetre_wherever_they_are(meeting, read, away):
    motion = meeting(25)
    motion = dataclasses.replace(motion, joints=motion.joints + np.array([away, 0, -away], np.float32))
    document = read(Scene("a", [Panel(motion)]))
    panel = document["scenes"][0]["panels"][0]
    assert (panel["skeleton"], panel["frames"], panel["fps"]) == ("smpl22", 25, 30)
    error = np.abs(decoded(panel, 22) - motion.joints.astype(float)).max()
    assert error < 5e-5 + (1e-4 if away else 0)  # float32 itself is as coarse, so far away
    assert panel["step"] < 1e-4


def test_contacts_are_those_of_the_features_at_any_frame_rate(meeting, read):
    motion = meeting(12)
    motion.joints[4:7, 0, SMPL22.index("left_foot"), 1] += 0.2
    motion.joints[7, 1, :, 2] += 0.05
    features_BTPF, _ = motion_features(
        torch.from_numpy(motion.joints)[None], torch.from_numpy(motion.rotations)[None], None, SMPL22
    )
    expected = features_BTPF[0, ..., FeatureLayout.of(SMPL22).contacts].bool().numpy()
    assert 0 < expected.mean() < 1
    panel = read(Scene("a", [Panel(motion)]))["scenes"][0]["panels"][0]
    found = np.frombuffer(base64.b64decode(panel["contacts"]), np.uint8).reshape(12, 2, 4).astype(bool)
    np.testing.assert_array_equal(found[:-1], expected)
    np.testing.assert_array_equal(found[-1], found[-2])
    # Every frame twice, at twice the rate: what stands still half of the time is on the ground at least as often.
    doubled = dataclasses.replace(
        motion, joints=motion.joints.repeat(2, 0), rotations=motion.rotations.repeat(2, 0), fps=60
    )
    np.testing.assert_array_equal(ground_contacts(doubled)[::2], motion_low(motion))
    slower = dataclasses.replace(motion, fps=15)
    assert ground_contacts(slower).sum() >= ground_contacts(motion).sum()


def motion_low(motion: Motion) -> np.ndarray:
    feet = motion.joints[:, :, [contact.joint for contact in SMPL22.contacts], 1]
    return feet < [contact.height for contact in SMPL22.contacts]


def test_a_motion_of_one_frame_and_one_without_feet_are_shown(meeting, read):
    bare = Skeleton("stick", ("hip", "top", "arm"), (-1, 0, 1), ((0, 0, 0), (0, 0.5, 0), (0.2, 0, 0)), (), (), 0, 2, ())
    joints = np.zeros((3, 2, 3, 3), np.float32) + np.cumsum(np.array(bare.rest_offsets, np.float32), 0)
    stick = Motion(joints, np.zeros((3, 2, 2, 6), np.float32), 12, "sticks", bare)
    document = read(Scene("both", [Panel(meeting(1)), Panel(stick)]))
    one, other = document["scenes"][0]["panels"]
    assert (one["frames"], other["fps"], other["contacts"]) == (1, 12, "")
    np.testing.assert_allclose(decoded(other, 3), joints, atol=5e-5)
    assert document["skeletons"]["stick"]["feet"] == []
    assert len(document["skeletons"]["stick"]["limbs"]) == 2
    assert document["skeletons"]["smpl22"]["feet"] == [["left", [0, 1]], ["right", [2, 3]]]


def test_gates_are_off_by_less_than_a_step_and_none_is_lost_or_made_up(meeting, read, routing):
    routing.gate_QMPLE[1, 2, 0, 3, 4] = 1e-5
    panel = read(Scene.of(meeting(120), routing))["scenes"][0]["panels"][0]
    stored = panel["routing"]
    assert (stored["layers"], stored["latents"], stored["experts"], stored["stride"]) == (4, 30, 8, 4)
    assert stored["stages"] == [[950, 650], [600, 300], [250, 0]]
    gates = np.frombuffer(base64.b64decode(stored["gates"]), np.uint8).reshape(3, 4, 2, 30, 8)
    np.testing.assert_array_equal(gates > 0, routing.gate_QMPLE.numpy() > 0)
    assert np.abs(gates / 255 - routing.gate_QMPLE.numpy()).max() < 1 / 255


def test_whatever_a_caption_holds_is_text(meeting, tmp_path):
    motion = meeting(3, caption=HOSTILE)
    for title, caption in (("plain", "plain"), (HOSTILE, HOSTILE)):
        scene = Scene(caption, [Panel(motion, label=caption)])
        write_page([scene, scene], tmp_path / f"{title == 'plain'}.html", title=title)
    harmless, hostile = (Elements((tmp_path / f"{kind}.html").read_text("utf-8")) for kind in (True, False))
    assert hostile.tags == harmless.tags
    assert [tag for tag, _ in hostile.tags].count("script") == 3
    assert hostile.texts["title"] == HOSTILE
    document = json.loads(hostile.texts["motions"])
    assert document["scenes"][1]["caption"] == document["scenes"][1]["panels"][0]["label"] == HOSTILE
    assert hostile.texts["script"] == harmless.texts["script"]


def test_a_lone_surrogate_does_not_stop_the_page(meeting, tmp_path):
    files = meeting(3, caption="gr\udcfc\udcdfen").save(tmp_path / "a.html")
    assert files == [tmp_path / "a.html"]
    assert Elements(files[0].read_text("utf-8")).texts["title"] == "gr??en"


def test_the_page_asks_no_host_and_no_other_file(meeting, routing, tmp_path):
    write_page([Scene.of(meeting(30), routing)] * 2, tmp_path / "a.html", title="Motions")
    page = (tmp_path / "a.html").read_text("utf-8")
    assert (
        re.findall(r"https?:|//[a-z]+\.|(?<!-)\b(?:src|href|url|import|fetch|XMLHttpRequest|Worker|Storage)\b", page)
        == []
    )
    assert "default-src 'none'" in page
    # Words that a browser without WebGL 2 does not know would leave it without any word at all.
    assert re.findall(r"\?\.|\?\?|\*\*|replaceAll|\bawait\b|\bstatic\b|#[a-z]+\(", Elements(page).texts["script"]) == []


def test_eight_motions_of_four_seconds_with_routing_are_half_a_megabyte(meeting, routing, tmp_path):
    write_page([Scene.of(meeting(120), routing)] * 8, tmp_path / "a.html", title="Motions")
    assert 350_000 < (tmp_path / "a.html").stat().st_size < 600_000


@pytest.mark.parametrize("scenes", [[], [Scene("nothing", [])]])
def test_a_page_of_nothing_is_refused(scenes, tmp_path):
    with pytest.raises(UserError) as caught:
        write_page(scenes, tmp_path / "a.html", title="Motions")
    assert str(caught.value) == (
        f"{tmp_path / 'a.html'}: nothing to show (allowed: one or more scenes of one or more motions)"
    )
    assert not (tmp_path / "a.html").exists()
