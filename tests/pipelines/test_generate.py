import base64
import json
import os
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from gltf_reader import Gltf
from small_model import WordEncoder, save_model, small_model

from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError
from intermoe.given_person import GivenPerson
from intermoe.motion import Motion
from intermoe.places import Place
from pipelines import generate as module
from pipelines.cli import main
from pipelines.generate import GenerateRequest, generate, save_all

PROMPTS = ["Two people bow to each other, deeply.", "Hug!"]


class Standing:
    """A model whose people stand still, a little higher with each prompt."""

    def __init__(self) -> None:
        self.asked: dict[str, object] = {}

    def generate(
        self, prompts: Sequence[str], *, on_step: Callable[[int, int], None], **options: object
    ) -> list[Motion]:
        if not all(prompts):
            raise UserError("a prompt is empty")
        self.asked = options
        on_step(1, 2)
        on_step(2, 2)
        rest = np.zeros((22, 3), dtype=np.float32)
        for joint, parent in enumerate(SMPL22.parents[1:], start=1):
            rest[joint] = rest[parent] + np.array(SMPL22.rest_offsets[joint], np.float32)
        joints = np.tile(rest, (4, 2, 1, 1)) + np.array([0, 1, 0], np.float32)
        joints[:, 1, :, 0] += 1
        rotations = np.tile(np.array([1, 0, 0, 1, 0, 0], np.float32), (4, 2, 21, 1))
        return [Motion(joints + number, rotations, 30, prompt, SMPL22) for number, prompt in enumerate(prompts)]


@pytest.fixture
def model() -> Standing:
    return Standing()


def run(model, prompts, out, progress=lambda *_: None, *, clips=False, page=False) -> list[Place]:
    request = GenerateRequest(prompts, out, seconds=1.5, seed=3, guidance=2.0, clips=clips, page=page)
    return generate(model, request.checked(), progress)


def test_each_prompt_has_its_files_in_every_form(model, tmp_path):
    out = tmp_path / "new" / "folder"
    files = run(model, PROMPTS, out)
    names = [
        f"{stem}{ending}"
        for stem in ("00_two-people-bow-to-each", "01_hug")
        for ending in (".npz", "_person1.bvh", "_person2.bvh", ".glb", ".mp4", ".png")
    ]
    assert [file.name for file in files] == names
    assert sorted(file.name for file in out.iterdir()) == sorted(names)
    assert all(file.stat().st_size > 100 for file in files)
    for number, prompt in enumerate(PROMPTS):
        motion = Motion.load(files[6 * number])
        assert motion.caption == prompt
        assert motion.joints[0, 0, 0, 1] == 1 + number
    assert model.asked == {"seconds": 1.5, "seed": 3, "guidance": 2.0, "given": None, "after": None}


def test_the_motions_are_the_clips_of_one_file_when_asked_for(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    *_, clips = run(model, [*PROMPTS, "Hug!"], tmp_path / "three", clips=True)
    assert clips == tmp_path / "three" / "clips.glb"
    gltf = Gltf(clips.read_bytes())
    assert [clip["name"] for clip in gltf.document["animations"]] == [*PROMPTS, "Hug! (2)"]
    pelvis = gltf.node("person1_pelvis")
    heights = [gltf.world(pelvis, 0.0, name)[1, 3] for name in (*PROMPTS, "Hug! (2)")]
    np.testing.assert_allclose(heights, [1, 2, 3], atol=1e-5)


def test_the_form_of_amass_is_written_when_asked_for(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    request = GenerateRequest(["Bow."], tmp_path, amass=True).checked()
    names = [file.name for file in generate(model, request, lambda *_: None)]
    assert names == ["00_bow.npz", "00_bow_person1.amass.npz", "00_bow_person2.amass.npz"]


def test_a_page_has_all_motions_in_their_order(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    files = run(model, PROMPTS, tmp_path, page=True)
    assert [file.name for file in files] == ["00_two-people-bow-to-each.npz", "01_hug.npz", "page.html"]
    text = files[-1].read_text("utf-8")
    scenes = json.loads(text.partition('id="motions">')[2].partition("</script>")[0])["scenes"]
    assert [scene["caption"] for scene in scenes] == PROMPTS
    roots = [np.frombuffer(base64.b64decode(scene["panels"][0]["root"]), "<f4") for scene in scenes]
    np.testing.assert_array_equal(roots[1] - roots[0], np.tile(np.ones(3, np.float32), 8))
    assert [scene["panels"][0]["routing"] for scene in scenes] == [None, None]


def test_another_page_is_neither_overwritten_nor_removed(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(UserError) as caught:
        run(model, PROMPTS, tmp_path, page=True)
    assert str(caught.value) == (
        f"{tmp_path / 'page.html'}: exists already and is not overwritten (allowed: another --out)"
    )
    assert model.asked == {}

    def fails(*_, **__):
        raise UserError("cannot be written: No space left on device")

    # A command that makes no page leaves it alone, whether it fails or not.
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_all", fails)
        with pytest.raises(UserError):
            run(model, PROMPTS, tmp_path)
    run(model, PROMPTS, tmp_path)
    assert (tmp_path / "page.html").read_text() == "mine"


def test_when_the_page_cannot_be_written_nothing_is_left(model, tmp_path, monkeypatch):
    def fails(scenes, path, *, title):
        path.write_text("half a page")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    monkeypatch.setattr("intermoe.render.page.write_page", fails)
    with pytest.raises(UserError) as caught:
        run(model, PROMPTS, tmp_path, page=True)
    assert str(caught.value) == f"{tmp_path / 'page.html'}: cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_over_both_stages(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    told = []
    run(model, PROMPTS, tmp_path, lambda *stage: told.append(stage))
    assert told == [("denoise", 1, 2), ("denoise", 2, 2), ("write", 0, 2), ("write", 1, 2), ("write", 2, 2)]


@pytest.mark.parametrize("taken", ["01_hug.npz", "01_hug_person2.bvh", "01_hug.gif", "clips.glb"])
def test_no_file_is_overwritten_and_nothing_is_generated_then(model, tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UserError, match=rf"{taken}: exists already and is not overwritten \(allowed: another --out"):
        run(model, PROMPTS, tmp_path, clips=True)
    assert [file.name for file in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"
    assert model.asked == {}


def test_other_files_of_the_folder_are_in_nobodys_way(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    others = {"01_hug-and-kiss.npz", "02_hug.npz", "notes.txt", "clips.glb"}
    for name in others:
        (tmp_path / name).touch()
    files = run(model, PROMPTS, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == others | {file.name for file in files}


def test_a_file_in_the_place_of_the_folder_is_told(model, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="out: is not a folder"):
        run(model, PROMPTS, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        run(model, PROMPTS, tmp_path / "out" / "below")


def test_an_empty_prompt_leaves_nothing_behind(model, tmp_path):
    with pytest.raises(UserError, match="a prompt is empty"):
        run(model, ["Hug!", ""], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("One two three four five six", "one-two-three-four-five"),
        ("They high-five; twice.", "they-high-five-twice"),
        ("../../etc/passwd", "etc-passwd"),
        ("*?[a]", "a"),
        ("zwei Schritte zurück", "zwei-schritte-zuruck"),
        ("二人がお辞儀する", "motion"),
        ("...", "motion"),
        ("a\nb\0c", "a-b-c"),
        ("b" * 260, "b" * 60),
    ],
)
def test_names_are_of_safe_characters_only(prompt, slug):
    assert module._slug(prompt) == slug


def test_save_all_keeps_dots_of_the_stem(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SUFFIXES", (".npz", ".bvh"))
    motion = model.generate(["Hug!"], on_step=lambda *_: None)[0]
    files = save_all(motion, tmp_path / "v1.5_hug")
    assert {file.name for file in files} == {
        "v1.5_hug.npz",
        "v1.5_hug_person1.bvh",
        "v1.5_hug_person2.bvh",
    }


def test_names_of_many_prompts_sort_as_the_prompts(tmp_path):
    names = [stem.name for stem in GenerateRequest(["Hug!"] * 101, tmp_path).stems]
    assert (names[0], names[9], names[100]) == ("000_hug", "009_hug", "100_hug")
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("prompts", "out", "message"),
    [
        (["Hug!", " "], "out", "a prompt is empty (allowed: a sentence)"),
        (
            ["Sie gr\udcfc\udcdfen sich."],
            "out",
            r"the prompt 'Sie gr\\udcfc\\udcdfen sich.' is not UTF-8 text (allowed: a sentence in UTF-8)",
        ),
        (["Hug!"], "o" * 300, "{out}: cannot be written: File name too long (allowed: another --out)"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, prompts, out, message):
    with pytest.raises(UserError) as caught:
        GenerateRequest(prompts, tmp_path / out).checked()
    assert str(caught.value) == message.format(out=tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_files_would_have_too_long_a_path_is_refused(tmp_path):
    longest = os.pathconf(tmp_path, "PC_PATH_MAX")
    out = tmp_path
    while len(str(out)) < longest - 60:
        out /= "o" * min(200, longest - 40 - len(str(out)))
    with pytest.raises(UserError) as caught:
        GenerateRequest(["Hug!"], out).checked()
    assert str(caught.value) == (
        f"{out}: the path is too long (allowed: another --out, its files below {longest} bytes)"
    )


def test_when_a_file_cannot_be_written_none_is_left_and_the_same_command_works_later(model, tmp_path, monkeypatch):
    def save(motion: Motion, stem: Place, *, amass: bool) -> list[Place]:
        files = save_all(motion, stem, amass=amass)
        if motion.caption == PROMPTS[1]:
            raise UserError("cannot be written: No space left on device", where=stem)
        return files

    (tmp_path / "mine.npz").touch()
    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    monkeypatch.setattr(module, "save_all", save)
    with pytest.raises(UserError) as caught:
        run(model, PROMPTS, tmp_path)
    assert str(caught.value) == f"{tmp_path / '01_hug'}: cannot be written: No space left on device"
    assert [file.name for file in tmp_path.iterdir()] == ["mine.npz"]
    monkeypatch.setattr(module, "save_all", save_all)
    assert len(run(model, PROMPTS, tmp_path)) == len(PROMPTS)


def test_when_the_clips_cannot_be_written_nothing_is_left(model, tmp_path, monkeypatch):
    def fails(motions, path):
        path.write_bytes(b"glTF")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    monkeypatch.setattr("intermoe.render.glb.write_glb", fails)
    with pytest.raises(UserError, match=r"clips\.glb: cannot be written: No space left on device"):
        run(model, PROMPTS, tmp_path, clips=True)
    assert list(tmp_path.iterdir()) == []


def test_prompts_in_a_row_are_one_motion_and_seconds_have_a_default(tmp_path, monkeypatch):
    """With a small model, from the request to the files."""
    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    network = small_model()
    told = []
    request = GenerateRequest(["They bow.", "They hug."], tmp_path, seconds=0.5, in_a_row=True).checked()
    (file,) = generate(network, request, lambda *stage: told.append(stage))
    assert file.name == "00_they-bow.npz"
    made = Motion.load(file)
    assert (made.joints.shape[0], made.caption) == (30, "They bow. They hug.")
    assert told[-3:] == [("denoise", 10, 10), ("write", 0, 1), ("write", 1, 1)]
    on = GenerateRequest(["They wave."], tmp_path, seconds=0.5, after=made).checked()
    (file,) = generate(network, on, lambda *_: None)
    assert file.name == "00_they-wave.npz"
    np.testing.assert_array_equal(Motion.load(file).joints[:30], made.joints)
    duet = make_interaction(seed=0, index=2)
    given = GivenPerson(duet.position_TPJ3[:20, 1], duet.rotation_TPR6[:20, 1], SMPL22, "second")
    (file,) = generate(network, GenerateRequest(["Push!"], tmp_path, given=given).checked(), lambda *_: None)
    np.testing.assert_array_equal(Motion.load(file).joints[:, 1], given.joints)


def test_options_that_exclude_each_other_are_refused(tmp_path):
    duet = make_interaction(seed=0, index=2)
    given = GivenPerson(duet.position_TPJ3[:20, 0], duet.rotation_TPR6[:20, 0], SMPL22)
    after = Motion(duet.position_TPJ3[:20], duet.rotation_TPR6[:20], 30, "Push.", SMPL22)
    for options, message in (
        ({"given": given, "after": after}, "--after beside --given"),
        ({"given": given, "in_a_row": True}, "--in-a-row beside --given"),
        ({"routing_map": True, "in_a_row": True}, "--routing-map beside --in-a-row"),
        ({"routing_map": True, "after": after, "in_a_row": True}, "--routing-map beside --in-a-row"),
    ):
        with pytest.raises(UserError) as caught:
            GenerateRequest(["Hug!"], tmp_path / "out", **options).checked()
        assert str(caught.value) == f"{message} (allowed: one of them)"
    GenerateRequest(["Hug!"], tmp_path / "out", after=after, in_a_row=True).checked()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--given", "missing.bvh"], "missing.bvh: cannot be read (No such file or directory)"),
        (["--given", "missing.npz"], "missing.npz: no such file"),
        (["--given-as", "second"], "--given-as without --given (allowed: --given FILE)"),
        (["--scale", "2"], "--scale without --given (allowed: --given FILE)"),
        (["--given", "a.npz", "--mapping", "cmu"], "--mapping is not for a.npz (allowed: a .bvh file)"),
        (["--given", "a.bvh", "--given-person", "first"], "--given-person is not for a.bvh (allowed: a .npz file)"),
        (["--after", "a.bvh"], "a.bvh: unknown suffix '.bvh' (allowed: .npz, as `Motion.save` writes it)"),
        (["--after", "missing.npz"], "missing.npz: no such file"),
    ],
)
def test_the_command_tells_what_is_wrong_with_a_given_file_before_it_loads_a_model(
    tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "Hug!", "--model", "none", "--out", "out", *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_command_generates_to_a_given_person_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "SUFFIXES", (".npz",))
    monkeypatch.setattr("intermoe.model.load_encoder", lambda *_: WordEncoder())
    save_model(tmp_path / "model", small_model())
    duet = make_interaction(seed=0, index=2)
    recorded = Motion(duet.position_TPJ3[:20], duet.rotation_TPR6[:20], 30, "Push.", SMPL22)
    recorded.save(tmp_path / "push.npz")
    _, file = recorded.save(tmp_path / "push.bvh")
    base = ["generate", "Push!", "--model", "model", "--device", "cpu", "--out"]
    assert main([*base, "a", "--given", "push.npz", "--given-person", "second"]) == 0
    np.testing.assert_array_equal(Motion.load(tmp_path / "a/00_push.npz").joints[:, 1], recorded.joints[:, 1])
    assert main([*base, "b", "--given", str(file), "--given-as", "second"]) == 0
    np.testing.assert_allclose(Motion.load(tmp_path / "b/00_push.npz").joints[:, 1], recorded.joints[:, 1], atol=1e-3)
    assert main([*base, "c", "--after", "a/00_push.npz", "--seconds", "0.5", "--in-a-row", "Hug!"]) == 0
    made = Motion.load(tmp_path / "c/00_push.npz")
    assert (len(made.joints), made.caption) == (50, "Push! Push! Hug!")
    assert capsys.readouterr().out.splitlines() == [f"{folder}/00_push.npz" for folder in "abc"]
