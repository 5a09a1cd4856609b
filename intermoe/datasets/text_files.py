"""Text as users' programs write it: UTF-8 with or without a byte order mark, or UTF-16 with one."""

import codecs

from intermoe.places import Place, read_bytes


def read_text(path: Place, *, errors: str = "strict") -> str:
    """The text of a file, without its byte order mark; line ends as they are.

    Args:
        path: of the file.
        errors: what becomes of bytes that are not text, as for ``bytes.decode``.

    Raises:
        OSError: it cannot be read.
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
    content = read_bytes(path)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors)
    return content.decode("utf-8-sig", errors)
