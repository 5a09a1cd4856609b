from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from intermoe import checkpoint
from intermoe.data.shards import DataConfig
from intermoe.errors import UserError
from intermoe.evaluation.contrast import contrastive_sum
from intermoe.evaluation.evaluator import Evaluator, EvaluatorConfig
from intermoe.layers.conditioning import sinusoids
from intermoe.text.encoders import TextStates

SMALL = EvaluatorConfig(
    text="states",
    motion_width=16,
    motion_layers=2,
    motion_heads=2,
    motion_hidden=24,
    text_layers=1,
    text_hidden=20,
    embedding=6,
    scale=3.0,
)
DATA = DataConfig(encoder="minilm")


@pytest.fixture
def evaluator() -> Evaluator:
    torch.manual_seed(0)
    return Evaluator(SMALL, DATA).eval()


def states(batch: int = 3, tokens: int = 9) -> TextStates:
    torch.manual_seed(1)
    eot = torch.tensor([8, 3, 5])[:batch]
    return TextStates(torch.randn(batch, tokens, 384), torch.arange(tokens) <= eot[:, None], eot)


def motions(batch: int = 3, frames: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(batch, frames, 2, 262), torch.tensor([frames, 7, 13])[:batch]


@torch.no_grad()
def test_embeddings_have_the_learned_length(evaluator):
    for embedded in (evaluator.embed_text(states()), evaluator.embed_motion(*motions())):
        assert embedded.shape == (3, 6)
        assert embedded.norm(dim=-1).tolist() == pytest.approx([3.0] * 3, rel=1e-5)


@torch.no_grad()
def test_padding_and_company_change_nothing(evaluator):
    features, frames = motions()
    text = states()
    together, read = evaluator.embed_motion(features, frames), evaluator.embed_text(text)
    for row, length in enumerate(frames.tolist()):
        alone = evaluator.embed_motion(features[row : row + 1, :length], frames[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)
        short = slice(0, int(text.eot_B[row]) + 1)
        one = TextStates(
            text.states_BKW[row : row + 1, short], text.mask_BK[row : row + 1, short], text.eot_B[row : row + 1]
        )
        torch.testing.assert_close(read[row], evaluator.embed_text(one)[0], atol=1e-5, rtol=0)
    features[1, 7:] = 1e3
    torch.testing.assert_close(evaluator.embed_motion(features, frames), together, atol=1e-5, rtol=0)


@torch.no_grad()
def test_motions_are_embedded_as_by_the_padded_transformer(evaluator):
    features, frames = motions()
    encoder = evaluator.motion
    features_BTF = features[..., :258].flatten(2)
    x = encoder.embed(features_BTF)
    x = torch.cat([encoder.query_D.expand(len(x), 1, -1), x], dim=1)
    place = torch.arange(21)
    padded = encoder.encoder(x + sinusoids(place, 16), src_key_padding_mask=place > frames[:, None])
    expected = encoder.out(encoder.norm(padded[:, 0]))
    torch.testing.assert_close(encoder(features_BTF, frames), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_contacts_are_not_seen_but_all_else_of_both_persons_is(evaluator):
    features, frames = motions()
    before = evaluator.embed_motion(features, frames)
    changed = features.clone()
    changed[..., 258:] += 1
    assert torch.equal(evaluator.embed_motion(changed, frames), before)
    for person, feature in ((0, 0), (1, 0), (1, 257)):
        changed = features.clone()
        changed[:, 0, person, feature] += 1
        assert (evaluator.embed_motion(changed, frames) - before).abs().max() > 1e-4


@torch.no_grad()
def test_normalised_features_are_what_the_networks_see_where_the_config_says_so():
    torch.manual_seed(0)
    evaluator = Evaluator(SMALL.model_copy(update={"normalised": True}), DATA).eval()
    evaluator.normaliser.mean_F.fill_(2)
    evaluator.normaliser.std_F.fill_(4)
    torch.manual_seed(0)
    plain = Evaluator(SMALL, DATA).eval()
    features, frames = motions()
    torch.testing.assert_close(
        evaluator.embed_motion(features * 4 + 2, frames), plain.embed_motion(features, frames), atol=1e-4, rtol=0
    )


def test_the_published_sizes_have_the_published_number_of_parameters():
    with torch.device("meta"):
        evaluator = Evaluator(EvaluatorConfig(), DataConfig(encoder="clip"))
    state = [value for name, value in evaluator.state_dict().items() if not name.startswith("normaliser.")]
    assert sum(value.numel() for value in state) == pytest.approx(150.8e6, rel=1e-3)


def test_a_checkpoint_comes_back(evaluator, tmp_path: Path):
    documents = {"config": {"evaluator": SMALL.model_dump(), "data": DATA.model_dump()}}
    tensors = {name: part.state_dict() for name, part in evaluator.parts().items()}
    checkpoint.save(tmp_path / "run" / "best", tensors=tensors, documents=documents)
    for path in (tmp_path / "run", tmp_path / "run" / "best"):
        loaded = Evaluator.load(path)
        with torch.no_grad():
            assert torch.equal(loaded.embed_motion(*motions()), evaluator.embed_motion(*motions()))
    checkpoint.save(tmp_path / "other", tensors={"vae": {"a": torch.ones(1)}}, documents=documents)
    with pytest.raises(UserError, match="holds no evaluator"):
        Evaluator.load(tmp_path / "other")
    wider = {"config": {"evaluator": SMALL.model_dump() | {"embedding": 7}, "data": DATA.model_dump()}}
    checkpoint.save(tmp_path / "wider", tensors=tensors, documents=wider)
    with pytest.raises(UserError, match="do not fit the config"):
        Evaluator.load(tmp_path / "wider")


def test_tokens_are_those_of_clip():
    with pytest.raises(UserError, match=r"evaluator\.text = 'tokens' with data\.encoder = 'minilm'"):
        Evaluator(SMALL.model_copy(update={"text": "tokens"}), DATA)
    with pytest.raises(UserError, match=r"evaluator\.text_heads = 7"):
        Evaluator(SMALL.model_copy(update={"text_heads": 7}), DATA)
    config = SMALL.model_copy(update={"text": "tokens", "vocabulary": 5})
    evaluator = Evaluator(config, DataConfig(encoder="clip"))
    table, positions = torch.randn(5, 768), torch.randn(77, 768)
    with pytest.raises(UserError, match=r"table of tokens of the shape \(4, 768\) \(allowed: \(5, 768\)"):
        evaluator.take_tokens(table[:4], positions)
    evaluator.take_tokens(table, positions)
    found = evaluator.token_states(torch.tensor([[1] * 77]), torch.tensor([3]))
    torch.testing.assert_close(found.states_BKW[0, 10], table[1] + positions[10])
    assert found.mask_BK.all()
    assert not any(name in dict(evaluator.named_parameters()) for name in ("token_VW", "position_KW"))


def test_the_loss_is_symmetric_cross_entropy():
    torch.manual_seed(0)
    text, motion = torch.randn(5, 4), torch.randn(5, 4)
    logits, own = text @ motion.T, torch.arange(5)
    wanted = (cross_entropy(logits, own, reduction="sum") + cross_entropy(logits.T, own, reduction="sum")) / 2
    torch.testing.assert_close(contrastive_sum(text, motion), wanted)
    torch.testing.assert_close(contrastive_sum(motion, text), wanted)
    assert contrastive_sum(text[:1], motion[:1]) == 0
