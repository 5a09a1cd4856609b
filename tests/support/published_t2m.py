"""T2M's evaluator in the form in which it is published, small, with random weights.

Legend: T frames, F features of a frame, K words, W numbers of a word.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from intermoe.data.shards import DataConfig
from intermoe.evaluation.evaluator import EvaluatorConfig
from intermoe.evaluation.t2m import T2mConfig

JUDGE = EvaluatorConfig(
    kind="t2m",
    t2m=T2mConfig(max_words=6, word_width=5, movement_width=8, motion_hidden=7, text_hidden=6, embedding=4),
)
DATA = DataConfig(skeleton="humanml22", max_frames=41)
WORDS = [
    *("data.max_frames=41", "evaluator.t2m.max_words=6", "evaluator.t2m.word_width=5"),
    *("evaluator.t2m.movement_width=8", "evaluator.t2m.motion_hidden=7", "evaluator.t2m.text_hidden=6"),
    "evaluator.t2m.embedding=4",
]
"""The same as overrides of the preset mdm."""


class Reader(nn.Module):
    """One of the two recurrent encoders: the names are the published ones, and sequences are packed."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.input_emb = nn.Linear(width, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        out = [nn.Linear(2 * hidden, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 4)]
        self.output_net = nn.Sequential(*out)
        self.hidden = nn.Parameter(torch.randn(2, 1, hidden))

    def forward(self, x: Tensor, length: int) -> Tensor:
        packed = pack_padded_sequence(self.input_emb(x)[None], torch.tensor([length]), batch_first=True)
        _, ends = self.gru(packed, self.hidden)
        return self.output_net(torch.cat([ends[0], ends[1]], dim=-1))[0]


class PublishedT2m:
    """The three networks of the file, and what they make of a motion and of words."""

    def __init__(self) -> None:
        self.movement_encoder: Any = nn.Module()
        layers = [nn.Conv1d(259, 8, 4, 2, 1), nn.Dropout(0.2), nn.LeakyReLU(0.2)]
        layers += [nn.Conv1d(8, 8, 4, 2, 1), nn.Dropout(0.2), nn.LeakyReLU(0.2)]
        self.movement_encoder.main = nn.Sequential(*layers).eval()
        self.movement_encoder.out_net = nn.Linear(8, 8)
        self.motion_encoder, self.text_encoder = Reader(8, 7), Reader(5, 6)
        self.pos_emb = self.text_encoder.pos_emb = nn.Linear(15, 5)

    def motion(self, normalised_TF: Tensor) -> Tensor:
        """Of a motion of a multiple of four frames, filled up with zeros to 40."""
        padded_TF = torch.cat([normalised_TF, torch.zeros(40 - len(normalised_TF), 263)])
        movements = self.movement_encoder.out_net(self.movement_encoder.main(padded_TF[None, :, :-4].mT)[0].T)
        return self.motion_encoder(movements, len(normalised_TF) // 4)

    def text(self, vector_KW: Tensor, kinds: list[int]) -> Tensor:
        """Of the vectors of words and the places of their kinds."""
        kind_KW = self.pos_emb(nn.functional.one_hot(torch.tensor(kinds), 15).float())
        return self.text_encoder(vector_KW + kind_KW, len(kinds))


def write_t2m(folder: Path) -> PublishedT2m:
    """Write ``finest.tar``, ``mean.npy`` and ``std.npy``; the networks in them."""
    torch.manual_seed(0)
    published = PublishedT2m()
    names = ("movement_encoder", "motion_encoder", "text_encoder")
    states = {name: getattr(published, name).state_dict() for name in names}
    optimizer = torch.optim.Adam(published.motion_encoder.parameters()).state_dict()
    torch.save({**states, "opt_motion_encoder": optimizer, "epoch": 57, "iter": 100}, folder / "finest.tar")
    rng = np.random.default_rng(1)
    np.save(folder / "mean.npy", rng.normal(size=263).astype(np.float32))
    np.save(folder / "std.npy", rng.uniform(0.1, 2, size=263).astype(np.float32))
    return published
