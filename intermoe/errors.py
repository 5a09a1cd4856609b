"""The one exception that a user's mistake raises, and the one warning."""


class UserError(Exception):
    """Something the user can put right, in one line: what, where and what is allowed.

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
        message = what if where is None else f"{where}: {what}"
        if allowed is not None:
            message += f" (allowed: {allowed})"
        super().__init__(" ".join(message.split()))


def first_line(text: str) -> str:
    """The first line of a text, such as a traceback, that holds anything; empty where none does."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return first_line(str(error)) or type(error).__name__


class UserNote(UserWarning):
    """Something the user should know although the work goes on; the command line prints it as ``note: <message>``."""
