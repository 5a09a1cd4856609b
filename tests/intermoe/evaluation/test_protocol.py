"""The plan and the scores, on a small data set and made-up embeddings."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from intermoe.data.shards import (
    CAPTION_SCHEMA,
    MOTION_SCHEMA,
    DatasetCard,
    DatasetFolder,
    EncoderCard,
    shard_name,
    write_rows,
)
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError
from intermoe.evaluation.identity import KINDS
from intermoe.evaluation.metrics import SCALE, fid, matching
from intermoe.evaluation.plausibility import MEASURES
from intermoe.evaluation.protocol import ROWS, EvaluationConfig, identity_is_known, plan, score
from intermoe.files import sha256
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


def write(folder: Path, *, labelled: bool = True) -> DatasetFolder:
    recordings = [make_interaction(seed=2, index=index) for index in range(COUNT)]
    texts = sorted({t for r in recordings for c in r.captions for t in (c, swap_caption(c))})
    number = {text: row for row, text in enumerate(texts)}
    rows = [
        {
            "id": recording.id,
            "frames": len(recording.position_TPJ3),
            "position": recording.position_TPJ3,
            "rotation": recording.rotation_TPR6,
            "captions": [number[text] for text in recording.captions],
            "mirrored": [number[text] for text in recording.captions],
            "swapped": [number[swap_caption(text)] for text in recording.captions],
            "swapped_mirrored": [number[swap_caption(text)] for text in recording.captions],
            "label": json.dumps(recording.label if labelled else {}),
        }
        for recording in recordings
    ]
    state = np.zeros((2, 4), np.float32)
    captions = [{"text": text, "tokens": 2, "eot": 1, "state": state} for text in texts]
    files = {}
    for stem, schema, content in (("motions/test", MOTION_SCHEMA, rows), ("captions/", CAPTION_SCHEMA, captions)):
        file = shard_name(stem, 0)
        write_rows(folder / file, schema, content)
        files[file] = sha256(folder / file)
    card = DatasetCard(
        name="toy",
        reader="None",
        skeleton="smpl22",
        encoder=EncoderCard(name="minilm", width=4, sha256="0" * 64),
        recordings={"train": 0, "test": COUNT},
        frames=1000,
        captions=len(texts),
        max_tokens=2,
        quarantined=0,
        mean=(0.0,) * 262,
        std=(1.0,) * 262,
        files=files,
    )
    (folder / "dataset.json").write_text(card.model_dump_json())
    return DatasetFolder.open(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> DatasetFolder:
    return write(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def jobs(folder):
    return plan(folder, CONFIG, seed=7, max_frames=60)


def samples(jobs, purpose, replication):
    chosen = sorted(
        (job for job in jobs if (job.purpose, job.replication) == (purpose, replication)), key=lambda j: j.first
    )
    return [sample for job in chosen for sample in job.samples]


def test_every_replication_looks_at_every_recording_once_in_an_order_of_its_own(jobs):
    orders = []
    for replication in range(4):
        for purpose in ("reference", "real", "generated", *(["untrained"] if replication == 0 else [])):
            rows = [sample.row for sample in samples(jobs, purpose, replication)]
            assert sorted(rows) == list(range(COUNT))
        orders.append(tuple(rows))
        assert samples(jobs, "real", replication) == samples(jobs, "generated", replication)
        assert samples(jobs, "real", replication) != samples(jobs, "reference", replication)
    assert len(set(orders)) == 4
    assert all(len(job.samples) <= 3 for job in jobs)
    assert len({job.name for job in jobs}) == len(jobs)


def test_draws_differ_between_replications_and_are_all_used(jobs, folder):
    drawn = [sample.drawn for replication in range(4) for sample in samples(jobs, "real", replication)]
    assert len({one.seed for one in drawn}) == len(drawn)
    assert {one.swap for one in drawn} == {True, False}
    assert not any(one.mirror for one in drawn)
    assert len({one.crop for one in drawn}) > 20
    for replication in range(4):
        for sample in samples(jobs, "real", replication):
            assert sample.frames == 59  # all are longer than 60 frames
            recording = folder.recording("test", sample.row)
            assert sample.caption in (recording.swapped if sample.drawn.swap else recording.captions)


def test_the_plan_is_a_function_of_the_seed_and_rows_change_no_draw(jobs, folder):
    assert plan(folder, CONFIG, seed=7, max_frames=60) == jobs
    assert plan(folder, CONFIG, seed=8, max_frames=60) != jobs
    few = plan(folder, CONFIG, seed=7, max_frames=60, rows=("generated",))
    assert set(few) == {job for job in jobs if job.purpose not in ("real", "untrained")}
    more = CONFIG.model_copy(update={"replications": 5})
    assert set(jobs) < set(plan(folder, more, seed=7, max_frames=60))


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
    purposes = [job.purpose in ("real", "reference") for job in jobs]
    assert purposes == sorted(purposes)


def made_up(jobs, folder, *, right: float = 1.0) -> dict:
    """Embeddings at random; actors right in that share of the motions."""
    rng = np.random.default_rng(0)
    parts = {}
    for job in jobs:
        count = len(job.samples)
        actor = np.zeros((count, len(KINDS)), np.int64)
        for row, sample in enumerate(job.samples):
            label = folder.recording("test", sample.row).label
            named = label["actor"] ^ sample.drawn.swap
            actor[row, KINDS.index(label["kind"])] = named if rng.random() < right else 1 - named
        parts[job.name] = {
            "motion": rng.normal(size=(count, 6)),
            "text": rng.normal(size=(count, 6)),
            "actor": actor,
            **{name: np.full(count, place + job.replication) for place, name in enumerate(MEASURES)},
        }
    return parts


def test_scores_equal_the_metrics_of_the_joined_parts(jobs, folder):
    parts = made_up(jobs, folder)
    found = score(folder, CONFIG, jobs, parts, seed=7, split="test")
    assert list(found) == list(ROWS)

    def joined(purpose, replication, name):
        return np.concatenate([parts[f"{purpose}-{replication:03d}-{first:06d}"][name] for first in (0, 3, 6, 9)])

    for row in ROWS:
        for replication in range(1 if row == "untrained" else 4):
            motion, text = joined(row, replication, "motion"), joined(row, replication, "text")
            precision, distance = matching(text, motion, 4)
            assert [found[row][f"r_precision_top{top}"][replication] for top in (1, 2, 3)] == precision.tolist()
            assert found[row]["mm_dist"][replication] == distance
            assert found[row]["fid"][replication] == fid(motion, joined("reference", replication, "motion"))
            assert 0 < found[row]["diversity"][replication] < 10 * SCALE
            assert [found[row][name][replication] for name in MEASURES] == [place + replication for place in range(5)]
    assert "multimodality" not in found["real"]
    many = [parts[f"multimodality-000-{first:06d}"]["motion"] for first in (0, 3, 6)]
    groups = np.concatenate(many).reshape(2, 4, 6)
    apart = [np.linalg.norm(group[a] - group[b]) for group in groups for a in range(4) for b in range(4)]
    assert 0 < found["generated"]["multimodality"][0] < max(apart)


def test_identity_is_the_share_of_right_actors_and_its_controls(jobs, folder):
    found = score(folder, CONFIG, jobs, made_up(jobs, folder), seed=7, split="test")
    assert found["real"]["identity"] == found["generated"]["identity"] == [1.0] * 4
    assert found["real"]["identity_swapped"] == [0.0] * 4
    assert found["generated"]["identity_swapped"] == [1.0]
    assert "identity_swapped" not in found["untrained"]
    wrong = score(folder, CONFIG, jobs, made_up(jobs, folder, right=0.0), seed=7, split="test")
    assert wrong["generated"]["identity"] == [0.0] * 4
    assert wrong["real"]["identity_swapped"] == [1.0] * 4


def test_shuffled_captions_are_those_of_the_next_sample(jobs, folder):
    parts = made_up(jobs, folder)
    found = score(folder, CONFIG, jobs, parts, seed=7, split="test")
    for replication in range(4):
        shown = samples(jobs, "real", replication)
        names = [f"real-{replication:03d}-{first:06d}" for first in (0, 3, 6, 9)]
        actor = np.concatenate([parts[name]["actor"] for name in names])
        agreed = 0
        for place in range(COUNT):
            other = shown[(place + 1) % COUNT]
            label = folder.recording("test", other.row).label
            agreed += actor[place, KINDS.index(label["kind"])] == label["actor"] ^ other.drawn.swap
        assert found["real"]["identity_shuffled"][replication] == agreed / COUNT


def test_data_without_roles_have_no_identity(tmp_path):
    folder = write(tmp_path, labelled=False)
    assert not identity_is_known(folder, "test")
    jobs = plan(folder, CONFIG, seed=7, max_frames=60)
    assert "swapped" not in Counter(job.purpose for job in jobs)
    parts = {job.name: {"motion": np.eye(6)[: len(job.samples)], "text": np.eye(6)[: len(job.samples)]} for job in jobs}
    for job in jobs:
        parts[job.name] |= {name: np.zeros(len(job.samples)) for name in MEASURES}
    found = score(folder, CONFIG, jobs, parts, seed=7, split="test")
    assert "identity" not in found["real"]


def test_too_few_recordings_are_refused(folder):
    with pytest.raises(UserError, match=r"evaluation\.pool = 96 \(allowed: at most 10"):
        plan(folder, EvaluationConfig(), seed=0, max_frames=60)
    for split in ("train", "val"):
        with pytest.raises(UserError, match=f"the {split} split is empty"):
            plan(folder, CONFIG, seed=0, max_frames=60, split=split)
