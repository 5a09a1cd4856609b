"""Files in the form of the InterMoE release and of InterGen's evaluator, small, with random weights."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from intermoe.body.skeletons import SMPL22
from intermoe.data.shards import DataConfig
from intermoe.evaluation.evaluator import EvaluatorConfig
from intermoe.layers.conditioning import sinusoids
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig
from intermoe.moe.config import MoeConfig
from intermoe.networks.denoiser import DenoiserConfig
from intermoe.networks.vae import VaeConfig

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
# The same as overrides of the preset interhuman.
SMALL_WORDS = [
    "vae.width=32",
    "vae.latent=32",
    "denoiser.width=32",
    "denoiser.layers=2",
    "denoiser.heads=4",
    "denoiser.text_layers=1",
    "denoiser.text_hidden=16",
    "moe.experts=4",
    "moe.hidden=64",
]
JUDGE_WORDS = [
    "evaluator.motion_width=16",
    "evaluator.motion_layers=2",
    "evaluator.motion_heads=2",
    "evaluator.motion_hidden=24",
    "evaluator.text_layers=2",
    "evaluator.text_hidden=20",
]


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


def write_stats(folder: Path) -> Path:
    """Mean and standard deviation of the features; some deviate hardly at all."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    np.save(folder / "global_mean.npy", rng.normal(size=262).astype(np.float32))
    np.save(folder / "std.npy", rng.uniform(1e-4, 2, size=262).astype(np.float32))
    return folder


def small_files(folder: Path) -> dict[str, Path]:
    """Files in the published form with random weights, made without the goldens: by the inverse of each rule."""
    torch.manual_seed(0)
    model = InterMoE(SMALL)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    vae, net = {}, {}
    ours = model.require_vae().state_dict()
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
                    vae[f"{to}.adj_matrix"] = (model.require_vae().get_buffer(f"{name}.near_JJ") > 0).float()
    ours = model.denoiser.state_dict()
    for kind in ("weight", "bias"):
        net[f"motion_embed.{kind}"], net[f"text_embed.{kind}"] = (
            ours[f"embed_motion.{kind}"],
            ours[f"embed_text.{kind}"],
        )
        net[f"out.linear.{kind}"] = ours[f"out.{kind}"]
        for number in (0, 2):
            net[f"embed_timestep.time_embed.{number}.{kind}"] = ours[f"embed_timestep.network.{number}.{kind}"]
        for layer in (0, 1):
            mine, theirs = f"layers.{layer}", f"blocks.{layer}"
            for norm, name in (
                ("self_norm", "sa_block.norm"),
                ("cross_norm", "ca_block.norm"),
                ("partner_norm", "ca_block.xf_norm"),
                ("feed_forward.norm", "ffn.norm"),
            ):
                net[f"{theirs}.{name}.emb_layers.1.{kind}"] = ours[f"{mine}.{norm}.modulation.{kind}"]
            for attention, name in (("self_attention", "sa_block"), ("cross_attention", "ca_block")):
                parts = [ours[f"{mine}.{attention}.{part}.{kind}"] for part in ("query", "key_value")]
                net[f"{theirs}.{name}.attention.in_proj_{kind}"] = torch.cat(parts)
                net[f"{theirs}.{name}.attention.out_proj.{kind}"] = ours[f"{mine}.{attention}.out.{kind}"]
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


class InterClip(nn.Module):
    """The published evaluator's form, written out plainly: the names are its, the sums are done in the open."""

    def __init__(self, vocabulary: int) -> None:
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
        self.token_embedding = nn.Embedding(vocabulary, 768)
        self.positional_embedding = nn.Parameter(torch.randn(77, 768))
        self.latent_scale = nn.Parameter(torch.tensor([2.5]))
        self.textTransEncoder = nn.TransformerEncoder(text, 2)
        self.text_ln = nn.LayerNorm(768)
        self.out = nn.Linear(768, 512)

    def motion(self, features_TPF: Tensor) -> Tensor:
        encoder: Any = self.motion_encoder
        x = encoder.embed_motion(features_TPF[:, :, :258].reshape(len(features_TPF), 516))
        x = torch.cat([encoder.query_token, x]) + encoder.sequence_pos_encoder.pe[: len(x) + 1]
        return self.long(encoder.out(encoder.out_ln(encoder.transformer(x[None])[0, 0])))

    def text(self, ids_K: Tensor, eot: int) -> Tensor:
        x = self.textTransEncoder((self.token_embedding(ids_K) + self.positional_embedding)[None])
        return self.long(self.out(self.text_ln(x[0, eot])))

    def long(self, x: Tensor) -> Tensor:
        return x / x.norm() * self.latent_scale


def evaluator_file(file: Path, vocabulary: int = 11) -> tuple[Path, InterClip]:
    """The evaluator's file, and the network in it."""
    torch.manual_seed(0)
    published = InterClip(vocabulary).eval()
    state = {f"model.{key}": value for key, value in published.state_dict().items()}
    return write(file, state, hyper_parameters=Settings()), published
