"""The request for preprocessing and its check; needs no Ray and writes nothing."""

from dataclasses import dataclass, replace
from typing import Self

from intermoe.data.shards import DatasetFolder
from intermoe.files import check_free
from intermoe.locks import check_unlocked
from intermoe.places import Place, absolute, check_storage
from pipelines.preprocess.sources import SourceConfig
from pipelines.site import Site


@dataclass(frozen=True)
class PreprocessRequest:
    """Recordings to make shards of.

    Attributes:
        name: of the data set.
        source: the recordings.
        encoder: text encoder of the captions, "clip" or "minilm".
        out: where the folder appears at once when all is done; must not exist, or be empty.
        site: where things lie.
        statistics_of: data set whose mean and standard deviation the shards take over, for recordings without a
            training split; None: those of the training split.
    """

    name: str
    source: SourceConfig
    encoder: str
    out: Place
    site: Site
    statistics_of: Place | None = None

    def checked(self) -> Self:
        """The request with absolute paths, if it can be done.

        Raises:
            UserError: ``out`` is taken, or the recordings or the data set of ``statistics_of`` are not there.
        """
        check_storage(self.out)
        check_unlocked(self.out)
        check_free(self.out)
        self.source.check()
        if self.statistics_of is not None:
            DatasetFolder.open(self.statistics_of)
        return replace(self, out=absolute(self.out))
