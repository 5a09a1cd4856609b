"""T2M's networks beside the same written out number by number: values and gradients.

Legend: B batch, T frames, M movements, F features of a frame, K places of words, D width, H hidden width, E embedding.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from intermoe import checkpoint
from intermoe.data.shards import DataConfig
from intermoe.errors import UserError
from intermoe.evaluation.contrast import margin_sums
from intermoe.evaluation.evaluator import Evaluator, EvaluatorConfig, T2mConfig
from intermoe.evaluation.metrics import MetricScales
from intermoe.evaluation.t2m import MovementEncoder, SequenceReader, WordReader
from intermoe.layers.precision import products_in
from intermoe.text.words import KINDS, Vocabulary, Words

SIZES = T2mConfig(
    vectors="learned", max_words=6, word_width=7, movement_width=8, motion_hidden=6, text_hidden=5, embedding=4
)
SMALL = EvaluatorConfig(kind="t2m", t2m=SIZES)
HUMANML = DataConfig(skeleton="humanml22", max_frames=41)
CAPTIONS = [
    "a/DET man/NOUN walk/VERB left/ADV",
    "he/PRON bow/VERB",
    "a/DET dog/NOUN run/VERB and/CCONJ bow/VERB low/ADV",
]
VOCABULARY = Vocabulary.of(CAPTIONS[:2])


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def gru_end(gru: nn.GRU, steps: list[Tensor], state_H: Tensor) -> Tensor:
    """The state of a GRU after the steps, gate by gate."""
    for x_D in steps:
        given = gru.weight_ih_l0 @ x_D + gru.bias_ih_l0
        kept = gru.weight_hh_l0 @ state_H + gru.bias_hh_l0
        (reset, update, new), (of_reset, of_update, of_new) = given.chunk(3), kept.chunk(3)
        z_H = sigmoid(update + of_update)
        state_H = (1 - z_H) * torch.tanh(new + sigmoid(reset + of_reset) * of_new) + z_H * state_H
    return state_H


def read_plainly(reader: SequenceReader, steps: list[Tensor]) -> Tensor:
    steps = [reader.embed.weight @ x_D + reader.embed.bias for x_D in steps]
    ends = [
        gru_end(reader.forwards, steps, reader.forwards_H),
        gru_end(reader.backwards, steps[::-1], reader.backwards_H),
    ]
    hidden_H = reader.hidden.weight @ torch.cat(ends) + reader.hidden.bias
    centred_H = hidden_H - hidden_H.mean()
    normed_H = centred_H / (centred_H.square().mean() + 1e-5).sqrt() * reader.norm.weight + reader.norm.bias
    return reader.out.weight @ leaky(normed_H) + reader.out.bias


def convolved(conv: nn.Conv1d, rows_TD: Tensor) -> Tensor:
    """A convolution of width 4, stride 2 and padding 1, row by row."""
    padded_TD = torch.cat([torch.zeros(1, rows_TD.shape[1]), rows_TD, torch.zeros(1, rows_TD.shape[1])])
    out = [
        torch.stack([conv.weight[:, :, k] @ padded_TD[2 * row + k] for k in range(4)]).sum(0) + conv.bias
        for row in range((len(padded_TD) - 4) // 2 + 1)
    ]
    return leaky(torch.stack(out))


def movements_plainly(encoder: MovementEncoder, x_TF: Tensor) -> list[Tensor]:
    """As published: the motion alone, with zeros up to the longest there is."""
    movements = len(x_TF) // 4
    rows_TF = torch.zeros(max(encoder.max_frames, 4 * movements), x_TF.shape[1])
    rows_TF[: 4 * movements] = x_TF[: 4 * movements]
    out_MD = convolved(encoder.second, convolved(encoder.first, rows_TF))
    return [encoder.out.weight @ row_D + encoder.out.bias for row_D in out_MD[:movements]]


def gradients(total: Tensor, network: nn.Module, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(total, [*network.parameters(), *inputs]))


@pytest.fixture
def evaluator() -> Evaluator:
    torch.manual_seed(0)
    found = Evaluator(SMALL, HUMANML, VOCABULARY).eval()
    for name, parameter in found.named_parameters():
        if name.endswith("bias"):  # those that begin at zero
            nn.init.normal_(parameter, std=0.3)
    found.normaliser.mean_F.normal_()
    found.normaliser.std_F.uniform_(0.5, 2)
    return found


# The longest there is, one with frames left over, one as short as can be, and one longer than the config knows.
LENGTHS = [40, 18, 4, 46]


def motions() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(4, 47, 1, 263), torch.tensor(LENGTHS)


def test_motions_are_embedded_as_written_out(evaluator):
    features, frames = motions()
    features.requires_grad_()
    weights = torch.randn(4, 4)
    found = evaluator.embed_motion(features, frames)
    normalised = (features[:, :, 0] - evaluator.normaliser.mean_F) / evaluator.normaliser.std_F
    expected = torch.stack(
        [
            read_plainly(
                evaluator.motion.reader, movements_plainly(evaluator.motion.movement, normalised[row, :length, :259])
            )
            for row, length in enumerate(LENGTHS)
        ]
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    pairs = zip(
        gradients((found * weights).sum(), evaluator.motion, features),
        gradients((expected * weights).sum(), evaluator.motion, features),
        strict=True,
    )
    for own, plain in pairs:
        torch.testing.assert_close(own, plain, atol=1e-4, rtol=1e-4)


def test_captions_are_embedded_as_written_out(evaluator):
    reader, weights = evaluator.text, torch.randn(3, 4)
    assert isinstance(reader, WordReader)
    words = evaluator.words(CAPTIONS)
    found = evaluator.embed_text(words)
    rows = []
    for row, length in enumerate(words.length_B.tolist()):
        steps = []
        for word, kind in zip(words.word_BK[row, :length], words.kind_BK[row, :length], strict=True):
            steps.append(reader.word_VW[word] + reader.kind.weight[:, kind] + reader.kind.bias)
        rows.append(read_plainly(reader.reader, steps))
    torch.testing.assert_close(found, torch.stack(rows), atol=1e-5, rtol=1e-5)
    pairs = zip(
        gradients((found * weights).sum(), reader),
        gradients((torch.stack(rows) * weights).sum(), reader),
        strict=True,
    )
    for own, plain in pairs:
        torch.testing.assert_close(own, plain, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padding_and_company_change_nothing(evaluator):
    features, frames = motions()
    words = evaluator.words(CAPTIONS)
    together, read = evaluator.embed_motion(features, frames), evaluator.embed_text(words)
    for row, length in enumerate(LENGTHS):
        alone = evaluator.embed_motion(features[row : row + 1, :length], frames[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)
        longer = nn.functional.pad(features[row : row + 1], (0, 0, 0, 0, 0, 9), value=5.0)
        torch.testing.assert_close(evaluator.embed_motion(longer, frames[row : row + 1])[0], alone[0])
        features[row, length:] = torch.nan
    torch.testing.assert_close(evaluator.embed_motion(features, frames), together, atol=1e-5, rtol=0)
    for row, length in enumerate(words.length_B.tolist()):
        short = Words(words.word_BK[[row], :length], words.kind_BK[[row], :length], words.length_B[[row]])
        torch.testing.assert_close(evaluator.embed_text(short)[0], read[row], atol=1e-5, rtol=0)


@torch.no_grad()
def test_embeddings_are_float32_and_nearly_the_same_in_bf16(evaluator):
    features, frames = motions()
    exact = evaluator.embed_motion(features, frames), evaluator.embed_text(evaluator.words(CAPTIONS))
    with products_in("bf16", torch.device("cpu")):
        rounded = evaluator.embed_motion(features, frames), evaluator.embed_text(evaluator.words(CAPTIONS))
    for one, other in zip(rounded, exact, strict=True):
        assert one.dtype == torch.float32
        assert 0 < (one - other).abs().max() < 0.05 * other.abs().max()


@torch.no_grad()
def test_contacts_and_frames_that_fill_no_movement_are_not_seen(evaluator):
    features, frames = motions()
    before = evaluator.embed_motion(features, frames)
    changed = features.clone()
    changed[..., 259:] += 1
    changed[1, 16:] += 1
    changed[3, 44:] += 1
    assert torch.equal(evaluator.embed_motion(changed, frames), before)
    changed[:, 3, 0, 258] += 1
    assert ((evaluator.embed_motion(changed, frames) - before).abs().amax(dim=1) > 1e-4).all()


@torch.no_grad()
def test_unknown_words_are_all_alike_and_kinds_differ(evaluator):
    def embedded(caption: str) -> Tensor:
        return evaluator.embed_text(evaluator.words([caption]))

    assert torch.equal(embedded("a/DET dog/NOUN"), embedded("a/DET cat/VERB"))
    assert (embedded("a/DET man/NOUN") - embedded("a/DET man/VERB")).abs().max() > 1e-4


def test_both_persons_are_read_of_two():
    torch.manual_seed(0)
    evaluator = Evaluator(SMALL, DataConfig(encoder="minilm", max_frames=41), VOCABULARY).eval()
    features, frames = torch.randn(1, 40, 2, 262), torch.tensor([40])
    before = evaluator.embed_motion(features, frames)
    assert evaluator.motion.movement.first.in_channels == 2 * 258
    for person in (0, 1):
        changed = features.clone()
        changed[0, 5, person, 257] += 1
        assert (evaluator.embed_motion(changed, frames) - before).abs().max() > 1e-4


def test_the_longest_motion_is_that_of_the_longest_recording(evaluator):
    assert evaluator.motion.movement.max_frames == 40


def test_the_published_sizes_have_the_published_number_of_parameters():
    config = EvaluatorConfig(kind="t2m")
    with torch.device("meta"):
        evaluator = Evaluator(config, DataConfig(skeleton="humanml22", max_frames=197))
    state = {name: parameter.numel() for name, parameter in evaluator.named_parameters()}
    counts = {
        part: sum(count for name, count in state.items() if name.startswith(part))
        for part in ("motion.movement", "motion.reader", "text")
    }
    # 259 x 512 x 4 + 512 + 512 x 512 x 4 + 512 + 512 x 512 + 512 for the movements, and so on.
    assert counts == {"motion.movement": 1_842_688, "motion.reader": 15_747_584, "text": 4_100_288}
    assert evaluator.words(CAPTIONS).word_BK.shape == (3, 22)
    assert evaluator.text.kind.in_features == len(KINDS) == 15


def test_a_checkpoint_comes_back_with_its_vocabulary(evaluator, tmp_path: Path):
    documents = {"config": {"evaluator": SMALL.model_dump(mode="json"), "data": HUMANML.model_dump(mode="json")}}
    tensors = {name: part.state_dict() for name, part in evaluator.parts().items()}
    checkpoint.save(tmp_path / "run" / "best", tensors=tensors, documents=documents)
    loaded = Evaluator.load(tmp_path / "run")
    assert loaded.vocabulary == VOCABULARY
    with torch.no_grad():
        assert torch.equal(loaded.embed_motion(*motions()), evaluator.embed_motion(*motions()))
        found, expected = (one.embed_text(one.words(CAPTIONS)) for one in (loaded, evaluator))
        assert torch.equal(found, expected)

    other = Evaluator(SMALL, HUMANML, Vocabulary.of(CAPTIONS))
    with pytest.raises(UserError) as caught:
        other.restore(checkpoint.load(tmp_path / "run" / "best"), ("evaluator",))
    assert str(caught.value) == "the checkpoint holds another vocabulary than the training reads (allowed: the same)"

    without = {name: value for name, value in tensors["evaluator"].items() if name != "text.letters_N"}
    checkpoint.save(tmp_path / "without", tensors={"evaluator": without}, documents=documents)
    with pytest.raises(UserError) as caught:
        Evaluator.load(tmp_path / "without")
    assert str(caught.value) == (f"{tmp_path / 'without'}: holds no vocabulary, as an evaluator that reads words does")


def test_given_vectors_are_taken_and_not_trained():
    config = EvaluatorConfig(kind="t2m", t2m=SIZES.model_copy(update={"vectors": "given"}))
    evaluator = Evaluator(config, HUMANML, VOCABULARY)
    vectors = torch.randn(len(VOCABULARY.words), 7)
    evaluator.take_vectors(vectors)
    assert torch.equal(evaluator.state_dict()["text.word_VW"], vectors)
    assert "text.word_VW" not in dict(evaluator.named_parameters())
    assert "text.word_VW" in dict(Evaluator(SMALL, HUMANML, VOCABULARY).named_parameters())
    with pytest.raises(UserError) as caught:
        evaluator.take_vectors(vectors[:, :5])
    assert str(caught.value) == "word vectors of the shape (9, 5) (allowed: (9, 7))"


def test_the_same_seed_gives_the_same_weights():
    first, same, other = (
        Evaluator.initial(SMALL, HUMANML, Evaluator(SMALL, HUMANML).normaliser, seed=seed, vocabulary=VOCABULARY)
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.get_parameter("text.word_VW"), other.get_parameter("text.word_VW"))


def test_its_metrics_are_not_scaled_unless_the_config_says_so():
    ones = MetricScales(fid=1, diversity=1, multimodality=1)
    assert EvaluatorConfig(kind="t2m").conventions.scales == ones
    config = EvaluatorConfig.parse({"kind": "t2m", "conventions": {"scales": {"fid": 2}}})
    assert config.conventions.scales == MetricScales(fid=2, diversity=1, multimodality=1)
    assert EvaluatorConfig.parse(config.model_dump(mode="json")) == config
    assert EvaluatorConfig().conventions.scales == MetricScales(fid=6, diversity=3, multimodality=1)


def test_an_unknown_kind_and_a_size_out_of_range_are_refused():
    with pytest.raises(UserError) as caught:
        EvaluatorConfig.parse({"kind": "clip"}, where="a.yaml")
    assert str(caught.value) == "a.yaml: kind = 'clip' (allowed: 'interclip' or 't2m')"
    with pytest.raises(UserError) as caught:
        EvaluatorConfig.parse({"kind": "t2m", "t2m": {"margin": 0}})
    assert str(caught.value) == "t2m.margin = 0 (allowed: greater than 0)"


def test_the_loss_is_that_of_every_pair_written_out():
    torch.manual_seed(5)
    text, motion = (torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    margin = 2.0
    together = apart = torch.zeros((), dtype=torch.float64)
    for row in range(5):
        together = together + sum((text[row, e] - motion[row, e]) ** 2 for e in range(3))
        for other in range(5):
            distance = sum((text[row, e] - motion[other, e]) ** 2 for e in range(3)) ** 0.5
            if other != row and distance < margin:
                apart = apart + (margin - distance) ** 2 / 4
    found = margin_sums(text, motion, margin)
    assert float(apart.detach()) > 0
    for own, plain in zip(found, (together, apart), strict=True):
        torch.testing.assert_close(own, plain)
        for a, b in zip(
            torch.autograd.grad(own, (text, motion), retain_graph=True),
            torch.autograd.grad(plain, (text, motion), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


def test_a_pair_alone_has_nothing_to_be_apart_from():
    text = torch.randn(1, 3, requires_grad=True)
    together, apart = margin_sums(text, text.detach().clone(), 10.0)
    (together + apart).backward()
    assert (together.item(), apart.item()) == (0, 0)
    assert text.grad is not None
    assert torch.equal(text.grad, torch.zeros(1, 3))
