"""Arrays of an ``.npz`` file that somebody else has written: those that are asked for, and nothing unpickled."""

from collections.abc import Sequence
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
from numpy.typing import NDArray

from intermoe.places import Place, check_regular


def read_npz(file: Place, names: Sequence[str], *, most_bytes: int) -> dict[str, NDArray[Any]]:
    """Arrays of floating-point numbers, by name.

    Args:
        file: the archive.
        names: of the arrays.
        most_bytes: that one of them may take.

    Raises:
        ValueError: it is no such archive, is damaged, or lacks one of them; in a line of at most 200 letters.
        OSError: it cannot be read.
    """
    check_regular(file)
    try:
        with file.open("rb") as stream:
            if not is_zipfile(stream):
                raise ValueError("it is no archive of arrays")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as stored:
                return {name: _array(stored, name, most_bytes) for name in names}
    except OSError:
        raise
    except (BadZipFile, ValueError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    except Exception as error:  # zip, deflate and NumPy's headers raise what a byte leads them to
        raise ValueError(f"it is damaged ({type(error).__name__})") from None


def _array(stored: Any, name: str, most_bytes: int) -> NDArray[Any]:
    if f"{name}.npy" not in stored.zip.namelist():
        raise ValueError(f"it holds no {name}")
    if stored.zip.getinfo(f"{name}.npy").file_size > most_bytes:
        raise ValueError(f"{name} is longer than {most_bytes} bytes")
    array = stored[name]
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise ValueError(f"{name} holds no floating-point numbers")
    return array
