"""InterCLIP, the evaluator of InterGen (Liang et al. 2024): two transformers, one over motion and one over text.

Legend: B batch, T frames, F features of both persons, K text tokens, W text width, D width, E embedding, N valid frames
of all motions behind each other, H heads, C width of a head.
"""

from collections.abc import Sequence
from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from intermoe.config import Config
from intermoe.layers.conditioning import sinusoids
from intermoe.text.encoders import TextStates
from intermoe.text.head import TextHead


class InterClipConfig(Config):
    """InterCLIP; the defaults are the published sizes.

    Attributes:
        text: what its text encoder reads: "tokens", CLIP's embeddings of tokens and positions and nothing above them
            (as published), or "states", those of the data set's frozen encoder.
        motion_width: width of the motion encoder.
        motion_layers: its layers.
        motion_heads: its attention heads.
        motion_hidden: hidden width of its layers.
        text_layers: layers of the text encoder.
        text_heads: its attention heads.
        text_hidden: hidden width of its layers.
        embedding: numbers of an embedding.
        dropout: in both encoders.
        scale: length of the embeddings before training; it is learned. Its square multiplies the cosines in the loss.
        normalised: whether motion features are normalised first; published ones are not.
        vocabulary: tokens of the encoder, for "tokens".
    """

    text: Literal["tokens", "states"] = "tokens"
    motion_width: int = Field(default=1024, ge=8, le=16384, multiple_of=2)
    motion_layers: int = Field(default=8, ge=1, le=256)
    motion_heads: int = Field(default=8, ge=1, le=1024)
    motion_hidden: int = Field(default=2048, ge=1, le=65536)
    text_layers: int = Field(default=8, ge=1, le=256)
    text_heads: int = Field(default=8, ge=1, le=1024)
    text_hidden: int = Field(default=2048, ge=1, le=65536)
    embedding: int = Field(default=512, ge=2, le=65536)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    scale: float = Field(default=1.0, gt=0)
    normalised: bool = False
    vocabulary: int = Field(default=49408, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _even_heads(self) -> Self:
        if self.motion_width % self.motion_heads:
            raise ValueError(f"motion_width = {self.motion_width} is not divided by motion_heads = {self.motion_heads}")
        return self


class MotionEncoder(nn.Module):
    """A post-norm transformer over the frames of both persons; a learned query in front becomes the embedding."""

    def __init__(self, config: InterClipConfig, features: int) -> None:
        """Build the encoder for so many features of both persons in a frame."""
        super().__init__()
        self.query_D = nn.Parameter(torch.randn(config.motion_width))
        self.embed = nn.Linear(features, config.motion_width)
        self.dropout = nn.Dropout(config.dropout)
        layer = nn.TransformerEncoderLayer(
            config.motion_width,
            config.motion_heads,
            config.motion_hidden,
            config.dropout,
            activation="gelu",
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config.motion_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.motion_width)
        self.out = nn.Linear(config.motion_width, config.embedding)

    def forward(self, x_BTF: Tensor, frames_B: Tensor) -> Tensor:
        """The embedding [B, E] of motions, not yet of any length.

        Args:
            x_BTF: numbers of both persons, padded.
            frames_B: valid frames of each motion; what lies beyond them changes nothing.
        """
        x_BTD = self.embed(x_BTF)
        x_BTD = torch.cat([self.query_D.expand(len(x_BTD), 1, -1), x_BTD], dim=1)
        place_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
        x_BTD = self.dropout(x_BTD + sinusoids(place_T, x_BTD.shape[-1]))
        if self.training:
            query_BD = self.encoder(x_BTD, src_key_padding_mask=place_T > frames_B[:, None])[:, 0]
        else:
            query_BD = self._query_without_padding(x_BTD, place_T <= frames_B[:, None])
        embedding_BE: Tensor = self.out(self.norm(query_BD))
        return embedding_BE

    def _query_without_padding(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        """What the layers make of the query [B, D], as ``encoder`` does: of valid frames alone, without dropout.

        Motions of mixed lengths are up to half padding; and of the last layer only the query is read.
        """
        length_B, x_ND = valid_BT.sum(dim=1), x_BTD[valid_BT]
        lengths = length_B.tolist()
        *layers, last = (cast(nn.TransformerEncoderLayer, layer) for layer in self.encoder.layers)
        for layer in layers:
            x_ND = _layer(layer, x_ND, lengths, x_ND, lengths)
        query_BD = x_ND[length_B.cumsum(dim=0) - length_B]
        return _layer(last, query_BD, [1] * len(lengths), x_ND, lengths)


def _layer(
    layer: nn.TransformerEncoderLayer,
    x_ND: Tensor,
    counts: Sequence[int],
    attended_ND: Tensor,
    lengths: Sequence[int],
) -> Tensor:
    """A layer of a transformer in evaluation mode, on motions that lie behind each other.

    Args:
        layer: its weights.
        x_ND: the frames that it computes, of all motions.
        counts: how many of each motion these are.
        attended_ND: all frames of all motions, which those attend to.
        lengths: how many of each motion these are.
    """
    attention = layer.self_attn
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    query_ND = nn.functional.linear(x_ND, weight[: attention.embed_dim], bias[: attention.embed_dim])
    key_ND, value_ND = nn.functional.linear(
        attended_ND, weight[attention.embed_dim :], bias[attention.embed_dim :]
    ).chunk(2, dim=-1)
    read = []
    for motion in zip(query_ND.split(counts), key_ND.split(lengths), value_ND.split(lengths), strict=True):
        query_HTC, key_HTC, value_HTC = (
            x_TD.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1) for x_TD in motion
        )
        # With a batch of one: without, the fused kernel is not taken.
        read_HTC = nn.functional.scaled_dot_product_attention(query_HTC[None], key_HTC[None], value_HTC[None])[0]
        read.append(read_HTC.transpose(0, 1).flatten(1))
    x_ND = layer.norm1(x_ND + attention.out_proj(torch.cat(read)))
    moved_ND: Tensor = layer.norm2(x_ND + layer.linear2(layer.activation(layer.linear1(x_ND))))
    return moved_ND


class TextBranch(nn.Module):
    """A transformer over what is known of each token, read at the token that ends the text."""

    def __init__(self, config: InterClipConfig, width: int) -> None:
        """Build the encoder for token states of that width."""
        super().__init__()
        self.head = TextHead(
            width,
            layers=config.text_layers,
            hidden=config.text_hidden,
            heads=config.text_heads,
            dropout=config.dropout,
            where="evaluator.text_heads",
        )
        self.out = nn.Linear(width, config.embedding)

    def forward(self, text: TextStates) -> Tensor:
        """The embedding [B, E] of texts, not yet of any length."""
        embedding_BE: Tensor = self.out(self.head(text.states_BKW, text.mask_BK, text.eot_B))
        return embedding_BE
