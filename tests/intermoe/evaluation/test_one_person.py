"""One person's motions are measured: jobs on each network and T2M's evaluator, whose rows are what they say they are.

Legend: B samples, T frames, P = 1 person, J joints, F features.
"""

import numpy as np
import pytest
import torch
from evaluation_jobs import with_jobs_done
from one_person import NETWORKS, PREDICTIONS, motion_features, one_person_model, write_solo_shards
from small_model import save_model
from torch import Tensor

from intermoe.body.heading_features import heading_features, heading_joints
from intermoe.body.skeletons import HUMANML22
from intermoe.data.batches import crop_bounds
from intermoe.evaluation.evaluator import EvaluatorConfig
from intermoe.evaluation.measures import MEASURES, of_each_motion
from intermoe.evaluation.protocol import ROWS, EvaluationConfig, EvaluationJob
from intermoe.evaluation.runner import EvaluationSpec, JobRunner, RecordedRunner, read_parts
from intermoe.evaluation.scoring import score
from intermoe.evaluation.t2m import T2mConfig
from intermoe.generation import GeneratedBatch, Sampled
from intermoe.training.config import TrainingConfig
from intermoe.training.evaluator import evaluator_objective

# Its 59 frames of features end within a latent frame.
LONGEST = 60
SIZES = {"word_width": 5, "movement_width": 8, "motion_hidden": 8, "text_hidden": 8, "embedding": 4}
CONFIG = EvaluationConfig.parse(
    {
        "replications": 1,
        "pool": 4,
        "batch_size": 3,
        "diversity_pairs": 3,
        "multimodality": {"captions": 1, "samples": 2, "pairs": 2},
    }
)
OF_TWO = {"hands_met", "hands_apart_cm", "interpenetration_cm"}
UNKNOWN = OF_TWO | {"identity", "identity_swapped", "identity_shuffled"}


@pytest.fixture(scope="module", params=NETWORKS)
def job_runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> JobRunner:
    """One whose jobs are done; without any text encoder: none may be loaded."""
    root, network = tmp_path_factory.mktemp(request.param), request.param
    # Of so many frames and joints one would be on the border of an expert's choice: MLD alone has experts.
    selection = "dynamic" if network == "mld" else "dense"
    model = one_person_model(network, selection=selection, max_frames=LONGEST, **PREDICTIONS[network])
    dataset = write_solo_shards(root / "data", {"train": 3, "test": 5})
    config = EvaluatorConfig(kind="t2m", t2m=T2mConfig.parse({"vectors": "learned", **SIZES}))
    training = TrainingConfig(epochs=1, batch_size=2)
    evaluator = evaluator_objective(config, model.config.data, training, dataset, seed=1, pool=4).model
    spec = EvaluationSpec(
        model=str(save_model(root / "model", model)),
        evaluator=str(save_model(root / "evaluator", evaluator)),
        dataset=str(root / "data"),
        split="test",
        config=CONFIG,
        rows=tuple(row for row in ROWS if model.vae is not None or "reconstructed" not in row),
        seed=3,
        diffusion=model.config.diffusion,
        text_folder=None,
        threads=1,
        model_seed=4,
    )
    (root / "parts").mkdir()
    return with_jobs_done(spec, root / "parts")


@pytest.fixture(scope="module")
def parts(job_runner):
    return read_parts(job_runner.parts, job_runner.jobs)


def of(job_runner: JobRunner, *purposes: str) -> list[EvaluationJob]:
    return [job for job in job_runner.jobs if job.purpose in purposes]


def recorded(job_runner: JobRunner, sample) -> Tensor:
    """The features [T, F] that a sample looks at."""
    recording = job_runner.folder.recording("test", sample.row)
    start, end = crop_bounds(recording.frames, LONGEST, sample.drawn)
    return torch.tensor(recording.features_TPF[start : end - 1, 0])


def check(job_runner: JobRunner, part, form: str, row: int, features_TF: Tensor, joints_TJ3: Tensor) -> None:
    """What is kept of a motion is the embedding of these features and the measures of these joints."""
    frames_B = torch.tensor([len(features_TF)])
    embedded = job_runner.evaluator.embed_motion(features_TF[None, :, None], frames_B)[0]
    # Rotations and velocities are made of settled joints anew, which of motions as wild as these magnifies rounding.
    atol = 2e-3 if form == "settled" else 1e-4
    np.testing.assert_allclose(part[f"{form}/motion"][row], embedded, atol=atol)
    if f"{form}/jerk_m_s3" in part:
        for name, take in of_each_motion().items():
            value = take(joints_TJ3[:, None].numpy(), HUMANML22)
            assert np.isnan(value) == (name in OF_TWO), name
            assert part[f"{form}/{name}"][row] == pytest.approx(value, rel=0.02, abs=1e-3, nan_ok=True), name


@pytest.mark.slow
@torch.no_grad()
def test_recorded_is_the_slice_of_rows(job_runner, parts):
    for job in of(job_runner, "recorded", "reference"):
        for row, sample in enumerate(job.samples):
            features_TF = recorded(job_runner, sample)
            assert (len(features_TF), sample.drawn.swap, sample.drawn.mirror) == (sample.frames, False, False)
            check(job_runner, parts[job.name], "recorded", row, features_TF, heading_joints(features_TF, HUMANML22))


@torch.no_grad()
def test_reconstructed_is_what_the_vae_makes_of_each_recording_alone(job_runner, parts):
    model, jobs = job_runner.model, of(job_runner, "reconstructed")
    assert bool(jobs) == (model.vae is not None)
    for job in jobs:
        for row, sample in enumerate(job.samples):
            features_TF = recorded(job_runner, sample)
            frames = sample.frames if model.config.network == "mld" else sample.frames // 4 * 4
            latent_1LPZ = model.encode(features_TF[None, :frames, None])
            made_TF = model.decode(latent_1LPZ, torch.tensor([frames]))[0, :frames, 0]
            check(job_runner, parts[job.name], "raw", row, made_TF, heading_joints(made_TF, HUMANML22))
            settled = GeneratedBatch.settled(Sampled(made_TF[None, :, None]), torch.tensor([frames]), HUMANML22)
            check_settled(job_runner, parts[job.name], row, settled.joints_BTPJ3[0, :, 0])


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("purpose", ["generated", "untrained", "multimodality"])
def test_generated_is_what_each_caption_gives_alone(job_runner, parts, purpose):
    model = job_runner.untrained if purpose == "untrained" else job_runner.model
    for job in of(job_runner, purpose):
        for row, sample in enumerate(job.samples):
            header = job_runner.folder.headers("test")[sample.row]
            assert sample.caption in header.captions
            conditions = model.read_captions(job_runner.folder, [header], [sample.caption])
            frames_B, seeds = torch.tensor([sample.frames]), [sample.drawn.seed]
            batch = model.generate_batch(conditions, frames_B=frames_B, seeds=seeds)
            check_settled(job_runner, parts[job.name], row, batch.joints_BTPJ3[0, :, 0])
            if "raw" in job.forms:
                made_TF = batch.features_BTPF[0, : sample.frames, 0]
                check(job_runner, parts[job.name], "raw", row, made_TF, heading_joints(made_TF, HUMANML22))


def check_settled(job_runner: JobRunner, part, row: int, joints_TJ3: Tensor) -> None:
    check(job_runner, part, "settled", row, heading_features(joints_TJ3, HUMANML22), joints_TJ3)


@torch.no_grad()
def test_captions_are_read_by_their_words(job_runner, parts):
    words = job_runner.folder.words()
    for job in of(job_runner, "captions"):
        read = job_runner.evaluator.words([words[sample.caption] for sample in job.samples])
        expected = job_runner.evaluator.embed_text(read)
        np.testing.assert_allclose(parts[job.name]["text"], expected, atol=1e-6)


def test_what_is_of_two_persons_is_not_known_and_all_else_is(job_runner, parts):
    table = score(job_runner.folder, CONFIG, job_runner.jobs, parts, seed=3, split="test")
    assert [row for row, _ in table.index] == list(job_runner.spec.rows)
    assert not of(job_runner, "swapped")
    for name in MEASURES:
        known = table[name].notna() & np.isfinite(table[name])
        rows = set(known[known].index.get_level_values("row"))
        expected = set() if name in UNKNOWN else set(job_runner.spec.rows)
        # Of the rows that are generated, and trained.
        assert rows == (expected & {"generated", "raw"} if name == "multimodality" else expected), name


def test_recorded_motion_needs_no_model(job_runner, parts, tmp_path):
    alone = RecordedRunner(job_runner.spec, tmp_path, max_frames=LONGEST)
    for job in of(job_runner, "recorded", "captions"):
        alone.run(job)
        again = read_parts(tmp_path, [job])[job.name]
        for name, array in parts[job.name].items():
            np.testing.assert_array_equal(again[name], array)


@torch.no_grad()
def test_examples_are_shown_as_they_are_measured(job_runner):
    (job, *_) = of(job_runner, "generated")
    for sample, (true, made) in zip(job.samples, job_runner.recorded_and_generated(job.samples), strict=True):
        expected_TJ3 = heading_joints(recorded(job_runner, sample), HUMANML22)
        np.testing.assert_allclose(true.joints[:, 0], expected_TJ3, atol=1e-6)
        assert made.joints.shape == true.joints.shape == (sample.frames, 1, 22, 3)
        assert made.caption == true.caption == job_runner.folder.caption(sample.caption).text


def test_jerk_is_of_as_many_frames_a_second_as_humanml3d_has() -> None:
    joints_TPJ3 = heading_joints(torch.from_numpy(motion_features(1)[:, 0]), HUMANML22)[:, None].numpy()
    moved_TJ3 = np.diff(joints_TPJ3[:, 0].astype(np.float64), n=3, axis=0)
    expected = np.linalg.norm(moved_TJ3, axis=-1).mean() * 20**3
    assert of_each_motion()["jerk_m_s3"](joints_TPJ3, HUMANML22) == pytest.approx(expected)
