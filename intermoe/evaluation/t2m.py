"""The networks of T2M's evaluator (Guo et al. 2022), on which HumanML3D's and Inter-X's tables are taken.

Four frames of motion become a movement by two convolutions; movements, and words, are then read in both directions.

Legend: B batch, T frames, M = T / 4 movements, F features of a frame, K places of words, V words of the vocabulary,
W numbers of a word, D width, H hidden width, L places of a sequence, E embedding, N letters of the vocabulary.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from intermoe.body.features import where_valid
from intermoe.config import Config
from intermoe.errors import UserError
from intermoe.layers.precision import in_full
from intermoe.text.words import KINDS, Vocabulary, Words

FRAMES_PER_MOVEMENT = 4
_SLOPE = 0.2


class T2mConfig(Config):
    """T2M's evaluator; the defaults are the published sizes.

    Attributes:
        vectors: where the vectors of words are from: "given", those of a folder, which are not trained (as published),
            or "learned", which makes a vocabulary of the training captions and trains its vectors.
        max_words: words of a caption that are read; Inter-X's evaluator reads 35.
        word_width: numbers of a word's vector.
        movement_width: width of the convolutions over motion.
        motion_hidden: hidden width of what reads movements.
        text_hidden: hidden width of what reads words.
        embedding: numbers of an embedding.
        dropout: in the convolutions.
        margin: distance from which on a caption and the motion of another one are far enough from each other.
    """

    vectors: Literal["given", "learned"] = "given"
    max_words: int = Field(default=20, ge=1, le=1000)
    word_width: int = Field(default=300, ge=1, le=65536)
    movement_width: int = Field(default=512, ge=1, le=65536)
    motion_hidden: int = Field(default=1024, ge=1, le=65536)
    text_hidden: int = Field(default=512, ge=1, le=65536)
    embedding: int = Field(default=512, ge=2, le=65536)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    margin: float = Field(default=10.0, gt=0)


class MovementEncoder(nn.Module):
    """Two convolutions that halve the frames, each followed by dropout and a leaky ReLU, and a linear layer.

    A movement looks at three frames after its own. As published, those beyond a motion's end are zeros, up to the
    longest motion that there is; the first convolution has no output beyond that.
    """

    def __init__(self, features: int, width: int, *, max_frames: int, dropout: float) -> None:
        """Build the encoder.

        Args:
            features: numbers of a frame.
            width: of both convolutions and of a movement.
            max_frames: of the longest motion.
            dropout: after each convolution.
        """
        super().__init__()
        self.max_frames = max_frames
        self.first = nn.Conv1d(features, width, kernel_size=4, stride=2, padding=1)
        self.second = nn.Conv1d(width, width, kernel_size=4, stride=2, padding=1)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.first, self.second, self.out):
            _initialise(layer)

    def forward(self, x_BTF: Tensor, frames_B: Tensor) -> Tensor:
        """The movements [B, M, D] of motions; frames at a motion's end that fill none are left out.

        Args:
            x_BTF: normalised features, padded; four frames at least.
            frames_B: valid frames of each motion; what lies beyond them changes nothing.
        """
        count_B, longest = frames_B // FRAMES_PER_MOVEMENT, x_BTF.shape[1] // FRAMES_PER_MOVEMENT
        x_BTF = where_valid(x_BTF[:, : longest * FRAMES_PER_MOVEMENT], count_B * FRAMES_PER_MOVEMENT, 0.0)
        # One movement more, in the place of what follows the longest motion.
        x_BTD = self._activated(self.first(nn.functional.pad(x_BTF.mT, (0, FRAMES_PER_MOVEMENT)))).mT
        x_BTD = where_valid(x_BTD, (2 * count_B).clamp(min=self.max_frames // 2), 0.0)
        movement_BMD: Tensor = self.out(self._activated(self.second(x_BTD.mT)).mT[:, :longest])
        return movement_BMD

    def _activated(self, x_BDT: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.dropout(x_BDT), _SLOPE)


class SequenceReader(nn.Module):
    """Reads a sequence forwards and backwards; what is known at both ends becomes the embedding.

    Each direction is a GRU of one layer that starts from a learned state.
    """

    def __init__(self, width: int, hidden: int, embedding: int) -> None:
        """Build the layers for sequences of that width."""
        super().__init__()
        self.embed = nn.Linear(width, hidden)
        self.forwards, self.backwards = (nn.GRU(hidden, hidden, batch_first=True) for _ in range(2))
        self.forwards_H, self.backwards_H = (nn.Parameter(torch.empty(hidden).normal_()) for _ in range(2))
        self.hidden, self.norm = nn.Linear(2 * hidden, hidden), nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, embedding)
        for layer in (self.embed, self.hidden, self.out):
            _initialise(layer)

    def forward(self, x_BLD: Tensor, length_B: Tensor) -> Tensor:
        """The embedding [B, E] of sequences, float32.

        Args:
            x_BLD: padded sequences.
            length_B: places of each that count, one at least; the others change nothing.
        """
        x_BLH = self.embed(x_BLD)
        # Packed sequences would have the host wait for the lengths. Instead each is turned round within its length, and
        # read where it ends; what is made of the places beyond that is not looked at.
        place_L = torch.arange(x_BLH.shape[1], device=x_BLH.device)
        turned_BL = (length_B[:, None] - 1 - place_L).clamp(min=0)
        turned_BLH = x_BLH.gather(1, turned_BL[..., None].expand_as(x_BLH))
        last_B11 = (length_B - 1)[:, None, None]
        # In full: an error at one place would be carried on through all that follow.
        with in_full(x_BLH.device):
            ends = []
            for gru, start_H, way_BLH in (
                (self.forwards, self.forwards_H, x_BLH),
                (self.backwards, self.backwards_H, turned_BLH),
            ):
                state_BLH, _ = gru(way_BLH.float(), start_H.expand(1, len(x_BLH), -1).contiguous())
                ends.append(state_BLH.gather(1, last_B11.expand(-1, 1, state_BLH.shape[-1]))[:, 0])
        hidden_BH = nn.functional.leaky_relu(self.norm(self.hidden(torch.cat(ends, dim=-1))), _SLOPE)
        embedding_BE: Tensor = self.out(hidden_BH)
        return embedding_BE.float()


class MotionReader(nn.Module):
    """From motion to movements, and from these to the embedding."""

    def __init__(self, config: T2mConfig, features: int, max_frames: int) -> None:
        """Build the networks for so many numbers of a frame, and motions of up to so many frames."""
        super().__init__()
        self.movement = MovementEncoder(features, config.movement_width, max_frames=max_frames, dropout=config.dropout)
        self.reader = SequenceReader(config.movement_width, config.motion_hidden, config.embedding)

    def forward(self, x_BTF: Tensor, frames_B: Tensor) -> Tensor:
        """The embedding [B, E] of motions; arguments as for ``MovementEncoder``."""
        embedding_BE: Tensor = self.reader(self.movement(x_BTF, frames_B), frames_B // FRAMES_PER_MOVEMENT)
        return embedding_BE


class WordReader(nn.Module):
    """From the words of a caption and their kinds to the embedding.

    The vocabulary travels with the weights, as the letters of its words.

    Attributes:
        vocabulary: the words whose vectors it has.
    """

    letters_N: Tensor
    word_VW: Tensor

    def __init__(self, config: T2mConfig, vocabulary: Vocabulary) -> None:
        """Build the networks; for "given", ``take_vectors`` then has to be given those, or a checkpoint loaded."""
        super().__init__()
        self.vocabulary, self._most = vocabulary, config.max_words
        self.register_buffer("letters_N", vocabulary.letters())
        word_VW = torch.empty(len(vocabulary.words), config.word_width)
        if config.vectors == "learned":
            self.word_VW = nn.Parameter(word_VW.normal_())
        else:
            self.register_buffer("word_VW", word_VW.zero_())
        self.kind = nn.Linear(len(KINDS), config.word_width)
        self.reader = SequenceReader(config.word_width, config.text_hidden, config.embedding)
        _initialise(self.kind)

    def take_vectors(self, word_VW: Tensor) -> None:
        """Take over the vectors of the vocabulary's words; ``UserError`` where they have another size."""
        if word_VW.shape != self.word_VW.shape:
            raise UserError(f"word vectors of the shape {tuple(word_VW.shape)}", allowed=f"{tuple(self.word_VW.shape)}")
        self.word_VW.copy_(word_VW)

    def words(self, captions: list[str]) -> Words:
        """Captions as the encoder reads them: each a line of words before their parts of speech (text/words.py)."""
        return self.vocabulary.read(captions, self._most).to(self.letters_N.device)

    def forward(self, words: Words) -> Tensor:
        """The embedding [B, E] of captions."""
        kind_BKW = self.kind(nn.functional.one_hot(words.kind_BK, len(KINDS)).to(self.word_VW.dtype))
        embedding_BE: Tensor = self.reader(self.word_VW[words.word_BK] + kind_BKW, words.length_B)
        return embedding_BE


def _initialise(layer: nn.Conv1d | nn.Linear) -> None:
    """Weights as published: Xavier's, of a normal distribution; biases of zero."""
    assert layer.bias is not None
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
