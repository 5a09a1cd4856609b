"""From prompts to files: motion (npz), BVH per person, GLB of all, video, key frames, and a page of all in 3D."""

import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Self

from intermoe.errors import UserError
from intermoe.files import check_free, contents, discard, whole_file
from intermoe.generation import check_prompts
from intermoe.given_person import GivenPerson
from intermoe.locks import check_unlocked, locked
from intermoe.model import InterMoE
from intermoe.moe.routing_map import RoutingMap, recorded_routing
from intermoe.motion import Motion
from intermoe.places import Place, check_storage, is_file, is_remote

SUFFIXES = (".npz", ".bvh", ".glb", ".mp4", ".png")
_AMASS = ".amass.npz"
# All motions of a command in one file.
_CLIPS = "clips.glb"
PAGE = "page.html"
"""Name of the page of all motions."""
OF_GIVEN = ("given_as", "given_person", "mapping", "scale", "fps")
"""The options that say how a given person is read."""
# Characters of a prompt in a file's name: far below what file systems take, so that all suffixes fit.
_SLUG = 60
# Characters after a stem: the longest suffix, and what a file is called until it is whole.
_BEYOND_STEM = 64
_SECONDS = 4.0
_Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class GenerateRequest:
    """Prompts to generate motions from.

    Attributes:
        prompts: a sentence each.
        out: folder of the files, made where missing; each prompt's are named after its number and first words.
        seconds: length of each motion, or of what each adds; if None, 4, or that of the given person.
        seed: of the noise.
        guidance: scale of classifier-free guidance; the model's own if None.
        routing_map: also draw which experts worked on which moment (``.routing.png``, and on the page).
        amass: also write each person in the form of AMASS (``_person1.amass.npz``, of one person ``.amass.npz``).
        clips: also write all motions as the clips of one file (``clips.glb``).
        page: also write a page that shows all motions in 3D (``page.html``).
        in_a_row: the prompts make one motion, one after the other.
        after: a motion to go on from; its frames stand before the new ones.
        given: one of the persons; the other is generated to them.
    """

    prompts: Sequence[str]
    out: Place
    seconds: float | None = None
    seed: int = 0
    guidance: float | None = None
    routing_map: bool = False
    amass: bool = False
    clips: bool = False
    page: bool = False
    in_a_row: bool = False
    after: Motion | None = None
    given: GivenPerson | None = None

    @property
    def stems(self) -> list[Place]:
        """Of the files of each prompt, their path without the suffix."""
        named = self.prompts[:1] if self.in_a_row else self.prompts
        digits = max(2, len(str(len(named) - 1)))
        return [self.out / f"{number:0{digits}d}_{_slug(prompt)}" for number, prompt in enumerate(named)]

    def checked(self) -> Self:
        """The request, if its files can be written.

        Raises:
            UserError: a prompt is empty or not text; options exclude each other; ``out`` is not a folder, cannot be
                written to or has a name that is too long, or a file of a name that is to be written exists.
        """
        check_prompts(self.prompts)
        self._check_options()
        check_unlocked(self.out)
        check_writable(self.out, max(len(stem.name) for stem in self.stems) + _BEYOND_STEM)
        self.check_free()
        return self

    def _check_options(self) -> None:
        there = {
            "--given": self.given is not None,
            "--after": self.after is not None,
            "--in-a-row": self.in_a_row,
            "--routing-map": self.routing_map,
        }
        names = [name for name, is_there in there.items() if is_there]
        if names[:2] == ["--after", "--in-a-row"]:
            names = names[1:]
        if len(names) > 1:
            raise UserError(f"{names[1]} beside {names[0]}", allowed="one of them")

    def check_free(self) -> None:
        """Raise ``UserError`` where a file of a name that is to be written exists."""
        for path in self.present()[:1]:
            check_free(path, "another --out")

    def present(self) -> list[Place]:
        """The files in the folder with a motion's name, or with that of a file of all motions that is asked for."""
        beginnings = tuple(beginning for stem in self.stems for beginning in _beginnings(stem.name))
        of_all = {name for name, is_asked in ((_CLIPS, self.clips), (PAGE, self.page)) if is_asked}
        return [path for path in contents(self.out) if path.name.startswith(beginnings) or path.name in of_all]


def given_person(file: Place | None, options: Mapping[str, Any]) -> GivenPerson | None:
    """The person in a file, read as the options say; None where no file is named.

    Args:
        file: BVH, or npz of a motion.
        options: those of ``OF_GIVEN``, None where they are not said.

    Raises:
        UserError: an option without a file or for another kind of it, or no person in the file.
    """
    is_bvh = file is not None and file.suffix.lower() == ".bvh"
    for name, value in options.items():
        words = f"--{name.replace('_', '-')}"
        if value is not None and file is None:
            raise UserError(f"{words} without --given", allowed="--given FILE")
        if value is not None and name != "given_as" and is_bvh == (name == "given_person"):
            raise UserError(f"{words} is not for {file}", allowed=f"a {'.npz' if is_bvh else '.bvh'} file")
    if file is None:
        return None
    scale = options["scale"]
    return GivenPerson.load(
        file,
        person=options["given_person"] or "first",
        role=options["given_as"],
        mapping=options["mapping"] or "smpl",
        scale=1.0 if scale is None else scale,
        fps=options["fps"],
    )


def generate(model: InterMoE, request: GenerateRequest, progress: _Progress) -> list[Place]:
    """Generate a motion for each prompt and write it in every form that is asked for.

    Args:
        model: a trained model.
        request: what to generate, checked.
        progress: called with a stage, how much of it is done, and of how much.

    Returns:
        The files written.

    Raises:
        UserError: another process writes to the folder; a length the model does not know; no experts to map; or a file
            cannot be written, and then none is left.
    """
    with locked(request.out):
        request.check_free()
        with recorded_routing(model.denoiser, model.stride) if request.routing_map else nullcontext() as recorder:
            motions = _motions(model, request, lambda done, total: progress("denoise", done, total))
        return _write(request, motions, recorder.maps() if recorder is not None else [], progress)


def _motions(model: InterMoE, request: GenerateRequest, on_step: Callable[[int, int], None]) -> list[Motion]:
    seconds = _SECONDS if request.seconds is None and request.given is None else request.seconds
    if request.in_a_row:
        return [
            model.generate_sequence(
                request.prompts,
                seconds=seconds,
                seed=request.seed,
                guidance=request.guidance,
                on_step=on_step,
                after=request.after,
            )
        ]
    return model.generate(
        list(request.prompts),
        seconds=seconds,
        seed=request.seed,
        guidance=request.guidance,
        on_step=on_step,
        given=request.given,
        after=request.after,
    )


def _write(
    request: GenerateRequest, motions: Sequence[Motion], maps: Sequence[RoutingMap], progress: _Progress
) -> list[Place]:
    files: list[Place] = []
    try:
        for number, (stem, motion) in enumerate(zip(request.stems, motions, strict=True)):
            progress("write", number, len(motions))
            files += save_all(motion, stem, amass=request.amass)
            if maps:
                files.append(save_routing_map(motion, maps[number], stem.with_name(f"{stem.name}.routing.png")))
        if request.clips:
            files.append(save_clips(motions, request.out / _CLIPS))
        if request.page:
            files.append(_save_page(motions, maps, request.out / PAGE))
    except BaseException:
        # Those that are whole would be in the way of the same command, once there is room.
        for file in request.present():
            discard(file)
        raise
    progress("write", len(motions), len(motions))
    return files


def _beginnings(stem: str) -> tuple[str, str]:
    """How the names of a motion's files begin."""
    return f"{stem}.", f"{stem}_"


def check_writable(out: Place, name_length: int) -> None:
    """Raise ``UserError`` where no file with a name of that length can be made in the folder, made or not."""
    if is_remote(out):
        check_storage(out)
        if is_file(out):
            raise UserError("is not a folder", where=out)
        return
    existing = out.absolute()
    try:
        if out.exists() and not out.is_dir():
            raise UserError("is not a folder", where=out)
        while not existing.exists():
            existing = existing.parent
        longest = os.pathconf(existing, "PC_PATH_MAX")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=out, allowed="another --out") from None
    if len(os.fsencode(out.absolute())) + 1 + name_length >= longest:
        raise UserError("the path is too long", where=out, allowed=f"another --out, its files below {longest} bytes")
    if not existing.is_dir():
        raise UserError("cannot be written: Not a directory", where=out, allowed="another --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError("cannot be written: Permission denied", where=out, allowed="another --out")


def save_all(motion: Motion, stem: Place, *, amass: bool = False) -> list[Place]:
    """Write a motion in every form, beside each other, that of AMASS only if asked for; the files written."""
    suffixes = (*SUFFIXES, _AMASS) if amass else SUFFIXES
    return [file for suffix in suffixes for file in motion.save(stem.with_name(stem.name + suffix))]


def save_clips(motions: Sequence[Motion], file: Place) -> Place:
    """Write motions as the clips of one GLB; the file is there whole or not at all."""
    from intermoe.render.glb import write_glb

    with whole_file(file) as partial:
        write_glb(motions, partial)
    return file


def save_routing_map(motion: Motion, routing: RoutingMap, file: Place) -> Place:
    """Draw a routing map; the file is there whole or not at all."""
    # Drawing needs libraries that the rest does not.
    from intermoe.render.routing import write_routing_map

    with whole_file(file) as partial:
        write_routing_map(motion, routing, partial)
    return file


def _save_page(motions: Sequence[Motion], maps: Sequence[RoutingMap], file: Place) -> Place:
    """Write the page of all motions, with their routing where it was recorded."""
    from intermoe.render.page import Scene, write_page

    scenes = [Scene.of(motion, routing) for motion, routing in zip_longest(motions, maps)]
    with whole_file(file) as partial:
        write_page(scenes, partial, title="Generated motion")
    return file


def _slug(prompt: str) -> str:
    """The first words of a prompt as part of a file's name.

    Example:
        >>> _slug("Two people bow to each other, deeply.")
        'two-people-bow-to-each'
    """
    # Letters without their accents, of whatever language has them.
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain)[:5])[:_SLUG].rstrip("-") or "motion"
