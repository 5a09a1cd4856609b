"""The gallery of a sweep: every point's own model, the same captions and recordings."""

import numpy as np
import pytest
from small_model import save_model, small_model
from toy_shards import write_shards

from intermoe.files import write_note
from pipelines.report import gallery
from pipelines.report.gallery import gallery_scenes
from pipelines.train.examples import example_motions


@pytest.fixture
def trials(tmp_path):
    """Three points, one of them with two seeds, and without experts."""
    folder = write_shards(tmp_path / "data", {"train": 2, "val": 4, "test": 2})
    plan = []
    for key, points, seed, moe in (
        ("a", ["full", "c-exp-1"], 0, {}),
        ("b", ["dense"], 0, {"selection": "dense"}),
        ("c", ["dense"], 1, {"selection": "dense"}),
        ("d", ["late"], 0, {}),
    ):
        run = tmp_path / "trials" / key / "denoiser"
        save_model(run / "best", small_model(seed=1 + len(plan), moe=moe))
        write_note(run / "run.json", {"data": str(folder.path)})
        plan.append({"key": key, "name": f"{points[0]}-seed{seed}", "points": points, "seed": seed})
    return plan


def test_each_caption_is_shown_under_all_points_in_their_order(trials, tmp_path):
    scenes = gallery_scenes(tmp_path, trials)
    examples = {
        key: example_motions("denoiser", tmp_path / "trials" / key / "denoiser/best", tmp_path / "data")
        for key in ("a", "b", "d")
    }
    assert len(scenes) == 2
    for number, scene in enumerate(scenes):
        of_points = [examples[key][f"sample_{number}"] for key in ("a", "b", "d")]
        assert scene.caption == of_points[0].motion.caption
        recorded, *generated = scene.panels
        assert [panel.label for panel in scene.panels] == ["recorded", "full, c-exp-1", "dense", "late"]
        np.testing.assert_array_equal(recorded.motion.joints, of_points[0].recorded.joints)
        for panel, example in zip(generated, of_points, strict=True):
            np.testing.assert_array_equal(panel.motion.joints, example.motion.joints)
        assert [panel.routing is None for panel in generated] == [False, True, False]
    assert np.abs(scenes[0].panels[1].motion.joints - scenes[0].panels[3].motion.joints).max() > 1e-3


def test_many_points_take_several_scenes_each_with_the_recording(trials, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "_POINTS_PER_SCENE", 2)
    scenes = gallery_scenes(tmp_path, trials)
    assert [[panel.label for panel in scene.panels] for scene in scenes] == [
        ["recorded", "full, c-exp-1", "dense"],
        ["recorded", "late"],
    ] * 2
    assert scenes[0].caption == scenes[1].caption != scenes[2].caption == scenes[3].caption
