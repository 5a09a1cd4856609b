"""The sweep file: points, tables with the paper's numbers, profiles that scale them, and the trials they resolve to.

The file is looked through as a whole before anything starts; what is wrong in it is told with its line.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from intermoe.config import Config
from intermoe.errors import UserError
from pipelines import settings
from pipelines.results import HEADINGS
from pipelines.settings import Settings, flatten

Value = bool | int | float | str


class DataConfig(Config):
    """Where the shards come from; the options of ``intermoe preprocess``.

    Attributes:
        format: of the raw recordings.
        root: their folder; duet needs none.
        encoder: of the captions.
        text_folder: of CLIP's weights, if not in the hub's cache.
        count: of duet: how many.
        seed: of duet.
        mapping: of bvh.
        scale: of bvh.
    """

    format: Literal["duet", "interhuman", "bvh"]
    root: Path | None = None
    encoder: Literal["minilm", "clip"] = "minilm"
    text_folder: Path | None = None
    count: int = Field(default=600, ge=1)
    seed: int = Field(default=0, ge=0)
    mapping: str = "cmu"
    scale: float = Field(default=1.0, gt=0)


class AshaConfig(Config):
    """Stop trials that are behind the others by their loss on the validation split (Tune's ASHA).

    Attributes:
        grace_steps: optimizer steps that every trial may take.
        reduction: of so many trials that reach a rung, one goes on.
    """

    grace_steps: int = Field(ge=1)
    reduction: int = Field(default=3, ge=2)


class ProfileConfig(Config):
    """How large the points are, and on what.

    Attributes:
        config: a preset, or a YAML file.
        data: the data set.
        set: settings of all points.
        seeds: each point is trained with each.
        concurrent: trials at a time.
        asha: whether and how trials are stopped early.
    """

    config: str
    data: DataConfig
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    concurrent: int = Field(default=1, ge=1)
    asha: AshaConfig | None = None


class PointConfig(Config):
    """One configuration to train.

    Attributes:
        name: of the point.
        set: its settings, beside the profile's.
        rows: the table and the row that it stands for.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    set: dict[str, Any] = Field(default_factory=dict)
    rows: dict[str, str] = Field(default_factory=dict)


class TableConfig(Config):
    """A table of the paper.

    Attributes:
        title: its caption.
        rows: the paper's numbers by row and measure, each a mean and the half width of its interval, in the
            paper's order.
    """

    title: str
    rows: dict[str, dict[str, tuple[float, float]]]


class SweepConfig(Config):
    """A sweep file.

    Attributes:
        name: of the sweep.
        profile: which of the profiles is taken.
        profiles: by name.
        points: what is trained.
        grid: keys and their values, every combination a point of its own.
        tables: the paper's, by number.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    profile: str
    profiles: dict[str, ProfileConfig]
    points: tuple[PointConfig, ...] = ()
    grid: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    tables: dict[str, TableConfig] = Field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """What is trained and evaluated once, for all points that come down to it.

    Attributes:
        key: a hash of all that decides the result.
        points: names of the points.
        seed: of the training.
        settings: all settings.
        rows: the tables and rows that it stands for.
    """

    key: str
    points: tuple[str, ...]
    seed: int
    settings: Settings
    rows: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """For people: the first of its points, and the seed."""
        return f"{self.points[0]}-seed{self.seed}"


@dataclass(frozen=True)
class Sweep:
    """A sweep file that was looked through.

    Attributes:
        config: what it says.
        profile: the one taken.
        base: settings of the profile without any point: what data, VAE and evaluator are made with.
        trials: what is to be done, in the file's order.
    """

    config: SweepConfig
    profile: ProfileConfig
    base: Settings
    trials: tuple[Trial, ...]


def load(file: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and resolve its trials.

    Args:
        file: YAML.
        overrides: ``profile=NAME``, or ``key=value`` for the settings of all points.

    Raises:
        UserError: not such a file, an unknown key, a value out of range, an unknown table or row, a name given twice;
            with the line.
    """
    lines, values = _read(file)
    for override in [word for word in overrides if word.startswith("profile=")]:
        values["profile"] = override.partition("=")[2]
    config = _parsed(values, lines)
    if config.profile not in config.profiles:
        raise UserError(
            f"unknown profile {config.profile!r}", where=lines.place("profile"), allowed=", ".join(config.profiles)
        )
    profile = config.profiles[config.profile]
    common = [*_words(profile.set), *(word for word in overrides if not word.startswith("profile="))]
    place = lines.place("profiles", config.profile)
    base = _settings(profile.config, common, place, lines, ("profiles", config.profile, "set"))
    points = [*config.points, *_grid(config.grid)]
    _check(config, lines)
    _check_names(points, len(config.points), lines)
    _check_data(profile.data, base, lines, ("profiles", config.profile, "data"))
    trials: dict[str, Trial] = {}
    for seed, (number, point) in itertools.product(profile.seeds, enumerate(points)):
        path = ("points", number, "set") if number < len(config.points) else ("grid",)
        words = [*common, *_words(point.set), f"seed={seed}"]
        resolved = _settings(profile.config, words, lines.place(*path[:2]), lines, path)
        key = trial_key(resolved, profile.data, base)
        _check_shared(resolved, base, point.name, lines.place(*path[:2]))
        before = trials.get(key)
        rows = (*(before.rows if before else ()), *point.rows.items())
        names = (*(before.points if before else ()), point.name)
        trials[key] = Trial(key, tuple(dict.fromkeys(names)), seed, resolved, tuple(dict.fromkeys(rows)))
    if not trials:
        raise UserError("names no point", where=file, allowed="points or grid")
    return Sweep(config, profile, base, tuple(trials.values()))


def trial_key(resolved: Settings, data: DataConfig, base: Settings) -> str:
    """A hash of what decides a trial's result: its settings but the workers, its data, and what all trials share."""
    values = resolved.model_dump(mode="json", exclude={"workers", "name"})
    document = [values, data.model_dump(mode="json"), base.seed]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def _check_shared(resolved: Settings, base: Settings, point: str, place: str) -> None:
    """Raise where a point changes what all points share: data, VAE, evaluator, and how it is evaluated."""
    shared = [(name, resolved, base) for name in ("data", "vae", "evaluator", "evaluation")]
    shared += [(name, resolved.train, base.train) for name in ("vae", "evaluator")]  # type: ignore[misc]
    for name, own, common in shared:
        if getattr(own, name) != getattr(common, name):
            section = f"train.{name}" if common is base.train else name
            raise UserError(f"point {point!r} changes {section}", where=place, allowed="in the profile, for all points")


def _settings(preset: str, words: Sequence[str], place: str, lines: "_Lines", path: tuple[str | int, ...]) -> Settings:
    try:
        return settings.load(preset, words)
    except UserError as error:
        # The line of the key that is named, where it stands in this section.
        for key in lines.keys(*path):
            if key in str(error) or f"{key.rpartition('.')[2]} = " in str(error):
                place = lines.place(*path, key)
        raise UserError(str(error), where=place) from None


def _words(values: Mapping[str, Any]) -> list[str]:
    # Nested mappings name keys one by one: as a whole they would take the place of a preset's section.
    return [f"{key}={json.dumps(value, default=str)}" for key, value in flatten(values).items()]


def _grid(grid: Mapping[str, Sequence[Value]]) -> list[PointConfig]:
    if not grid:
        return []
    found = []
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        parts = [f"{key.rpartition('.')[2]}-{value}" for key, value in chosen.items()]
        found.append(PointConfig(name=re.sub(r"[^a-z0-9._-]", "-", "_".join(parts).lower()), set=chosen))
    return found


def _check_names(points: Sequence[PointConfig], listed: int, lines: "_Lines") -> None:
    """Raise where two points have one name; the first so many are listed in the file, the others the grid's."""
    names: set[str] = set()
    for number, point in enumerate(points):
        if point.name in names:
            place = lines.place("points", number, "name") if number < listed else lines.place("grid")
            raise UserError(f"the name {point.name!r} is given twice", where=place)
        names.add(point.name)


def _check_data(data: DataConfig, base: Settings, lines: "_Lines", path: tuple[str, ...]) -> None:
    """Raise where the recordings are not said, or are not encoded as the settings want them."""
    if data.format != "duet" and data.root is None:
        raise UserError("the folder of the recordings is not given", where=lines.place(*path), allowed="root: DIR")
    if data.encoder != base.data.encoder:
        raise UserError(
            f"encoder = {data.encoder!r}",
            where=lines.place(*path, "encoder"),
            allowed=f"{base.data.encoder!r}, as data.encoder of the settings",
        )


def _check(config: SweepConfig, lines: "_Lines") -> None:
    for number, point in enumerate(config.points):
        for table, row in point.rows.items():
            where = lines.place("points", number, "rows", table)
            if table not in config.tables:
                raise UserError(f"unknown table {table!r}", where=where, allowed=", ".join(config.tables) or "none")
            if row not in config.tables[table].rows:
                rows = ", ".join(config.tables[table].rows)
                raise UserError(f"table {table} has no row {row!r}", where=where, allowed=rows)
    for table, content in config.tables.items():
        for row, measures in content.rows.items():
            for measure in measures:
                if measure not in HEADINGS:
                    where = lines.place("tables", table, "rows", row, measure)
                    raise UserError(f"unknown measure {measure!r}", where=where, allowed=", ".join(HEADINGS))


def _parsed(values: dict[str, Any], lines: "_Lines") -> SweepConfig:
    try:
        return SweepConfig.parse(values)
    except UserError as error:
        raise UserError(str(error), where=lines.of_message(str(error))) from None


def _read(file: Path) -> tuple["_Lines", dict[str, Any]]:
    text, values = settings.read_yaml(file)
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert node is not None
    lines = _Lines(file, node)
    lines.refuse_repetition()
    return lines, values


class _Lines:
    """Where in the file a value stands."""

    def __init__(self, file: Path, root: yaml.Node) -> None:
        self._file, self._root = file, root

    def place(self, *path: str | int) -> str:
        """File and line of the value that the path leads to, or of what it leads to as far as it goes."""
        node, line = self._root, self._root.start_mark.line
        for part in path:
            for key, value in self._children(node):
                if key == str(part):
                    node, line = value, value.start_mark.line
                    break
            else:
                break
        return f"{self._file}:{line + 1}"

    def keys(self, *path: str | int) -> list[str]:
        """The keys of the mapping that the path leads to."""
        node = self._root
        for part in path:
            node = dict(self._children(node)).get(str(part), node)
        return [key for key, _ in self._children(node)]

    def of_message(self, message: str) -> str:
        """File and line of the key that a message of ``Config.parse`` names."""
        named = message.partition("'")[2].partition("'")[0] if "key '" in message else message.partition(" =")[0]
        return self.place(*named.partition(":")[0].split("."))

    def refuse_repetition(self) -> None:
        """YAML takes the last of two equal keys and says nothing."""
        for node in self._all(self._root):
            seen: set[str] = set()
            for key, value in self._children(node) if isinstance(node, yaml.MappingNode) else ():
                if key in seen:
                    raise UserError(f"key {key!r} is given twice", where=f"{self._file}:{value.start_mark.line + 1}")
                seen.add(key)

    def _all(self, node: yaml.Node) -> Iterator[yaml.Node]:
        yield node
        for _, child in self._children(node):
            yield from self._all(child)

    @staticmethod
    def _children(node: yaml.Node) -> list[tuple[str, yaml.Node]]:
        if isinstance(node, yaml.MappingNode):
            return [(str(key.value), value) for key, value in node.value]
        if isinstance(node, yaml.SequenceNode):
            return [(str(number), value) for number, value in enumerate(node.value)]
        return []
