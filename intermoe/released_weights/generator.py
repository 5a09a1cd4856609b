"""The InterMoE release: denoiser and VAE.

Each file has to hold what the config describes, key by key, and nothing else.

Legend: E experts, D width, H hidden width of an expert, J joints, G joints of the coarser graph, C channels,
I channels in, O channels out, K contact joints of the VAE.
"""

from pathlib import Path

import torch

from intermoe.errors import UserError
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig
from intermoe.released_weights.published_file import PublishedFile, State, normaliser_state, read, renamed

# What the published network holds but never reads in the released configuration.
_UNUSED = (".ffn.expert_threshold", ".ffn.ema_decay")
# CLIP's frozen tower, which our data sets have applied already.
_FROZEN = ("clip_transformer.", "token_embedding.", "positional_embedding", "ln_final.")


def generator_parts(config: ModelConfig, *, denoiser: Path, vae: Path, stats: Path) -> dict[str, State]:
    """The parts of a generator's checkpoint (see ``model.PARTS``) from the published files.

    Args:
        config: what the files hold; ``moe.timestep_in_router`` is true of the published network.
        denoiser: the file of text head and denoiser.
        vae: the file of the VAE.
        stats: folder of ``mean.npy`` and ``std.npy`` (or ``global_mean.npy``, ``global_std.npy``), each [F].

    Raises:
        UserError: a file is damaged, or holds anything but what the config describes.
    """
    if config.moe.selection != "dynamic" or config.moe.router != "synergistic" or not 0 < config.moe.alpha < 1:
        raise UserError(
            f"moe.selection = {config.moe.selection!r}, moe.router = {config.moe.router!r}, moe.alpha = "
            f"{config.moe.alpha}",
            allowed="dynamic, synergistic, between 0 and 1: the published network",
        )
    if config.network != "intermoe":
        raise UserError(f"network = {config.network!r}", allowed="intermoe: the published network")
    for key in ("person_embedding", "person_conditioning"):
        if getattr(config.denoiser, key):
            raise UserError(f"denoiser.{key} = True", allowed="false: the published network has none")
    model = InterMoE(config)
    whole = PublishedFile(denoiser, read(denoiser), ("model.",))
    whole.drop(lambda key: key.startswith(_FROZEN))
    beside = whole.part("vae.")
    net = PublishedFile(denoiser, whole.part("denoiser.net."), ())
    vae_state = _vae(PublishedFile(vae, read(vae), ("model.", "vae.")), model)
    if beside:
        # The release keeps its VAE in the denoiser's file too.
        for key, value in _vae(PublishedFile(denoiser, beside, ()), model).items():
            if not torch.equal(value, vae_state[key]):
                raise UserError("holds another VAE than the file of the VAE", where=denoiser, allowed=f"that of {vae}")
    found = {
        "normaliser": normaliser_state(stats, model.skeleton),
        "vae": vae_state,
        "text_head": renamed(whole, model.text_head.state_dict(), {"encoder": "clipTransEncoder", "norm": "clip_ln"}),
        "denoiser": _denoiser(net, model),
    }
    whole.finish()
    return found


def _vae(file: PublishedFile, model: InterMoE) -> State:
    """The VAE's weights; what is kept joint by joint is stacked, and kernels are (joint, time)."""
    skeleton, config = model.skeleton, model.config.vae
    ours = model.require_vae().state_dict()
    touching = [contact.joint for contact in skeleton.contacts]
    found: State = {}
    for mine, theirs in (("joints_in", "motion_enc"), ("joints_out", "motion_dec")):
        for place, number in (("first", 0), ("second", 2)):
            _, inward, outward = ours[f"{mine}.{place}.weight_JIO"].shape
            wider_in = (mine, place) == ("joints_in", "first")
            wider_out = (mine, place) == ("joints_out", "second")
            weights, biases = [], []
            for joint in range(skeleton.num_joints):
                more = joint in touching
                shape = (outward + (more and wider_out), inward + (more and wider_in))
                weights.append(file.take(f"{theirs}.layers.{joint}.{number}.weight", shape))
                biases.append(file.take(f"{theirs}.layers.{joint}.{number}.bias", shape[:1]))
            if wider_in:
                found[f"{mine}.contact_weight_KC"] = torch.stack([weights[joint][:, inward] for joint in touching])
            if wider_out:
                found[f"{mine}.contact_weight_KC"] = torch.stack([weights[joint][outward] for joint in touching])
                found[f"{mine}.contact_bias_K"] = torch.stack([biases[joint][outward] for joint in touching])
            found[f"{mine}.{place}.weight_JIO"] = torch.stack([weight[:outward, :inward].T for weight in weights])
            found[f"{mine}.{place}.bias_JO"] = torch.stack([bias[:outward] for bias in biases])
    for kind in ("weight_JIO", "bias_JO"):
        theirs = f"dist.{kind.partition('_')[0]}"
        found[f"to_posterior.{kind}"] = file.take(theirs, tuple(ours[f"to_posterior.{kind}"].shape))
    for mine, theirs, first in (("down", "conv_enc", 0), ("up", "conv_dec", 1)):
        for stage in range(len(skeleton.pools)):
            for block in range(config.blocks):
                for place, number in (("first", 2), ("second", 5)):
                    to = f"{mine}.{stage}.blocks.{block}.{place}"
                    since = f"{theirs}.layers.{stage}.{block + first}.layers.{number}"
                    for kind in ("weight", "bias"):
                        for part, linear in (("own", 1), ("near", 2)):
                            shape = tuple(ours[f"{to}.{part}.{kind}"].shape)
                            found[f"{to}.{part}.{kind}"] = file.take(f"{since}.graph_conv.linear{linear}.{kind}", shape)
                    out, into, joints, frames = ours[f"{to}.conv.weight"].shape
                    kernel = file.take(f"{since}.temp_conv.weight", (out, into, frames, joints))
                    found[f"{to}.conv.weight"] = kernel.transpose(2, 3).contiguous()
                    found[f"{to}.conv.bias"] = file.take(f"{since}.temp_conv.bias", (out,))
                    near_JJ = model.require_vae().get_buffer(f"{to}.near_JJ")
                    file.same(f"{since}.adj_matrix", (near_JJ > 0).float(), "skeleton")
    for stage in range(len(skeleton.pools)):
        average_GJ = model.require_vae().get_buffer(f"down.{stage}.pool.average_GJ")
        file.same(f"conv_enc.layers.{stage}.{config.blocks}.skeleton_pool", average_GJ, "skeleton")
        spread_JG = model.require_vae().get_buffer(f"up.{stage}.unpool.spread_JG")
        file.same(f"conv_dec.layers.{stage}.0.skeleton_unpool", spread_JG, "skeleton")
    file.finish()
    return found


def _denoiser(file: PublishedFile, model: InterMoE) -> State:
    """The denoiser's weights; published router logits are a plain sum, ours are weighted by alpha and 1 - alpha."""
    config = model.config
    ours = model.denoiser.state_dict()
    width, num_experts, hidden = config.denoiser.width, config.moe.experts, config.moe.hidden
    file.same_positions("sequence_pos_encoder.pe", width)
    file.same_positions("embed_timestep.sequence_pos_encoder.pe", width)
    file.drop(lambda key: key.endswith(_UNUSED))
    names = {
        "embed_motion": "motion_embed",
        "embed_text": "text_embed",
        "embed_timestep.network": "embed_timestep.time_embed",
        "out": "out.linear",
    }
    found = renamed(file, {key: value for key, value in ours.items() if not key.startswith("layers.")}, names)
    for layer in range(config.denoiser.layers):
        mine, theirs = f"layers.{layer}", f"blocks.{layer}"
        for kind in ("weight", "bias"):
            for norm, block in (
                ("self_norm", "sa_block.norm"),
                ("cross_norm", "ca_block.norm"),
                ("partner_norm", "ca_block.xf_norm"),
                ("feed_forward.norm", "ffn.norm"),
            ):
                name = f"{mine}.{norm}.modulation.{kind}"
                found[name] = file.take(f"{theirs}.{block}.emb_layers.1.{kind}", tuple(ours[name].shape))
            for attention, block in (("self_attention", "sa_block"), ("cross_attention", "ca_block")):
                rest = (width,) if kind == "weight" else ()
                stacked = file.take(f"{theirs}.{block}.attention.in_proj_{kind}", (3 * width, *rest))
                found[f"{mine}.{attention}.query.{kind}"] = stacked[:width].clone()
                found[f"{mine}.{attention}.key_value.{kind}"] = stacked[width:].clone()
                name = f"{theirs}.{block}.attention.out_proj.{kind}"
                found[f"{mine}.{attention}.out.{kind}"] = file.take(name, (width, *rest))
        block = f"{theirs}.ffn"
        gate, up, down = (
            torch.stack(
                [file.take(f"{block}.experts.{expert}.{part}_proj.weight", shape).T for expert in range(num_experts)]
            )
            for part, shape in (("gate", (hidden, width)), ("up", (hidden, width)), ("down", (width, hidden)))
        )
        mine = f"{mine}.feed_forward"
        found[f"{mine}.experts.inward_EDH"] = torch.cat([gate, up], dim=-1)
        found[f"{mine}.experts.outward_EHD"] = down.contiguous()
        alpha = config.moe.alpha
        found[f"{mine}.router.motion.weight"] = file.take(f"{block}.gate_weight", (num_experts, width)) / alpha
        found[f"{mine}.router.text.weight"] = file.take(f"{block}.text_gate_weight", (num_experts, width)) / (1 - alpha)
        # What else the selection keeps (counts, calibration) is as before training.
        found |= {key: value for key, value in ours.items() if key.startswith(f"{mine}.selection.")}
        found[f"{mine}.selection.bias_E"] = file.take(f"{block}.aux_bias", (num_experts, 1))[:, 0].clone()
        if f"{mine}.selection.calibrated" in found:
            found[f"{mine}.selection.calibrated"] = torch.ones((), dtype=torch.bool)
    file.finish()
    return found
