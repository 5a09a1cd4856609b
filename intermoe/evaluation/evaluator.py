"""The evaluator: two encoders that put a caption and the motion it describes at the same place of one space.

There are two kinds: InterCLIP (interclip.py), on whose embeddings InterHuman's tables are taken, and that of T2M
(t2m.py), for HumanML3D's and Inter-X's.

Legend: B batch, T frames, P persons, F features of a person-frame, K text tokens, W text width, E embedding, V tokens
or words of the vocabulary.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from intermoe import checkpoint
from intermoe.body.features import FeatureLayout, Normaliser
from intermoe.body.skeletons import skeleton_named
from intermoe.data.shards import DataConfig, DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.conventions import EvaluatorConventions
from intermoe.evaluation.interclip import InterClipConfig, MotionEncoder, TextBranch
from intermoe.evaluation.metrics import MetricScales
from intermoe.evaluation.t2m import MotionReader, T2mConfig, WordReader
from intermoe.layers.stored_weights import check_fit
from intermoe.model_config import trained_folder
from intermoe.places import Place
from intermoe.text.encoders import MAX_TOKENS, TextStates, encoder_width
from intermoe.text.words import Vocabulary, Words, tagged_words

PART = "evaluator"
T2M_SCALES = MetricScales(fid=1.0, diversity=1.0, multimodality=1.0)
"""T2M's embeddings are taken as they are."""
_NO_WORDS = Vocabulary.of(())


class EvaluatorConfig(InterClipConfig):
    """The evaluator: InterCLIP with the sizes that stand here, or that of T2M with those below ``t2m``.

    Attributes:
        kind: which of the two.
        t2m: the sizes of T2M's, for "t2m".
        conventions: what belongs to its numbers: the scales of its metrics, for "t2m" 1 each unless they are given, and
            what it gives for recorded motion.
    """

    kind: Literal["interclip", "t2m"] = "interclip"
    t2m: T2mConfig = T2mConfig()
    conventions: EvaluatorConventions = EvaluatorConventions()

    @model_validator(mode="before")
    @classmethod
    def _scales_of_the_kind(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("kind") != "t2m":
            return values
        conventions = values.get("conventions", {})
        scales = conventions.get("scales", {}) if isinstance(conventions, Mapping) else None
        if not isinstance(scales, Mapping):
            return values
        return {**values, "conventions": {**conventions, "scales": {**T2M_SCALES.model_dump(), **scales}}}

    @property
    def reads(self) -> Literal["tokens", "states", "words"]:
        """What its text encoder reads of a caption."""
        return "words" if self.kind == "t2m" else self.text


class Evaluator(nn.Module):
    """Embeds captions and motions, each as the metrics of its kind take them.

    Attributes:
        scale: the learned length of InterCLIP's embeddings; None for T2M's, whose length is whatever it is.

    Example:
        ``Evaluator.load("runs/duet/evaluator").embed_motion(features_BTPF, frames_B)``
    """

    scale: nn.Parameter | None
    token_VW: Tensor
    position_KW: Tensor

    def __init__(self, config: EvaluatorConfig, data: DataConfig, vocabulary: Vocabulary = _NO_WORDS) -> None:
        """Build the networks.

        For "tokens", ``take_tokens`` then has to be given CLIP's tables, and for given word vectors ``take_vectors``
        those, or a checkpoint has to be loaded.

        Args:
            config: kind and sizes.
            data: what is embedded.
            vocabulary: of one that reads words.

        Raises:
            UserError: the config wants tokens of another encoder than CLIP, or heads do not divide a width.
        """
        super().__init__()
        self.config, self.data = config, data
        self.skeleton = skeleton_named(data.skeleton)
        self.normaliser = Normaliser(self.skeleton.num_features)
        self.motion: MotionEncoder | MotionReader
        self.text: TextBranch | WordReader
        numbers = self.skeleton.num_persons * FeatureLayout.of(self.skeleton).contacts.start
        if config.kind == "t2m":
            # A recording has one frame more than its features.
            self.motion = MotionReader(config.t2m, numbers, data.max_frames - 1)
            self.text = WordReader(config.t2m, vocabulary)
            self.register_parameter("scale", None)
            return
        if config.text == "tokens" and data.encoder != "clip":
            raise UserError(
                f"evaluator.text = 'tokens' with data.encoder = {data.encoder!r}", allowed="states, or the encoder clip"
            )
        width = encoder_width(data.encoder)
        self.motion = MotionEncoder(config, numbers)
        self.text = TextBranch(config, width)
        self.scale = nn.Parameter(torch.tensor(config.scale))
        rows = (config.vocabulary, MAX_TOKENS) if config.text == "tokens" else (0, 0)
        self.register_buffer("token_VW", torch.empty(rows[0], width).zero_())
        self.register_buffer("position_KW", torch.empty(rows[1], width).zero_())

    @classmethod
    def initial(
        cls,
        config: EvaluatorConfig,
        data: DataConfig,
        normaliser: Normaliser,
        *,
        seed: int = 0,
        vocabulary: Vocabulary = _NO_WORDS,
    ) -> Self:
        """The networks as they are before any training: the same seed gives the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            evaluator = cls(config, data, vocabulary)
        evaluator.normaliser = normaliser
        return evaluator

    @classmethod
    def load(cls, path: str | Place, *, device: str = "cpu") -> Self:
        """A trained evaluator.

        Args:
            path: a checkpoint, or the folder of a training run (then its best checkpoint).
            device: where it is put.

        Raises:
            UserError: no checkpoint there, a damaged one, or one of something else.
        """
        folder = trained_folder(path)
        saved = checkpoint.load(folder, device=device)
        stored = saved.documents.get("config")
        if PART not in saved.tensors or not isinstance(stored, dict):
            raise UserError("holds no evaluator", where=folder, allowed="a run of `intermoe train evaluator`")
        config = EvaluatorConfig.parse(stored.get(PART, {}), where=folder)
        data = DataConfig.parse(stored.get("data", {}), where=folder)
        vocabulary = _NO_WORDS if config.reads != "words" else _stored_vocabulary(saved.tensors[PART], where=folder)
        check_fit(lambda: cls(config, data, vocabulary), {PART: saved.tensors[PART]}, where=folder)
        evaluator = cls(config, data, vocabulary)
        evaluator.restore(saved, (PART,))
        return evaluator.to(device).eval()

    def parts(self) -> dict[str, nn.Module]:
        """The modules that a checkpoint holds, by name."""
        return {PART: self}

    def restore(self, saved: checkpoint.Checkpoint, parts: tuple[str, ...]) -> None:
        """Take over the weights of a checkpoint; ``UserError`` where they are of another vocabulary."""
        for name in parts:
            if self.config.reads == "words" and _stored_vocabulary(saved.tensors[name]) != self.vocabulary:
                raise UserError("the checkpoint holds another vocabulary than the training reads", allowed="the same")
            self.load_state_dict(saved.tensors[name])

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that it knows, if it reads words."""
        return self.text.vocabulary if isinstance(self.text, WordReader) else _NO_WORDS

    def take_tokens(self, token_VW: Tensor, position_KW: Tensor) -> None:
        """Take over the frozen embeddings of tokens and of positions; ``UserError`` where they have other sizes."""
        for name, own, given in (("tokens", self.token_VW, token_VW), ("positions", self.position_KW, position_KW)):
            if own.shape != given.shape:
                raise UserError(f"a table of {name} of the shape {tuple(given.shape)}", allowed=f"{tuple(own.shape)}")
            own.copy_(given)

    def token_states(self, ids_BK: Tensor, eot_B: Tensor) -> TextStates:
        """The input of the first layer: the sum of each token's embedding and that of its position.

        All 77 tokens count, those that fill up included: the published form masks none.
        """
        states_BKW = self.token_VW[ids_BK] + self.position_KW
        return TextStates(states_BKW, torch.ones_like(ids_BK, dtype=torch.bool), eot_B)

    def words(self, captions: list[str]) -> Words:
        """What it reads of captions, each a line of words before their parts of speech; for one that reads words."""
        assert isinstance(self.text, WordReader)
        return self.text.words(captions)

    def take_vectors(self, word_VW: Tensor) -> None:
        """Take over given vectors of the vocabulary's words; ``UserError`` where they have another size."""
        assert isinstance(self.text, WordReader)
        self.text.take_vectors(word_VW)

    def embed_text(self, text: TextStates | Words) -> Tensor:
        """Embeddings [B, E] of captions, from what the evaluator reads of them."""
        return self._lengthened(self.text(text))

    def embed_motion(self, features_BTPF: Tensor, frames_B: Tensor) -> Tensor:
        """Embeddings [B, E] of motions.

        Args:
            features_BTPF: raw features of all persons (features.py); beyond a motion's frames they change nothing.
            frames_B: valid frames of each.
        """
        is_normalised = self.config.kind == "t2m" or self.config.normalised
        x_BTPF = self.normaliser.normalise(features_BTPF) if is_normalised else features_BTPF
        contacts = FeatureLayout.of(self.skeleton).contacts
        return self._lengthened(self.motion(x_BTPF[..., : contacts.start].flatten(2), frames_B))

    def _lengthened(self, embedding_BE: Tensor) -> Tensor:
        if self.scale is None:
            return embedding_BE
        return nn.functional.normalize(embedding_BE.to(self.scale.dtype), dim=-1) * self.scale


def caption_words(folder: DatasetFolder) -> list[str]:
    """The words of all captions of a data set, by their rows: its own, or where it has none those of the text."""
    return [words or tagged_words(text) for text, words in zip(folder.texts(), folder.words(), strict=True)]


def _stored_vocabulary(tensors: Mapping[str, Tensor], where: object = None) -> Vocabulary:
    try:
        return Vocabulary.from_letters(tensors["text.letters_N"])
    except (KeyError, ValueError):
        raise UserError("holds no vocabulary, as an evaluator that reads words does", where=where) from None
