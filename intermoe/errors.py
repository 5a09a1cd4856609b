"""The one exception that a user's mistake raises, and the one warning."""

LONGEST_MESSAGE = 300
"""Letters of a message; what a message repeats of a file is shortened to that."""
# Messages may name a path within what they say: so much of it stays beside a long list of what is allowed.
_LONGEST_PATH, _KEPT = 4096, 240


def shortened(text: str, limit: int = LONGEST_MESSAGE) -> str:
    r"""Text for people on one line: without control characters, and without its middle where it is too long.

    Args:
        text: may repeat whatever a file holds.
        limit: letters that are left at most.

    Example:
        >>> shortened("unknown key\n'aaaaaaaaaaaaaaaaaaaaaaaa'", limit=30)
        "unknown key 'aaaaa...aaaaaaaa'"
    """
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))
    if len(line) <= limit:
        return line
    end = (limit - 3) // 3
    return f"{line[: limit - 3 - end]}...{line[len(line) - end :]}"


class UserError(Exception):
    """Something the user can put right, in one line: what, where and what is allowed.

    What it says is shortened so that it has, without the path before it, about ``LONGEST_MESSAGE`` letters at most.

    The command line prints it as ``error: <message>`` and exits with 2; it never shows a traceback.

    Attributes:
        key: of a configuration: the names and numbers that lead to the value at fault.

    Example:
        >>> raise UserError("batch_size 10", where="train.denoiser", allowed="a multiple of 4 workers")
        Traceback (most recent call last):
            ...
        intermoe.errors.UserError: train.denoiser: batch_size 10 (allowed: a multiple of 4 workers)
    """

    def __init__(
        self, what: str, *, where: object = None, allowed: str | None = None, key: tuple[str | int, ...] = ()
    ) -> None:
        self.key = key
        before = "" if where is None else f"{shortened(str(where), _LONGEST_PATH)}: "
        after = "" if allowed is None else f" (allowed: {shortened(allowed, LONGEST_MESSAGE - 12)})"
        super().__init__(before + shortened(what, max(_KEPT, LONGEST_MESSAGE - len(after))) + after)


def first_line(text: str) -> str:
    """The first line of a text, such as a traceback, that holds anything; empty where none does."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return first_line(str(error)) or type(error).__name__


class UserNote(UserWarning):
    """Something the user should know although the work goes on; the command line prints it as ``note: <message>``."""
