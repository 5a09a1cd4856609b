"""Jobs on a small model and a small data set: what is embedded and measured is what users get, and what came raw."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_jobs import with_jobs_done
from small_model import save_model, small_evaluator, small_model
from toy_shards import write_shards

from intermoe.body.features import exchange_persons, joints_from_features, motion_features
from intermoe.body.skeletons import SMPL22
from intermoe.data.draws import Stream, normal
from intermoe.errors import UserError
from intermoe.evaluation import measures, runner
from intermoe.evaluation.identity import actors
from intermoe.evaluation.measures import MEASURES, Measure, of_each_motion
from intermoe.evaluation.plausibility import jerk_m_s3
from intermoe.evaluation.protocol import ROWS, EvaluationConfig, EvaluationJob
from intermoe.evaluation.runner import EvaluationSpec, JobRunner, RecordedRunner, read_parts
from intermoe.evaluation.scoring import score
from intermoe.generation import GeneratedBatch, Sampled
from intermoe.model import InterMoE
from intermoe.motion import Motion
from intermoe.text.encoders import TextStates

# Legend: B samples, T frames, L latent frames, P = 2 persons, J joints, R = J - 1, F features, Z latent numbers.
CONFIG = EvaluationConfig.parse(
    {
        "replications": 1,
        "pool": 4,
        "batch_size": 3,
        "diversity_pairs": 3,
        "multimodality": {"captions": 1, "samples": 2, "pairs": 2},
    }
)


@pytest.fixture(scope="module", params=["drawn", "named"])
def spec(request, tmp_path_factory) -> EvaluationSpec:
    root = tmp_path_factory.mktemp(request.param)
    model = small_model(data={"persons": request.param, "max_frames": 40})
    write_shards(root / "data", {"test": 5})
    return EvaluationSpec(
        model=str(save_model(root / "model", model)),
        evaluator=str(save_model(root / "evaluator", small_evaluator(model))),
        dataset=str(root / "data"),
        split="test",
        config=CONFIG,
        rows=ROWS,
        seed=3,
        diffusion=model.config.diffusion.model_copy(update={"guidance": 1.5}),
        text_folder=None,
        threads=1,
        model_seed=4,
    )


@pytest.fixture(scope="module")
def job_runner(spec, tmp_path_factory) -> JobRunner:
    """Without any text encoder: none may be loaded."""
    return with_jobs_done(spec, tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def parts(job_runner):
    return read_parts(job_runner.parts, job_runner.jobs)


def generated(job_runner: JobRunner, job: EvaluationJob, model: InterMoE) -> torch.Tensor:
    """The features of a job's motions in the model's own words: noise, guided DDIM, decoder, persons put back."""
    folder = job_runner.folder
    captions = [folder.caption(sample.caption) for sample in job.samples]
    exchanged = [model.exchanges(caption.text) for caption in captions]
    for place, sample in enumerate(job.samples):
        if exchanged[place]:
            header = folder.headers("test")[sample.row]
            captions[place] = folder.caption(header.exchanged(sample.caption))
    states = torch.stack([torch.tensor(caption.state_KW) for caption in captions])
    text = TextStates(states, torch.ones(states.shape[:2], dtype=torch.bool), torch.full(states.shape[:1], 2))
    latents = torch.tensor([-(-sample.frames // 4) for sample in job.samples])
    mask_BL = torch.arange(int(latents.max())) < latents[:, None]
    seeds = [sample.drawn.seed for sample in job.samples]
    noise = normal(seeds, (mask_BL.shape[1], 2, model.latent), Stream.LATENT) * mask_BL[..., None, None]
    latent = model.sample(noise, model.condition(text), mask_BL=mask_BL)
    features = model.decode(latent)[:, : max(sample.frames for sample in job.samples)]
    return exchange_persons(features, torch.tensor(exchanged), SMPL22)


def of(job_runner: JobRunner, *purposes: str) -> list[EvaluationJob]:
    return [job for job in job_runner.jobs if job.purpose in purposes]


@torch.no_grad()
def test_raw_is_what_the_network_gives_to_the_last_digit(job_runner, parts):
    for job in of(job_runner, "generated", "multimodality", "swapped"):
        features_BTPF = generated(job_runner, job, job_runner.model)
        frames_B = torch.tensor([sample.frames for sample in job.samples])
        joints = [
            joints_from_features(features_BTPF[row, :frames], SMPL22).numpy()
            for row, frames in enumerate(frames_B.tolist())
        ]
        part = parts[job.name]
        if "raw/motion" in part:
            expected = job_runner.evaluator.embed_motion(features_BTPF, frames_B).numpy()
            np.testing.assert_array_equal(part["raw/motion"], expected)
        if "raw/actor" in part:
            np.testing.assert_array_equal(part["raw/actor"], [actors(motion) for motion in joints])
        for name, take in of_each_motion().items() if job.makes_row else ():
            assert part[f"raw/{name}"].tolist() == [take(motion, SMPL22) for motion in joints]


@torch.no_grad()
@pytest.mark.parametrize("purpose", ["generated", "untrained", "multimodality"])
def test_generated_is_what_a_user_saves(job_runner, parts, tmp_path, purpose):
    """Each motion alone: generated, saved, read, made to features as a recording is, embedded and measured."""
    model = job_runner.untrained if purpose == "untrained" else job_runner.model
    for job in of(job_runner, purpose):
        for row, sample in enumerate(job.samples):
            header = job_runner.folder.headers("test")[sample.row]
            batch = model.generate_batch(
                model.read_captions(job_runner.folder, [header], [sample.caption]),
                frames_B=torch.tensor([sample.frames]),
                seeds=[sample.drawn.seed],
            )
            (file,) = batch.motions(["x"])[0].save(tmp_path / f"{job.name}-{row}.npz")
            motion = Motion.load(file)
            features_BTPF, frames_B = motion_features(
                torch.tensor(motion.joints)[None],
                torch.tensor(motion.rotations)[None],
                torch.tensor([len(motion.joints)]),
                SMPL22,
            )
            assert frames_B.tolist() == [sample.frames - 1]
            expected = job_runner.evaluator.embed_motion(features_BTPF, frames_B)[0].numpy()
            part = parts[job.name]
            np.testing.assert_allclose(part["settled/motion"][row], expected, atol=1e-4)
            if job.makes_row:
                # Untrained, the two hardly move and rounding decides who acts.
                if purpose == "generated":
                    np.testing.assert_array_equal(part["settled/actor"][row], actors(motion.joints))
                measured = {name: part[f"settled/{name}"][row] for name in of_each_motion()}
                taken = {name: take(motion.joints, SMPL22) for name, take in of_each_motion().items()}
                assert measured == pytest.approx(taken, rel=0.02, abs=1e-3)
    assert purpose != "generated" or part["raw/jerk_m_s3"][0] > 2 * part["settled/jerk_m_s3"][0]


@torch.no_grad()
def test_reconstructed_is_what_the_vae_makes_of_each_recording_alone(job_runner, parts):
    model, (job, *_) = job_runner.model, of(job_runner, "reconstructed")
    features_BTPF, frames_B = job_runner._recorded(job)
    part = parts[job.name]
    for row, frames in enumerate((frames_B // 4 * 4).tolist()):
        alone_BTPF = model.decode(model.encode(features_BTPF[row : row + 1, :frames]))
        expected = job_runner.evaluator.embed_motion(alone_BTPF, torch.tensor([frames]))[0].numpy()
        np.testing.assert_allclose(part["raw/motion"][row], expected, atol=1e-4)
        joints_TPJ3 = joints_from_features(alone_BTPF[0], SMPL22).numpy()
        assert part["raw/jerk_m_s3"][row] == pytest.approx(jerk_m_s3(joints_TPJ3, SMPL22), rel=1e-3)
        joints_BTPJ3 = GeneratedBatch.settled(Sampled(alone_BTPF), torch.tensor([frames]), SMPL22).joints_BTPJ3
        settled = jerk_m_s3(joints_BTPJ3[0].numpy(), SMPL22)
        assert part["settled/jerk_m_s3"][row] == pytest.approx(settled, rel=1e-3)
        assert settled < part["raw/jerk_m_s3"][row]


def test_both_forms_come_from_one_pass_of_sampling(job_runner, monkeypatch, tmp_path):
    passes = []
    sample = InterMoE.sample
    monkeypatch.setattr(InterMoE, "sample", lambda self, *a, **k: passes.append(len(a[0])) or sample(self, *a, **k))
    monkeypatch.setattr(job_runner, "parts", tmp_path)
    job = of(job_runner, "generated")[0]
    job_runner.run(job)
    assert passes == [3]
    assert [file.name for file in tmp_path.iterdir()] == [f"{job.name}.npz"]


def test_recorded_motion_is_the_same_without_a_model(spec, job_runner, parts, tmp_path):
    alone = RecordedRunner(replace(spec, model=None, rows=("recorded",)), tmp_path)
    for job in alone.jobs:
        alone.run(job)
    found = score(alone.folder, CONFIG, alone.jobs, read_parts(tmp_path, alone.jobs), seed=3, split="test")
    beside = score(job_runner.folder, CONFIG, job_runner.jobs, parts, seed=3, split="test")
    assert list(found.index) == [("recorded", 0)]
    assert found.equals(beside.loc[["recorded"]])


def test_the_table_has_every_row_and_a_measure_more_is_one_entry(job_runner, parts, monkeypatch, tmp_path):
    before = score(job_runner.folder, CONFIG, job_runner.jobs, parts, seed=3, split="test")
    assert list(before.index) == [(row, 0) for row in ROWS]
    assert before["identity"]["recorded", 0] == 1
    frames = Measure("frames", "Length", "Sizes", unit="frames", of_motion=lambda joints, skeleton: len(joints))
    monkeypatch.setattr(measures, "MEASURES", {**MEASURES, "frames": frames})
    with pytest.raises(UserError, match=r"cannot be read: it holds no recorded/frames \(allowed: delete it and"):
        read_parts(job_runner.parts, of(job_runner, "recorded"))
    monkeypatch.setattr(job_runner, "parts", tmp_path)
    for job in job_runner.jobs:
        job_runner.run(job)
    again = read_parts(tmp_path, job_runner.jobs)
    after = score(job_runner.folder, CONFIG, job_runner.jobs, again, seed=3, split="test")
    lengths = after["frames"].droplevel("replication")
    # Of the last latent frame, three of four frames are valid.
    assert lengths[["reconstructed", "reconstructed_raw"]].tolist() == [lengths["recorded"] - 3] * 2
    assert set(lengths.drop(["reconstructed", "reconstructed_raw"])) == {lengths["recorded"]}
    assert after.drop(columns="frames").equals(before)


def test_rules_of_duet_are_asked_only_where_labels_know_the_kinds(spec, monkeypatch, tmp_path):
    write_shards(tmp_path / "data", {"test": 5}, labelled=False)
    monkeypatch.setattr(runner, "actors", lambda *_: pytest.fail("a rule of Duet is asked"))
    values = vars(spec) | {"dataset": str(tmp_path / "data"), "rows": ("recorded", "generated")}
    job_runner = JobRunner(EvaluationSpec(**values), tmp_path)
    assert {job.purpose for job in job_runner.jobs} <= {
        "captions",
        "reference",
        "recorded",
        "generated",
        "multimodality",
    }
    for job in job_runner.jobs:
        job_runner.run(job)
        assert read_parts(tmp_path, [job])[job.name].keys() == job.file_arrays


def test_damaged_and_older_files_are_refused(job_runner, tmp_path):
    job = of(job_runner, "generated")[0]
    file = tmp_path / f"{job.name}.npz"

    def message() -> str:
        with pytest.raises(UserError) as caught:
            read_parts(tmp_path, [job])
        return str(caught.value)

    assert message().startswith(f"{file}: cannot be read: [Errno 2] No such file")
    whole = (job_runner.parts / file.name).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert message() == f"{file}: cannot be read: File is not a zip file (allowed: delete it and evaluate again)"
    np.savez(file, motion=np.zeros((3, 8)), text=np.zeros((3, 8)))
    assert message() == f"{file}: cannot be read: it holds no raw/actor (allowed: delete it and evaluate again)"


def test_a_job_that_fails_leaves_no_file(job_runner, monkeypatch, tmp_path):
    monkeypatch.setattr(job_runner, "parts", tmp_path)
    monkeypatch.setattr(InterMoE, "decode", lambda *_: torch.full((3, 40, 2, 262), torch.nan))
    with pytest.raises(UserError) as caught:
        job_runner.run(of(job_runner, "generated")[0])
    message = "generate: the model's output is not finite (allowed: a model trained to the end)"
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_spec_is_plain_enough_to_travel(spec):
    import pickle

    again = pickle.loads(pickle.dumps(spec))
    assert again == spec
    assert Path(again.model).name == "model"
