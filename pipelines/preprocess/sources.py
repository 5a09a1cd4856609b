"""Where recordings come from: the options of ``intermoe preprocess``, and the reader that they mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BeforeValidator, Field

from intermoe.config import Config
from intermoe.datasets.bvh import BvhPairReader
from intermoe.datasets.bvh_file import RATES
from intermoe.datasets.choreography.write import PartRunner, in_turn
from intermoe.datasets.duet import BODY_MODEL, LayoutName, check_duet, write_duet
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.interx import InterXReader
from intermoe.datasets.recordings import Reader
from intermoe.errors import UserError
from intermoe.files import contents, scratch_folder
from intermoe.places import Place, absolute, as_place, check_storage, exists, is_folder


def _as_root(root: Any) -> Any:
    return as_place(root) if isinstance(root, str) else root


class _DuetOptions(TypedDict):
    count: int
    seed: int
    layout: LayoutName


class SourceConfig(Config):
    """Recordings in a raw format.

    Attributes:
        format: of the recordings; "duet", the embedded data set, is made here.
        root: their folder. For "duet" it is made where it does not exist yet, and kept; without it, the recordings are
            made in a temporary folder.
        count: of "duet": how many recordings are made.
        seed: of "duet".
        layout: of "duet": the data set in whose layout they are made, so that its reader reads them.
        mapping: of "bvh": how joints correspond, a shipped mapping's name or a file.
        scale: of "bvh": metres per unit of its files.
        fps: of "bvh": frames per second, where its files state a wrong rate.
        body_model: of "interx": SMPL-X's model, whose joints its bodies have; those of an average adult without it.
        follow_links: whether links in ``root`` may lead out of it.
    """

    format: Literal["duet", "interhuman", "interx", "bvh"]
    root: Annotated[Place | None, BeforeValidator(_as_root)] = None
    count: int = Field(default=600, ge=1)
    seed: int = Field(default=0, ge=0)
    layout: LayoutName = "interhuman"
    mapping: str = "cmu"
    scale: float = Field(default=1.0, gt=0)
    fps: float | None = Field(default=None, ge=RATES[0], le=RATES[1])
    body_model: Annotated[Place | None, BeforeValidator(_as_root)] = None
    follow_links: bool = False

    @contextmanager
    def reader(self, scratch: Place, run: PartRunner = in_turn) -> Iterator[Reader]:
        """The reader of the recordings, for as long as the context lasts.

        Args:
            scratch: folder in which temporary recordings are made; every node must see it.
            run: runs the tasks that make recordings (see ``write_duet``).

        Raises:
            UserError: no root for recordings that are not made here, a root of "duet" that holds something else, or a
                mapping that is not one.
        """
        # Tasks may run in another working directory.
        root = None if self.root is None else absolute(self.root)
        if self.format == "duet":
            duet: _DuetOptions = {"count": self.count, "seed": self.seed, "layout": self.layout}
            if root is None:
                with scratch_folder(scratch, "duet") as folder:
                    write_duet(folder / "duet", run=run, **duet)
                    yield self._duet_reader(folder / "duet")
                return
            if _holds_something(root):
                check_duet(root, **duet)
            else:
                write_duet(root, run=run, **duet)
            yield self._duet_reader(root)
            return
        if root is None:
            raise UserError("the folder of the recordings is not given", where=self.format, allowed="--root DIR")
        if self.format == "bvh":
            yield BvhPairReader(root, self.mapping, self.scale, self.fps, follow_links=self.follow_links)
        elif self.format == "interx":
            model = None if self.body_model is None else absolute(self.body_model)
            yield InterXReader(root, body_model=model, follow_links=self.follow_links)
        else:
            yield InterHumanReader(root, follow_links=self.follow_links)

    def _duet_reader(self, root: Place) -> Reader:
        if self.layout == "interx":
            model = root / BODY_MODEL
            return InterXReader(root, body_model=model, names_persons=True, follow_links=self.follow_links)
        return InterHumanReader(root, follow_links=self.follow_links)

    def check(self) -> None:
        """Raise ``UserError`` where recordings that are not made here are not there, or not listed."""
        for place in (self.root, self.body_model):
            if place is not None:
                check_storage(place)
        if self.format != "duet" or (self.root is not None and _holds_something(self.root)):
            with self.reader(Path()) as reader:
                reader.sources()


def _holds_something(root: Place) -> bool:
    return exists(root) and not (is_folder(root) and not contents(root))
