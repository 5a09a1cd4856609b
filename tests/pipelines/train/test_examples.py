"""Example motions of a training: from what the data set holds, on any machine that has trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_model import save_model, small_model
from toy_shards import write_shards

from intermoe.data.draws import prompt_seeds
from intermoe.data.shards import DatasetFolder
from intermoe.model import InterMoE
from pipelines.train.examples import example_motions, example_scenes

SPLITS = {"train": 2, "val": 5, "test": 2}


@pytest.fixture
def no_encoder(monkeypatch):
    monkeypatch.setattr("intermoe.model.load_encoder", lambda *_: pytest.fail("a text encoder is loaded"))


def make(root: Path, **moe: object) -> tuple[Path, DatasetFolder]:
    """A model of CLIP's captions, whose weights are nowhere, and a data set that holds such captions."""
    model = small_model(data={"encoder": "clip"}, moe=moe)
    return save_model(root / "best", model), write_shards(root / "data", SPLITS, width=768, encoder="clip")


def test_examples_of_a_denoiser_need_no_text_encoder(tmp_path, no_encoder):
    checkpoint, folder = make(tmp_path)
    examples = example_motions("denoiser", checkpoint, folder.path)
    assert list(examples) == ["sample_0", "sample_1"]
    chosen = [folder.recording("val", row) for row in (0, 2)]
    captions = [recording.captions[0] for recording in chosen]
    texts = [folder.caption(caption).text for caption in captions]
    frames = [min(62, len(recording.position_TPJ3)) for recording in chosen]
    for example, text, length in zip(examples.values(), texts, frames, strict=True):
        assert example.motion.caption == text
        assert len(example.motion.joints) == length
        assert example.routing.gate_QMPLE.shape[1:] == (2, 2, -(-max(frames) // 4), 4)
    model = InterMoE.load(checkpoint)
    batch = model.generate_batch(
        model.read_captions(folder, chosen, captions), frames_B=torch.tensor(frames), seeds=prompt_seeds(0, texts)
    )
    for example, motion in zip(examples.values(), batch.motions(texts), strict=True):
        np.testing.assert_array_equal(example.motion.joints, motion.joints)
    for scene, example, recording in zip(
        example_scenes(examples.values(), "generated"), examples.values(), chosen, strict=True
    ):
        recorded, generated = scene.panels
        assert (scene.caption, recorded.label, generated.label) == (example.motion.caption, "recorded", "generated")
        assert (generated.motion, generated.routing) == (example.motion, example.routing)
        assert_same_motion(recorded.motion.joints, recording.position_TPJ3[:62])


def assert_same_motion(joints_TPJ3: np.ndarray, recorded_TPJ3: np.ndarray) -> None:
    """The same movement, in whatever frame, without the last frame, from which there is none."""
    assert len(joints_TPJ3) == len(recorded_TPJ3) - 1
    step, recorded_step = (
        np.linalg.norm(np.diff(joints, axis=0), axis=-1) for joints in (joints_TPJ3, recorded_TPJ3[:-1])
    )
    np.testing.assert_allclose(step, recorded_step, atol=1e-5)


def test_examples_of_a_vae_are_a_recording_and_its_reconstruction(tmp_path, no_encoder):
    checkpoint, folder = make(tmp_path)
    examples = example_motions("vae", checkpoint, folder.path)
    recording = folder.recording("val", 0)
    text = folder.caption(recording.captions[0]).text
    assert {name: example.motion.caption for name, example in examples.items()} == {
        "0_recorded": f"recorded: {text}",
        "0_reconstructed": f"reconstructed: {text}",
    }
    recorded, reconstructed = (examples[f"0_{name}"].motion.joints for name in ("recorded", "reconstructed"))
    assert_same_motion(recorded, recording.position_TPJ3)
    # Whole latent frames come back.
    assert len(reconstructed) == len(recorded) // 4 * 4
    assert {example.routing for example in examples.values()} == {None}
    (scene,) = example_scenes(examples.values(), "reconstructed")
    assert (scene.caption, [panel.label for panel in scene.panels]) == (text, ["recorded", "reconstructed"])
    np.testing.assert_array_equal(scene.panels[0].motion.joints, recorded)
    np.testing.assert_array_equal(scene.panels[1].motion.joints, reconstructed)


def test_an_evaluator_has_no_examples(tmp_path):
    assert example_motions("evaluator", tmp_path, tmp_path) == {}


def test_a_network_without_experts_has_examples_without_a_routing(tmp_path, no_encoder):
    checkpoint, folder = make(tmp_path, selection="dense")
    routings = [example.routing for example in example_motions("denoiser", checkpoint, folder.path).values()]
    assert routings == [None, None]
