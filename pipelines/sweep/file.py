"""The sweep file and the trials that it resolves to; config.py has what it says.

The file is validated as a whole before anything starts; errors name the line.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from intermoe.data.shards import DataConfig
from intermoe.errors import UserError
from intermoe.evaluation.measures import MEASURES
from intermoe.files import digest
from intermoe.yaml_files import read_mapping
from pipelines import settings
from pipelines.settings import Settings, flatten
from pipelines.sweep.config import PointConfig, ProfileConfig, ProfileDataConfig, SweepConfig, Value
from pipelines.sweep.yaml_lines import Lines

Where = tuple[str | int, ...]
# Points of a file, each with each seed: more would be months of a cluster, and minutes to resolve.
MAX_TRIALS = 1000
# What all points of a sweep have in common: the data, and what judges them.
_SHARED = (
    *(f"data.{name}" for name in DataConfig.model_fields if name != "persons"),
    "evaluator",
    "evaluation",
    "train.evaluator",
)


@dataclass(frozen=True)
class Trial:
    """One training and evaluation, for all points that resolve to it.

    Attributes:
        key: a hash of all that decides what is learned.
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
        """Its name everywhere: the first of its points, and its seed."""
        return f"{self.points[0]}-seed{self.seed}"


@dataclass(frozen=True)
class SweepPlan:
    """A sweep file, validated as a whole, and the trials it resolves to.

    Attributes:
        file: that was read.
        overrides: it was read with.
        config: what the file says.
        profile: the one taken.
        base: settings of the profile without any point: what data and evaluator are made with.
        trials: what there is to do, in the file's order.
    """

    file: Path
    overrides: Mapping[str, Any]
    config: SweepConfig
    profile: ProfileConfig
    base: Settings
    trials: tuple[Trial, ...]


def load(file: Path, overrides: Mapping[str, Any] = MappingProxyType({})) -> SweepPlan:
    """Read a sweep file and resolve its trials.

    Args:
        file: YAML.
        overrides: ``profile``, and values by their dotted keys for the settings of all points.

    Raises:
        UserError: not such a file, an unknown key, a value out of range, an unknown table or row, a name given twice,
            a row that two points stand for; with the line.
    """
    text, values = read_mapping(file)
    lines = Lines(file, text)
    if "profile" in overrides:
        values |= {"profile": str(overrides["profile"])}
    config = _parsed(values, lines)
    if config.profile not in config.profiles:
        where = "on the command line" if "profile" in overrides else lines.place("profile")
        raise UserError(f"unknown profile {config.profile!r}", where=where, allowed=", ".join(config.profiles))
    profile = config.profiles[config.profile]
    path: Where = ("profiles", config.profile)
    of_profile = _flat(profile.set, lines, (*path, "set"))
    base = _settings(profile.config, of_profile, lines, (*path, "set"))
    of_settings = {key: value for key, value in overrides.items() if key != "profile"}
    if of_settings:
        try:
            base = settings.load(profile.config, of_profile | of_settings)
        except UserError as error:
            raise UserError(str(error), where="on the command line") from None
    _check_data(profile.data, base, lines, (*path, "data"))
    _check_tables(config, lines)
    points: list[tuple[PointConfig, Where]] = [(p, ("points", number)) for number, p in enumerate(config.points)]
    _check_number(len(points), profile, config.grid, lines)
    points += [(point, ("grid",)) for point in _grid(config.grid)]
    _check_names(points, lines)
    _check_profiles(config, [point.name for point, _ in points], lines)
    resolver = _Resolver(config, base, lines, of_profile=of_profile, of_command=of_settings)
    for seed, (point, at) in itertools.product(profile.seeds, points):
        resolver.add(point, seed, at)
    if not resolver.trials:
        raise UserError("names no point", where=file, allowed="points or grid")
    return SweepPlan(file, dict(overrides), config, profile, base, tuple(resolver.trials.values()))


class _Resolver:
    """Points to trials: those that come down to the same settings are one.

    What counts, from the weakest on: the profile, what it says of a point, the command line, the point.
    """

    def __init__(
        self,
        config: SweepConfig,
        base: Settings,
        lines: Lines,
        *,
        of_profile: Mapping[str, Any],
        of_command: Mapping[str, Any],
    ) -> None:
        self._name, self._profile = config.profile, config.profiles[config.profile]
        self._base, self._lines = base, lines
        self._of_profile, self._of_command = of_profile, of_command
        self._tables = config.tables_used
        self.trials: dict[str, Trial] = {}
        self._owners: dict[tuple[int, str, str], Trial] = {}

    def add(self, point: PointConfig, seed: int, path: Where) -> None:
        """Resolve a point with a seed; ``path`` is where in the file it stands."""
        sections: list[Where] = [path if path == ("grid",) else (*path, "set")]
        values = _flat(point.set, self._lines, sections[0])
        if point.name in self._profile.points:
            sections.append(("profiles", self._name, "points", point.name))
            of_point = _flat(self._profile.points[point.name], self._lines, sections[1])
            for key in of_point:
                if any(f"{key}.".startswith(f"{own}.") or f"{own}.".startswith(f"{key}.") for own in values):
                    place = self._place(sections[1:], key)
                    raise UserError(f"the point sets {key} itself", where=place, allowed="in one of the two places")
            values |= {key: value for key, value in of_point.items() if key not in self._of_command}
        for key, allowed in (("seed", "seeds, in the profile"), ("name", "in the profile, for all points")):
            if key in values:
                raise UserError(f"point {point.name!r} sets {key}", where=self._place(sections, key), allowed=allowed)
        values = {**self._of_profile, **self._of_command, **values, "seed": seed}
        resolved = _settings(self._profile.config, values, self._lines, *sections)
        self._check_shared(resolved, point.name, sections)
        key = trial_key(resolved, self._profile.data, self._base)
        before = self.trials.get(key)
        names, rows = (before.points, before.rows) if before else ((), ())
        names = tuple(dict.fromkeys((*names, point.name)))
        own = {table: row for table, row in point.rows.items() if table in self._tables}
        trial = Trial(key, names, seed, resolved, tuple(dict.fromkeys((*rows, *own.items()))))
        for table, row in own.items():
            owner = self._owners.setdefault((seed, table, row), trial)
            if owner.key != key:
                place = self._lines.place(*path, "rows", table)
                raise UserError(f"row {row!r} of table {table} has another point, {owner.points[0]!r}", where=place)
        self.trials[key] = trial

    def _place(self, sections: Sequence[Where], key: str) -> str:
        """The place of a key, or of what is below it, in the section that has it."""
        for section in sections:
            for leaf in self._lines.leaves(*section):
                if f"{leaf}.".startswith(f"{key}."):
                    return self._lines.place(*section, *leaf.split("."))
        return self._lines.place(*sections[0])

    def _check_shared(self, resolved: Settings, point: str, sections: Sequence[Where]) -> None:
        """Raise where a point changes what all points share: data, evaluator, and how it is evaluated."""
        of_point, of_all = (values.model_dump(mode="json") for values in (resolved, self._base))
        for name in _SHARED:
            section_of_point, section_of_all = of_point, of_all
            for part in name.split("."):
                section_of_point, section_of_all = section_of_point[part], section_of_all[part]
            if section_of_point != section_of_all:
                place = self._place(sections, name)
                raise UserError(
                    f"point {point!r} changes {name}", where=place, allowed="in the profile, for all points"
                )


def trial_key(resolved: Settings, data: ProfileDataConfig, base: Settings) -> str:
    """A hash of what decides what a trial learns: its settings but those of evaluation, its data, the shared seed."""
    rest = ("workers", "name", "evaluation", "evaluator")
    values = resolved.model_dump(mode="json", exclude=dict.fromkeys(rest, True) | {"train": {"evaluator"}})
    return digest([values, data.identity(), base.seed])


def _settings(preset: str, values: Mapping[str, Any], lines: Lines, *sections: Where) -> Settings:
    """Settings, and where they cannot be, the line in the sections that is at fault."""
    try:
        return settings.load(preset, values)
    except UserError as error:
        below = ".".join(map(str, error.key))
        for section in sections:
            for leaf in lines.leaves(*section):
                # A rule that ties several keys names them as they are called in their section.
                named = leaf.removeprefix(f"{below}.")
                if leaf == below or re.search(rf"(?<![\w.]){re.escape(named)}(?![\w.])", str(error)):
                    raise UserError(str(error), where=lines.place(*section, *leaf.split("."))) from None
        raise UserError(str(error), where=lines.place(*sections[0], *error.key)) from None


def _flat(values: Mapping[str, Any], lines: Lines, section: Where) -> dict[str, Any]:
    """Values by their dotted keys: a nested mapping as a whole would take the place of a preset's section."""
    leaves = lines.leaves(*section) if values else []
    for leaf, times in Counter(leaves).items():
        if times > 1:
            raise UserError(f"key {leaf!r} is given twice", where=lines.place(*section, *leaf.split(".")))
    return flatten(values)


def _grid(grid: Mapping[str, Sequence[Value]]) -> list[PointConfig]:
    points = []
    for values in itertools.product(*grid.values()) if grid else ():
        chosen = dict(zip(grid, values, strict=True))
        words = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in chosen.items())
        name = re.sub(r"[^a-z0-9._-]+", "-", words.lower()).lstrip("._-") or "grid"
        points.append(PointConfig(name=name, set=chosen))
    return points


def _check_number(num_points: int, profile: ProfileConfig, grid: Mapping[str, Sequence[Value]], lines: Lines) -> None:
    """Raise where the points, the grid's among them, are more than anybody trains."""
    in_grid = math.prod(len(values) for values in grid.values()) if grid else 0
    if (trials := (num_points + in_grid) * len(profile.seeds)) > MAX_TRIALS:
        where = lines.place("grid" if in_grid > num_points else "points")
        raise UserError(f"{trials} trials", where=where, allowed=f"up to {MAX_TRIALS}: points, each with each seed")


def _check_names(points: Sequence[tuple[PointConfig, Where]], lines: Lines) -> None:
    """Raise where two points have one name, those of the grid among them."""
    names: set[str] = set()
    for point, path in points:
        if point.name in names:
            raise UserError(f"the name {point.name!r} is given twice", where=lines.place(*path, "name"))
        names.add(point.name)


def _check_profiles(config: SweepConfig, points: Sequence[str], lines: Lines) -> None:
    """Raise where a profile speaks of a point that there is not."""
    for profile, content in config.profiles.items():
        for name in content.points:
            if name not in points:
                where = lines.place("profiles", profile, "points", name)
                raise UserError(f"unknown point {name!r}", where=where, allowed=", ".join(points))


def _check_data(data: ProfileDataConfig, base: Settings, lines: Lines, path: Where) -> None:
    """Raise where the recordings are not said, or are not encoded as the settings want them."""
    if not data.is_made_here and data.root is None:
        raise UserError("the folder of the recordings is not given", where=lines.place(*path), allowed="root: DIR")
    if data.encoder != base.data.encoder:
        raise UserError(
            f"encoder = {data.encoder!r}",
            where=lines.place(*path, "encoder"),
            allowed=f"{base.data.encoder!r}, as data.encoder of the settings",
        )


def _check_tables(config: SweepConfig, lines: Lines) -> None:
    """Raise where a table, a row or a measure is not known."""
    for number, point in enumerate(config.points):
        for table, row in point.rows.items():
            where = lines.place("points", number, "rows", table)
            if table not in config.tables:
                raise UserError(f"unknown table {table!r}", where=where, allowed=", ".join(config.tables) or "none")
            if row not in config.tables[table].rows:
                rows = ", ".join(config.tables[table].rows)
                raise UserError(f"table {table} has no row {row!r}", where=where, allowed=rows)
    for name, profile in config.profiles.items():
        for place, table in enumerate(profile.tables or ()):
            if table not in config.tables:
                where = lines.place("profiles", name, "tables", place)
                raise UserError(f"unknown table {table!r}", where=where, allowed=", ".join(config.tables) or "none")
    for table, content in config.tables.items():
        for number, note in enumerate(content.notes):
            for row in note.rows:
                if row not in content.rows:
                    where = lines.place("tables", table, "notes", number, "rows")
                    raise UserError(f"table {table} has no row {row!r}", where=where, allowed=", ".join(content.rows))
        for row, measures in content.rows.items():
            for measure in measures:
                if measure not in MEASURES:
                    where = lines.place("tables", table, "rows", row, measure)
                    raise UserError(f"unknown measure {measure!r}", where=where, allowed=", ".join(MEASURES))


def _parsed(values: dict[str, Any], lines: Lines) -> SweepConfig:
    try:
        return SweepConfig.parse(values)
    except UserError as error:
        raise UserError(str(error), where=lines.place(*error.key)) from None
