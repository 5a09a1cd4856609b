"""Recordings of one person, which are stored as features: rows, crops, moments, the card."""

import re
from pathlib import Path

import numpy as np
import pytest
from one_person import motion_features, write_solo_shards

from intermoe.body.skeletons import HUMANML22
from intermoe.data.batches import interactions
from intermoe.data.draws import draw
from intermoe.data.feature_moments import Moments
from intermoe.data.rows import RecordedMotion
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError

# Legend: B batch, T frames, P = 1 person, J joints, R = J - 1, F features, N frames of all recordings.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    return write_solo_shards(tmp_path_factory.mktemp("solo") / "shards", {"train": 6})


def test_rows_come_back_as_they_were_written_and_have_words(folder: DatasetFolder) -> None:
    recording = folder.recording("train", 2)
    np.testing.assert_array_equal(recording.features_TPF, motion_features(2))
    assert recording.frames == len(motion_features(2)) + 1
    assert recording.position_TPJ3.size == recording.rotation_TPR6.size == 0
    words = folder.words()
    assert words == [folder.caption(row).words for row in range(folder.card.captions)]
    assert all("/" in sentence for sentence in words)


def test_a_crop_is_a_slice_of_rows_neither_swapped_nor_mirrored(folder: DatasetFolder) -> None:
    recording = folder.recording("train", 0)
    drawn = next(d for seed in range(50) if (d := draw(seed, 0, "a")).swap and d.mirror and d.crop > 0.3)
    allowed = drawn.allowed(HUMANML22)
    assert (allowed.swap, allowed.mirror, allowed.crop, allowed.seed) == (False, False, drawn.crop, drawn.seed)
    batch = interactions([recording], [allowed], HUMANML22, max_frames=30, multiple=8)
    start = int(drawn.crop * (recording.frames - 30 + 1))
    assert start > 0
    np.testing.assert_array_equal(batch.features_BTPF[0, :29], recording.features_TPF[start : start + 29])
    assert batch.features_BTPF.shape[1] == 32
    assert not batch.features_BTPF[0, 29:].any()


def test_the_moments_are_those_of_the_rows(folder: DatasetFolder) -> None:
    x_NF = np.concatenate([folder.recording("train", row).features_TPF[:, 0] for row in range(6)]).astype(np.float64)
    np.testing.assert_allclose(folder.card.mean, x_NF.mean(0), atol=1e-5)
    np.testing.assert_allclose(folder.card.std, x_NF.std(0), atol=1e-4)
    motion = RecordedMotion(features_TPF=motion_features(0))
    assert Moments.of(motion, HUMANML22).count == len(motion_features(0))


def test_a_card_of_another_rate_is_refused(folder: DatasetFolder, tmp_path: Path) -> None:
    values = folder.card.model_dump(mode="json") | {"fps": 30}
    with pytest.raises(UserError, match=re.escape("fps = 30, but humanml22 is recorded at 20")):
        type(folder.card).parse(values, where=tmp_path)
