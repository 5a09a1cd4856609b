"""The request for a sweep and its check, and the note in a sweep's folder; needs no Ray."""

from dataclasses import dataclass, replace
from typing import Any, Self

from intermoe.errors import UserError
from intermoe.files import check_free, contents, read_note
from intermoe.locks import check_unlocked
from intermoe.places import Place, absolute, check_storage, is_folder
from intermoe.training.evaluator import check_vectors
from pipelines.cluster.job_environment import check_noted_store
from pipelines.site import Site
from pipelines.sweep.file import SweepPlan
from pipelines.sweep.prerequisites import check_recordings
from pipelines.tracking.address import as_noted

SWEEP_NOTE = "sweep.json"


@dataclass(frozen=True)
class SweepRequest:
    """A sweep to run, or to go on with.

    Attributes:
        plan: what there is to do.
        out: the folder of the sweep.
        site: where things lie.
        resume: whether to go on with what ``out`` holds.
    """

    plan: SweepPlan
    out: Place
    site: Site
    resume: bool = False

    def checked(self) -> Self:
        """The request with absolute paths, if it can be done.

        Raises:
            UserError: the folder of the sweep is taken, or holds none to resume; the recordings are not there.
        """
        check_storage(self.out)
        check_unlocked(self.out)
        note = sweep_note(self.out)
        config = self.plan.config
        if not self.resume:
            # What a process left that was killed before the sweep had begun is hidden.
            if not is_folder(self.out) or any(not file.name.startswith(".") for file in contents(self.out)):
                check_free(self.out, "another --out" + (", or --resume to go on with it" if note else ""))
        elif not note:
            raise UserError("holds no sweep to resume", where=self.out)
        else:
            for key, value in (("name", config.name), ("profile", config.profile)):
                if note[key] != value:
                    raise UserError(
                        f"{key} {value!r}", where=self.out, allowed=f"{note[key]!r}, as in the sweep that is resumed"
                    )
        check_recordings(self.plan, self.out)
        uri = as_noted(note["tracking_uri"], self.site.tracking_uri) if self.resume else self.site.tracking_uri
        check_noted_store(uri)
        data = self.plan.profile.data
        given = {name: folder.absolute() for name in ("text_folder", "word_vectors") if (folder := getattr(data, name))}
        site = replace(self.site, tracking_uri=uri, **given)
        check_vectors(self.plan.base.evaluator, site.word_vectors)
        return replace(self, out=absolute(self.out), site=site)


def sweep_note(folder: Place) -> dict[str, Any]:
    """The note in a sweep's folder; empty where there is none."""
    return read_note(folder / SWEEP_NOTE)
