"""The settings of the mixture of experts, the keys ``moe.*``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from intermoe.config import Config
from intermoe.moe.pool import Scope
from intermoe.moe.router import RouterKind


class MoeConfig(Config):
    """The mixture of experts; paradigms.py says which keys make which row of the paper's tables.

    Attributes:
        experts: number of experts of a layer.
        c_exp: mean number of experts per token; a whole number under ``token_choice``.
        hidden: hidden width of an expert.
        selection: the paradigm, an entry of ``paradigms.PARADIGMS``; ``dense`` is one network of the width of an
            expert, for every token.
        router: what the logits are made of.
        pool: how far a routing decision looks.
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
    hidden: int = Field(default=1024, ge=8, le=65536, multiple_of=8)
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
