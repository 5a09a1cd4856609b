"""Why a recording is set aside."""


class BadRecording(Exception):
    """This recording cannot be used: it is set aside in the quarantine, and the run goes on.

    Attributes:
        reason: what is wrong, and what is allowed or may be done.
        where: the file and the line in which it was found, where that is known.

    Example:
        >>> str(BadRecording("12 numbers instead of 132", where="a.bvh, line 140"))
        'a.bvh, line 140: 12 numbers instead of 132'
    """

    def __init__(self, reason: str, *, where: str = "") -> None:
        self.reason, self.where = reason, where
        super().__init__(f"{where}: {reason}" if where else reason)


class WrongHeight(BadRecording):
    """No person's size.

    Attributes:
        height: from the feet to the head joint, metres.
    """

    def __init__(self, reason: str, height: float) -> None:
        self.height = height
        super().__init__(reason)


class NotUpright(BadRecording):
    """Both bodies stand along another direction than y.

    Attributes:
        up: the direction in which they stand: "x", "-x", "-y", "z" or "-z".
    """

    def __init__(self, reason: str, up: str) -> None:
        self.up = up
        super().__init__(reason)
