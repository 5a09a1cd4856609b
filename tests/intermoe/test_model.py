import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_model import CONFIG, WordEncoder, small_model
from toy_shards import caption_states, write_shards

from intermoe import checkpoint
from intermoe.body.features import contacts_from_features, joints_from_features, rotations_from_features
from intermoe.body.settling import settled_body
from intermoe.body.skeletons import SMPL22
from intermoe.data.draws import Stream, normal, prompt_seed
from intermoe.data.shards import DataConfig
from intermoe.diffusion import samplers
from intermoe.diffusion.guidance import guided
from intermoe.diffusion.schedule import Diffusion, DiffusionConfig
from intermoe.errors import UserError, UserNote
from intermoe.model import InterMoE
from intermoe.model_config import VAE_PARTS, ModelConfig
from intermoe.moe.paradigms import DynamicSelection
from intermoe.moe.selection import update_biases
from intermoe.motion import Motion
from intermoe.text.encoders import TextStates, load_encoder

# Legend: B batch, T frames, L latent frames, P = 2 persons, F features, N latent joints, C channels, Z = N * C,
# K text tokens, W text width.
PROMPTS = [
    "Two people bow.",
    "The first person pushes the second, who stumbles.",
    "They hug.",
    "One kicks, one blocks.",
]


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


def settled(features_PTF):
    """What users get of a network's output."""
    return settled_body(
        joints_from_features(features_PTF, SMPL22),
        rotations_from_features(features_PTF, SMPL22),
        SMPL22,
        contact_TK=contacts_from_features(features_PTF, SMPL22),
    ).motion(SMPL22)


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


@pytest.mark.slow
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
    noise = normal([7], (5, 2, model.latent), Stream.LATENT)
    latents = [
        model.sample(noise, model.condition(model.encoder.encode([prompt])).detach(), guidance=1.0)
        for prompt in PROMPTS[:2]
    ]
    assert (latents[0] - latents[1]).abs().max() > 1e-2


def test_a_prompt_that_names_the_second_person_first_exchanges_the_persons(model, monkeypatch):
    """Where the data names persons in the order of the caption: the same motion, each in the other's place."""
    named = small_model(data={"persons": "named"})
    monkeypatch.setattr("intermoe.model.prompt_seeds", lambda _, prompts: [5] * len(prompts))
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


def test_generation_is_sampling_from_the_prompts_noise_with_guidance(model):
    motion = model.generate(PROMPTS[1], seconds=18 / 30, seed=2, guidance=1.5)
    noise = normal([prompt_seed(2, PROMPTS[1], 0)], (5, 2, model.latent), Stream.LATENT)
    with torch.no_grad():
        condition = model.condition(model.encoder.encode([PROMPTS[1]]))
        mask = torch.ones(1, 5, dtype=torch.bool)
        config = model.config.diffusion.model_copy(update={"guidance": 1.5})
        latent = samplers.sample(model.diffusion, guided(model.denoiser, condition, mask, config), noise)
        features = model.decode(latent)[0, :18].transpose(0, 1)
    joints, rotations = settled(features)
    expected = Motion(joints.transpose(0, 1).numpy(), rotations.transpose(0, 1).numpy(), 30, "x", SMPL22)
    assert difference(motion, expected) < 1e-5
    assert difference(motion, model.generate(PROMPTS[1], seconds=18 / 30, seed=2, guidance=3.0)) > 1e-3
    default = model.generate(PROMPTS[1], seconds=18 / 30, seed=2)
    assert difference(default, model.generate(PROMPTS[1], seconds=18 / 30, seed=2, guidance=2.0)) == 0


def test_a_trained_model_samples_as_it_is_set_to(model):
    before = model.diffusion
    try:
        model.set_sampling(sampler="dpm++", sampler_steps=3, guidance=1.5)
        motion = model.generate(PROMPTS[1], seconds=18 / 30, seed=2)
        config = DiffusionConfig(steps=100, sampler="dpm++", sampler_steps=3, guidance=1.5)
        assert model.diffusion.config == config
        noise = normal([prompt_seed(2, PROMPTS[1], 0)], (5, 2, model.latent), Stream.LATENT)
        with torch.no_grad():
            condition = model.condition(model.encoder.encode([PROMPTS[1]]))
            denoise = guided(model.denoiser, condition, torch.ones(1, 5, dtype=torch.bool), config)
            features = model.decode(samplers.sample(Diffusion(config), denoise, noise))[0, :18].transpose(0, 1)
        joints, _ = settled(features)
        np.testing.assert_allclose(motion.joints, joints.transpose(0, 1).numpy(), atol=1e-5)
        for changes, message in (
            (
                {"steps": 50},
                "steps is not about sampling (allowed: sampler, sampler_steps, spacing, guidance, guidance_",
            ),
            ({"sampler_steps": 200}, "sampling: sampler_steps = 200 is more than steps = 100"),
            ({"sampler": "ddim"}, "sampling: sampler_steps = 3 is not a divisor of steps = 100"),
            ({"sampler": "euler"}, "sampling: sampler = 'euler' (allowed: 'ddim', 'dpm++' or 'ancestral')"),
            ({"guidance_interval": (0.5, 0.2)}, "sampling: guidance_interval = [0.5, 0.2] is not within [0, 1] and in"),
        ):
            with pytest.raises(UserError, match=f"^{re.escape(message)}"):
                model.set_sampling(**changes)
    finally:
        model.diffusion = before


def test_bones_keep_their_length_and_feet_come_to_the_ground(model):
    joints = model.generate(PROMPTS[0], seconds=2).joints
    bones = joints[:, :, 1:] - joints[:, :, list(SMPL22.parents[1:])]
    length = np.linalg.norm(bones, axis=-1)
    assert (length.max(axis=0) - length.min(axis=0)).max() < 1e-4
    np.testing.assert_allclose(np.quantile(joints[..., 1].min(axis=-1), 0.05, axis=0), 0, atol=1e-5)


def test_generation_is_in_eval_mode_and_gives_every_module_its_own_mode_back():
    model = small_model()
    expected = model.generate(PROMPTS[0], seconds=1)
    model.train()
    model.vae.eval()  # as a training of the denoiser has it
    modes = [module.training for module in model.modules()]
    assert difference(expected, model.generate(PROMPTS[0], seconds=1)) == 0
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ZeroDivisionError):
        model.generate(PROMPTS[0], seconds=1, on_step=lambda done, total: 1 // 0)  # type: ignore[arg-type]
    assert [module.training for module in model.modules()] == modes


class StoredStates:
    """An encoder that gives the states that the toy data set holds."""

    def encode(self, texts: Sequence[str]) -> TextStates:
        states_BKW = torch.stack([torch.from_numpy(caption_states(text, 384)) for text in texts])
        shape = states_BKW.shape[:2]
        return TextStates(states_BKW, torch.ones(shape, dtype=torch.bool), torch.full(shape[:1], shape[1] - 1))

    def left_out(self, text: str) -> str:
        return ""


@pytest.mark.parametrize("persons", ["drawn", "named"])
def test_stored_captions_condition_as_their_prompts_do(tmp_path, persons):
    model = small_model(data={"persons": persons})
    model._encoder = StoredStates()  # type: ignore[assignment]
    folder = write_shards(tmp_path, {"test": 6})
    recordings = [header for header in folder.headers("test") for _ in range(2)]
    captions = [form[0] for header in folder.headers("test") for form in (header.captions, header.swapped)]
    texts = [folder.caption(caption).text for caption in captions]
    read, stored = model.read_prompts(texts), model.read_captions(folder, recordings, captions)
    assert torch.equal(read.text.states_BKW, stored.text.states_BKW)
    assert torch.equal(read.text.mask_BK, stored.text.mask_BK)
    assert torch.equal(read.text.eot_B, stored.text.eot_B)
    assert stored.exchanged_B.tolist() == read.exchanged_B.tolist()
    assert set(stored.exchanged_B.tolist()) == ({False, True} if persons == "named" else {False})


@pytest.mark.parametrize("persons", ["drawn", "named"])
def test_prompts_that_name_the_persons_differently_give_the_same_motion(persons):
    model = small_model(data={"persons": persons})
    model._encoder = load_encoder("minilm")
    prompts = [
        "The second person pushes the first person.",
        "The 2nd person pushes the 1st person.",
        "P2 pushes P1.",
        "Individual 2 pushes individual 1.",
        "Person #2 pushes person #1.",
        "Character B pushes character A.",
    ]
    read = model.read_prompts(prompts)
    assert read.exchanged_B.tolist() == [persons == "named"] * 6
    motions = model.generate_batch(read, frames_B=torch.full((6,), 17), seeds=[3] * 6).motions(prompts)
    assert [motion.caption for motion in motions] == prompts
    assert max(difference(motion, motions[0]) for motion in motions) < 1e-4


def test_captions_of_another_encoder_are_refused(tmp_path):
    folder = write_shards(tmp_path, {"test": 2}, width=768, encoder="clip")
    header = folder.headers("test")[0]
    with pytest.raises(UserError) as caught:
        small_model().read_captions(folder, [header], header.captions[:1])
    expected = f"{tmp_path}: holds captions as 'clip' encodes them (allowed: 'minilm', which the model reads)"
    assert str(caught.value) == expected


def test_a_batch_of_several_lengths_holds_what_each_gives_alone(model):
    frames, seeds = [30, 17, 62, 30], [1, 2, 3, 4]
    steps: list[tuple[int, int]] = []
    batch = model.generate_batch(
        model.read_prompts(PROMPTS),
        frames_B=torch.tensor(frames),
        seeds=seeds,
        on_step=lambda *step: steps.append(step),
    )
    assert steps == [(step, 5) for step in range(1, 6)]
    assert batch.features_BTPF.shape == (4, 62, 2, 262)
    for motion, length, seed, prompt in zip(batch.motions(PROMPTS), frames, seeds, PROMPTS, strict=True):
        alone = model.generate_batch(model.read_prompts([prompt]), frames_B=torch.tensor([length]), seeds=[seed])
        assert motion.joints.shape == (length, 2, 22, 3)
        assert difference(motion, alone.motions([prompt])[0]) < 1e-4


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
    def save(
        name: str = "best", parts: Sequence[str] = (*VAE_PARTS, "text_head", "denoiser"), config: object = None
    ) -> Path:
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
    noise = normal([0], (3, 2, model.latent), Stream.LATENT)
    with torch.no_grad():
        assert torch.equal(vae.decode(noise), model.decode(noise))


def test_what_is_no_model_is_refused_in_one_line(model, saved, tmp_path):
    other_sizes = {**model.config.model_dump(mode="json"), "vae": {"width": 16, "latent": 4, "blocks": 1}}
    bad_config = {**model.config.model_dump(mode="json"), "moe": {"experts": 0}}
    denoiser = model.config.denoiser.model_dump(mode="json")
    endless = {**model.config.model_dump(mode="json"), "denoiser": {**denoiser, "layers": 10_000_000}}
    # Each within its range, but together of 100 terabytes: found out before any of it is taken.
    vast = {**model.config.model_dump(mode="json"), "denoiser": {**denoiser, "width": 16384, "layers": 16}}
    vast["moe"] = {"experts": 1024, "hidden": 65536}
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "missing", "no such folder"),
        (tmp_path / "empty", "has no manifest.json"),
        (saved("bare", config=False), "holds no config"),
        (saved("sizes", config=other_sizes), "the weights do not fit the config beside them"),
        (saved("bad", config=bad_config), "moe.experts = 0"),
        (saved("endless", config=endless), r"denoiser.layers = 10000000 \(allowed: less than or equal to 256\)"),
        (saved("vast", config=vast), "the weights do not fit the config beside them"),
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


def test_many_prompts_are_generated_in_batches_that_change_nothing(model, monkeypatch):
    together = model.generate(PROMPTS, seconds=1, seed=4)
    monkeypatch.setattr("intermoe.generation._FRAMES_PER_BATCH", 2 * 30)
    sizes, steps = [], []
    handle = model.denoiser.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0]) // 2))
    apart = model.generate(PROMPTS, seconds=1, seed=4, on_step=lambda done, total: steps.append((done, total)))
    handle.remove()
    assert [motion.caption for motion in apart] == PROMPTS
    assert all(difference(one, other) < 1e-4 for one, other in zip(together, apart, strict=True))
    assert set(sizes) == {2}
    total = steps[-1][1]
    assert steps == [(done, total) for done in range(1, total + 1)]
    assert total == 2 * model.config.diffusion.sampler_steps


def test_a_prompt_that_is_not_read_to_its_end_is_noted(model):
    prompt = " ".join(f"word{number}" for number in range(23))
    with pytest.warns(UserNote) as caught:
        model.read_prompts(["Two people bow.", prompt])
    assert [str(note.message) for note in caught] == [
        "the prompt is too long, its end is not read: 'word20 word21 word22'"
    ]


@pytest.mark.parametrize(
    "diffusion",
    [
        {"sampler": "ancestral"},
        {"sampler": "ancestral", "prediction": "v"},
        {"prediction": "noise", "schedule": "scaled_linear"},
    ],
    ids=lambda values: " ".join(values.values()),
)
def test_a_prompt_alone_is_that_in_a_batch_whatever_is_predicted_and_drawn(diffusion):
    model = small_model(diffusion=diffusion)
    together = model.generate(PROMPTS, seconds=1, seed=4)
    for prompt, expected in zip(PROMPTS, together, strict=True):
        assert difference(model.generate(prompt, seconds=1, seed=4), expected) < 1e-3
    assert difference(together[0], together[1]) > 0.01
    other = model.generate(PROMPTS[0], seconds=1, seed=5)
    assert difference(other, together[0]) > 0.01
