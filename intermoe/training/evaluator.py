"""The objective of the evaluator.

Legend: B batch, N pairs, E embedding, K text tokens, V words of a vocabulary, W numbers of a word.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intermoe.data.shards import DataConfig, DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.contrast import contrastive_sum, margin_sums
from intermoe.evaluation.evaluator import PART, Evaluator, EvaluatorConfig, caption_words
from intermoe.evaluation.metrics import matching
from intermoe.text.encoders import Clip, TextStates, load_encoder
from intermoe.text.word_vectors import read_word_vectors
from intermoe.text.words import Vocabulary, Words
from intermoe.training.config import TrainingConfig
from intermoe.training.objective import Diagnostics, Objective, Sums
from intermoe.training.samples import Batch, SampleStream, interaction_stream


class EvaluatorObjective(Objective):
    """Trains the evaluator: a caption and its motion come near each other, and away from the others of the batch.

    With several micro-batches, the others are those of the micro-batch, of all workers. All networks learn from this
    loss alone. (T2M's convolutions were published as an autoencoder's that was trained before and then left as it was:
    a second training, with a decoder that nothing reads afterwards. Its numbers are compared by its published weights.)
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
        captions: tuple[Tensor, ...] = (),
    ) -> None:
        """Take an evaluator to train.

        Args:
            evaluator: its networks.
            config: how they are trained.
            pool: pairs among which validation looks for the matching one.
            captions: where it reads tokens or words: what it reads of all captions of the data set, by their rows.
                Those of tokens are their numbers and where each text ends, those of words the columns of ``Words``.
        """
        super().__init__()
        self.model, self.config = evaluator, config
        names = ("together", "apart") if evaluator.config.kind == "t2m" else ("contrast",)
        self.weights = dict.fromkeys(names, 1.0)
        self._pool, self._captions = pool, captions

    def stream(self, dataset: DatasetFolder, seed: int = 0) -> SampleStream:
        """Interactions of the training split."""
        return interaction_stream(str(dataset.path), self.config, self.model.data, seed)

    def count(self, batch: Batch) -> Tensor:
        """Pairs of caption and motion."""
        return torch.tensor(len(batch["frames"]), device=batch["frames"].device)

    def forward(self, batch: Batch) -> Sums:
        """Symmetric cross-entropy of the pairs, summed; for T2M's evaluator the two sums of ``margin_sums``."""
        embedded = self._embedded(batch)
        if self.model.config.kind == "t2m":
            return dict(zip(self.weights, margin_sums(*embedded, self.model.config.t2m.margin), strict=True))
        return {"contrast": contrastive_sum(*embedded)}

    def pop_diagnostics(self) -> Diagnostics:
        """The length of the embeddings, where it is learned."""
        return Diagnostics() if self.model.scale is None else Diagnostics({"scale": float(self.model.scale.detach())})

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
        text: TextStates | Words = TextStates(batch["states"], batch["mask"], batch["eot"])
        if self._captions:
            rows_B, device = batch["caption"].cpu(), batch["caption"].device
            columns = [table[rows_B].to(device) for table in self._captions]
            text = Words(*columns) if self.model.config.reads == "words" else self.model.token_states(*columns)
        with self.products():
            return self.model.embed_text(text), self.model.embed_motion(batch["features"], batch["frames"])


def evaluator_objective(
    config: EvaluatorConfig,
    data: DataConfig,
    training: TrainingConfig,
    dataset: DatasetFolder,
    *,
    seed: int,
    pool: int,
    text_folder: Path | None = None,
) -> EvaluatorObjective:
    """The objective of an evaluator that has not been trained yet.

    Args:
        config: its kind and sizes.
        data: what it is made for.
        training: how it is trained.
        dataset: what it is trained on.
        seed: of its weights.
        pool: pairs among which validation looks for the matching one.
        text_folder: of CLIP's weights for one that reads tokens, if they are not in the hub's cache; of the vectors for
            one that is given those of words.

    Raises:
        UserError: no weights of CLIP there, or no word vectors.
    """
    normaliser = dataset.normaliser()
    if config.reads == "words":
        captions = caption_words(dataset)
        vocabulary, vectors_VW = _vocabulary(config, dataset, captions, text_folder)
        evaluator = Evaluator.initial(config, data, normaliser, seed=seed, vocabulary=vocabulary)
        if vectors_VW is not None:
            evaluator.take_vectors(vectors_VW)
        words = evaluator.words(captions)
        columns = (words.word_BK, words.kind_BK, words.length_B)
        return EvaluatorObjective(evaluator, training, pool=pool, captions=columns)
    evaluator = Evaluator.initial(config, data, normaliser, seed=seed)
    if config.reads == "states":
        return EvaluatorObjective(evaluator, training, pool=pool)
    encoder = load_encoder(data.encoder, text_folder)
    assert isinstance(encoder, Clip)
    evaluator.take_tokens(*encoder.tables())
    return EvaluatorObjective(evaluator, training, pool=pool, captions=encoder.tokens(dataset.texts()))


def check_vectors(config: EvaluatorConfig, word_vectors: Path | None) -> None:
    """Raise ``UserError`` where an evaluator is to be given the vectors of words, and the folder does not hold them."""
    if config.kind == "t2m" and config.t2m.vectors == "given":
        _given_vectors(config, word_vectors)


def _given_vectors(config: EvaluatorConfig, word_vectors: Path | None) -> tuple[Vocabulary, Tensor]:
    if word_vectors is None:
        raise UserError(
            "evaluator.t2m.vectors = 'given' without word vectors",
            allowed="--word-vectors, the folder of T2M's our_vab_data.npy and what belongs to it, or learned",
        )
    return read_word_vectors(word_vectors, config.t2m.word_width)


def _vocabulary(
    config: EvaluatorConfig, dataset: DatasetFolder, captions: Sequence[str], word_vectors: Path | None
) -> tuple[Vocabulary, Tensor | None]:
    """The vocabulary of an evaluator that reads words, and the vectors of its words where they are given."""
    if config.t2m.vectors == "given":
        return _given_vectors(config, word_vectors)
    rows = sorted(
        {
            row
            for header in dataset.headers("train")
            for row in (*header.captions, *header.mirrored, *header.swapped, *header.swapped_mirrored)
        }
    )
    return Vocabulary.of(captions[row] for row in rows), None
