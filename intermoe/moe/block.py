"""The MoE block of a denoiser layer, and the dense block that stands in its place.

Legend: P = 2 persons, B batch, L latent frames, D width, E experts.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from intermoe.config import Config
from intermoe.layers.conditioning import AdaptiveLayerNorm
from intermoe.moe.experts import DenseFeedForward, Experts
from intermoe.moe.paradigms import DynamicSelection, ExpertChoice, TokenChoice, UniformAssignment
from intermoe.moe.pool import Scope, TokenPool
from intermoe.moe.router import Router, RouterKind
from intermoe.moe.selection import Selection


class MoeConfig(Config):
    """The mixture of experts; paradigms.py says which keys make which row of the paper's tables.

    Attributes:
        experts: number of experts of a layer.
        c_exp: experts a token shall have on average; a whole number under ``token_choice``.
        hidden: hidden width of an expert.
        selection: the paradigm; ``dense`` is one network of the width of an expert, for every token.
        router: what the logits are made of.
        pool: what a routing decision may see.
        alpha: weight of the motion logits; the text logits have ``1 - alpha`` (eq. 3).
        sigma: step of the biases (eq. 9).
        load_momentum: 0: the biases follow the load of each step (eq. 8); above: a running mean of it, see
            ``DynamicSelection``.
        bias_init: where the biases start; ``calibrated`` sets them by the first (micro-)batch of all workers so that
            ``c_exp`` is met at once.
        timestep_in_router: whether the text router also sees the timestep's embedding, as in the published code.
    """

    experts: int = Field(default=8, ge=1, le=1024)
    c_exp: float = Field(default=1.0, gt=0)
    hidden: int = Field(default=1024, ge=8, multiple_of=8)
    selection: Literal["dynamic", "token_choice", "expert_choice", "uniform", "dense"] = "dynamic"
    router: RouterKind = "synergistic"
    pool: Scope = "global"
    alpha: float = Field(default=0.5, ge=0, le=1)
    sigma: float = Field(default=1e-4, ge=0, lt=1)
    load_momentum: float = Field(default=0.0, ge=0, lt=1)
    bias_init: Annotated[float, Field(gt=-1, lt=0)] | Literal["calibrated"] = -0.5
    timestep_in_router: bool = False

    @model_validator(mode="after")
    def _possible_choice(self) -> Self:
        if self.c_exp > self.experts:
            raise ValueError(f"c_exp = {self.c_exp} is more than experts = {self.experts}")
        if self.selection == "token_choice" and self.c_exp != int(self.c_exp):
            raise ValueError(f"c_exp = {self.c_exp} is not a whole number, which selection = token_choice needs")
        return self

    def paradigm(self) -> Selection:
        """A selection as configured."""
        match self.selection:
            case "dynamic":
                return DynamicSelection(
                    self.experts, self.c_exp, self.sigma, self.bias_init, self.pool, self.load_momentum
                )
            case "token_choice":
                return TokenChoice(self.experts, self.c_exp)
            case "expert_choice":
                return ExpertChoice(self.experts, self.c_exp, self.pool)
            case "uniform":
                return UniformAssignment(self.experts, self.c_exp)
            case "dense":
                raise ValueError("a dense block selects nothing")


class MoeBlock(nn.Module):
    """Route the tokens as they are, let their experts work on them after the adaptive layer norm."""

    def __init__(self, config: MoeConfig, width: int) -> None:
        super().__init__()
        self.norm = AdaptiveLayerNorm(width)
        self.router = Router(width, config.experts, config.router, config.alpha)
        self.selection = config.paradigm()
        self.experts = Experts(config.experts, width, config.hidden)

    def forward(self, x_PBLD: Tensor, emb_BD: Tensor, text_BD: Tensor, pool: TokenPool) -> Tensor:
        """What the block adds to x.

        Args:
            x_PBLD: the residual stream.
            emb_BD: conditioning of the layer norm, timestep and text.
            text_BD: what the text router reads.
            pool: the tokens; positions outside it are neither routed nor computed.

        Returns:
            [P, B, L, D]; zero at tokens that no expert selects and outside the pool.
        """
        logits_NE = self.router(x_PBLD, text_BD).flatten(0, 2)
        assignment = self.selection(logits_NE.index_select(0, pool.position_S), pool)
        y_ND: Tensor = self.experts(self.norm(x_PBLD, emb_BD).flatten(0, 2), assignment)
        return y_ND.view_as(x_PBLD)


class DenseBlock(nn.Module):
    """The baseline of the same active width: adaptive layer norm, then one SwiGLU network for every token."""

    def __init__(self, config: MoeConfig, width: int) -> None:
        super().__init__()
        self.norm = AdaptiveLayerNorm(width)
        self.network = DenseFeedForward(width, config.hidden)

    def forward(self, x_PBLD: Tensor, emb_BD: Tensor, _text_BD: Tensor, _pool: TokenPool) -> Tensor:
        """What the block adds to x, [P, B, L, D]; there is nothing to route."""
        y_PBLD: Tensor = self.network(self.norm(x_PBLD, emb_BD))
        return y_PBLD


def feed_forward_block(config: MoeConfig, width: int) -> MoeBlock | DenseBlock:
    """The block that ``config.selection`` names."""
    return DenseBlock(config, width) if config.selection == "dense" else MoeBlock(config, width)
