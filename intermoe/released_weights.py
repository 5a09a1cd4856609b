"""Weights that others have published, under the names of this project.

Reads the Lightning checkpoints of the InterMoE release (denoiser and VAE) and of InterGen's evaluator, InterCLIP.
Nothing in them is executed: torch reads tensors and plain values, and objects of any other class, such as the
configuration that Lightning stores, come back as empty shells.

Each file has to hold what the config describes, key by key, and nothing else.

Legend: F features, E experts, D width, H hidden width of an expert, J joints, G joints of the coarser graph,
C channels, I channels in, O channels out, K contact joints of the VAE or positions of a text, V words of the
vocabulary, W text width.
"""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from intermoe.body.skeletons import Skeleton
from intermoe.data.shards import DataConfig
from intermoe.errors import UserError, reason_of
from intermoe.evaluation.conventions import PUBLISHED, EvaluatorConventions, KnownRow
from intermoe.evaluation.evaluator import PART, Evaluator, EvaluatorConfig
from intermoe.layers.conditioning import sinusoids
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig

State = dict[str, Tensor]

# What the published network holds but never reads in the released configuration.
_UNUSED = (".ffn.expert_threshold", ".ffn.ema_decay")
# InterCLIP's row of recorded motion: the least and the most that seven reruns by others gave, and the half width of the
# published row, by which both are widened. The published row itself (R top 1 0.452) was given by none of them.
_RERUNS = {
    "r_precision_top1": (0.4165, 0.4311, 0.008),
    "r_precision_top2": (0.599, 0.62, 0.009),
    "r_precision_top3": (0.701, 0.708, 0.008),
    "fid": (0.273, 0.298, 0.007),
    "mm_dist": (3.7845, 3.7857, 0.008),
    "diversity": (7.73, 7.79, 0.064),
}
INTERCLIP_ROW = KnownRow(
    dataset="interhuman",
    skeleton="smpl22",
    split="test",
    origin=PUBLISHED,
    source="reruns told in InterGen #44 #49, in2IN #5, InterMask #3 #5 #10, TIMotion #7, and the published intervals",
    ranges={name: (round(low - half, 4), round(high + half, 4)) for name, (low, high, half) in _RERUNS.items()},
)
"""What InterCLIP is known to give for InterHuman's test split."""
# CLIP's frozen tower, which our data sets have applied already.
_FROZEN = ("clip_transformer.", "token_embedding.", "positional_embedding", "ln_final.")


class _Shell(dict[object, object]):
    """Stands in for an object of a class that is not torch's; takes whatever it is given and does nothing."""

    def __init__(self, *_values: object, **_named: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Forget what the object was."""


class _File:
    """The tensors of one published file; every one of them is to be taken or known to be of no use."""

    def __init__(self, file: Path, state: State, prefixes: tuple[str, ...]) -> None:
        self.file, self._left = file, {}
        self._full: dict[str, str] = {}
        for key, value in state.items():
            short = key
            for prefix in prefixes:
                short = short.removeprefix(prefix)
            self._left[short], self._full[short] = value, key

    def take(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name; ``UserError`` where it is absent or has another shape than the config gives it."""
        if key not in self._left:
            raise UserError(f"lacks the key {key!r}", where=self.file, allowed="a file of the config's layers")
        value = self._left.pop(key)
        if tuple(value.shape) != shape:
            raise UserError(
                f"key {self._full[key]!r} has the shape {tuple(value.shape)}",
                where=self.file,
                allowed=f"{shape}, as in the config",
            )
        if not value.isfinite().all():
            raise UserError(f"key {self._full[key]!r} holds numbers that are not finite", where=self.file)
        return value.float()

    def part(self, prefix: str) -> State:
        """The tensors whose names begin so, without that; they are no longer of this file."""
        chosen = [key for key in self._left if key.startswith(prefix)]
        return {key.removeprefix(prefix): self._left.pop(key) for key in chosen}

    def drop(self, useless: Callable[[str], bool]) -> None:
        """Forget what is of no use."""
        for key in [key for key in self._left if useless(key)]:
            del self._left[key]

    def same(self, key: str, wanted: Tensor, what: str) -> None:
        """Check a tensor that is not learned; ``UserError`` where it is not what it is here."""
        if key in self._left:
            found = self.take(key, tuple(wanted.shape))
            if not torch.allclose(found, wanted, atol=1e-4):
                raise UserError(f"key {self._full[key]!r} is another {what} than here", where=self.file)

    def same_positions(self, key: str, width: int) -> None:
        """Check a table of positions, as long as it happens to be, against our sinusoids."""
        if key in self._left and self._left[key].ndim:
            positions = torch.arange(len(self._left[key]))
            self.same(key, sinusoids(positions, width), "encoding of positions")

    def finish(self) -> None:
        """Raise where something was not taken."""
        for key in self._left:
            raise UserError(f"unexpected key {self._full[key]!r}", where=self.file, allowed="a published checkpoint")


def read(file: Path) -> State:
    """The tensors of a Lightning checkpoint, by their names.

    Raises:
        UserError: no such file, a damaged one, or one that holds no state.
    """
    if not file.is_file():
        raise UserError("no such file", where=file)
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
        shells: list[Callable[..., object] | tuple[Callable[..., object], str]] = [(_Shell, name) for name in unknown]
        with torch.serialization.safe_globals(shells):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own words would advise to read it with execution.
        raise UserError(
            "is damaged, or holds instructions that are not executed", where=file, allowed="a Lightning checkpoint"
        ) from None
    except Exception as error:  # readers of zip, of pickle and of torch's older format raise what a byte leads them to
        raise UserError(f"cannot be read: {reason_of(error)}", where=file, allowed="a Lightning checkpoint") from None
    state = found.get("state_dict") if isinstance(found, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise UserError("holds no state_dict of tensors", where=file, allowed="a Lightning checkpoint")
    return dict(state)


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
    whole = _File(denoiser, read(denoiser), ("model.",))
    whole.drop(lambda key: key.startswith(_FROZEN))
    beside = whole.part("vae.")
    net = _File(denoiser, whole.part("denoiser.net."), ())
    vae_state = _vae(_File(vae, read(vae), ("model.", "vae.")), model)
    if beside:
        # The release keeps its VAE in the denoiser's file too.
        for key, value in _vae(_File(denoiser, beside, ()), model).items():
            if not torch.equal(value, vae_state[key]):
                raise UserError("holds another VAE than the file of the VAE", where=denoiser, allowed=f"that of {vae}")
    found = {
        "normaliser": _normaliser(stats, model.skeleton),
        "vae": vae_state,
        "text_head": _renamed(whole, model.text_head.state_dict(), {"encoder": "clipTransEncoder", "norm": "clip_ln"}),
        "denoiser": _denoiser(net, model),
    }
    whole.finish()
    return found


def evaluator_parts(config: EvaluatorConfig, data: DataConfig, *, file: Path) -> dict[str, State]:
    """The one part of an evaluator's checkpoint from InterCLIP's file.

    Raises:
        UserError: the file is damaged, or holds anything but what the config describes.
    """
    if config.text != "tokens" or config.normalised:
        raise UserError("evaluator.text or evaluator.normalised", allowed="tokens and false: the published evaluator")
    evaluator = Evaluator(config, data)
    ours = evaluator.state_dict()
    whole = _File(file, read(file), ("model.",))
    whole.same_positions("motion_encoder.sequence_pos_encoder.pe", config.motion_width)
    names = {
        "motion.embed": "motion_encoder.embed_motion",
        "motion.encoder": "motion_encoder.transformer",
        "motion.norm": "motion_encoder.out_ln",
        "motion.out": "motion_encoder.out",
        "text.head.encoder": "textTransEncoder",
        "text.head.norm": "text_ln",
        "text.out": "out",
    }
    special = {
        "motion.query_D": whole.take("motion_encoder.query_token", (1, config.motion_width))[0],
        "scale": whole.take("latent_scale", (1,))[0],
        "token_VW": whole.take("token_embedding.weight", tuple(ours["token_VW"].shape)),
        "position_KW": whole.take("positional_embedding", tuple(ours["position_KW"].shape)),
    }
    fixed = {key: value for key, value in ours.items() if key.startswith("normaliser.")}
    rest = {key: value for key, value in ours.items() if key not in special | fixed}
    found = special | fixed | _renamed(whole, rest, names)
    whole.finish()
    return {PART: found}


def published_conventions(config: EvaluatorConfig) -> EvaluatorConventions:
    """The conventions to store with InterCLIP's weights: those of the config, with InterCLIP's known row.

    A config that names a known row keeps it, and networks of other sizes than InterCLIP's get none.
    """
    conventions = config.conventions
    # How long embeddings are is in the file, and dropout is for training alone.
    sizes = {"conventions", "scale", "dropout"}
    is_interclip = config.model_dump(exclude=sizes) == EvaluatorConfig().model_dump(exclude=sizes)
    if conventions.known_row is not None or not is_interclip:
        return conventions
    return conventions.model_copy(update={"known_row": INTERCLIP_ROW})


def _normaliser(stats: Path, skeleton: Skeleton) -> State:
    found: State = {}
    for ours, name in (("mean_F", "mean"), ("std_F", "std")):
        file = next((stats / stem for stem in (f"{name}.npy", f"global_{name}.npy") if (stats / stem).is_file()), None)
        if file is None:
            raise UserError(f"holds no {name}.npy", where=stats, allowed=f"{name}.npy or global_{name}.npy")
        try:
            values = np.load(file, allow_pickle=False)
        except Exception as error:  # as above: whatever is in the header
            raise UserError(f"cannot be read: {reason_of(error)}", where=file) from None
        if (
            values.shape != (skeleton.num_features,)
            or not np.isfinite(values).all()
            or (name == "std" and not values.all())
        ):
            raise UserError(
                f"numbers of the shape {values.shape}",
                where=file,
                allowed=f"({skeleton.num_features},), finite, no std of 0",
            )
        found[ours] = torch.from_numpy(values.astype(np.float32))
    return found


def _renamed(file: _File, ours: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    """Tensors that differ in nothing but the beginning of their names."""
    found: State = {}
    for key, value in ours.items():
        mine = next(prefix for prefix in names if key.startswith(f"{prefix}."))
        found[key] = file.take(names[mine] + key.removeprefix(mine), tuple(value.shape))
    return found


def _vae(file: _File, model: InterMoE) -> State:
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


def _denoiser(file: _File, model: InterMoE) -> State:
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
    found = _renamed(file, {key: value for key, value in ours.items() if not key.startswith("layers.")}, names)
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
