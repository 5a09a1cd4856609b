"""What a sweep file says: points, tables with the paper's numbers, profiles that scale them."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from intermoe.config import Config
from pipelines.preprocess.sources import SourceConfig

Value = bool | int | float | str


class ProfileDataConfig(SourceConfig):
    """The source of the shards: the options of ``intermoe preprocess``.

    Attributes:
        encoder: of the captions.
        text_folder: of CLIP's weights, if not in the hub's cache.
        word_vectors: folder of the vectors that T2M's evaluator is given.
    """

    encoder: Literal["minilm", "clip"] = "minilm"
    text_folder: Path | None = None
    word_vectors: Path | None = None

    def identity(self) -> dict[str, Any]:
        """The plain values that determine the contents of the shards; the locations of weights do not."""
        # Left out unless it is set, so that the keys of older sweeps stay.
        fields = type(self).model_fields
        later = ("follow_links", "body_model", "layout")
        unset = [name for name in later if getattr(self, name) == fields[name].default]
        return self.model_dump(mode="json", exclude={"text_folder", "word_vectors", *unset})


class AshaConfig(Config):
    """Stop trials that are behind the others by their loss on the validation split (Tune's ASHA).

    A sweep that is resumed compares the trials that it still has to do, with each other.

    Attributes:
        grace_steps: optimizer steps that every trial may take.
        reduction: of so many trials that reach a rung, one goes on.
    """

    grace_steps: int = Field(ge=1)
    reduction: int = Field(default=3, ge=2)


class ProfileConfig(Config):
    """Size and data of the points.

    Attributes:
        config: a preset, or a YAML file.
        data: the data set.
        set: settings of all points.
        points: settings of single points, by their names, beside those that a point has in each profile.
        tables: the tables that the points stand for rows of; all by default.
        seeds: each point is trained with each.
        concurrent: trials at a time.
        asha: whether and how trials are stopped early.
    """

    config: str
    data: ProfileDataConfig
    set: dict[str, Any] = Field(default_factory=dict)
    points: dict[str, dict[str, Any]] = Field(default_factory=dict)
    tables: tuple[str, ...] | None = None
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    concurrent: int = Field(default=1, ge=1)
    asha: AshaConfig | None = None


class PointConfig(Config):
    """One configuration to train.

    Attributes:
        name: of the point.
        set: its settings, beside the profile's.
        rows: the tables and the row of each that it stands for.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    set: dict[str, Any] = Field(default_factory=dict)
    rows: dict[str, str] = Field(default_factory=dict)


class TableNoteConfig(Config):
    """What is to be known of published numbers, such as a fault of theirs.

    Attributes:
        text: for people.
        rows: of the table, that it is on; of the table as a whole where there are none.
    """

    text: str = Field(min_length=1)
    rows: tuple[str, ...] = ()


class TableConfig(Config):
    """A table of the paper.

    Attributes:
        title: its caption.
        rows: the paper's numbers by row and measure, each a mean and the half width of its interval, in the
            paper's order.
        notes: on its numbers, below the table.
    """

    title: str
    rows: dict[str, dict[str, tuple[float, Annotated[float, Field(ge=0)]]]]
    notes: tuple[TableNoteConfig, ...] = ()


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

    @property
    def tables_used(self) -> dict[str, TableConfig]:
        """The tables of the profile that is taken."""
        names = self.profiles[self.profile].tables
        return self.tables if names is None else {name: self.tables[name] for name in names}
