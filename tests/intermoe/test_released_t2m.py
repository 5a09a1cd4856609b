"""T2M's evaluator from its published files: it embeds as those networks do, and what does not fit is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_t2m import DATA, JUDGE, write_t2m
from word_files import WORDS, write_word_files

from intermoe.errors import UserError
from intermoe.evaluation.conventions import EvaluatorConventions, KnownRow
from intermoe.evaluation.evaluator import Evaluator, EvaluatorConfig
from intermoe.evaluation.metrics import MetricScales
from intermoe.evaluation.t2m import T2mConfig
from intermoe.released_weights.evaluators import T2M_ROW, evaluator_parts, published_conventions, t2m_parts
from intermoe.text.words import KINDS, Vocabulary


def read(folder: Path) -> dict[str, torch.Tensor]:
    return t2m_parts(JUDGE, DATA, file=folder / "finest.tar", stats=folder, words=folder)["evaluator"]


@torch.no_grad()
def test_it_embeds_as_the_published_networks(tmp_path: Path):
    published = write_t2m(tmp_path)
    table = torch.tensor(write_word_files(tmp_path, width=5)[::-1].copy(), dtype=torch.float32)
    evaluator = Evaluator(JUDGE, DATA, Vocabulary(WORDS)).eval()
    evaluator.load_state_dict(read(tmp_path))

    torch.manual_seed(3)
    features, lengths = torch.randn(3, 40, 1, 263), [40, 16, 4]
    mean, std = (torch.from_numpy(np.load(tmp_path / f"{name}.npy")) for name in ("mean", "std"))
    found = evaluator.embed_motion(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        expected = published.motion((features[row, :length, 0] - mean) / std)
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)

    read_words = evaluator.embed_text(evaluator.words(["a/DET man/NOUN walk/VERB", "dog/NOUN"]))
    for row, (words, kinds) in enumerate(
        (
            (["sos", "a", "man", "walk", "eos"], ["OTHER", "DET", "NOUN", "Act_VIP", "OTHER"]),
            (["sos", "unk", "eos"], ["OTHER", "OTHER", "OTHER"]),
        )
    ):
        vectors = table[[WORDS.index(word) for word in words]]
        expected = published.text(vectors, [KINDS.index(kind) for kind in kinds])
        torch.testing.assert_close(read_words[row], expected, atol=1e-5, rtol=1e-5)


def changed(alter: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        states = torch.load(folder / "finest.tar", weights_only=True)
        alter(states)
        torch.save(states, folder / "finest.tar")

    return change


LAYERS, SHAPE = "(allowed: a file of the config's layers)", "(allowed: (8, 259, 4), as in the config)"
WHAT = "T2M's text_mot_match/model/finest.tar"


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda folder: (folder / "finest.tar").unlink(), "/finest.tar: no such file"),
        (
            lambda folder: (folder / "finest.tar").write_bytes(b"none"),
            f"/finest.tar: is damaged, or holds instructions that are not executed (allowed: {WHAT})",
        ),
        (
            changed(lambda s: s["movement_encoder"].update({"main.0.weight": torch.ones(8, 259, 4).to_sparse()})),
            "/finest.tar: key 'movement_encoder.main.0.weight' holds float32, sparse_coo (allowed: dense real numbers)",
        ),
        (
            changed(lambda s: s["movement_encoder"].update({"main.0.weight": torch.ones(8, 259, 4) * 1j})),
            "/finest.tar: key 'movement_encoder.main.0.weight' holds complex64, strided (allowed: dense real numbers)",
        ),
        (
            changed(lambda s: s["movement_encoder"].update({"main.0.weight": torch.ones(8, 259, 4, device="meta")})),
            "/finest.tar: key 'movement_encoder.main.0.weight' holds float32, meta (allowed: dense real numbers)",
        ),
        (
            changed(lambda s: s.pop("text_encoder")),
            f"/finest.tar: holds no text_encoder of tensors (allowed: {WHAT})",
        ),
        (
            changed(lambda s: s["text_encoder"].update(more=torch.ones(1))),
            "/finest.tar: unexpected key 'text_encoder.more' (allowed: a published checkpoint)",
        ),
        (
            changed(lambda s: s["motion_encoder"].pop("gru.bias_hh_l0_reverse")),
            f"/finest.tar: lacks the key 'motion_encoder.gru.bias_hh_l0_reverse' {LAYERS}",
        ),
        (
            changed(lambda s: s["movement_encoder"].update({"main.0.weight": torch.ones(8, 672, 4)})),
            f"/finest.tar: key 'movement_encoder.main.0.weight' has the shape (8, 672, 4) {SHAPE}",
        ),
        (lambda folder: (folder / "std.npy").unlink(), ": holds no std.npy (allowed: std.npy or global_std.npy)"),
        (
            lambda folder: np.save(folder / "mean.npy", np.zeros(251)),
            "/mean.npy: numbers of the shape (251,) (allowed: (263,))",
        ),
        (
            lambda folder: np.save(folder / "mean.npy", np.full(263, 1e300)),
            "/mean.npy: holds a number that is not finite (allowed: what float32 can hold)",
        ),
        (
            lambda folder: np.save(folder / "mean.npy", np.full(263, "a")),
            "/mean.npy: holds <U1 (allowed: floating-point numbers)",
        ),
        (
            lambda folder: np.save(folder / "std.npy", np.where(np.arange(263) == 7, -1.0, 1.0)),
            "/std.npy: the deviation of feature 7 is -1 (allowed: above 0)",
        ),
        (
            lambda folder: np.save(folder / "std.npy", np.full(263, 1e-300)),
            "/std.npy: the deviation of feature 0 is 0 (allowed: above 0)",
        ),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, alter: Callable[[Path], object], message: str):
    write_t2m(tmp_path)
    write_word_files(tmp_path, width=5)
    alter(tmp_path)
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path}{message}"


def test_torchs_older_format_is_read_too(tmp_path: Path):
    write_t2m(tmp_path)
    write_word_files(tmp_path, width=5)
    expected = read(tmp_path)
    states = torch.load(tmp_path / "finest.tar", weights_only=True)
    torch.save(states, tmp_path / "finest.tar", _use_new_zipfile_serialization=False)
    found = read(tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    torch.save({**states, "more": Command()}, tmp_path / "finest.tar", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="is damaged, or holds instructions that are not executed"):
        read(tmp_path)


class Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 / 0",)


def test_each_kind_has_its_own_files(tmp_path: Path):
    learned = JUDGE.model_copy(update={"t2m": JUDGE.t2m.model_copy(update={"vectors": "learned"})})
    for config in (learned, EvaluatorConfig()):
        with pytest.raises(UserError) as caught:
            t2m_parts(config, DATA, file=tmp_path, stats=tmp_path, words=tmp_path)
        assert str(caught.value) == (
            "evaluator.kind or evaluator.t2m.vectors (allowed: t2m and given: the published evaluator)"
        )
    with pytest.raises(UserError, match=r"evaluator\.text or evaluator\.normalised"):
        evaluator_parts(JUDGE, DATA, file=tmp_path)


def test_it_brings_what_others_measured_with_it():
    assert T2M_ROW.is_of("HumanML3D", "humanml22", "test")
    assert T2M_ROW.origin == "published"
    assert T2M_ROW.ranges == {
        "r_precision_top1": (0.505, 0.517),
        "fid": (0.0, 0.002),
        "mm_dist": (2.956, 2.982),
        "diversity": (9.398, 9.5),
    }
    ones = MetricScales(fid=1, diversity=1, multimodality=1)
    conventions = published_conventions(EvaluatorConfig(kind="t2m", t2m=T2mConfig(dropout=0, margin=3)))
    assert conventions == EvaluatorConventions(scales=ones, known_row=T2M_ROW)
    assert published_conventions(JUDGE) == EvaluatorConventions(scales=ones)
    row = KnownRow(dataset="toy", skeleton="smpl22", origin="run here", source="a test", ranges={"fid": (0, 1)})
    own = EvaluatorConventions(scales=ones, known_row=row)
    assert published_conventions(EvaluatorConfig(kind="t2m", conventions=own)) == own
