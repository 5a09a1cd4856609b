"""Dynamic Temporal Selection: every expert picks the tokens it works on, and its bias says how many (paper, 3.2).

Legend: S tokens of the pool, E experts, A assignments (pairs of a token and an expert), M layers with an MoE.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from intermoe.moe.pool import Assignment

# The biases stay this far inside the open interval (-1, 0).
_MARGIN = 1e-6


class DynamicSelection(nn.Module):
    """Expert e takes token s if ``sigmoid(logit) + bias_e > 0``; its gate is the softmax over all experts.

    Eqs. 4-6: the gates of the experts taken are not renormalised, and a token that no expert takes gets nothing.
    In training mode each call counts what was selected (eq. 7), over all calls until :func:`update_biases` turns the
    counts into a step of the biases (eqs. 8-9).

    The state is in buffers, saved with the weights. Under DistributedDataParallel, set ``broadcast_buffers=False``:
    the broadcast would overwrite what the other workers counted.

    Attributes:
        bias_E: float32, in (-1, 0).
        selected_E: int64, tokens that each expert took since the last update.
        valid: int64, tokens there were since the last update.
    """

    bias_E: Tensor
    selected_E: Tensor
    valid: Tensor

    def __init__(self, experts: int, c_exp: float, sigma: float, bias_init: float) -> None:
        super().__init__()
        self.c_exp = c_exp
        self.sigma = sigma
        self.register_buffer("bias_E", torch.full((experts,), bias_init))
        self.register_buffer("selected_E", torch.zeros(experts, dtype=torch.int64))
        self.register_buffer("valid", torch.zeros((), dtype=torch.int64))

    def forward(self, logits_SE: Tensor) -> Assignment:
        """Select from the float32 logits of the whole pool.

        On a GPU this waits for the device once: the number of assignments must be known.
        """
        tokens = logits_SE.shape[0]
        with torch.no_grad():
            taken_ES = (logits_SE.sigmoid() + self.bias_E > 0).T
            count_E = taken_ES.sum(dim=1)
            if self.training:
                self.selected_E += count_E
                self.valid += tokens
            # Rows are experts, so the places of what is taken are already sorted by expert.
            place_A = taken_ES.flatten().nonzero().squeeze(1)
        gate_ES = logits_SE.softmax(dim=-1).T
        gate_A = gate_ES.flatten().index_select(0, place_A)
        token_A = place_A % max(tokens, 1)
        return Assignment(token_A, gate_A, count_E.cumsum(0).to(torch.int32))


def update_biases(model: nn.Module, reduce: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Move the biases of all layers towards their load; call it after each optimizer step.

    An expert that took more than its share ``c_exp / E`` of the tokens has its bias lowered by sigma, one that took
    less has it raised (eqs. 8-9); then all counts are zero. With no token counted nothing moves.

    Args:
        model: any module that holds :class:`DynamicSelection` layers, all with the same number of experts.
        reduce: sums an int64 tensor [M, E + 1] over the workers; called once. None for a single worker.

    Returns:
        Load [M, E]: the share of the tokens that each expert took, 0 where nothing was counted; [0, 0] without layers.

    Example:
        >>> selection = DynamicSelection(experts=2, c_exp=1.0, sigma=0.1, bias_init=-0.5)
        >>> _ = selection(torch.tensor([[2.0, -2.0], [2.0, -2.0]]))
        >>> update_biases(selection), selection.bias_E
        (tensor([[1., 0.]]), tensor([-0.6000, -0.4000]))
    """
    layers = [module for module in model.modules() if isinstance(module, DynamicSelection)]
    if not layers:
        return torch.zeros(0, 0)
    count_MX = torch.stack([torch.cat([layer.selected_E, layer.valid[None]]) for layer in layers])
    if reduce is not None:
        count_MX = reduce(count_MX)
    selected_ME, valid_M1 = count_MX[:, :-1], count_MX[:, -1:]
    for layer, selected_E, valid_1 in zip(layers, selected_ME, valid_M1, strict=True):
        # selected / valid - c_exp / E, times valid * E: exact for whole numbers, and zero where nothing was counted.
        excess_E = selected_E.double() * len(selected_E) - layer.c_exp * valid_1.double()
        layer.bias_E -= layer.sigma * excess_E.sign().float()
        layer.bias_E.clamp_(-1 + _MARGIN, -_MARGIN)
        layer.selected_E.zero_()
        layer.valid.zero_()
    return (selected_ME / valid_M1.clamp(min=1)).float()
