"""Word vectors that others have published: those of GloVe that come with T2M's evaluator, or with Inter-X's.

A folder holds ``NAME_data.npy`` (float [rows, W]), ``NAME_words.pkl`` (a list of words) and ``NAME_idx.pkl`` (for each
word its row). T2M's NAME is our_vab, Inter-X's hhi_vab. The pickles are read without executing anything.

Legend: V words, W numbers of a word.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intermoe.datasets.plain_pickle import NotPlain, read_plain_pickle
from intermoe.errors import UserError, reason_of
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
    table = _table(data, width)
    words, rows = _plain(words_file), _plain(rows_file)
    if not isinstance(words, list) or not all(isinstance(word, str) and "\n" not in word for word in words):
        raise UserError("holds no list of words", where=words_file)
    words = list(dict.fromkeys(words))
    if UNKNOWN not in words:
        raise UserError(f"lacks the word {UNKNOWN!r}, which stands for all that it does not hold", where=words_file)
    if not isinstance(rows, dict):
        raise UserError("holds no rows of words", where=rows_file)
    for word in words:
        row = rows.get(word)
        if not isinstance(row, int) or not 0 <= row < len(table):
            raise UserError(
                f"the row of {word!r} is {row}",
                where=rows_file,
                allowed=f"0 to {len(table) - 1}, the rows of {data.name}",
            )
    return Vocabulary(tuple(words)), torch.from_numpy(table[[rows[word] for word in words]].astype(np.float32))


def _table(file: Path, width: int) -> np.ndarray[Any, Any]:
    try:
        table = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy's readers raise whatever the header leads them to
        raise UserError(f"cannot be read: {reason_of(error)}", where=file) from None
    if table.ndim != 2 or table.shape[1] != width or table.dtype.kind != "f" or not np.isfinite(table).all():
        raise UserError(
            f"numbers of the shape {table.shape}",
            where=file,
            allowed=f"(words, {width}), finite floats, as evaluator.t2m.word_width says",
        )
    return table


def _plain(file: Path) -> Any:
    try:
        return read_plain_pickle(file)
    except (NotPlain, OSError) as error:
        raise UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=file) from None
