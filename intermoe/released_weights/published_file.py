"""Reading the files in which others have published weights.

Nothing in them is executed: torch reads tensors and plain values, and objects of any other class, such as the
configuration that Lightning stores, come back as empty shells.

Legend: F features.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from zipfile import is_zipfile

import torch
from torch import Tensor

from intermoe.body.skeletons import Skeleton
from intermoe.datasets.npy_file import read_numbers
from intermoe.errors import UserError, reason_of
from intermoe.layers.conditioning import sinusoids

State = dict[str, Tensor]


class _Shell(dict[object, object]):
    """Stands in for an object of a class that is not torch's; takes whatever it is given and does nothing."""

    def __init__(self, *_values: object, **_named: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Forget what the object was."""


class PublishedFile:
    """The tensors of one published file; every one of them is to be taken or known to be of no use."""

    def __init__(self, file: Path, state: State, prefixes: tuple[str, ...]) -> None:
        self.file, self._left = file, {}
        self._full: dict[str, str] = {}
        for key, value in state.items():
            short = key
            for prefix in prefixes:
                short = short.removeprefix(prefix)
            self._left[short], self._full[short] = value, key

    def take(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name; ``UserError`` where it is absent or has another shape than the config gives it."""
        if key not in self._left:
            raise UserError(f"lacks the key {key!r}", where=self.file, allowed="a file of the config's layers")
        value = self._left.pop(key)
        if tuple(value.shape) != shape:
            raise UserError(
                f"key {self._full[key]!r} has the shape {tuple(value.shape)}",
                where=self.file,
                allowed=f"{shape}, as in the config",
            )
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            kind = f"{value.dtype}, {'meta' if value.is_meta else value.layout}".replace("torch.", "")
            raise UserError(f"key {self._full[key]!r} holds {kind}", where=self.file, allowed="dense real numbers")
        if not value.isfinite().all():
            raise UserError(f"key {self._full[key]!r} holds numbers that are not finite", where=self.file)
        return value.float()

    def part(self, prefix: str) -> State:
        """The tensors whose names begin so, without that; they are no longer of this file."""
        chosen = [key for key in self._left if key.startswith(prefix)]
        return {key.removeprefix(prefix): self._left.pop(key) for key in chosen}

    def drop(self, useless: Callable[[str], bool]) -> None:
        """Forget what is of no use."""
        for key in [key for key in self._left if useless(key)]:
            del self._left[key]

    def same(self, key: str, wanted: Tensor, what: str) -> None:
        """Check a tensor that is not learned; ``UserError`` where it is not what it is here."""
        if key in self._left:
            found = self.take(key, tuple(wanted.shape))
            if not torch.allclose(found, wanted, atol=1e-4):
                raise UserError(f"key {self._full[key]!r} is another {what} than here", where=self.file)

    def same_positions(self, key: str, width: int) -> None:
        """Check a table of positions, as long as it happens to be, against our sinusoids."""
        if key in self._left and self._left[key].ndim:
            positions = torch.arange(len(self._left[key]))
            self.same(key, sinusoids(positions, width), "encoding of positions")

    def finish(self) -> None:
        """Raise where something was not taken."""
        for key in self._left:
            raise UserError(f"unexpected key {self._full[key]!r}", where=self.file, allowed="a published checkpoint")


def read(file: Path) -> State:
    """The tensors of a Lightning checkpoint, by their names; ``UserError`` as for ``read_states``."""
    return read_states(file, ("state_dict",), what="a Lightning checkpoint")["state_dict"]


def read_states(file: Path, names: Sequence[str], *, what: str) -> dict[str, State]:
    """States of tensors, each by the name under which the file holds it.

    Args:
        file: what torch has saved.
        names: of the states.
        what: the file is to be, for messages.

    Raises:
        UserError: no such file, a damaged one, or one that lacks a state.
    """
    if not file.is_file():
        raise UserError("no such file", where=file)
    try:
        # Of torch's older format, which is no archive, nothing tells the classes beforehand: it has to do without any.
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(file)) if is_zipfile(file) else []
        shells: list[Callable[..., object] | tuple[Callable[..., object], str]] = [(_Shell, name) for name in unknown]
        with torch.serialization.safe_globals(shells):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own words would advise to read it with execution.
        raise UserError("is damaged, or holds instructions that are not executed", where=file, allowed=what) from None
    except Exception as error:  # readers of zip, of pickle and of torch's older format raise what a byte leads them to
        raise UserError(f"cannot be read: {reason_of(error)}", where=file, allowed=what) from None
    states: dict[str, State] = {}
    for name in names:
        state = found.get(name) if isinstance(found, Mapping) else None
        if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()) or not state:
            raise UserError(f"holds no {name} of tensors", where=file, allowed=what)
        states[name] = dict(state)
    return states


def normaliser_state(stats: Path, skeleton: Skeleton) -> State:
    """The weights of a normaliser from a folder of ``mean.npy`` and ``std.npy``, or ``global_mean.npy`` and so on.

    Raises:
        UserError: a file is missing, damaged, or not of that form.
    """
    found: State = {}
    for ours, name in (("mean_F", "mean"), ("std_F", "std")):
        file = next((stats / stem for stem in (f"{name}.npy", f"global_{name}.npy") if (stats / stem).is_file()), None)
        if file is None:
            raise UserError(f"holds no {name}.npy", where=stats, allowed=f"{name}.npy or global_{name}.npy")
        values_F = read_numbers(file)
        if values_F.shape != (skeleton.num_features,):
            raise UserError(f"numbers of the shape {values_F.shape}", where=file, allowed=f"({skeleton.num_features},)")
        if name == "std" and not (values_F > 0).all():
            raise UserError(
                f"the deviation of feature {(values_F <= 0).argmax()} is {values_F.min():g}",
                where=file,
                allowed="above 0",
            )
        found[ours] = torch.from_numpy(values_F)
    return found


def renamed(file: PublishedFile, ours: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    """Tensors that differ in nothing but the beginning of their names."""
    found: State = {}
    for key, value in ours.items():
        mine = next(prefix for prefix in names if key.startswith(f"{prefix}."))
        found[key] = file.take(names[mine] + key.removeprefix(mine), tuple(value.shape))
    return found
