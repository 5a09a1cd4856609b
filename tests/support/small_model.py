"""A small model and a small evaluator with random weights, and how a training leaves them behind.

Legend: K text tokens, W text width.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intermoe import checkpoint
from intermoe.body.features import FeatureLayout, Normaliser
from intermoe.body.skeletons import SMPL22
from intermoe.evaluation.evaluator import Evaluator, EvaluatorConfig
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig
from intermoe.text.encoders import TextStates

CONFIG: dict[str, Any] = {
    "data": {"encoder": "minilm", "max_frames": 62},
    "vae": {"width": 8, "latent": 4, "blocks": 1},
    "denoiser": {"width": 32, "layers": 2, "heads": 4, "text_layers": 1, "text_hidden": 32, "text_heads": 4},
    "moe": {"experts": 4, "hidden": 16, "c_exp": 1.0},
    "diffusion": {"steps": 100, "sampler_steps": 5, "guidance": 2.0},
}


class WordEncoder:
    """Stands in for the frozen encoder: each word has states of its own, from its hash."""

    def encode(self, texts: Sequence[str]) -> TextStates:
        words = [text.split() for text in texts]
        states_BKW = torch.zeros(len(texts), max(map(len, words)), 384)
        mask_BK = torch.zeros(states_BKW.shape[:2], dtype=torch.bool)
        for row, sentence in enumerate(words):
            for place, word in enumerate(sentence):
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
                noise_W = np.random.default_rng([9, seed]).standard_normal(384, dtype=np.float32)
                states_BKW[row, place] = torch.from_numpy(noise_W)
            mask_BK[row, : len(sentence)] = True
        return TextStates(states_BKW, mask_BK, mask_BK.sum(1) - 1)

    def left_out(self, text: str) -> str:
        return " ".join(text.split()[20:])


def small_model(
    seed: int = 0,
    *,
    network: str = "intermoe",
    moe: dict | None = None,
    data: dict | None = None,
    diffusion: dict | None = None,
) -> InterMoE:
    """Random weights, also where training starts from zero, so that timestep and text change the result."""
    torch.manual_seed(seed)
    changes = {"moe": moe, "data": data, "diffusion": diffusion}
    values = CONFIG | {key: CONFIG[key] | (change or {}) for key, change in changes.items()}
    model = InterMoE(ModelConfig.parse(values | {"network": network})).eval()
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
    if model.config.data.encoder == "minilm":
        model._encoder = WordEncoder()  # type: ignore[assignment]
    return model


def small_evaluator(model: InterMoE) -> Evaluator:
    """An evaluator of the model's data that reads the data set's states."""
    config = EvaluatorConfig(
        text="states",
        motion_width=16,
        motion_layers=1,
        motion_heads=2,
        motion_hidden=16,
        text_layers=1,
        text_heads=2,
        text_hidden=16,
        embedding=8,
    )
    return Evaluator.initial(config, model.config.data, model.normaliser).eval()


def save_model(folder: Path, model: InterMoE | Evaluator) -> Path:
    """The checkpoint that a training of the model leaves behind."""
    config = model.config.model_dump(mode="json")
    if isinstance(model, Evaluator):
        config = {"evaluator": config, "data": model.data.model_dump(mode="json")}
    tensors = {name: part.state_dict() for name, part in model.parts().items()}
    checkpoint.save(folder, tensors=tensors, documents={"config": config, "state": {"step": 1}})
    return folder
