"""Published files: the goldens under the published names give the golden outputs; what does not fit is refused."""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from intermoe.conditioning import sinusoids
from intermoe.config import Config
from intermoe.denoiser import DenoiserConfig
from intermoe.errors import UserError
from intermoe.evaluation.evaluator import Evaluator, EvaluatorConfig
from intermoe.model import DataConfig, InterMoE, ModelConfig
from intermoe.moe.block import MoeConfig
from intermoe.published import evaluator_parts, generator_parts, read
from intermoe.skeletons import SMPL22
from intermoe.vae import VaeConfig

State = dict[str, Tensor]
SMALL = ModelConfig(
    data=DataConfig(encoder="clip"),
    vae=VaeConfig(width=32, latent=32),
    denoiser=DenoiserConfig(width=32, layers=2, heads=4, text_layers=1, text_hidden=16),
    moe=MoeConfig(experts=4, hidden=64, timestep_in_router=True),
)
JUDGE = EvaluatorConfig(
    motion_width=16, motion_layers=2, motion_heads=2, motion_hidden=24, text_layers=2, text_hidden=20, vocabulary=11
)


class Settings(argparse.Namespace):
    """An object of a class that no reader may build."""


def write(file: Path, state: State, **more: object) -> Path:
    torch.save({"state_dict": state, "epoch": 3, **more}, file)
    return file


def text_head() -> State:
    """The published text head, of a size of its own, with random weights."""
    torch.manual_seed(5)
    layer = nn.TransformerEncoderLayer(768, 8, 16, 0.1, activation="gelu", batch_first=True)
    head = {"clipTransEncoder": nn.TransformerEncoder(layer, 1), "clip_ln": nn.LayerNorm(768)}
    return {f"{name}.{key}": value for name, module in head.items() for key, value in module.state_dict().items()}


@pytest.fixture
def stats(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "global_mean.npy", rng.normal(size=262).astype(np.float32))
    np.save(tmp_path / "std.npy", rng.uniform(1e-4, 2, size=262).astype(np.float32))
    return tmp_path


def small_files(folder: Path) -> dict[str, Path]:
    """Files in the published form with random weights, made without the goldens: by the inverse of each rule."""
    torch.manual_seed(0)
    model = InterMoE(SMALL)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    vae, net = {}, {}
    ours = model.vae.state_dict()
    touching = [contact.joint for contact in SMPL22.contacts]
    for mine, theirs in (("joints_in", "motion_enc"), ("joints_out", "motion_dec")):
        for place, number in (("first", 0), ("second", 2)):
            for j in range(22):
                weight, bias = ours[f"{mine}.{place}.weight_JIO"][j].T, ours[f"{mine}.{place}.bias_JO"][j]
                if j in touching and (mine, place) == ("joints_in", "first"):
                    extra = ours["joints_in.contact_weight_KC"][touching.index(j)]
                    weight = torch.cat([weight, extra[:, None]], dim=1)
                if j in touching and (mine, place) == ("joints_out", "second"):
                    k = touching.index(j)
                    weight = torch.cat([weight, ours["joints_out.contact_weight_KC"][k][None]])
                    bias = torch.cat([bias, ours["joints_out.contact_bias_K"][k][None]])
                vae[f"{theirs}.layers.{j}.{number}.weight"] = weight
                vae[f"{theirs}.layers.{j}.{number}.bias"] = bias
    vae["dist.weight"], vae["dist.bias"] = ours["to_posterior.weight_JIO"], ours["to_posterior.bias_JO"]
    for mine, theirs, first in (("down", "conv_enc", 0), ("up", "conv_dec", 1)):
        for stage in (0, 1):
            for block in (0, 1):
                for place, number in (("first", 2), ("second", 5)):
                    name, to = (
                        f"{mine}.{stage}.blocks.{block}.{place}",
                        f"{theirs}.layers.{stage}.{block + first}.layers.{number}",
                    )
                    for kind in ("weight", "bias"):
                        vae[f"{to}.graph_conv.linear1.{kind}"] = ours[f"{name}.own.{kind}"]
                        vae[f"{to}.graph_conv.linear2.{kind}"] = ours[f"{name}.near.{kind}"]
                    vae[f"{to}.temp_conv.weight"] = ours[f"{name}.conv.weight"].transpose(2, 3)
                    vae[f"{to}.temp_conv.bias"] = ours[f"{name}.conv.bias"]
                    vae[f"{to}.adj_matrix"] = (model.vae.get_buffer(f"{name}.near_JJ") > 0).float()
    ours = model.denoiser.state_dict()
    for kind in ("weight", "bias"):
        net[f"motion_embed.{kind}"], net[f"text_embed.{kind}"] = (
            ours[f"embed_motion.{kind}"],
            ours[f"embed_text.{kind}"],
        )
        net[f"out.linear.{kind}"] = ours[f"out.{kind}"]
        for place in (0, 2):
            net[f"embed_timestep.time_embed.{place}.{kind}"] = ours[f"embed_timestep.network.{place}.{kind}"]
        for layer in (0, 1):
            mine, theirs = f"layers.{layer}", f"blocks.{layer}"
            for norm, block in (
                ("self_norm", "sa_block.norm"),
                ("cross_norm", "ca_block.norm"),
                ("partner_norm", "ca_block.xf_norm"),
                ("feed_forward.norm", "ffn.norm"),
            ):
                net[f"{theirs}.{block}.emb_layers.1.{kind}"] = ours[f"{mine}.{norm}.modulation.{kind}"]
            for attention, block in (("self_attention", "sa_block"), ("cross_attention", "ca_block")):
                parts = [ours[f"{mine}.{attention}.{part}.{kind}"] for part in ("query", "key_value")]
                net[f"{theirs}.{block}.attention.in_proj_{kind}"] = torch.cat(parts)
                net[f"{theirs}.{block}.attention.out_proj.{kind}"] = ours[f"{mine}.{attention}.out.{kind}"]
    for layer in (0, 1):
        mine, theirs = f"layers.{layer}.feed_forward", f"blocks.{layer}.ffn"
        for expert in range(4):
            gate, up = ours[f"{mine}.experts.inward_EDH"][expert].chunk(2, dim=-1)
            net[f"{theirs}.experts.{expert}.gate_proj.weight"] = gate.T
            net[f"{theirs}.experts.{expert}.up_proj.weight"] = up.T
            net[f"{theirs}.experts.{expert}.down_proj.weight"] = ours[f"{mine}.experts.outward_EHD"][expert].T
        net[f"{theirs}.gate_weight"] = ours[f"{mine}.router.motion.weight"] / 2
        net[f"{theirs}.text_gate_weight"] = ours[f"{mine}.router.text.weight"] / 2
        net[f"{theirs}.aux_bias"] = torch.tensor([[-0.3], [-0.4], [-0.5], [-0.7]])
        net[f"{theirs}.expert_threshold"], net[f"{theirs}.ema_decay"] = torch.zeros(4), torch.zeros(1)
    net["sequence_pos_encoder.pe"] = sinusoids(torch.arange(50), 32)
    whole = {f"model.denoiser.net.{key}": value for key, value in net.items()}
    whole |= {f"model.{key}": value for key, value in text_head().items()}
    whole |= {"model.clip_transformer.resblocks.0.weight": torch.zeros(3), "model.ln_final.bias": torch.zeros(3)}
    whole |= {f"model.vae.{key}": value for key, value in vae.items()}
    shells = {"hyper_parameters": Settings(layers=[1, 2], inner=Settings(a=1)), "optimizer_states": [{"state": {}}]}
    return {
        "denoiser": write(folder / "denoiser.ckpt", whole, **shells),
        "vae": write(folder / "vae.ckpt", {f"model.{key}": value for key, value in vae.items()}),
    }


def load(parts: dict[str, State], config: ModelConfig) -> InterMoE:
    model = InterMoE(config).eval()
    for name, state in parts.items():
        model.get_submodule(name).load_state_dict(state)
    return model


def test_goldens_under_the_published_names_give_the_golden_outputs(golden: Path, tmp_path: Path, stats: Path):
    denoiser = torch.load(golden / "denoiser.pt", weights_only=True)
    vae = torch.load(golden / "vae_interhuman.pt", weights_only=True)
    state = {f"model.denoiser.net.{key}": value for key, value in denoiser["state_dict"].items()}
    state |= {f"model.{key}": value for key, value in text_head().items()}
    parts = generator_parts(
        SMALL,
        denoiser=write(tmp_path / "d.ckpt", state),
        vae=write(tmp_path / "v.ckpt", {f"vae.{key}": value for key, value in vae["state_dict"].items()}),
        stats=stats,
    )
    model = load(parts, SMALL)
    mask_BL = denoiser["mask"][..., 0].bool()
    with torch.no_grad():
        found = model.denoiser(denoiser["x"].unflatten(-1, (2, 224)), denoiser["t"], denoiser["cond"], mask_BL)
        posterior, decoded = model.vae.encode(vae["x"]), model.vae.decode(vae["z_in"])
    expected = denoiser["out"].unflatten(-1, (2, 224))
    torch.testing.assert_close(found[mask_BL], expected[mask_BL], atol=1e-5, rtol=0)
    assert not found[~mask_BL].any()
    torch.testing.assert_close(posterior.mean_BLNC, vae["mu"], atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded, vae["dec"], atol=1e-5, rtol=0)


def test_the_text_head_is_the_published_one_and_attends_to_the_tokens_that_fill_up(tmp_path: Path, stats: Path):
    files = small_files(tmp_path)
    model = load(generator_parts(SMALL, stats=stats, **files), SMALL)
    torch.manual_seed(5)
    layer = nn.TransformerEncoderLayer(768, 8, 16, 0.1, activation="gelu", batch_first=True)
    published, norm = nn.TransformerEncoder(layer, 1).eval(), nn.LayerNorm(768)
    states, eot = torch.randn(2, 77, 768), torch.tensor([5, 9])
    with torch.no_grad():
        wanted = norm(published(states))[torch.arange(2), eot]  # no mask of padding, as published
        found = model.text_head(states, torch.ones(2, 77, dtype=torch.bool), eot)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_every_weight_comes_through_and_the_statistics_as_they_are(tmp_path: Path, stats: Path):
    parts = generator_parts(SMALL, stats=stats, **small_files(tmp_path))
    torch.manual_seed(0)
    model = InterMoE(SMALL)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    for name in ("vae", "denoiser"):
        for key, value in model.get_submodule(name).state_dict().items():
            if "selection" not in key:
                torch.testing.assert_close(parts[name][key], value, msg=key)
    torch.testing.assert_close(
        parts["denoiser"]["layers.1.feed_forward.selection.bias_E"], torch.tensor([-0.3, -0.4, -0.5, -0.7])
    )
    # Not as our own statistics, where a tiny deviation counts as 1.
    assert torch.equal(parts["normaliser"]["std_F"], torch.from_numpy(np.load(stats / "std.npy")))
    assert parts["normaliser"]["std_F"].min() < 1e-3


@pytest.mark.parametrize(("module", "name"), [("shutil", "copyfile"), ("os", "link")])
def test_nothing_in_a_file_is_executed(tmp_path: Path, module: str, name: str):
    """What would copy a file as it is read becomes an empty shell, or, where torch knows it as evil, is refused."""
    (tmp_path / "bait").write_text("here")

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return (getattr(importlib.import_module(module), name), (str(tmp_path / "bait"), str(tmp_path / "sprung")))

    file = write(tmp_path / "trap.ckpt", {"a": torch.ones(2)}, hyper_parameters=Trap())
    if module == "os":
        with pytest.raises(UserError, match="holds instructions that are not executed"):
            read(file)
    else:
        assert read(file).keys() == {"a"}
    assert not (tmp_path / "sprung").exists()


def change(file: Path, alter: Callable[[State], None]) -> None:
    saved = torch.load(file, weights_only=False)
    alter(saved["state_dict"])
    torch.save(saved, file)


@pytest.mark.parametrize(
    ("which", "alter", "message"),
    [
        ("denoiser", lambda s: s.update({"model.extra": torch.ones(1)}), "unexpected key 'model.extra'"),
        (
            "denoiser",
            lambda s: s.update({"model.denoiser.net.blocks.2.x": torch.ones(1)}),
            "unexpected key 'blocks.2.x'",
        ),
        ("denoiser", lambda s: s.pop("model.clip_ln.weight"), "lacks the key 'clip_ln.weight'"),
        (
            "denoiser",
            lambda s: s.pop("model.denoiser.net.blocks.1.ffn.aux_bias"),
            "lacks the key 'blocks.1.ffn.aux_bias'",
        ),
        (
            "denoiser",
            lambda s: s.update({"model.denoiser.net.text_embed.weight": torch.ones(16, 768)}),
            r"'text_embed.weight' has the shape \(16, 768\) \(allowed: \(32, 768\), as in the config\)",
        ),
        (
            "denoiser",
            lambda s: s["model.denoiser.net.sequence_pos_encoder.pe"].add_(1),
            "is another encoding of positions than here",
        ),
        ("denoiser", lambda s: s["model.vae.dist.bias"].add_(1), "holds another VAE than the file of the VAE"),
        (
            "denoiser",
            lambda s: s["model.clip_ln.bias"].fill_(float("nan")),
            "'model.clip_ln.bias' holds numbers that are",
        ),
        ("vae", lambda s: s.pop("model.dist.weight"), "lacks the key 'dist.weight'"),
        ("vae", lambda s: s["model.conv_enc.layers.0.0.layers.2.adj_matrix"].fill_(1), "is another skeleton than here"),
    ],
)
def test_what_is_not_expected_is_refused_by_its_name(tmp_path, stats, which, alter, message):
    files = small_files(tmp_path)
    change(files[which], alter)
    with pytest.raises(UserError, match=message):
        generator_parts(SMALL, stats=stats, **files)


def test_damaged_files_are_refused(tmp_path: Path, stats: Path):
    files = small_files(tmp_path)
    whole = files["denoiser"].read_bytes()
    for bad in (b"", b"not a checkpoint", whole[: len(whole) // 2]):
        files["denoiser"].write_bytes(bad)
        with pytest.raises(UserError, match=r"denoiser\.ckpt: (cannot be read|is damaged)"):
            generator_parts(SMALL, stats=stats, **files)
    torch.save([1, 2], files["denoiser"])
    with pytest.raises(UserError, match="holds no state_dict"):
        read(files["denoiser"])
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.ckpt")


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.ones(5), r"shape \(5,\) \(allowed: \(262,\)"), (np.zeros(262), "no std of 0"), (None, "holds no std.npy")],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path, stats, values, message):
    (stats / "std.npy").unlink()
    if values is not None:
        np.save(stats / "std.npy", values)
    with pytest.raises(UserError, match=message):
        generator_parts(SMALL, stats=stats, **small_files(tmp_path))


def test_only_the_published_network_can_be_read(tmp_path, stats):
    config = SMALL.model_copy(update={"moe": MoeConfig(experts=4, hidden=64, selection="dense")})
    with pytest.raises(UserError, match=r"moe\.selection = 'dense'"):
        generator_parts(config, stats=stats, **small_files(tmp_path))


class InterClip(nn.Module):
    """The published evaluator's form, written out plainly: the names are its, the sums are done in the open."""

    def __init__(self) -> None:
        super().__init__()
        motion = nn.TransformerEncoderLayer(16, 2, 24, 0.1, activation="gelu", batch_first=True)
        text = nn.TransformerEncoderLayer(768, 8, 20, 0.1, activation="gelu", batch_first=True)
        self.motion_encoder = nn.Module()
        self.motion_encoder.query_token = nn.Parameter(torch.randn(1, 16))
        self.motion_encoder.embed_motion = nn.Linear(516, 16)
        self.motion_encoder.transformer = nn.TransformerEncoder(motion, 2)
        self.motion_encoder.out_ln = nn.LayerNorm(16)
        self.motion_encoder.out = nn.Linear(16, 512)
        self.motion_encoder.sequence_pos_encoder = nn.Module()
        self.motion_encoder.sequence_pos_encoder.register_buffer("pe", sinusoids(torch.arange(90), 16))
        self.token_embedding = nn.Embedding(11, 768)
        self.positional_embedding = nn.Parameter(torch.randn(77, 768))
        self.latent_scale = nn.Parameter(torch.tensor([2.5]))
        self.textTransEncoder = nn.TransformerEncoder(text, 2)
        self.text_ln = nn.LayerNorm(768)
        self.out = nn.Linear(768, 512)

    def motion(self, features_TPF: Tensor) -> Tensor:
        encoder = self.motion_encoder
        x = encoder.embed_motion(features_TPF[:, :, :258].reshape(len(features_TPF), 516))
        x = torch.cat([encoder.query_token, x]) + encoder.sequence_pos_encoder.pe[: len(x) + 1]
        return self.long(encoder.out(encoder.out_ln(encoder.transformer(x[None])[0, 0])))

    def text(self, ids_K: Tensor, eot: int) -> Tensor:
        x = self.textTransEncoder((self.token_embedding(ids_K) + self.positional_embedding)[None])
        return self.long(self.out(self.text_ln(x[0, eot])))

    def long(self, x: Tensor) -> Tensor:
        return x / x.norm() * self.latent_scale


def test_the_evaluator_is_read_and_embeds_as_the_published_one(tmp_path: Path):
    torch.manual_seed(0)
    published = InterClip().eval()
    state = {f"model.{key}": value for key, value in published.state_dict().items()}
    data = DataConfig(encoder="clip")
    parts = evaluator_parts(JUDGE, data, file=write(tmp_path / "interclip.ckpt", state, hyper=Settings()))
    evaluator = Evaluator(JUDGE, data).eval()
    evaluator.load_state_dict(parts["evaluator"])
    features, frames = torch.randn(3, 20, 2, 262), torch.tensor([20, 7, 13])
    ids, eot = torch.randint(11, (3, 77)), torch.tensor([4, 76, 20])
    with torch.no_grad():
        motion = evaluator.embed_motion(features, frames)
        text = evaluator.embed_text(evaluator.token_states(ids, eot))
        for row in range(3):
            torch.testing.assert_close(motion[row], published.motion(features[row, : frames[row]]), atol=1e-5, rtol=0)
            torch.testing.assert_close(text[row], published.text(ids[row], eot[row]), atol=1e-5, rtol=0)
    assert motion.norm(dim=-1).tolist() == pytest.approx([2.5] * 3)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda s: s.update({"model.more": torch.ones(1)}), "unexpected key 'model.more'"),
        (lambda s: s.pop("model.text_ln.bias"), "lacks the key 'text_ln.bias'"),
        (lambda s: s.update({"model.latent_scale": torch.ones(2)}), r"has the shape \(2,\) \(allowed: \(1,\)"),
    ],
)
def test_an_evaluator_with_other_keys_is_refused(tmp_path, alter, message):
    file = write(tmp_path / "c.ckpt", {f"model.{key}": value for key, value in InterClip().state_dict().items()})
    change(file, alter)
    with pytest.raises(UserError, match=message):
        evaluator_parts(JUDGE, DataConfig(encoder="clip"), file=file)


def test_configs_are_strict():
    assert issubclass(EvaluatorConfig, Config)
    with pytest.raises(UserError, match=r"evaluator\.text or evaluator\.normalised"):
        evaluator_parts(JUDGE.model_copy(update={"normalised": True}), DataConfig(), file=Path("absent"))
