"""Text as users' programs write it: UTF-8 with or without a byte order mark, or UTF-16 with one."""

import codecs

from intermoe.datasets.bad_recording import BadRecording
from intermoe.errors import UserError
from intermoe.places import Place, is_remote, read_bytes

MAX_BYTES = 2**28
"""The longest file that is read: BVH of half an hour at 120 frames per second."""


def read_text(path: Place, *, errors: str = "strict") -> str:
    """The text of a file, without its byte order mark; line ends as they are.

    Args:
        path: of the file.
        errors: what becomes of bytes that are not text, as for ``bytes.decode``.

    Raises:
        OSError: it cannot be read, or is longer than ``MAX_BYTES``.
        StorageError: the storage of a URI does not give it.
        UnicodeDecodeError: it is not text.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.txt"
        ...     _ = file.write_bytes("They bow.".encode("utf-16"))
        ...     read_text(file)
        'They bow.'
    """
    if not is_remote(path) and (size := path.stat().st_size) > MAX_BYTES:
        raise OSError(f"{size} bytes are more than {MAX_BYTES}")
    content = read_bytes(path)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors)
    return content.decode("utf-8-sig", errors)


def text_of(file: Place) -> str:
    """The text of a file that a data set cannot do without; ``UserError`` where it is missing or no text."""
    try:
        return read_text(file)
    except FileNotFoundError:
        raise UserError("there is no such file", where=file) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=file) from None


def listed_lines(file: Place) -> list[str]:
    """The lines of such a file that are not empty."""
    return [line.strip() for line in text_of(file).splitlines() if line.strip()]


def captions_text(file: Place, name: str) -> str:
    """The text of a recording's captions; ``BadRecording``, with the name, where it is missing or no text.

    Lines end with a line feed, whatever they end with in the file.
    """
    try:
        return read_text(file).replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise BadRecording(f"no captions: {name} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecording(f"{name} cannot be read: {error}") from None
