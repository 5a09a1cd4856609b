"""The objective of the evaluator.

Legend: B batch, N pairs, E embedding, K text tokens.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intermoe.data.shards import DatasetFolder
from intermoe.evaluation.contrast import contrastive_sum
from intermoe.evaluation.evaluator import PART, Evaluator
from intermoe.evaluation.metrics import matching
from intermoe.text.encoders import Clip, TextStates, load_encoder
from intermoe.training.config import TrainingConfig
from intermoe.training.objective import Diagnostics, Objective, Sums
from intermoe.training.samples import Batch, SampleStream, interaction_stream


class EvaluatorObjective(Objective):
    """Trains the evaluator: a caption and its motion come near each other, and away from the others of the batch.

    With several micro-batches, the others are those of the micro-batch, of all workers.
    """

    model: Evaluator
    saved = (PART,)
    watched = "retrieval_error"

    def __init__(
        self,
        evaluator: Evaluator,
        config: TrainingConfig,
        *,
        pool: int,
        tokens: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Take an evaluator to train.

        Args:
            evaluator: its networks.
            config: how they are trained.
            pool: pairs among which validation looks for the matching one.
            tokens: where it reads tokens: those of all captions of the data set, and where each text ends.
        """
        super().__init__()
        self.model, self.config = evaluator, config
        self.weights = {"contrast": 1.0}
        self._pool, self._tokens = pool, tokens

    def stream(self, dataset: DatasetFolder, seed: int = 0) -> SampleStream:
        """Interactions of the training split."""
        return interaction_stream(str(dataset.path), self.config, self.model.data, seed)

    def count(self, batch: Batch) -> Tensor:
        """Pairs of caption and motion."""
        return torch.tensor(len(batch["frames"]), device=batch["frames"].device)

    def forward(self, batch: Batch) -> Sums:
        """Symmetric cross-entropy of the pairs, summed."""
        return {"contrast": contrastive_sum(*self._embedded(batch))}

    def pop_diagnostics(self) -> Diagnostics:
        """The learned length of the embeddings."""
        return Diagnostics({"scale": float(self.model.scale.detach())})

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch], gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """R-precision and MM-Dist on the held-out pairs, in the order of the data set."""
        own = []
        for batch in batches:
            text_BE, motion_BE = self._embedded(batch)
            rows = zip(batch["item"].tolist(), text_BE.cpu().numpy(), motion_BE.cpu().numpy(), strict=True)
            own += list(rows)
        pairs = sorted((pair for part in gather(own) for pair in part), key=lambda pair: pair[0])
        text_NE, motion_NE = (np.stack([pair[place] for pair in pairs]) for place in (1, 2))
        precision_3, distance = matching(text_NE, motion_NE, min(self._pool, len(pairs)))
        found = {f"r_precision_top{place}": float(value) for place, value in enumerate(precision_3, start=1)}
        return found | {"mm_dist": distance, "retrieval_error": 1 - float(precision_3.mean())}

    def _embedded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        text = TextStates(batch["states"], batch["mask"], batch["eot"])
        if self._tokens is not None:
            device = batch["caption"].device
            ids_BK, eot_B = (table[batch["caption"].cpu()].to(device) for table in self._tokens)
            text = self.model.token_states(ids_BK, eot_B)
        with self.products():
            return self.model.embed_text(text), self.model.embed_motion(batch["features"], batch["frames"])


def evaluator_objective(
    evaluator: Evaluator,
    training: TrainingConfig,
    dataset: DatasetFolder,
    *,
    pool: int,
    text_folder: Path | None = None,
) -> EvaluatorObjective:
    """The objective of an evaluator that has not been trained yet.

    Args:
        evaluator: from :meth:`Evaluator.initial`.
        training: how it is trained.
        dataset: what it is trained on.
        pool: pairs among which validation looks for the matching one.
        text_folder: where CLIP's weights lie, for one that reads its tokens, if not in the hub's cache.

    Raises:
        UserError: no weights of CLIP there.
    """
    if evaluator.config.text == "states":
        return EvaluatorObjective(evaluator, training, pool=pool)
    encoder = load_encoder(evaluator.data.encoder, text_folder)
    assert isinstance(encoder, Clip)
    evaluator.take_tokens(*encoder.tables())
    return EvaluatorObjective(evaluator, training, pool=pool, tokens=encoder.tokens(dataset.texts()))
