"""Short trainings of networks of one person: alone, interrupted, or on two workers, processes of a gloo group.

Here and not beside the tests, so that such a process can import it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from one_person import NETWORKS, PREDICTIONS, one_person_model
from torch import Tensor

from intermoe.data.shards import DatasetFolder
from intermoe.moe.selection import selections
from intermoe.training import TrainingStep
from intermoe.training.config import DenoiserTrainingConfig, VaeTrainingConfig
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.step import gather
from intermoe.training.vae import VaeObjective

STEPS = 3
MICRO_BATCHES = 2
Target = tuple[str, str, str]
"""Network, which part of it is trained, and how its experts are selected."""
TARGETS: tuple[Target, ...] = (
    *((network, "denoiser", selection) for network in NETWORKS for selection in ("dense", "dynamic")),
    ("mld", "denoiser", "expert_choice"),
    ("salad", "denoiser", "expert_choice"),
    ("mld", "vae", "dense"),
    ("salad", "vae", "dense"),
)


@dataclass
class Outcome:
    """What a training was like.

    Attributes:
        losses: of each step over all workers.
        validated: what is measured in the end.
        state: weights, and what the experts' selections learned, in the end.
    """

    losses: list[float]
    validated: dict[str, float]
    state: dict[str, Tensor]


def train(target: Target, folder: str, *, accumulate: int = 1, stop: int | None = None) -> Outcome:
    """The first steps of a training; with ``stop``, of one that is interrupted before that step and goes on."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    objective, take_step, stream = _begun(target, folder, accumulate)
    losses = []
    for step in range(STEPS):
        if step == stop:
            kept = objective.model.state_dict(), take_step.optimizer.state_dict()
            objective, take_step, stream = _begun(target, folder, accumulate)
            objective.model.load_state_dict(kept[0])
            take_step.optimizer.load_state_dict(kept[1])
        losses.append(take_step(step, stream.batch(step, rank=rank, world=world)).loss)
    objective.eval()
    held_out = stream.held_out("val").held_out_batches(rank=rank, world=world)
    validated = objective.validate(held_out, gather)
    learned = {name for name, _ in objective.named_parameters()}
    state = {
        name: tensor.detach().clone()
        for name, tensor in objective.state_dict().items()
        if name in learned or name.endswith(("bias_E", "threshold_E"))
    }
    return Outcome(losses, validated, state)


def train_as_two(folder: str, place: Path) -> list[dict[Target, Outcome]]:
    """What each of two workers saw of the training of all targets, in micro-batches.

    Args:
        folder: the data set.
        place: a folder for what they leave.
    """
    mp.spawn(_work, (folder, str(place)), nprocs=2)
    kept = [torch.load(place / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return [{target: Outcome(**values) for target, values in of_rank.items()} for of_rank in kept]


def _work(rank: int, folder: str, place: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=2)
    found = {target: vars(train(target, folder, accumulate=MICRO_BATCHES)) for target in TARGETS}
    torch.save(found, Path(place) / f"{rank}.pt")
    dist.destroy_process_group()


def _begun(target: Target, folder: str, accumulate: int) -> tuple[DenoiserObjective | VaeObjective, TrainingStep, Any]:
    network, kind, selection = target
    model = one_person_model(network, selection=selection, condition_drop=0.3, **PREDICTIONS[network])
    common: dict[str, Any] = {"epochs": 10, "batch_size": 8, "warmup_epochs": 0.1, "accumulate": accumulate}
    objective: DenoiserObjective | VaeObjective
    if kind == "vae":
        objective = VaeObjective(model, VaeTrainingConfig(window=32, **common))
    else:
        objective = DenoiserObjective(model, DenoiserTrainingConfig(**common))
        for layer in selections(model.denoiser):
            if selection == "dynamic":
                torch.nn.init.constant_(layer.get_buffer("bias_E"), -0.5)
    stream = objective.stream(DatasetFolder.open(folder), seed=2)
    return objective, TrainingStep(objective, stream), stream
