"""Variables of this process's environment for as long as a block runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def environment_of(**values: str) -> Iterator[None]:
    """Variables for this process and for those that are started in the block; afterwards they are as before.

    Example:
        >>> with environment_of(INTERMOE_EXAMPLE="1"):
        ...     os.environ["INTERMOE_EXAMPLE"]
        '1'
        >>> "INTERMOE_EXAMPLE" in os.environ
        False
    """
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
