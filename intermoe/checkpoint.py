"""Checkpoints: folders of safetensors and JSON that are whole or not there, and optimizer state by parameter name.

A checkpoint folder holds ``<part>.safetensors`` for each part of tensors, ``<name>.json`` for each document and,
written last, ``manifest.json`` with size and SHA-256 of every other file. It is built in a hidden folder beside its
place, flushed to disk and renamed (files.py): under the final name it is complete. Nothing in it is pickled.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from intermoe.errors import UserError
from intermoe.files import (
    contents,
    is_taken,
    local_copy,
    local_draft,
    remove_folder,
    remove_leftovers,
    sha256,
    whole_folder,
    write_json,
)
from intermoe.places import Place, as_place, file_sizes, is_folder, read_bytes

MANIFEST = "manifest.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_FILE = re.compile(r"[a-z0-9][a-z0-9_-]*\.(safetensors|json)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_STEP = re.compile(r"step-(\d{8,})")


class DamagedCheckpoint(UserError):
    """A folder that is not a checkpoint, or no longer."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint folder.

    Attributes:
        tensors: part -> name -> tensor, such as ``tensors["weights"]["encoder.weight"]``.
        documents: name -> what its JSON says, such as ``documents["config"]``.
    """

    tensors: dict[str, dict[str, Tensor]]
    documents: dict[str, Any]


def save(
    folder: Place, *, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any], replace: bool = False
) -> None:
    """Write a checkpoint folder so that it appears under its name at once, or not at all.

    Tensors may be on any device, not contiguous, and share storage (tied weights are stored once a name).

    Args:
        folder: where it appears; parents are made.
        tensors: part -> name -> tensor; each part becomes ``<part>.safetensors``.
        documents: name -> value that JSON can hold (no NaN, no infinity); each becomes ``<name>.json``.
        replace: whether an existing folder may be replaced (see :func:`intermoe.files.whole_folder`).

    Raises:
        UserError: the folder is taken and ``replace`` is false, or the disk refuses to be written.
        ValueError: a part or document has an unfit name, or JSON cannot hold a document.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     save(Path(root, "model"), tensors={"weights": {"w": torch.ones(2)}}, documents={"config": {"width": 4}})
        ...     load(Path(root, "model"))
        Checkpoint(tensors={'weights': {'w': tensor([1., 1.])}}, documents={'config': {'width': 4}})
    """
    for name in (*tensors, *documents):
        if not _NAME.fullmatch(name) or f"{name}.json" == MANIFEST:
            raise ValueError(f"{name!r} cannot name a part of a checkpoint")
    with whole_folder(folder, seal=MANIFEST, replace=replace) as partial:
        with local_draft(partial) as draft:
            for name, part in tensors.items():
                file = draft / f"{name}.safetensors"
                try:
                    save_file({key: _plain(tensor) for key, tensor in part.items()}, file)
                except SafetensorError as error:
                    reason = str(error).rpartition("I/O error: ")[2].partition(" (os error")[0]
                    raise UserError(f"cannot be written: {reason}", where=folder / file.name) from error
                # safetensors writes for the owner alone; whoever may read the folder may read what is in it.
                file.chmod(draft.stat().st_mode & 0o666)
            for name, document in documents.items():
                write_json(draft / f"{name}.json", document)
            files = sorted(draft.iterdir())
            listed = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}
        write_json(partial / MANIFEST, {"files": listed})


def load(folder: Place, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint folder after checking every file against the manifest.

    Args:
        folder: a folder that ``save`` wrote.
        device: where the tensors are put.

    Raises:
        UserError: no such folder, no manifest, a listed file is missing or differs from its checksum.
    """
    folder = as_place(folder)
    tensors = {}
    for file in _verified(folder, ".safetensors"):
        try:
            tensors[file.stem] = load_file(file, device=str(device))
        except (ValueError, SafetensorError) as error:
            raise UserError(f"{file.name} cannot be read: {error}", where=folder) from None
    return Checkpoint(tensors, documents(folder))


def documents(folder: Place) -> dict[str, Any]:
    """The documents of a checkpoint, without its tensors; errors as for ``load``."""
    found = {}
    for file in _verified(as_place(folder), ".json"):
        try:
            found[file.stem] = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file.name} cannot be read: {error}", where=folder) from None
    return found


def verify(folder: Place) -> list[Path]:
    """The files of a checkpoint on this machine (those of a URI are copied), after verifying their checksums.

    Raises:
        UserError: as for ``load``.
    """
    return _verified(folder)


def _verified(folder: Place, suffix: str = "") -> list[Path]:
    """The files whose names end so, on this machine, each found to match its checksum."""
    files = []
    for name, entry in _listed(folder).items():
        if not name.endswith(suffix):
            continue
        file = local_copy(folder / name, entry["sha256"])
        if file is None:
            raise DamagedCheckpoint(
                f"{name} does not match its checksum in {MANIFEST}: the checkpoint is damaged", where=folder
            )
        files.append(file)
    return files


def step_folder(root: Place, step: int) -> Place:
    """The folder of a training step's checkpoint; ``latest`` and ``prune`` look for these names.

    Example:
        >>> step_folder(Path("runs"), 250).name
        'step-00000250'
    """
    return as_place(root) / f"step-{step:08d}"


def is_named_as_one(folder: Place) -> bool:
    """Whether a folder's name is that of a training step's checkpoint or of a run's best, whatever it holds."""
    return folder.name == "best" or _STEP.fullmatch(folder.name) is not None


def latest(
    root: Place, *, holding: Collection[str] = (), report: Callable[[DamagedCheckpoint], None] | None = None
) -> Place | None:
    """The newest undamaged checkpoint among ``root/step-XXXXXXXX``, or None where there are no checkpoints.

    Args:
        root: folder of the checkpoints of one run.
        holding: names of files without which a checkpoint counts as damaged.
        report: called with what is wrong with each newer one.

    Raises:
        DamagedCheckpoint: there are checkpoints, and all are damaged.
        UserError: the storage does not answer; that is no damage.
    """
    damages = []
    for folder in _steps(as_place(root)):
        if not is_taken(folder):
            continue  # its writer was killed
        try:
            _check_holds(folder, {file.name for file in verify(folder)}, holding)
        except DamagedCheckpoint as error:
            damages.append(error)
            if report is not None:
                report(error)
            continue
        return folder
    if damages:
        raise DamagedCheckpoint(
            f"no checkpoint of {len(damages)} is whole; {damages[0]}",
            where=root,
            allowed="delete this folder to begin again from step 0",
        )
    return None


def prune(root: Place, keep: int) -> None:
    """Remove all but the newest ``keep`` complete checkpoints among ``root/step-XXXXXXXX``.

    Complete here means that all files are there in full length; checksums are left to ``load``. What a killed ``save``
    left behind goes too, so only the process that writes below ``root`` may call this.
    """
    if keep < 1:
        raise ValueError(f"keep {keep}: at least one checkpoint stays")
    kept = 0
    for folder in _steps(as_place(root)):
        if kept < keep and _is_complete(folder):
            kept += 1
            continue
        remove_folder(folder, seal=MANIFEST)
    remove_leftovers(as_place(root), "step-*")


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """The state of an optimizer as named tensors: ``exp_avg.encoder.weight``, ``step.encoder.weight`` and so on.

    Learning rate, decay and the like are not in it: they follow from the config and the step.

    Args:
        optimizer: one whose state is all tensors (AdamW's is); parameters without state yet have no entry.
        named_parameters: of the model it optimises, all of them.
    """
    tensors = {}
    for name, parameter in named_parameters:
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{type(optimizer).__name__} keeps {key!r} as {type(value).__name__}, not as a tensor")
            tensors[f"{key}.{name}"] = value.detach()
    return tensors


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put back what ``optimizer_tensors`` gave, bit for bit, onto the devices of the parameters.

    Raises:
        UserError: a tensor belongs to no parameter that is optimised, or its shape is not the parameter's.
    """
    parameters = dict(named_parameters)
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    index = {id(parameter): number for number, parameter in enumerate(order)}
    state: dict[int, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        key, _, name = full.partition(".")
        parameter = parameters.get(name)
        if parameter is None or id(parameter) not in index:
            raise UserError(f"optimizer state of {name!r}, which the model does not train")
        if value.ndim and value.shape != parameter.shape:
            raise UserError(f"optimizer state {full!r} has shape {[*value.shape]}", allowed=f"{[*parameter.shape]}")
        state.setdefault(index[id(parameter)], {})[key] = value.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _listed(folder: Place) -> dict[str, dict[str, Any]]:
    """The files that the manifest lists, each seen to exist in full length."""
    if not is_folder(folder):
        raise DamagedCheckpoint("no such folder", where=folder, allowed="a checkpoint folder")
    try:
        files = json.loads(read_bytes(folder / MANIFEST))["files"]
        sizes = {name: int(entry["bytes"]) for name, entry in files.items()}
        sums = [entry["sha256"] for entry in files.values()]
    except FileNotFoundError:
        raise DamagedCheckpoint(f"has no {MANIFEST}: not a checkpoint", where=folder) from None
    except OSError as error:
        raise DamagedCheckpoint(f"{MANIFEST} cannot be read: {error.strerror or error}", where=folder) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise DamagedCheckpoint(f"{MANIFEST} cannot be read: the checkpoint is damaged", where=folder) from None
    if not all(_SHA256.fullmatch(str(checksum)) for checksum in sums):
        raise DamagedCheckpoint(f"{MANIFEST} cannot be read: the checkpoint is damaged", where=folder)
    try:
        there = file_sizes(folder)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=folder) from None
    for name, size in sizes.items():
        if not _FILE.fullmatch(name):
            raise DamagedCheckpoint(f"{MANIFEST} lists {name!r}, which no checkpoint holds", where=folder)
        if name not in there:
            raise DamagedCheckpoint(f"{name} is missing: the checkpoint is damaged", where=folder)
        if there[name] != size:
            raise DamagedCheckpoint(f"{name} is not {size} bytes long: the checkpoint is damaged", where=folder)
    # A manifest that has lost a line.
    _check_holds(folder, {*sizes, MANIFEST}, [name for name in sorted(there) if _FILE.fullmatch(name)])
    return files


def _check_holds(folder: Place, files: Collection[str], names: Iterable[str]) -> None:
    for name in names:
        if name not in files:
            raise DamagedCheckpoint(f"{MANIFEST} does not list {name}: the checkpoint is damaged", where=folder)


def _is_complete(folder: Place) -> bool:
    try:
        return bool(_listed(folder))
    except DamagedCheckpoint:
        return False


def _steps(root: Place) -> list[Place]:
    """The folders named after a step, newest first."""
    found = {int(match[1]): path for path in contents(root) if (match := _STEP.fullmatch(path.name))}
    return [found[step] for step in sorted(found, reverse=True) if is_folder(found[step])]


def _plain(tensor: Tensor) -> Tensor:
    """A contiguous copy in main memory that shares storage with nothing, which is all that safetensors takes."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
