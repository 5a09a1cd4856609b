"""A description of a configuration: parameters by part, sizes and the cost of a step. Needs neither weights nor data.

Legend: B batch, T frames, L latent frames, N latent joints, C channels of one, P persons, Z latent numbers of a
person-frame, D width.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from intermoe.layers.conditioning import AdaptiveLayerNorm
from intermoe.model import InterMoE
from intermoe.moe.block import DenseBlock, MoeBlock
from intermoe.moe.experts import Experts
from intermoe.moe.pool import TokenPool
from intermoe.moe.router import Router
from intermoe.networks.codec import AnyVae
from intermoe.networks.denoiser import Denoiser
from intermoe.networks.mld_vae import MldVae
from intermoe.text.encoders import encoder_width
from pipelines.settings import Settings

TEXT_TOKENS = 77


def describe(settings: Settings) -> dict[str, Any]:
    """Parameters, sizes and cost as plain numbers.

    Returns:
        ``parameters``: by part, ``total``, ``trainable`` (denoiser and text head, as Table 4 of the paper counts; the
        VAE is frozen then) and ``active`` (of these, what one latent frame passes through when it meets ``c_exp``
        experts). ``sizes``: features, latents, tokens. ``cost``: multiply-adds times two (FLOP) of one training step
        of each network, three times the forward pass; the denoiser's with the frozen VAE's encoding of its batch. What
        is about a VAE is left out of a network that has none.
    """
    with torch.device("meta"):
        model = InterMoE(settings).eval()
    feed_forward = _count(*(m for m in model.denoiser.modules() if isinstance(m, MoeBlock | DenseBlock)))
    vae = model.vae
    parts = {} if vae is None else _vae_parts(vae)
    parts |= {
        **({"text_head": text_head} if (text_head := _count(model.text_head)) else {}),
        "denoiser.embeddings": _count(model.denoiser) - _count(model.denoiser.layers),
        "denoiser.attention": _count(model.denoiser.layers) - feed_forward,
        "denoiser.feed_forward": feed_forward,
    }
    trainable = _count(model.denoiser, model.text_head)
    experts = sum(_count(module) for module in model.denoiser.modules() if isinstance(module, Experts))
    active = trainable - experts + round(experts * settings.moe.c_exp / settings.moe.experts)
    frames = settings.data.max_frames
    return {
        "name": settings.name,
        "parameters": {**parts, "total": _count(model), "trainable": trainable, "active": active},
        "sizes": {
            "joints": model.skeleton.num_joints,
            "features": model.skeleton.num_features,
            **({} if vae is None else {"latent_joints": vae.num_latent_joints}),
            "latent": model.latent,
            "latent_frames": model.whole_latents(frames),
            "tokens_per_batch": model.denoiser.num_token_rows
            * model.whole_latents(frames)
            * settings.train.denoiser.batch_size,
            "seconds": frames / model.skeleton.fps,
            "weights_mb": round(4 * _count(model) / 1e6, 1),
        },
        "cost": {
            **({} if vae is None else {"vae_step_flop": 3 * _vae_flop(vae, model.skeleton.num_features, settings)}),
            "denoiser_step_flop": denoiser_step_flop(model, settings, settings.train.denoiser.batch_size),
        },
    }


def _vae_parts(vae: AnyVae) -> dict[str, int]:
    encoder = sum(p.numel() for name, p in vae.named_parameters() if name.split(".")[0] in vae.encoder_parts)
    return {"vae.encoder": encoder, "vae.decoder": _count(vae) - encoder}


def _count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _vae_flop(vae: AnyVae, num_features: int, settings: Settings) -> int:
    """Forward pass of a batch of windows, or of the longest motions, counted operation by operation."""
    training = settings.train.vae
    window = settings.data.max_frames if isinstance(vae, MldVae) else training.window
    windows = torch.zeros(training.batch_size, window, num_features, device="meta")
    mask_BT = torch.ones(training.batch_size, window, dtype=torch.bool, device="meta")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        vae.decode_frames(vae.encode(windows, mask_BT).mean_BLNC, mask_BT)
    return int(counter.get_total_flops())


def _encoding_flop(model: InterMoE, settings: Settings, batch: int) -> int:
    """Latents of all persons for a batch of the longest motions."""
    if model.vae is None:
        return 0
    motions = torch.zeros(
        model.skeleton.num_persons * batch, settings.data.max_frames, model.skeleton.num_features, device="meta"
    )
    with FlopCounterMode(display=False) as counter:
        model.vae.encode(motions)
    return int(counter.get_total_flops())


def denoiser_step_flop(model: InterMoE, settings: Settings, batch: int) -> int:
    """Operations of a training step of the denoiser on a batch of the longest motions; the model's device is meta."""
    forward = denoiser_flop(model, settings, batch) + _text_flop(model, settings, batch)
    return 3 * forward + _encoding_flop(model, settings, batch)


def denoiser_flop(model: InterMoE, settings: Settings, batch: int) -> int:
    """Operations of a forward pass of the denoiser over a batch of the longest motions."""
    frames = model.whole_latents(settings.data.max_frames)
    if isinstance(model.denoiser, Denoiser):
        return _pair_flop(model.denoiser, settings, batch, frames)
    return _counted_flop(model, settings, batch, frames)


def _counted_flop(model: InterMoE, settings: Settings, batch: int, frames: int) -> int:
    """Counted operation by operation on the network without experts, with what experts do instead of its networks."""
    dense = settings.model_copy(update={"moe": settings.moe.model_copy(update={"selection": "dense"})})
    with torch.device("meta"):
        twin = InterMoE(dense).eval()
        x_BLPZ = torch.zeros(batch, frames, model.skeleton.num_persons, model.latent)
        tokens = {"words": (TEXT_TOKENS,)}.get(twin.denoiser.reads, ())
        condition = torch.zeros(batch, *tokens, encoder_width(settings.data.encoder))
        mask_BL, t_B = torch.ones(batch, frames, dtype=torch.bool), torch.zeros(batch, dtype=torch.int64)
    pool = TokenPool.of_lengths([frames] * batch, frames, twin.denoiser.num_token_rows, device="meta")
    # Attention by plain products: the counter does not know every kernel of it.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        twin.denoiser.predict(x_BLPZ, t_B, condition, mask_BL, pool)
    meets, instead = (_active_in_blocks(network.denoiser, settings) for network in (model, twin))
    return int(counter.get_total_flops()) + 2 * batch * frames * twin.denoiser.num_token_rows * (meets - instead)


def _active_in_blocks(denoiser: nn.Module, settings: Settings) -> int:
    """Weights that a token meets in the feed-forward blocks."""
    blocks = [module for module in denoiser.modules() if isinstance(module, MoeBlock | DenseBlock)]
    experts = sum(_count(block.experts) for block in blocks if isinstance(block, MoeBlock))
    return _count(*blocks) - experts + round(experts * settings.moe.c_exp / settings.moe.experts)


def _pair_flop(denoiser: Denoiser, settings: Settings, batch: int, frames: int) -> int:
    """Two FLOP for each weight that a token meets, and the attention."""
    config = settings.denoiser
    experts = sum(_count(module) for module in denoiser.modules() if isinstance(module, Experts))
    active = _count(denoiser) - experts + round(experts * settings.moe.c_exp / settings.moe.experts)
    modulations = [module.modulation for module in denoiser.modules() if isinstance(module, AdaptiveLayerNorm)]
    routers = [module for module in denoiser.modules() if isinstance(module, Router)]
    text_routers = [router.text for router in routers if router.text is not None]
    # What conditions the layers meets a sample, or each person of it, once, not each of its tokens.
    per_sample = _count(denoiser.embed_timestep, denoiser.embed_text, *text_routers)
    modulating = _count(*modulations)
    once = per_sample + modulating * (2 if config.person_conditioning else 1)
    weights = 2 * batch * (2 * frames * (active - per_sample - modulating) + once)
    return weights + batch * sum(layer.attention_flop(frames) for layer in denoiser.pair_layers)


def _text_flop(model: InterMoE, settings: Settings, batch: int) -> int:
    """Operations of a forward pass of the text head over a batch."""
    attention = settings.denoiser.text_layers * 2 * 2 * TEXT_TOKENS**2 * encoder_width(settings.data.encoder)
    return batch * (2 * TEXT_TOKENS * _count(model.text_head) + attention)


def as_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The numbers for a reader, each with its name."""
    lines = [(f"parameters {name}", f"{count:,}") for name, count in found["parameters"].items()]
    lines += [(name.replace("_", " "), f"{value:,}") for name, value in found["sizes"].items()]
    lines += [(name.replace("_", " "), f"{value / 1e9:,.1f} GFLOP") for name, value in found["cost"].items()]
    return lines
