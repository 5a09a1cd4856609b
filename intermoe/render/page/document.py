"""The HTML file: the motions as JSON, and the page's own style, shaders and script, all inside."""

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from intermoe.errors import UserError
from intermoe.render.page.encode import encoded_scene, encoded_skeleton
from intermoe.render.page.scene import Scene
from intermoe.render.painter import PERSON_COLOURS, SIDE_TONES, side_colour
from intermoe.render.stage import GROUND, LINE, SHADOW, SHADOW_AWAY, SHADOW_RIGHT, SKY, SKY_TOP, SOLE

_ASSETS = files(__package__) / "assets"
# In this order: each may use what stands before it.
_SCRIPTS = (
    "data",
    "body",
    "camera",
    "gl",
    "renderer",
    "player",
    "strip",
    "controls",
    "state",
    "stage",
    "strips",
    "main",
)
_SHADERS = (
    "limb.vert",
    "ellipsoid.vert",
    "body.frag",
    "shadow.frag",
    "screen.vert",
    "sky.frag",
    "ground.vert",
    "ground.frag",
)


def write_page(scenes: Sequence[Scene], path: Path, *, title: str) -> None:
    """Write a page of motions in 3D: one HTML file that needs no other and asks no host.

    It shows people from all sides, with their feet's contacts and, where they were recorded, the experts at work;
    motions of a scene play together. It needs a browser with WebGL 2 and runs from disk and in a sandboxed frame, as
    MLflow shows files. A motion of 4 seconds takes 50 kB.

    Args:
        scenes: one or more, in the order of the list to choose from.
        path: the file, made or replaced.
        title: of the page; plain text, as captions and labels are.

    Raises:
        UserError: there is no scene, or one without a motion.
    """
    if not scenes or not all(scene.panels for scene in scenes):
        raise UserError("nothing to show", where=path, allowed="one or more scenes of one or more motions")
    skeletons = {panel.motion.skeleton.name: panel.motion.skeleton for scene in scenes for panel in scene.panels}
    document = {
        "look": _look(),
        "skeletons": {name: encoded_skeleton(skeleton) for name, skeleton in skeletons.items()},
        "scenes": [encoded_scene(scene) for scene in scenes],
    }
    parts = {
        "TITLE": html.escape(title),
        "STYLE": _asset("page.css"),
        "SHADERS": _inert_json({name: _asset(f"{name}.glsl") for name in _SHADERS}),
        "MOTIONS": _inert_json(document),
        "SCRIPT": script(),
    }
    # Split first: what is put in may look like the name of another part.
    pieces = _asset("page.html").split("@@")
    text = "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))
    # A lone surrogate, which is no text, becomes a question mark.
    path.write_bytes(text.encode("utf-8", "replace"))


def script() -> str:
    """The page's program: all of its files in one function, so that it adds no name to the window."""
    body = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    return f'(function () {{\n"use strict";\n{body}}})();'


def _look() -> dict[str, Any]:
    """The colours (0 to 255) and the light of the videos."""
    tones = {
        side: [(side_colour(colour, side) * 255).round().astype(int).tolist() for colour in PERSON_COLOURS]
        for side in SIDE_TONES
    }
    stage = {"skyTop": SKY_TOP, "sky": SKY, "ground": GROUND, "line": LINE, "shadow": SHADOW}
    return {
        "tones": tones,
        "stage": {name: np.array(colour).round().astype(int).tolist() for name, colour in stage.items()},
        "sole": SOLE,
        "shadowLean": [SHADOW_RIGHT, SHADOW_AWAY],
    }


def _inert_json(document: Any) -> str:
    """JSON that ends no script element, whatever it holds."""
    text = json.dumps(document, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text("utf-8")
