"""Where recordings come from: the options of ``intermoe preprocess``, and the reader that they mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from intermoe.config import Config
from intermoe.datasets.bvh import BvhPairReader
from intermoe.datasets.bvh_file import RATES
from intermoe.datasets.choreography.write import PartRunner, in_turn
from intermoe.datasets.duet import BODY_MODEL, LayoutName, check_duet, write_duet
from intermoe.datasets.humanml3d import HumanML3DReader
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.interx import InterXReader
from intermoe.datasets.recordings import Reader
from intermoe.datasets.solo import check_solo, write_solo
from intermoe.errors import UserError
from intermoe.files import contents, scratch_folder
from intermoe.places import Place, absolute, as_place, check_storage, exists, is_folder


def _as_root(root: Any) -> Any:
    return as_place(root) if isinstance(root, str) else root


class SourceConfig(Config):
    """Recordings in a raw format.

    Attributes:
        format: of the recordings; "duet" and "solo", the embedded data sets of two persons and of one, are made here.
        root: their folder. For an embedded data set it is made where it does not exist yet, and kept; without it, the
            recordings are made in a temporary folder.
        count: of "duet" and "solo": how many motions are made.
        seed: of "duet" and "solo".
        layout: of "duet": the data set in whose layout they are made, so that its reader reads them.
        mapping: of "bvh": how joints correspond, a shipped mapping's name or a file.
        scale: of "bvh": metres per unit of its files.
        fps: of "bvh": frames per second, where its files state a wrong rate.
        body_model: of "interx": SMPL-X's model, whose joints its bodies have; those of an average adult without it.
        follow_links: whether links in ``root`` may lead out of it.
    """

    format: Literal["duet", "interhuman", "interx", "bvh", "solo", "humanml3d"]
    root: Annotated[Place | None, BeforeValidator(_as_root)] = None
    count: int = Field(default=600, ge=1)
    seed: int = Field(default=0, ge=0)
    layout: LayoutName = "interhuman"
    mapping: str = "cmu"
    scale: float = Field(default=1.0, gt=0)
    fps: float | None = Field(default=None, ge=RATES[0], le=RATES[1])
    body_model: Annotated[Place | None, BeforeValidator(_as_root)] = None
    follow_links: bool = False

    @property
    def is_made_here(self) -> bool:
        """Whether the recordings are those of an embedded data set."""
        return self.format in ("duet", "solo")

    @contextmanager
    def reader(self, scratch: Place, run: PartRunner = in_turn) -> Iterator[Reader]:
        """The reader of the recordings, for as long as the context lasts.

        Args:
            scratch: folder in which temporary recordings are made; every node must see it.
            run: runs the tasks that make recordings (see ``write_duet``).

        Raises:
            UserError: no root for recordings that are not made here, a root of an embedded data set that holds
                something else, or a mapping that is not one.
        """
        # Tasks may run in another working directory.
        root = None if self.root is None else absolute(self.root)
        if self.is_made_here:
            if root is None:
                with scratch_folder(scratch, self.format) as folder:
                    self._make(folder / self.format, run)
                    yield self._reader_of_made(folder / self.format)
                return
            if _holds_something(root):
                self._check_made(root)
            else:
                self._make(root, run)
            yield self._reader_of_made(root)
            return
        if root is None:
            raise UserError("the folder of the recordings is not given", where=self.format, allowed="--root DIR")
        if self.format == "bvh":
            yield BvhPairReader(root, self.mapping, self.scale, self.fps, follow_links=self.follow_links)
        elif self.format == "interx":
            model = None if self.body_model is None else absolute(self.body_model)
            yield InterXReader(root, body_model=model, follow_links=self.follow_links)
        elif self.format == "humanml3d":
            yield HumanML3DReader(root, follow_links=self.follow_links)
        else:
            yield InterHumanReader(root, follow_links=self.follow_links)

    def _make(self, root: Place, run: PartRunner) -> None:
        if self.format == "solo":
            write_solo(root, count=self.count, seed=self.seed, run=run)
        else:
            write_duet(root, count=self.count, seed=self.seed, layout=self.layout, run=run)

    def _check_made(self, root: Place) -> None:
        if self.format == "solo":
            check_solo(root, count=self.count, seed=self.seed)
        else:
            check_duet(root, count=self.count, seed=self.seed, layout=self.layout)

    def _reader_of_made(self, root: Place) -> Reader:
        if self.format == "solo":
            return HumanML3DReader(root, follow_links=self.follow_links)
        if self.layout == "interx":
            model = root / BODY_MODEL
            return InterXReader(root, body_model=model, names_persons=True, follow_links=self.follow_links)
        return InterHumanReader(root, follow_links=self.follow_links)

    def check(self) -> None:
        """Raise ``UserError`` where recordings that are not made here are not there, or not listed."""
        for place in (self.root, self.body_model):
            if place is not None:
                check_storage(place)
        if not self.is_made_here or (self.root is not None and _holds_something(self.root)):
            with self.reader(Path()) as reader:
                reader.sources()


def _holds_something(root: Place) -> bool:
    return exists(root) and not (is_folder(root) and not contents(root))
