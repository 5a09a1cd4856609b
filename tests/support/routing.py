"""Selections on their own: made from a few settings, and given tokens of one person."""

import torch
from torch import Tensor

from intermoe.moe.config import MoeConfig
from intermoe.moe.paradigms import DynamicSelection
from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import Assignment, Selection


def dynamic(**moe: object) -> DynamicSelection:
    """A dynamic selection of four experts, but for what is given."""
    return DynamicSelection(MoeConfig.parse({"experts": 4, "sigma": 0.01, **moe}))


def route(selection: Selection, logits: Tensor, *lengths: int) -> Assignment:
    """Let it choose among the tokens of one person's motions of these lengths; of one motion where none are given."""
    frames = torch.tensor(lengths or [len(logits)])
    mask = torch.arange(int(frames.max())) < frames[:, None]
    return selection(logits, TokenPool.of(mask, num_persons=1))
