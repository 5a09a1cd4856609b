"""Word vectors that others have published: those of GloVe that come with T2M's evaluator, or with Inter-X's.

A folder holds ``NAME_data.npy`` (float [rows, W]), ``NAME_words.pkl`` (a list of words) and ``NAME_idx.pkl`` (for each
word its row). T2M's NAME is our_vab, Inter-X's hhi_vab. The pickles are read without executing anything.

Legend: V words, W numbers of a word.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intermoe.datasets.npy_file import read_numbers
from intermoe.datasets.plain_pickle import NotPlain, read_plain_pickle
from intermoe.errors import UserError
from intermoe.text.words import UNKNOWN, Vocabulary

_DATA = "_data.npy"
_FILES = "one NAME_data.npy with NAME_words.pkl and NAME_idx.pkl, such as our_vab_data.npy"


def read_word_vectors(folder: Path, width: int) -> tuple[Vocabulary, Tensor]:
    """A vocabulary, and the vectors of its words [V, W], float32.

    Args:
        folder: of the three files.
        width: numbers W that a vector is to have.

    Raises:
        UserError: a file is missing, damaged, or not of that form.
    """
    stems = sorted(file.name.removesuffix(_DATA) for file in folder.glob(f"*{_DATA}"))
    if len(stems) != 1:
        found = f"{len(stems)} tables of word vectors" if stems else "no word vectors"
        raise UserError(f"holds {found}", where=folder, allowed=_FILES)
    data, words_file, rows_file = (folder / f"{stems[0]}{end}" for end in (_DATA, "_words.pkl", "_idx.pkl"))
    table_VW = _table(data, width)
    words, rows = _plain(words_file), _plain(rows_file)
    if not isinstance(words, list) or not all(map(_is_word, words)):
        raise UserError("holds no list of words", where=words_file)
    words = list(dict.fromkeys(words))
    if UNKNOWN not in words:
        raise UserError(f"lacks the word {UNKNOWN!r}, which stands for all that it does not hold", where=words_file)
    if not isinstance(rows, dict):
        raise UserError("holds no rows of words", where=rows_file)
    for word in words:
        row = rows.get(word)
        if not isinstance(row, int) or not 0 <= row < len(table_VW):
            raise UserError(
                f"the row of {word!r} is {row}",
                where=rows_file,
                allowed=f"0 to {len(table_VW) - 1}, the rows of {data.name}",
            )
    return Vocabulary(tuple(words)), torch.from_numpy(table_VW[[rows[word] for word in words]])


def _table(file: Path, width: int) -> NDArray[np.float32]:
    table_VW = read_numbers(file)
    if table_VW.ndim != 2 or table_VW.shape[1] != width or not len(table_VW):
        raise UserError(
            f"numbers of the shape {table_VW.shape}",
            where=file,
            allowed=f"(words, {width}), as evaluator.t2m.word_width says",
        )
    return table_VW


def _is_word(word: object) -> bool:
    """Whether it is text that a file of a line per word can hold."""
    # UTF-16's halves of a character are text in Python and cannot be written.
    return isinstance(word, str) and "\n" not in word and word == word.encode(errors="ignore").decode()


def _plain(file: Path) -> Any:
    try:
        return read_plain_pickle(file)
    except (NotPlain, OSError) as error:
        raise UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=file) from None
