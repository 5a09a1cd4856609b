"""Word vectors in the published files, and what is wrong with such files, in one line each."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from word_files import WORDS, write_word_files

from intermoe.errors import UserError
from intermoe.text.word_vectors import read_word_vectors


@pytest.mark.parametrize("stem", ["our_vab", "hhi_vab"])
def test_each_word_has_the_vector_of_its_row(tmp_path: Path, stem: str):
    table = write_word_files(tmp_path, width=5, stem=stem)
    vocabulary, vectors = read_word_vectors(tmp_path, 5)
    assert vocabulary.words == WORDS
    assert vectors.dtype == torch.float32
    # The last word stands in the first row.
    torch.testing.assert_close(vectors, torch.tensor(table[::-1].copy(), dtype=torch.float32))


class Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 / 0",)


def pickled(name: str, value: object) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(pickle.dumps(value))


def saved(table: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / "our_vab_data.npy", table)


HOW = "one NAME_data.npy with NAME_words.pkl and NAME_idx.pkl, such as our_vab_data.npy"
PLAIN = "allowed are dicts, lists, strings and whole numbers"
SHAPE = "as evaluator.t2m.word_width says"


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda f: (f / "our_vab_data.npy").unlink(), f": holds no word vectors (allowed: {HOW})"),
        (
            lambda f: np.save(f / "hhi_vab_data.npy", np.zeros((1, 5))),
            f": holds 2 tables of word vectors (allowed: {HOW})",
        ),
        (lambda f: (f / "our_vab_idx.pkl").unlink(), "/our_vab_idx.pkl: cannot be read: No such file or directory"),
        (
            pickled("our_vab_words.pkl", Command()),
            f"/our_vab_words.pkl: cannot be read: it holds the instruction STACK_GLOBAL; {PLAIN}",
        ),
        (pickled("our_vab_words.pkl", {"a": 1}), "/our_vab_words.pkl: holds no list of words"),
        (
            pickled("our_vab_words.pkl", ["a", "sos"]),
            "/our_vab_words.pkl: lacks the word 'unk', which stands for all that it does not hold",
        ),
        (pickled("our_vab_idx.pkl", ["a"]), "/our_vab_idx.pkl: holds no rows of words"),
        (
            pickled("our_vab_idx.pkl", dict.fromkeys(WORDS, 9)),
            "/our_vab_idx.pkl: the row of 'sos' is 9 (allowed: 0 to 5, the rows of our_vab_data.npy)",
        ),
        (
            saved(np.zeros((6, 4), np.float32)),
            f"/our_vab_data.npy: numbers of the shape (6, 4) (allowed: (words, 5), {SHAPE})",
        ),
        (
            saved(np.zeros((0, 5), np.float32)),
            f"/our_vab_data.npy: numbers of the shape (0, 5) (allowed: (words, 5), {SHAPE})",
        ),
        *(
            (
                saved(np.full((6, 5), number)),
                "/our_vab_data.npy: holds a number that is not finite (allowed: what float32 can hold)",
            )
            for number in (np.nan, 1e300)
        ),
        (saved(np.zeros((6, 5), int)), "/our_vab_data.npy: holds int64 (allowed: floating-point numbers)"),
        (pickled("our_vab_words.pkl", ["unk", "\ud800"]), "/our_vab_words.pkl: holds no list of words"),
        (
            lambda f: np.save(f / "our_vab_data.npy", np.array([Command()]), allow_pickle=True),
            "/our_vab_data.npy: cannot be read: Array can't be memory-mapped: Python objects in dtype.",
        ),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, alter: Callable[[Path], object], message: str):
    write_word_files(tmp_path, width=5)
    alter(tmp_path)
    with pytest.raises(UserError) as caught:
        read_word_vectors(tmp_path, 5)
    assert str(caught.value) == f"{tmp_path}{message}"


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    write_word_files(tmp_path, width=5)
    file = tmp_path / "our_vab_data.npy"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError) as caught:
        read_word_vectors(tmp_path, 5)
    assert str(caught.value) == f"{file}: cannot be read: not a regular file"
