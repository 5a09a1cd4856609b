"""The nearest and the farthest samples of an evaluation, each beside its recording."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_model import save_model, small_evaluator, small_model
from toy_shards import write_shards

from intermoe.body.features import motion_features
from intermoe.body.skeletons import SMPL22
from intermoe.evaluation.protocol import EvaluationConfig
from intermoe.evaluation.runner import EvaluationSpec, JobRunner, read_parts
from pipelines.evaluate.extremes import extreme_scenes

CONFIG = EvaluationConfig.parse({"replications": 2, "pool": 2, "batch_size": 3, "multimodality": {"captions": 0}})


@pytest.fixture
def evaluated(tmp_path):
    """A function that evaluates so many recordings: the plan, the parts, and the runner that made them."""

    def evaluated(count: int, rows=("recorded", "generated")):
        model = small_model(data={"max_frames": 40})
        write_shards(tmp_path / "data", {"test": count})
        spec = EvaluationSpec(
            model=str(save_model(tmp_path / "model", model)),
            evaluator=str(save_model(tmp_path / "evaluator", small_evaluator(model))),
            dataset=str(tmp_path / "data"),
            split="test",
            config=CONFIG,
            rows=rows,
            seed=3,
            diffusion=model.config.diffusion,
            text_folder=None,
            threads=1,
            model_seed=0,
        )
        runner = JobRunner(spec, tmp_path)
        for job in runner.jobs:
            runner.run(job)
        workers = SimpleNamespace(gpu=False)
        plan = SimpleNamespace(spec=spec, jobs=runner.jobs, settings=SimpleNamespace(workers=workers))
        return plan, read_parts(tmp_path, runner.jobs), runner

    return evaluated


@torch.no_grad()
def test_they_are_those_of_the_first_replication_by_the_distance_of_embeddings(evaluated, tmp_path):
    plan, parts, runner = evaluated(8)
    distances = {}
    for job in plan.jobs:
        for row, (sample, uses) in enumerate(zip(job.samples, job.uses, strict=True)):
            for use in uses:
                if job.purpose == "generated" and use.replication == 0:
                    motion = parts[job.name]["settled/motion"][row]
                    (text,) = (
                        parts[other.name]["text"][number]
                        for other in plan.jobs
                        if other.purpose == "captions"
                        for number, same in enumerate(other.uses)
                        if any((it.replication, it.place) == (0, use.place) for it in same)
                    )
                    distances[use.place] = (float(np.linalg.norm(text.astype(float) - motion)), sample)
    ranked = sorted(distances.values(), key=lambda entry: entry[0])
    assert len(ranked) == 8
    expected = [*ranked[:3], *ranked[:-4:-1]]
    scenes = extreme_scenes(plan, parts, tmp_path)
    folder = runner.folder
    texts = [folder.caption(sample.caption).text for _, sample in expected]
    words = ["Nearest 1", "Nearest 2", "Nearest 3", "Farthest 1", "Farthest 2", "Farthest 3"]
    assert [scene.caption for scene in scenes] == [f"{word}: {text}" for word, text in zip(words, texts, strict=True)]
    for scene, (distance, sample) in zip(scenes, expected, strict=True):
        recorded, generated = scene.panels
        assert (recorded.label, generated.label) == ("recorded", f"generated, {distance:.2f} from its caption")
        assert len(recorded.motion.joints) == len(generated.motion.joints) == sample.frames
        # What is shown is what was measured.
        features_BTPF, frames_B = motion_features(
            torch.tensor(generated.motion.joints)[None],
            torch.tensor(generated.motion.rotations)[None],
            torch.tensor([sample.frames]),
            SMPL22,
        )
        text = runner.evaluator.embed_text(runner._texts(SimpleNamespace(samples=[sample])))
        shown = runner.evaluator.embed_motion(features_BTPF, frames_B) - text
        assert float(shown.norm()) == pytest.approx(distance, abs=1e-3)
        # And beside it is the recording, its persons as the caption has them.
        position = folder.recording("test", sample.row).position_TPJ3
        if sample.drawn.swap:
            position = position[:, ::-1]
        speed = np.linalg.norm(np.diff(position, axis=0), axis=-1)
        found = np.linalg.norm(np.diff(recorded.motion.joints, axis=0), axis=-1)
        starts = [
            s for s in range(len(speed) - len(found) + 1) if np.abs(speed[s : s + len(found)] - found).max() < 1e-4
        ]
        assert starts


def test_of_few_samples_none_is_shown_twice_and_without_generation_none(evaluated, tmp_path):
    plan, parts, _ = evaluated(3)
    scenes = extreme_scenes(plan, parts, tmp_path)
    assert [scene.caption.partition(":")[0] for scene in scenes] == ["Nearest 1", "Farthest 1"]
    plan.spec = SimpleNamespace(rows=("recorded",))
    assert extreme_scenes(plan, parts, tmp_path) == []
