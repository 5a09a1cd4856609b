"""Jobs on a model of one person with T2M's evaluator: every row of the table, in every form.

Legend: B samples, T frames, P = 1 person, J joints, F features.
"""

from typing import Any

import numpy as np
import pytest
import torch
from one_person import NETWORKS, one_person_model, write_solo_shards
from small_model import save_model

from intermoe.body.heading_features import heading_features, heading_joints
from intermoe.body.skeletons import HUMANML22
from intermoe.evaluation.evaluator import Evaluator, EvaluatorConfig, caption_words
from intermoe.evaluation.measures import MEASURES, of_each_motion
from intermoe.evaluation.protocol import ROWS, EvaluationConfig, EvaluationJob
from intermoe.evaluation.runner import EvaluationSpec, JobRunner, read_parts
from intermoe.evaluation.scoring import score
from intermoe.text.words import Vocabulary

CONFIG = EvaluationConfig.parse(
    {
        "replications": 1,
        "pool": 2,
        "batch_size": 3,
        "diversity_pairs": 3,
        "multimodality": {"captions": 1, "samples": 2, "pairs": 2},
    }
)
SMALL = {
    "kind": "t2m",
    "t2m": {
        "vectors": "learned",
        "word_width": 8,
        "movement_width": 16,
        "motion_hidden": 16,
        "text_hidden": 16,
        "embedding": 8,
    },
}
OF_TWO = {"interpenetration_cm", "hands_met", "hands_apart_cm"}
PREDICTIONS: dict[str, dict[str, Any]] = {
    "mdm": {"sampler": "ancestral"},
    "mld": {"schedule": "scaled_linear", "prediction": "noise"},
    "salad": {"schedule": "scaled_linear", "prediction": "v"},
}


@pytest.fixture(scope="module", params=NETWORKS)
def job_runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> JobRunner:
    """All jobs of an evaluation, done."""
    root = tmp_path_factory.mktemp(request.param)
    model = one_person_model(request.param, selection="dynamic", **PREDICTIONS[request.param])
    folder = write_solo_shards(root / "data", {"train": 4, "test": 5})
    vocabulary = Vocabulary.of(caption_words(folder))
    evaluator = Evaluator.initial(
        EvaluatorConfig.parse(SMALL), model.config.data, folder.normaliser(), vocabulary=vocabulary
    )
    rows = tuple(row for row in ROWS if model.vae is not None or not row.startswith("reconstructed"))
    spec = EvaluationSpec(
        model=str(save_model(root / "model", model)),
        evaluator=str(save_model(root / "evaluator", evaluator.eval())),
        dataset=str(root / "data"),
        split="test",
        config=CONFIG,
        rows=rows,
        seed=3,
        diffusion=model.config.diffusion,
        text_folder=None,
        threads=1,
        model_seed=4,
    )
    job_runner = JobRunner(spec, tmp_path_factory.mktemp("parts"))
    for job in job_runner.jobs:
        job_runner.run(job)
    return job_runner


def of(job_runner: JobRunner, purpose: str) -> list[EvaluationJob]:
    return [job for job in job_runner.jobs if job.purpose == purpose]


def test_every_row_is_computed_and_what_is_of_two_persons_is_not_known(job_runner: JobRunner) -> None:
    parts = read_parts(job_runner.parts, job_runner.jobs)
    for part in parts.values():
        for name, array in part.items():
            is_known = name.rpartition("/")[2] not in OF_TWO
            assert bool(np.isfinite(array).all()) == is_known, name
            assert is_known or np.isnan(array).all()
    table = score(job_runner.folder, CONFIG, job_runner.jobs, parts, seed=3, split="test")
    assert [row for row, _ in table.index] == list(job_runner.spec.rows)
    unknown = {name for name in table.columns if table[name].isna().all()}
    who_acts = {name for name in MEASURES if name.startswith("identity")}
    assert unknown == OF_TWO | who_acts
    known = table.drop(columns=[*unknown, "multimodality"])
    assert known.notna().all(axis=None)
    assert np.isfinite(table["multimodality"]["generated", 0])


@torch.no_grad()
def test_recorded_motion_is_the_rows_of_the_data_set(job_runner: JobRunner) -> None:
    (job, *_) = of(job_runner, "recorded")
    part = read_parts(job_runner.parts, [job])[job.name]
    for row, sample in enumerate(job.samples):
        x_TPF = torch.tensor(job_runner.folder.recording("test", sample.row).features_TPF)
        start = int(sample.drawn.crop * max(0, len(x_TPF) + 1 - job_runner.max_frames + 1))
        x_TPF = x_TPF[start : start + job_runner.max_frames - 1]
        assert len(x_TPF) == sample.frames
        expected = job_runner.evaluator.embed_motion(x_TPF[None], torch.tensor([sample.frames]))[0]
        np.testing.assert_allclose(part["recorded/motion"][row], expected, rtol=1e-4, atol=1e-5)
        joints_TPJ3 = heading_joints(x_TPF.transpose(0, 1), HUMANML22).transpose(0, 1).numpy()
        for name, take in of_each_motion().items():
            found = part[f"recorded/{name}"][row]
            assert found == pytest.approx(take(joints_TPJ3, HUMANML22), rel=1e-3, abs=1e-4, nan_ok=True)


@torch.no_grad()
@pytest.mark.parametrize("purpose", ["generated", "untrained"])
def test_settled_features_are_those_of_the_settled_joints_of_each_motion_alone(
    job_runner: JobRunner, purpose: str
) -> None:
    model = job_runner.untrained if purpose == "untrained" else job_runner.model
    (job, *_) = of(job_runner, purpose)
    part = read_parts(job_runner.parts, [job])[job.name]
    batch = job_runner._generated(job)
    for row, sample in enumerate(job.samples):
        header = job_runner.folder.headers("test")[sample.row]
        alone = model.generate_batch(
            model.read_captions(job_runner.folder, [header], [sample.caption]),
            frames_B=torch.tensor([sample.frames]),
            seeds=[sample.drawn.seed],
        )
        joints_TPJ3 = batch.joints_BTPJ3[row, : sample.frames]
        torch.testing.assert_close(alone.joints_BTPJ3[0], joints_TPJ3, rtol=1e-3, atol=1e-3)
        features_TPF = heading_features(joints_TPJ3[:, 0], HUMANML22)[:, None]
        frames_B = torch.tensor([sample.frames - 1])
        expected = job_runner.evaluator.embed_motion(features_TPF[None], frames_B)[0]
        np.testing.assert_allclose(part["settled/motion"][row], expected, rtol=1e-4, atol=1e-4)
        if purpose == "generated":
            raw = job_runner.evaluator.embed_motion(batch.features_BTPF[row : row + 1, : sample.frames], frames_B + 1)[
                0
            ]
            np.testing.assert_allclose(part["raw/motion"][row], raw, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_reconstructed_is_what_the_vae_makes_of_each_recording_alone(job_runner: JobRunner) -> None:
    model, jobs = job_runner.model, of(job_runner, "reconstructed")
    assert bool(jobs) == (model.vae is not None)
    for job in jobs[:1]:
        features_BTPF, frames_B = job_runner._recorded(job)
        part = read_parts(job_runner.parts, [job])[job.name]
        for row, recorded in enumerate(frames_B.tolist()):
            frames = recorded if model.config.network == "mld" else recorded // 4 * 4
            x_BTPF = features_BTPF[row : row + 1, :frames]
            alone_BTPF = model.decode(model.encode(x_BTPF), torch.tensor([frames]))[:, :frames]
            expected = job_runner.evaluator.embed_motion(alone_BTPF, torch.tensor([frames]))[0]
            np.testing.assert_allclose(part["raw/motion"][row], expected, rtol=1e-3, atol=1e-4)
