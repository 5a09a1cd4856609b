"""Reading a .npy file that somebody else has written: floating-point numbers and nothing else.

Legend: T frames, D numbers of a row, N the shape that the file says.
"""

import io
import tokenize
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intermoe.datasets.bad_recording import BadRecording
from intermoe.errors import UserError, reason_of
from intermoe.places import Place, check_regular, is_remote, read_bytes

# NumPy reads no longer ones.
_HEADER = 10_240


def read_rows(file: Place, name: str, *, width: int, most_frames: int) -> NDArray[np.float32]:
    """The numbers [T, D] of a file, float32; nothing can be unpickled, and no memory is taken for what is not there.

    Args:
        file: an existing one.
        name: what messages call it.
        width: D.
        most_frames: the largest T that is read.

    Raises:
        BadRecording: it holds something else, or more.
    """
    try:
        if not is_remote(file) and (size := file.stat().st_size) > (most := most_frames * width * 8 + _HEADER):
            raise BadRecording(f"{name} has {size} bytes; up to {most} are read")
        rows_TD = _array(file)
    except (ValueError, OSError, OverflowError) as error:
        raise BadRecording(f"{name} cannot be read: {' '.join(str(error).split())}") from None
    except (SyntaxError, tokenize.TokenError, RecursionError, LookupError, TypeError, MemoryError):
        raise BadRecording(f"{name} cannot be read: its header is not one of a .npy file") from None
    if rows_TD.ndim != 2 or rows_TD.shape[1] != width:
        raise BadRecording(f"{name} has the shape {rows_TD.shape} instead of (frames, {width})")
    if len(rows_TD) > most_frames:
        raise BadRecording(f"{name} has {len(rows_TD)} frames; up to {most_frames} are read")
    if rows_TD.dtype.kind != "f":
        raise BadRecording(f"{name} holds {rows_TD.dtype} instead of floating-point numbers")
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, which the check refuses
        return np.asarray(rows_TD, np.float32)


def read_numbers(file: Place) -> NDArray[np.float32]:
    """The numbers [N] of a file that a command cannot do without, float32; nothing can be unpickled.

    Raises:
        UserError: it holds something else, or a number that is not finite as float32.
    """
    try:
        array_N = np.asarray(_array(file))
    except Exception as error:  # NumPy's readers raise whatever the header leads them to
        raise UserError(f"cannot be read: {reason_of(error)}", where=file) from None
    if array_N.dtype.kind != "f":
        raise UserError(f"holds {array_N.dtype}", where=file, allowed="floating-point numbers")
    with np.errstate(over="ignore"):
        number_N = array_N.astype(np.float32)
    if not np.isfinite(number_N).all():
        raise UserError("holds a number that is not finite", where=file, allowed="what float32 can hold")
    return number_N


def _array(file: Place) -> NDArray[Any]:
    """The array of a file.

    On a disk it is mapped, not loaded: a header that promises more than the file holds is an error before any memory is
    taken.
    """
    if is_remote(file):
        return np.load(io.BytesIO(read_bytes(file)), allow_pickle=False)
    check_regular(file)
    return np.lib.format.open_memmap(file, mode="r")
