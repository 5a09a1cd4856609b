"""The experts: SwiGLU networks that run on the tokens they selected, and what they are compared with.

Legend: P persons, B batch, L latent frames, N positions, D width, H hidden, I inputs, O outputs, E experts,
A assignments (pairs of a token and an expert), a those of one expert, R = E * N rows.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm, silu

from intermoe.layers.precision import product_dtype
from intermoe.moe.selection import Assignment

# Compute capabilities 9.x and 10.x: H100, H200, B200 and their kin.
_GENERATIONS_WITH_KERNEL = (9, 10)


class Experts(nn.Module):
    """SwiGLU experts without biases, computed as grouped products over tokens sorted by expert (eq. 10).

    Memory is proportional to the number of assignments. Weights start uniform in ``+-1 / sqrt(fan in)``, as those of
    ``torch.nn.Linear``. Under autocast the products run in its dtype.
    """

    def __init__(self, num_experts: int, width: int, hidden: int) -> None:
        super().__init__()
        # Gate and up projection side by side: one product for both.
        self.inward_EDH = nn.Parameter(torch.empty(num_experts, width, 2 * hidden))
        self.outward_EHD = nn.Parameter(torch.empty(num_experts, hidden, width))
        for weight in (self.inward_EDH, self.outward_EHD):
            nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)

    def forward(self, x_ND: Tensor, assignment: Assignment) -> Tensor:
        """Sum of the experts' outputs, times their gates, at every position.

        Args:
            x_ND: what the experts see at each position.
            assignment: token_A names positions.

        Returns:
            [N, D], float32 under autocast; zero where no expert is assigned.
        """
        # Grouped products are not on autocast's list.
        dtype = product_dtype(x_ND)
        x_AD = _Gather.apply(x_ND.to(dtype), assignment)
        gate_AH, up_AH = grouped_product(x_AD, self.inward_EDH.to(dtype), assignment.ends_E).chunk(2, dim=-1)
        y_AD = grouped_product(silu(gate_AH) * up_AH, self.outward_EHD.to(dtype), assignment.ends_E)
        y_ND: Tensor = _Scatter.apply(y_AD * assignment.gate_A[:, None], assignment, len(x_ND))
        return y_ND


class _Gather(torch.autograd.Function):
    """The rows [A, D] that an assignment names of x [N, D]; of the gradient, what is in spare rows is dropped."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, assignment: Assignment) -> Tensor:
        ctx.assignment, ctx.num_positions = assignment, len(x_ND)
        return x_ND.index_select(0, assignment.token_A)

    @staticmethod
    def backward(ctx: Any, grad_AD: Tensor) -> tuple[Tensor, None]:
        return _sums(grad_AD, ctx.assignment, ctx.num_positions), None


class _Scatter(torch.autograd.Function):
    """The sums [N, D] of the rows [A, D] of each position; what is in spare rows is dropped."""

    @staticmethod
    def forward(ctx: Any, y_AD: Tensor, assignment: Assignment, num_positions: int) -> Tensor:
        ctx.assignment = assignment
        return _sums(y_AD, assignment, num_positions)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None]:
        return grad_ND.index_select(0, ctx.assignment.token_A), None, None


def _sums(y_AD: Tensor, assignment: Assignment, num_positions: int) -> Tensor:
    zeros = y_AD.new_zeros(num_positions + assignment.num_spare_positions, y_AD.shape[1])
    return zeros.index_add_(0, assignment.target_A, y_AD)[:num_positions]


def grouped_product(x_AI: Tensor, weight_EIO: Tensor, ends_E: Tensor) -> Tensor:
    """Each expert's rows times its matrix, [A, O]: in one call where there is a kernel for it, else in a loop.

    Args:
        x_AI: rows sorted by expert.
        weight_EIO: a matrix for each expert.
        ends_E: int32, where the rows of each expert end; of later rows the result may be anything.
    """
    if _has_kernel(x_AI):
        return grouped_mm(x_AI, weight_EIO, offs=ends_E)
    *rows, spare_aI = x_AI.tensor_split(ends_E.long().cpu())
    products = [row_aI @ weight_IO for row_aI, weight_IO in zip(rows, weight_EIO, strict=True)]
    return torch.cat([*products, products[0].new_zeros(len(spare_aI), weight_EIO.shape[2])])


def _has_kernel(x: Tensor) -> bool:
    """Whether there is one for these rows: elsewhere PyTorch loops too, and on a GPU has the host wait for each."""
    if x.device.type != "cuda":
        return True
    major, _ = torch.cuda.get_device_capability(x.device)
    return x.dtype == torch.bfloat16 and major in _GENERATIONS_WITH_KERNEL


class DenseFeedForward(nn.Module):
    """One SwiGLU network without biases that works on every token: what an expert is, without the choice."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inward = nn.Linear(width, 2 * hidden, bias=False)
        self.outward = nn.Linear(hidden, width, bias=False)

    def forward(self, x_PBLD: Tensor) -> Tensor:
        """The network's output [P, B, L, D]."""
        gate_PBLH, up_PBLH = self.inward(x_PBLD).chunk(2, dim=-1)
        y_PBLD: Tensor = self.outward(silu(gate_PBLH) * up_PBLH)
        return y_PBLD


class ScatteringExperts(nn.Module):
    """The experts as the published code computes them: one after the other, their outputs into a buffer [E * N, D].

    The same results from the same weights as :class:`Experts`, for comparing time and memory.
    """

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.weights = experts

    def forward(self, x_ND: Tensor, assignment: Assignment) -> Tensor:
        """Sum of the experts' outputs, times their gates, [N, D]."""
        gates_NE = assignment.gates(len(x_ND))
        buffer_RD: Tensor | None = None
        for expert in range(gates_NE.shape[1]):
            token_a = (gates_NE[:, expert] > 0).nonzero().squeeze(1)
            gate_aH, up_aH = (x_ND[token_a] @ self.weights.inward_EDH[expert]).chunk(2, dim=-1)
            y_aD = (silu(gate_aH) * up_aH) @ self.weights.outward_EHD[expert]
            if buffer_RD is None:
                buffer_RD = y_aD.new_zeros(gates_NE.numel(), x_ND.shape[1])
            buffer_RD[expert * len(x_ND) + token_a] = y_aD
        assert buffer_RD is not None
        buffer_END = buffer_RD.unflatten(0, (-1, len(x_ND)))
        return (buffer_END * gates_NE.T[..., None]).sum(dim=0)
