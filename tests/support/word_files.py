"""Word vectors in the form in which T2M's are published, few of them."""

import pickle
from pathlib import Path

import numpy as np

WORDS = ("sos", "eos", "unk", "a", "man", "walk")


def write_word_files(folder: Path, *, width: int, stem: str = "our_vab") -> np.ndarray:
    """Write the three files; the words' vectors stand in the reverse order. Returns the table [V, W], float64."""
    folder.mkdir(exist_ok=True)
    table = np.random.default_rng(4).normal(size=(len(WORDS), width))
    np.save(folder / f"{stem}_data.npy", table)
    (folder / f"{stem}_words.pkl").write_bytes(pickle.dumps(list(WORDS)))
    rows = {word: len(WORDS) - 1 - place for place, word in enumerate(WORDS)}
    (folder / f"{stem}_idx.pkl").write_bytes(pickle.dumps(rows))
    return table
