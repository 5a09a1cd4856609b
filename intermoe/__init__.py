"""The science of motion from text, of two people or of one: PyTorch only, usable from a notebook.

Example:
    >>> from intermoe import InterMoE, Motion
    >>> InterMoE.generate.__doc__.splitlines()[0]
    'Motion of all persons that the model is of, for each prompt.'
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intermoe.data.shards import DatasetFolder
    from intermoe.given_person import GivenPerson
    from intermoe.model import InterMoE
    from intermoe.model_config import ModelConfig
    from intermoe.motion import Motion

__all__ = ["DatasetFolder", "GivenPerson", "InterMoE", "ModelConfig", "Motion"]

_MODULES = {
    "DatasetFolder": "intermoe.data.shards",
    "GivenPerson": "intermoe.given_person",
    "InterMoE": "intermoe.model",
    "ModelConfig": "intermoe.model_config",
    "Motion": "intermoe.motion",
}

if not TYPE_CHECKING:  # A type checker would take any name to be here.

    def __getattr__(name: str) -> object:
        """Import what is asked for: PyTorch takes seconds, which `intermoe --help` need not wait for."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
