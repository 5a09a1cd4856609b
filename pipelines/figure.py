"""A figure of what several models make of the same prompts, as papers have it."""

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np

from intermoe.body.skeletons import SMPL22, skeleton_named
from intermoe.datasets.duet.captions import PEOPLE, told
from intermoe.errors import UserError
from intermoe.evaluation.identity import RULES
from intermoe.files import check_free, make_folder, whole_file
from intermoe.generation import check_request, device_named, frames_of
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig
from intermoe.motion import Motion
from intermoe.places import Place, is_folder
from intermoe.render.figure import Cell, write_figure
from pipelines.cluster.progress import Stages
from pipelines.generate import check_writable
from pipelines.site import Site
from pipelines.tracking.queries import model_folder

_BEYOND_NAME = 40


def figure(options: argparse.Namespace) -> None:
    """Generate a motion of every prompt with every model, and draw them all; options as the grammar names them.

    Raises:
        UserError: not as many headings as models, fewer than 2 frames, ``out`` is taken or no PNG, a model that is
            none, or what :meth:`InterMoE.generate` refuses.
    """
    out: Place = options.out
    headings: Sequence[str] = options.headings or options.models
    if len(headings) != len(options.models):
        raise UserError(
            f"{len(headings)} headings", where="--headings", allowed=f"{len(options.models)}, one for each model"
        )
    if out.suffix.lower() != ".png":
        raise UserError(f"unknown suffix {out.suffix!r}", where=out, allowed=".png")
    if options.frames < 2:
        raise UserError(f"{options.frames}", where="--frames", allowed="2 or more")
    check_request(options.prompts, options.seed, options.guidance)
    # Beside it, what it is called until it is whole.
    check_writable(out.parent, len(out.name) + _BEYOND_NAME)
    check_free(out, "another name")
    if is_folder(out):
        raise UserError("is a folder", where=out, allowed="a file (.png)")
    site, device = Site.here(options.text_folder), device_named(options.device)
    folders = [model_folder(name, site.tracking_uri) for name in options.models]
    for folder in folders:
        data = ModelConfig.load(folder).data
        frames_of(options.seconds, data.max_frames, skeleton_named(data.skeleton).fps)
    columns: list[list[Motion]] = []
    with Stages() as stages:
        for number, folder in enumerate(folders):
            model = InterMoE.load(folder, device=device, text_folder=site.text_folder)
            stage = f"model {number + 1} of {len(folders)}"
            columns.append(
                model.generate(
                    options.prompts,
                    seconds=options.seconds,
                    seed=options.seed,
                    guidance=options.guidance,
                    on_step=partial(stages, stage),
                )
            )
    rows = [
        (prompt, [Cell(column[row], identity_error(column[row])) for column in columns])
        for row, prompt in enumerate(options.prompts)
    ]
    make_folder(out.parent)
    check_free(out, "another name")
    with whole_file(out) as file:
        write_figure(rows, headings, file, frames=options.frames)


def identity_error(motion: Motion) -> str | None:
    """Who acts though the caption names the other one, in words; None where that is not so, or not known.

    It is known of the sentences that Duet's captions are made of, by its rules of mechanics: these compare the two
    persons, and do not tell whether what the caption says takes place at all.
    """
    meaning = told(motion.caption)
    if meaning is None or motion.skeleton != SMPL22:
        return None
    kind, actor = meaning
    scores = RULES[kind](np.asarray(motion.joints))
    if scores[actor] >= scores[1 - actor]:
        return None
    return f"identity: {PEOPLE[1 - actor]} acts"
