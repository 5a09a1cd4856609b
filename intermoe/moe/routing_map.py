"""Looking at the routing of a motion while it is generated.

Legend: P tokens of a moment, B prompts, L latent frames, E experts, M layers with experts, T denoising steps,
Q stages of them, N positions of all that is denoised, W condition width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from intermoe.errors import UserError
from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import Assignment, selections


class RoutedNetwork(nn.Module):
    """A network whose routing can be looked at.

    Attributes:
        token_names: the names of the tokens of a moment.
    """

    token_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class RoutingMap:
    """The experts at work on each latent frame of one motion, over its denoising.

    Attributes:
        gate_QMPLE: float32, mean gate over the steps of a stage; zero where the expert was never assigned.
        timesteps: of each stage, the first and the last.
        stride: frames of a latent frame.
        tokens: the names of a moment's tokens, which stand where elsewhere the persons do.
    """

    gate_QMPLE: Tensor
    timesteps: tuple[tuple[int, int], ...]
    stride: int
    tokens: tuple[str, ...] = ("first person", "second person")


@dataclass
class RoutingRecorder:
    """A record of sampling: the timestep of each call of the denoiser, and the gates [P, B, L, E] of each layer.

    A guided step denoises a batch whose second half has no condition: only the first half is recorded.
    """

    stride: int
    tokens: tuple[str, ...]
    timesteps: list[int] = field(default_factory=list)
    gates: list[Tensor] = field(default_factory=list)

    def maps(self, num_stages: int = 3) -> list[RoutingMap]:
        """A map for each prompt, its steps in stages of about equal length; fewer where there are fewer steps."""
        layers = len(self.gates) // len(self.timesteps)
        # Timesteps fall while a batch is denoised: where they do not, the next batch begins.
        begins = [step for step in range(1, len(self.timesteps)) if self.timesteps[step] >= self.timesteps[step - 1]]
        maps: list[RoutingMap] = []
        for first, last in pairwise([0, *begins, len(self.timesteps)]):
            gates = self.gates[first * layers : last * layers]
            gate_QMPBLE, stages = _stages(self.timesteps[first:last], gates, num_stages)
            maps += [RoutingMap(gate, stages, self.stride, self.tokens) for gate in gate_QMPBLE.unbind(3)]
        return maps


def _stages(
    timesteps: Sequence[int], gates: Sequence[Tensor], num_stages: int
) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """The mean gates of each stage of a batch's steps [Q, M, P, B, L, E], and its first and last timestep."""
    num_stages = min(num_stages, len(timesteps))
    gate_TMPBLE = torch.stack(list(gates)).unflatten(0, (len(timesteps), -1))
    parts_TMPBLE = gate_TMPBLE.tensor_split(num_stages)
    gate_QMPBLE = torch.stack([part_TMPBLE.mean(dim=0) for part_TMPBLE in parts_TMPBLE])
    spans = [part.tolist() for part in torch.tensor(timesteps).tensor_split(num_stages)]
    return gate_QMPBLE, tuple((span[0], span[-1]) for span in spans)


@contextmanager
def recorded_routing(denoiser: RoutedNetwork, stride: int) -> Iterator[RoutingRecorder]:
    """Record how a denoiser routes what it samples in the block.

    Args:
        denoiser: :class:`intermoe.networks.denoiser.Denoiser`, which names its tokens.
        stride: frames of a latent frame.

    Raises:
        UserError: it has no experts.

    Example:
        ``with recorded_routing(model.denoiser, model.stride) as recorder: motion = model.generate("Two people bow.")``
    """
    layers = selections(denoiser)
    if not layers:
        raise UserError("the model has no experts, so there is no routing to show", allowed="one with a mixture")
    recorder = RoutingRecorder(stride, denoiser.token_names)
    prompts, is_step = 0, False

    def begin_step(_denoiser: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal prompts, is_step
        is_step = True
        _, t_B, condition, *_ = inputs
        recorder.timesteps.append(int(t_B[0]))
        # What has no condition has one of zeros.
        prompts = int(condition.flatten(1).any(dim=1).sum())

    def end_step(*_: object) -> None:
        nonlocal is_step
        is_step = False

    def note_layer(_layer: nn.Module, inputs: tuple[Tensor, TokenPool], assignment: Assignment) -> None:
        # What is asked of the denoiser besides, such as which hands touch, is no step of sampling.
        if not is_step:
            return
        shape = inputs[1].shape
        gates_NE = assignment.gates(shape[0] * shape[1] * shape[2])
        recorder.gates.append(gates_NE.detach().float().cpu().view(*shape, -1)[:, :prompts])

    handles = [denoiser.register_forward_pre_hook(begin_step), denoiser.register_forward_hook(end_step)]
    handles += [layer.register_forward_hook(note_layer) for layer in layers]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()
