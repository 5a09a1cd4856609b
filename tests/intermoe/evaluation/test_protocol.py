"""The plan and the scores, on a small data set and made-up embeddings."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from toy_shards import write_shards

from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation import measures
from intermoe.evaluation.identity import KINDS
from intermoe.evaluation.measures import MEASURES, Measure, of_each_motion
from intermoe.evaluation.metrics import SCALES, diversity, fid, matching, multimodality, random_pairs
from intermoe.evaluation.protocol import ROWS, EvaluationConfig, identity_is_known, plan
from intermoe.evaluation.scoring import score
from intermoe.text.captions import swap_caption

CONFIG = EvaluationConfig.parse(
    {
        "replications": 4,
        "pool": 4,
        "batch_size": 3,
        "diversity_pairs": 5,
        "multimodality": {"captions": 2, "samples": 4, "pairs": 3},
    }
)
COUNT = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> DatasetFolder:
    return write_shards(tmp_path_factory.mktemp("toy"), {"train": 0, "test": COUNT}, width=4)


@pytest.fixture(scope="module")
def jobs(folder):
    return plan(folder, CONFIG, seed=7, max_frames=60)


def results(jobs, purpose, replication):
    """The job and the row in it of each sample that was drawn, in the order of the draw."""
    places = {
        use.place: (job, row)
        for job in jobs
        for row, uses in enumerate(job.uses)
        for use in uses
        if (use.purpose, use.replication) == (purpose, replication)
    }
    return [places[place] for place in range(len(places))]


def samples(jobs, purpose, replication):
    return [job.samples[row] for job, row in results(jobs, purpose, replication)]


def looks(sample) -> tuple:
    """Whose recording a sample shows, and which way round."""
    return sample.row, sample.drawn.swap


def test_every_replication_looks_at_every_recording_once_in_an_order_of_its_own(jobs):
    orders = []
    for replication in range(4):
        for purpose in ("reference", "recorded", "generated", *(["untrained"] if replication == 0 else [])):
            rows = [sample.row for sample in samples(jobs, purpose, replication)]
            assert sorted(rows) == list(range(COUNT))
        orders.append(tuple(rows))
        assert samples(jobs, "captions", replication) != samples(jobs, "reference", replication)
        for recorded, pair in zip(
            samples(jobs, "recorded", replication), samples(jobs, "generated", replication), strict=True
        ):
            assert looks(recorded) == looks(pair)
    assert len(set(orders)) == 4
    assert all(len(job.samples) <= 3 for job in jobs)
    assert len({job.name for job in jobs}) == len(jobs)


def test_draws_differ_between_replications_and_are_all_used(jobs, folder):
    drawn = [sample.drawn for replication in range(4) for sample in samples(jobs, "generated", replication)]
    assert len({one.seed for one in drawn}) == len(drawn)
    assert {one.swap for one in drawn} == {True, False}
    assert not any(one.mirror for one in drawn)
    assert len({one.crop for one in drawn}) > 20
    for replication in range(4):
        for sample in samples(jobs, "generated", replication):
            assert sample.frames == 59  # all are longer than 60 frames
            recording = folder.recording("test", sample.row)
            assert sample.caption in (recording.swapped if sample.drawn.swap else recording.captions)


def test_the_plan_is_a_function_of_the_seed_and_rows_change_no_draw(jobs, folder):
    assert plan(folder, CONFIG, seed=7, max_frames=60) == jobs
    assert plan(folder, CONFIG, seed=8, max_frames=60) != jobs
    few = plan(folder, CONFIG, seed=7, max_frames=60, rows=("generated", "raw"))
    generating = {job for job in jobs if job.purpose in ("generated", "swapped", "multimodality")}
    assert {job for job in few if job.purpose not in ("captions", "reference")} == generating
    settled = plan(folder, CONFIG, seed=7, max_frames=60, rows=("generated",))
    assert [(job.name, job.samples) for job in settled] == [(job.name, job.samples) for job in few]
    more = plan(folder, CONFIG.model_copy(update={"replications": 5}), seed=7, max_frames=60)
    for replication in range(4):
        assert samples(more, "generated", replication) == samples(jobs, "generated", replication)
        for others in (few, more):
            references = samples(others, "reference", replication)
            assert [looks(one) for one in references] == [looks(one) for one in samples(jobs, "reference", replication)]


def test_samples_are_computed_by_length_and_the_longest_first(folder):
    jobs = plan(folder, CONFIG, seed=7, max_frames=1000)
    for purpose in ("generated", "multimodality", "recorded"):
        frames = [sample.frames for job in jobs if job.purpose == purpose for sample in job.samples]
        assert frames == sorted(frames, reverse=True)
        assert len(set(frames)) > 1
    firsts = [job.samples[0].frames for job in jobs if job.purpose in ("generated", "untrained")]
    assert firsts == sorted(firsts, reverse=True)


def test_what_replications_repeat_is_computed_once(folder):
    # Nothing is cropped: each recording looks one way or the other round, in rows and as a reference.
    jobs = plan(folder, CONFIG, seed=7, max_frames=1000)
    recordings = [
        looks(sample)[:2] for job in jobs if job.purpose in ("recorded", "reference") for sample in job.samples
    ]
    assert len(recordings) == len(set(recordings)) == 2 * COUNT
    captions = [sample.caption for job in jobs if job.purpose == "captions" for sample in job.samples]
    drawn = [sample.caption for replication in range(4) for sample in samples(jobs, "generated", replication)]
    assert len(captions) == len(set(captions))
    assert set(captions) == set(drawn)
    for replication in range(4):
        assert [sample.row for sample in samples(jobs, "reference", replication)] == [
            sample.row for sample in samples(jobs, "recorded", replication)
        ]
        assert [sample.caption for sample in samples(jobs, "captions", replication)] == [
            sample.caption for sample in samples(jobs, "generated", replication)
        ]


def test_many_motions_of_one_caption_differ_in_their_noise_alone(jobs):
    for replication in range(4):
        many = samples(jobs, "multimodality", replication)
        assert len(many) == 2 * 4
        for first in (0, 4):
            group = many[first : first + 4]
            assert len({(one.row, one.caption, one.frames) for one in group}) == 1
            assert len({one.drawn.seed for one in group}) == 4


def test_swapped_captions_name_the_persons_the_other_way_round(jobs, folder):
    for one, other in zip(samples(jobs, "generated", 0), samples(jobs, "swapped", 0), strict=True):
        text, swapped = folder.caption(one.caption).text, folder.caption(other.caption).text
        assert swapped == swap_caption(text)
        assert (one.row, one.drawn.seed, one.frames) == (other.row, other.drawn.seed, other.frames)
    assert samples(jobs, "swapped", 1) == []


def test_generation_comes_first(jobs):
    purposes = [job.purpose in ("recorded", "reconstructed", "reference", "captions") for job in jobs]
    assert purposes == sorted(purposes)


def test_generated_motions_are_looked_at_settled_and_raw(jobs, folder):
    forms = {(job.purpose, job.forms) for job in jobs}
    assert forms == {
        ("captions", ()),
        ("reference", ("recorded",)),
        ("recorded", ("recorded",)),
        ("reconstructed", ("settled", "raw")),
        ("generated", ("settled", "raw")),
        ("swapped", ("settled", "raw")),
        ("multimodality", ("settled", "raw")),
        ("untrained", ("settled",)),
    }
    settled = plan(folder, CONFIG, seed=7, max_frames=60, rows=("recorded", "generated"))
    assert {form for job in settled for form in job.forms} == {"recorded", "settled"}
    with pytest.raises(UserError) as caught:
        plan(folder, CONFIG, seed=7, max_frames=60, rows=("recorded", "raw"))
    assert str(caught.value) == "rows: the row raw without the row generated (allowed: both, or only generated)"


def test_a_jobs_file_holds_what_its_purpose_needs(jobs):
    arrays = {job.purpose: job.file_arrays for job in jobs}
    plausibility = {"foot_skating_cm_s", "floor_penetration_cm", "bone_length_deviation_cm", "jerk_m_s3"}
    row = {"motion", "actor", "interpenetration_cm", "foot_height_cm", "hands_apart_cm", "hands_met", *plausibility}
    assert arrays["reference"] == {"recorded/motion"}
    assert arrays["captions"] == {"text"}
    assert arrays["recorded"] == {f"recorded/{name}" for name in row}
    assert arrays["generated"] == {f"{form}/{name}" for name in row for form in ("settled", "raw")}
    assert arrays["untrained"] == {f"settled/{name}" for name in row}
    assert arrays["swapped"] == {"settled/actor", "raw/actor"}
    assert arrays["multimodality"] == {"settled/motion", "raw/motion"}


def made_up(jobs, folder, *, right: float = 1.0) -> dict:
    """Embeddings at random; actors right in that share of the motions; a measure's place plus its sample's row."""
    rng = np.random.default_rng(0)
    parts: dict = {}
    for job in jobs:
        count = len(job.samples)
        parts[job.name] = {"text": rng.normal(size=(count, 6))} if job.purpose == "captions" else {}
        for form in job.forms:
            made: dict = {"motion": rng.normal(size=(count, 6)), "actor": np.zeros((count, len(KINDS)), np.int64)}
            for row, sample in enumerate(job.samples if job.tells_roles else ()):
                label = folder.headers("test")[sample.row].label
                named = label["actor"] ^ sample.drawn.swap
                acts = named if rng.random() < right else 1 - named
                made["actor"][row, KINDS.index(label["kind"])] = acts
            rows = np.array([sample.row for sample in job.samples])
            made |= {name: place + rows for place, name in enumerate(of_each_motion())}
            parts[job.name] |= {f"{form}/{name}": made[name] for name in job.arrays}
        assert parts[job.name].keys() == job.file_arrays
    return parts


def joined(jobs, parts, purpose: str, replication: int, name: str) -> np.ndarray:
    """An array of the parts, in the order of the draw."""
    return np.stack([parts[job.name][name][row] for job, row in results(jobs, purpose, replication)])


def known(frame: pd.DataFrame, row: str) -> set[str]:
    """The measures that are known of a row in some replication."""
    measured = frame.loc[[row]].notna().any()
    return set(measured.index[measured])


FORMS = {"recorded": "recorded", "raw": "raw", "reconstructed_raw": "raw"}
PURPOSES = {"raw": "generated", "reconstructed_raw": "reconstructed"}


def test_scores_equal_the_metrics_of_the_joined_parts(jobs, folder):
    parts = made_up(jobs, folder)
    found = score(folder, CONFIG, jobs, parts, seed=7, split="test")
    assert found.index.names == ["row", "replication"]
    assert list(found.index) == [(row, n) for row in ROWS for n in range(1 if row == "untrained" else 4)]
    assert list(found.columns) == list(MEASURES)
    assert set(found.dtypes) == {np.dtype(np.float64)}

    for row, replication in found.index:
        now, form, purpose = found.loc[row, replication], FORMS.get(row, "settled"), PURPOSES.get(row, row)
        motion = joined(jobs, parts, purpose, replication, f"{form}/motion")
        text = joined(jobs, parts, "captions", replication, "text")
        precision, distance = matching(text, motion, 4)
        assert [now[f"r_precision_top{top}"] for top in (1, 2, 3)] == precision.tolist()
        assert now["mm_dist"] == distance
        assert now["fid"] == fid(motion, joined(jobs, parts, "reference", replication, "recorded/motion"))
        assert 0 < now["diversity"] < 20 * SCALES.diversity
        of_all = [name for name in of_each_motion() if MEASURES[name].kinds is None]
        assert [now[name] for name in of_all] == [
            place + 4.5 for place, name in enumerate(of_each_motion()) if name in of_all
        ]
    assert known(found, "recorded") == set(MEASURES) - {"multimodality"}
    assert known(found, "generated") == known(found, "raw") == set(MEASURES)
    for row in ("reconstructed", "reconstructed_raw", "untrained"):
        assert known(found, row) == set(MEASURES) - {"multimodality", "identity_swapped"}


def test_pairs_are_drawn_for_diversity_first_and_alike_in_every_row(jobs, folder):
    parts = made_up(jobs, folder)
    found = score(folder, CONFIG, jobs, parts, seed=7, split="test")
    for replication in range(4):
        for row in ("generated", "raw"):
            rng = np.random.default_rng([7, replication, 1])
            among, few = random_pairs(rng, 10, 5), random_pairs(rng, 4, 3)
            form = FORMS.get(row, "settled")
            motion = joined(jobs, parts, "generated", replication, f"{form}/motion")
            many = joined(jobs, parts, "multimodality", replication, f"{form}/motion")
            assert found["diversity"][row, replication] == diversity(motion, among)
            many_CSE = many.reshape(2, 4, 6)
            assert found["multimodality"][row, replication] == multimodality(many_CSE, few)


def test_identity_is_the_share_of_right_actors_and_its_controls(jobs, folder):
    found = score(folder, CONFIG, jobs, made_up(jobs, folder), seed=7, split="test")
    for row in ("recorded", "generated", "raw"):
        assert found["identity"][row].tolist() == [1.0] * 4
    assert found["identity_swapped"]["recorded"].tolist() == [0.0] * 4
    for row in ("generated", "raw"):
        assert found["identity_swapped"][row].dropna().to_dict() == {0: 1.0}
    wrong = score(folder, CONFIG, jobs, made_up(jobs, folder, right=0.0), seed=7, split="test")
    assert wrong["identity"]["generated"].tolist() == [0.0] * 4
    assert wrong["identity_swapped"]["recorded"].tolist() == [1.0] * 4


def test_shuffled_captions_are_those_of_the_next_sample(jobs, folder):
    parts = made_up(jobs, folder)
    found = score(folder, CONFIG, jobs, parts, seed=7, split="test")
    for replication in range(4):
        shown = samples(jobs, "recorded", replication)
        actor = joined(jobs, parts, "recorded", replication, "recorded/actor")
        agreed = 0
        for place in range(COUNT):
            other = shown[(place + 1) % COUNT]
            label = folder.headers("test")[other.row].label
            agreed += actor[place, KINDS.index(label["kind"])] == label["actor"] ^ other.drawn.swap
        assert found["identity_shuffled"]["recorded", replication] == agreed / COUNT


def test_data_without_roles_have_no_identity(tmp_path):
    folder = write_shards(tmp_path, {"test": COUNT}, width=4, labelled=False)
    assert not identity_is_known(folder, "test")
    jobs = plan(folder, CONFIG, seed=7, max_frames=60)
    assert "swapped" not in Counter(job.purpose for job in jobs)
    assert not any("actor" in name for job in jobs for name in job.file_arrays)
    found = score(folder, CONFIG, jobs, made_up(jobs, folder), seed=7, split="test")
    for row in ROWS:
        assert not known(found, row) & {"identity", "identity_shuffled", "identity_swapped"}


def test_a_measure_more_is_one_entry(jobs, folder, monkeypatch):
    """Both kinds: of each motion, asked for in the jobs' files, and of a replication."""
    stretch = Measure("stretch", "Stretch", "Sizes", of_motion=lambda joints, skeleton: float(np.ptp(joints)))
    count = Measure("count", "Count", "Sizes", of_replication=lambda r: len(r.motion_NE) if r.row == "raw" else None)
    more = {**MEASURES, "stretch": stretch, "count": count}
    monkeypatch.setattr(measures, "MEASURES", more)
    assert {"recorded/stretch", "settled/stretch", "raw/stretch"} <= set().union(*(job.file_arrays for job in jobs))
    found = score(folder, CONFIG, jobs, made_up(jobs, folder), seed=7, split="test")
    assert list(found.columns) == [*MEASURES, "stretch", "count"]
    assert found["stretch"].tolist() == [len(of_each_motion()) - 1 + 4.5] * (5 * 4 + 1)
    assert found["count"].dropna().to_dict() == {("raw", number): COUNT for number in range(4)}


def test_a_plan_reads_no_motion(folder, monkeypatch):
    monkeypatch.setattr(DatasetFolder, "recording", lambda *_: pytest.fail("a motion is read"))
    plan(DatasetFolder(folder.path, folder.card), CONFIG, seed=7, max_frames=60, persons="named")


def test_too_few_recordings_are_refused(folder):
    with pytest.raises(UserError, match=r"evaluation\.pool = 96 \(allowed: at most 10"):
        plan(folder, EvaluationConfig(), seed=0, max_frames=60)
    for split in ("train", "val"):
        with pytest.raises(UserError, match=f"the {split} split is empty"):
            plan(folder, CONFIG, seed=0, max_frames=60, split=split)
