import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intermoe import checkpoint
from intermoe.body.features import FeatureLayout, Normaliser
from intermoe.body.skeletons import SMPL22
from intermoe.data.draws import normal, prompt_seed
from intermoe.data.shards import DataConfig
from intermoe.diffusion import guided
from intermoe.errors import UserError
from intermoe.model import PARTS, VAE_PARTS, InterMoE, ModelConfig
from intermoe.moe.paradigms import DynamicSelection
from intermoe.moe.selection import update_biases
from intermoe.motion import Motion
from intermoe.text.encoders import TextStates

# Legend: B batch, T frames, L latent frames, P = 2 persons, F features, N latent joints, C channels, Z = N * C,
# K text tokens, W text width.
PROMPTS = [
    "Two people bow.",
    "The first person pushes the second, who stumbles.",
    "They hug.",
    "One kicks, one blocks.",
]
CONFIG: dict[str, Any] = {
    "data": {"encoder": "minilm", "max_frames": 62},
    "vae": {"width": 8, "latent": 4, "blocks": 1},
    "denoiser": {"width": 32, "layers": 2, "heads": 4, "text_layers": 1, "text_hidden": 32, "text_heads": 4},
    "moe": {"experts": 4, "hidden": 16, "c_exp": 1.0},
    "diffusion": {"steps": 100, "ddim_steps": 5, "guidance": 2.0},
}


class WordEncoder:
    """Stands in for the frozen encoder: each word has states of its own, from its hash."""

    def encode(self, texts: Sequence[str]) -> TextStates:
        words = [text.split() for text in texts]
        states = torch.zeros(len(texts), max(map(len, words)), 384)
        mask = torch.zeros(states.shape[:2], dtype=torch.bool)
        for row, sentence in enumerate(words):
            for place, word in enumerate(sentence):
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
                states[row, place] = normal([seed], (384,), stream=9)[0]
            mask[row, : len(sentence)] = True
        return TextStates(states, mask, mask.sum(1) - 1)


def small_model(seed: int = 0, moe: dict | None = None) -> InterMoE:
    """Random weights, also where training starts from zero, so that timestep and text change the result."""
    torch.manual_seed(seed)
    model = InterMoE(ModelConfig.parse(CONFIG | {"moe": CONFIG["moe"] | (moe or {})})).eval()
    for name, parameter in model.denoiser.named_parameters():
        if "modulation" in name or name.startswith("out."):
            torch.nn.init.normal_(parameter, std=0.2)
        if "router" in name:
            parameter.data *= 4
    rest = torch.zeros(22, 3)
    for joint, parent in enumerate(SMPL22.parents[1:], start=1):
        rest[joint] = rest[parent] + torch.tensor(SMPL22.rest_offsets[joint])
    mean, layout = torch.zeros(262), FeatureLayout.of(SMPL22)
    mean[layout.positions] = (rest - rest[:, 1].min() * torch.tensor([0.0, 1, 0])).flatten()
    mean[layout.rotations] = torch.tensor([1.0, 0, 0, 1, 0, 0]).repeat(21)
    model.normaliser = Normaliser.from_moments(mean, torch.full((262,), 0.1))
    model._encoder = WordEncoder()  # type: ignore[assignment]
    return model


@pytest.fixture(scope="module")
def model() -> InterMoE:
    return small_model()


def difference(one: Motion, other: Motion) -> float:
    return max(float(np.abs(getattr(one, name) - getattr(other, name)).max()) for name in ("joints", "rotations"))


@pytest.fixture
def margins(model):
    """How near each choice of a token by an expert is to going the other way, over everything that is generated."""
    found: list[float] = []

    def note(layer: DynamicSelection, arguments: tuple[torch.Tensor], _) -> None:
        found.append(float((arguments[0].sigmoid() + layer.bias_E).abs().min()))

    layers = [module for module in model.modules() if isinstance(module, DynamicSelection)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    yield found
    for handle in handles:
        handle.remove()


def test_one_prompt_gives_one_motion(model):
    motion = model.generate("Two people bow.", seconds=1, seed=3)
    assert motion.joints.shape == (30, 2, 22, 3)
    assert motion.rotations.shape == (30, 2, 21, 6)
    assert (motion.fps, motion.caption, motion.skeleton) == (30, "Two people bow.", SMPL22)
    assert motion.joints.std(axis=0).max() > 1e-3, "it moves"
    assert isinstance(model.generate(["Two people bow."], seconds=1, seed=3), list)


def test_the_same_seed_and_prompt_give_the_same_motion(model):
    motion = model.generate(PROMPTS[0], seconds=1, seed=3)
    torch.manual_seed(5)
    assert difference(motion, model.generate(PROMPTS[0], seconds=1, seed=3)) == 0
    assert difference(motion, model.generate(PROMPTS[0], seconds=1, seed=4)) > 1e-2
    assert difference(motion, model.generate(PROMPTS[1], seconds=1, seed=3)) > 1e-2


def test_a_prompt_alone_gives_what_it_gives_among_others(model, margins):
    together = model.generate(PROMPTS, seconds=2, seed=1)
    for prompt, motion in zip(PROMPTS, together, strict=True):
        assert motion.caption == prompt
        assert difference(motion, model.generate(prompt, seconds=2, seed=1)) < 1e-4
    reverse = model.generate(PROMPTS[::-1], seconds=2, seed=1)[::-1]
    assert max(map(difference, together, reverse)) < 1e-4
    # The seed is one where no choice of an expert hangs on rounding.
    assert min(margins) > 1e-5


@pytest.mark.parametrize(
    "moe",
    [
        {"selection": "dynamic", "bias_init": "calibrated", "sigma": 0.01},
        {"selection": "dynamic", "pool": "sequence", "router": "motion", "sigma": 0.01},
        {"selection": "token_choice", "c_exp": 2.0},
        {"selection": "expert_choice"},
        {"selection": "expert_choice", "pool": "sequence"},
        {"selection": "uniform", "router": "text"},
        {"selection": "dense"},
    ],
    ids=lambda moe: "-".join(map(str, moe.values())),
)
def test_after_training_a_prompt_alone_gives_what_it_gives_among_eight(moe):
    model = small_model(moe=moe)
    before = {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-3)
    model.denoiser.train()
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        clean, noise = (torch.randn(4, 8, 2, model.latent, generator=rng) for _ in range(2))
        t, mask = torch.randint(100, (4,), generator=rng), torch.arange(8) < torch.tensor([8, 6, 3, 8])[:, None]
        found = model.denoiser(model.diffusion.q_sample(clean, t, noise), t, torch.randn(4, 384, generator=rng), mask)
        model.diffusion.loss_sums(found, clean, mask)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        update_biases(model.denoiser)
    model.denoiser.eval()
    learned = [name for name in before if name.endswith(("bias_E", "threshold_E"))]
    assert len(learned) == (2 if moe["selection"] in ("dynamic", "expert_choice") else 0)
    for name in learned:
        moves = moe.get("pool") != "sequence" or moe["selection"] == "dynamic"
        assert torch.equal(model.denoiser.state_dict()[name], before[name]) != moves
    prompts = [*PROMPTS, "They walk.", "Two people bow.", "The second person waves.", "One hands something over."]
    together = model.generate(prompts, seconds=2, seed=1)
    for prompt, motion in zip(prompts[:4], together, strict=False):
        assert difference(motion, model.generate(prompt, seconds=2, seed=1)) < 1e-4


def test_the_words_decide_beyond_the_noise(model):
    noise = normal([7], (5, 2, model.latent), stream=0)
    latents = [
        model.sample(noise, model.condition(model.encoder.encode([prompt])).detach(), guidance=1.0)
        for prompt in PROMPTS[:2]
    ]
    assert (latents[0] - latents[1]).abs().max() > 1e-2


def test_a_prompt_that_names_the_second_person_first_exchanges_the_persons(model, monkeypatch):
    """Where the data names persons in the order of the caption: the same motion, each in the other's place."""
    named = small_model()
    named.config = named.config.model_copy(update={"data": named.config.data.model_copy(update={"persons": "named"})})
    monkeypatch.setattr("intermoe.model.prompt_seed", lambda *_: 5)
    prompts = ["The first person bows to the second.", "The second person bows to the first."]
    one, other = named.generate(prompts, seconds=1)
    assert other.caption == prompts[1]
    apart = [np.linalg.norm(m.joints[:, 0, :, None] - m.joints[:, 1, None], axis=-1) for m in (one, other)]
    np.testing.assert_allclose(apart[0], apart[1].transpose(0, 2, 1), atol=1e-3)
    np.testing.assert_allclose(other.rotations, one.rotations[:, ::-1], atol=1e-4)
    assert (
        np.abs(other.joints[0, 0, 0, [0, 2]]).max() < 0.02
    )  # but for smoothing, it stands in the new first person's frame
    drawn = model.generate(prompts, seconds=1)
    assert np.abs(drawn[1].rotations - drawn[0].rotations[:, ::-1]).max() > 1e-2
    nobody = named.generate("Two people bow.", seconds=1)
    assert difference(nobody, model.generate("Two people bow.", seconds=1)) < 1e-4


def test_a_prompt_given_twice_gives_two_motions(model):
    first, other, second = model.generate([PROMPTS[0], PROMPTS[2], PROMPTS[0]], seconds=1, seed=0)
    assert difference(first, second) > 1e-2
    assert difference(first, model.generate(PROMPTS[0], seconds=1, seed=0)) < 1e-4
    assert difference(other, model.generate(PROMPTS[2], seconds=1, seed=0)) < 1e-4


@pytest.mark.parametrize("frames", [15, 16, 17, 18, 19, 59, 60, 61, 62])
def test_every_length_up_to_the_longest(model, frames):
    assert len(model.generate("Bow.", seconds=frames / 30).joints) == frames


@pytest.mark.parametrize("seconds", [0, -1, 0.4, 14.4 / 30, 62.6 / 30, 3600, float("nan"), float("inf")])
def test_other_lengths_are_refused(model, seconds):
    with pytest.raises(UserError, match=r"seconds: .* \(allowed: 0\.5 to 2\.067; the model learned from up to 62"):
        model.generate("Bow.", seconds=seconds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ""}, "a prompt is empty"),
        ({"prompts": []}, "a prompt is empty"),
        ({"prompts": ["Bow.", " \n"]}, "a prompt is empty"),
        ({"prompts": "Bow.", "seed": -1}, r"seed -1 \(allowed: 0 or more"),
        ({"prompts": "Bow.", "guidance": float("nan")}, r"guidance nan \(allowed: a finite number"),
    ],
)
def test_what_cannot_be_generated_is_refused_at_once(model, monkeypatch, arguments, message):
    monkeypatch.setattr(model, "sample", lambda *a, **k: pytest.fail("nothing is sampled"))
    with pytest.raises(UserError, match=message):
        model.generate(seconds=1, **arguments)


def test_generation_is_ddim_on_the_prompts_noise_with_guidance(model):
    motion = model.generate(PROMPTS[1], seconds=18 / 30, seed=2, guidance=1.5)
    noise = normal([prompt_seed(2, PROMPTS[1], 0)], (5, 2, model.latent), stream=0)
    with torch.no_grad():
        condition = model.condition(model.encoder.encode([PROMPTS[1]]))
        mask = torch.ones(1, 5, dtype=torch.bool)
        latent = model.diffusion.ddim(guided(model.denoiser, condition, mask, 1.5), noise)
        features = model.decode(latent)[:, :18]
    expected = model.motions(features, ["x"], settled=True)[0]
    assert difference(motion, expected) < 1e-5
    assert difference(motion, model.generate(PROMPTS[1], seconds=18 / 30, seed=2, guidance=3.0)) > 1e-3
    default = model.generate(PROMPTS[1], seconds=18 / 30, seed=2)
    assert difference(default, model.generate(PROMPTS[1], seconds=18 / 30, seed=2, guidance=2.0)) == 0


def test_bones_keep_their_length_and_feet_come_to_the_ground(model):
    joints = model.generate(PROMPTS[0], seconds=2).joints
    bones = joints[:, :, 1:] - joints[:, :, list(SMPL22.parents[1:])]
    length = np.linalg.norm(bones, axis=-1)
    assert (length.max(axis=0) - length.min(axis=0)).max() < 1e-4
    np.testing.assert_allclose(np.quantile(joints[..., 1].min(axis=-1), 0.05, axis=0), 0, atol=1e-5)


def test_progress_counts_the_steps(model):
    seen = []
    model.generate("Bow.", seconds=1, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(step, 5) for step in range(1, 6)]


def test_latents_are_those_of_each_person_alone(model):
    rng = torch.Generator().manual_seed(0)
    features = model.normaliser.mean_F + 0.1 * torch.randn(3, 18, 2, 262, generator=rng)
    noise = torch.randn(3, 4, 2, model.latent, generator=rng)
    with torch.no_grad():
        mean, drawn, decoded = model.encode(features), model.encode(features, noise), model.decode(noise)
        assert mean.shape == drawn.shape == (3, 4, 2, model.latent)
        assert decoded.shape == (3, 16, 2, 262)
        for row in range(3):
            for person in (0, 1):
                posterior = model.vae.encode(model.normaliser.normalise(features[row, None, :, person]))
                alone = posterior.mean_BLNC.flatten(2)[0]
                torch.testing.assert_close(mean[row, :, person], alone, atol=1e-5, rtol=1e-5)
                spread = (0.5 * posterior.logvar_BLNC.flatten(2)[0]).exp()
                sample = alone + spread * noise[row, :, person]
                torch.testing.assert_close(drawn[row, :, person], sample, atol=1e-5, rtol=1e-5)
                back = model.vae.decode(noise[row, None, :, person].unflatten(-1, (7, 4)))
                raw = model.normaliser.denormalise(back)[0]
                torch.testing.assert_close(decoded[row, :, person], raw, atol=1e-5, rtol=1e-5)


@pytest.fixture
def saved(model, tmp_path) -> Callable[..., Path]:
    def save(name: str = "best", parts: Sequence[str] = PARTS, config: object = None) -> Path:
        documents = {} if config is False else {"config": config or model.config.model_dump(mode="json")}
        tensors = {part: model.parts()[part].state_dict() for part in parts}
        checkpoint.save(tmp_path / name, tensors=tensors, documents=documents | {"state": {"step": 1}})
        return tmp_path / name

    return save


def test_a_loaded_checkpoint_generates_the_same(model, saved):
    folder = saved(config={**model.config.model_dump(mode="json"), "name": "duet", "seed": 0})
    before = model.generate(PROMPTS[0], seconds=1)
    for path in (folder, str(folder), folder.parent):  # the checkpoint, or the run that it is the best of
        again = InterMoE.load(path)
        assert again.config == model.config
        assert not again.training
        again._encoder = WordEncoder()  # type: ignore[assignment]
        assert difference(before, again.generate(PROMPTS[0], seconds=1)) == 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_the_config_of_trained_networks_is_read_without_their_weights(model, saved):
    folder = saved(config={**model.config.model_dump(mode="json"), "name": "duet", "seed": 0})
    (folder / "denoiser.safetensors").write_bytes(bytes((folder / "denoiser.safetensors").stat().st_size))
    assert ModelConfig.load(folder) == ModelConfig.load(folder.parent) == model.config
    with pytest.raises(UserError) as caught:
        ModelConfig.load(saved("bare", config=False))
    assert str(caught.value) == (
        f"{folder.parent / 'bare'}: holds no config, so it is not a model (allowed: a run of `intermoe train`)"
    )


def test_a_vae_alone_encodes_but_does_not_generate(model, saved):
    folder = saved(parts=VAE_PARTS)
    with pytest.raises(UserError, match="holds no text_head and no denoiser"):
        InterMoE.load(folder)
    vae = InterMoE.load(folder, parts=VAE_PARTS)
    noise = normal([0], (3, 2, model.latent), stream=0)
    with torch.no_grad():
        assert torch.equal(vae.decode(noise), model.decode(noise))


def test_what_is_no_model_is_refused_in_one_line(model, saved, tmp_path):
    other_sizes = {**model.config.model_dump(mode="json"), "vae": {"width": 16, "latent": 4, "blocks": 1}}
    bad_config = {**model.config.model_dump(mode="json"), "moe": {"experts": 0}}
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "missing", "no such folder"),
        (tmp_path / "empty", "has no manifest.json"),
        (saved("bare", config=False), "holds no config"),
        (saved("sizes", config=other_sizes), "the weights do not fit the config beside them"),
        (saved("bad", config=bad_config), "moe.experts = 0"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            InterMoE.load(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["denoiser.safetensors", "config.json", "manifest.json"])
def test_a_damaged_file_is_refused(saved, file):
    folder = saved()
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        InterMoE.load(folder)


def test_minilm_is_loaded_once_and_when_first_needed():
    model = small_model()
    model._encoder = None
    alone = model.generate("Two people bow.", seconds=1, seed=0)
    encoder = model.encoder
    assert encoder.name == "minilm"
    together = model.generate([PROMPTS[1], "Two people bow."], seconds=1, seed=0)
    assert difference(alone, together[1]) < 1e-4
    assert model.encoder is encoder


def test_clip_without_weights_says_how_to_get_them(tmp_path):
    config = {**CONFIG, "data": {"encoder": "clip"}}
    with torch.device("meta"):
        model = InterMoE(ModelConfig.parse(config))
    model._text_folder = tmp_path
    with pytest.raises(UserError, match=r"no weights of CLIP \(model.safetensors\)"):
        _ = model.encoder


def test_data_config_knows_skeletons_and_encoders():
    with pytest.raises(UserError, match=r"skeleton = 'smpl' \(allowed: one of smpl22"):
        DataConfig.parse({"skeleton": "smpl"})
    with pytest.raises(UserError, match=r"encoder = 'bert' \(allowed: 'minilm' or 'clip'"):
        DataConfig.parse({"encoder": "bert"})
    with pytest.raises(UserError, match=r"max_frames = 15 \(allowed: greater than or equal to 16"):
        DataConfig.parse({"max_frames": 15})
