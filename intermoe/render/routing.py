"""The routing map: a motion's key frames, and below each moment the experts that worked on it.

Legend: P tokens of a moment, L latent frames, E experts, M layers, Q denoising stages, H rows of pixels, W columns of
pixels.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from intermoe.moe.routing_map import RoutingMap
from intermoe.render.lettering import FAINT_INK, INK, draw_caption, draw_legend, font
from intermoe.render.painter import PERSON_COLOURS
from intermoe.render.strip import PANEL_WIDTH, panels

if TYPE_CHECKING:  # a motion draws itself: it imports this module
    from intermoe.motion import Motion

_MOMENTS = 8
_EDGE, _LABELS, _GAP = 24, 220, 14
_IDLE = (236, 239, 243)
_PANEL_HEIGHT, _LAYER_GAP = 160, 3


def write_routing_map(motion: "Motion", routing: RoutingMap, path: Path) -> None:
    """Draw a PNG: time across, experts down by layer, one panel per token of a moment and denoising stage.

    A cell is as strong as the expert's mean gate over the stage's steps, and grey where it was never assigned. Its
    colour is that of the person, of one person the same for all tokens. The key frames above stand over the time they
    are taken from.
    """
    frames = len(motion.joints)
    moments = [round((number + 0.5) * frames / _MOMENTS - 0.5) for number in range(_MOMENTS)]
    people = panels(motion, moments)
    wide, high, num_tokens = PANEL_WIDTH * _MOMENTS, people[0].height, len(routing.tokens)
    colours = PERSON_COLOURS if motion.skeleton.num_persons > 1 else PERSON_COLOURS[:1] * num_tokens
    shares = [
        _grid(routing, (stage, token), frames, wide, np.array(colours[token]))
        for stage in range(len(routing.timesteps))
        for token in range(num_tokens)
    ]
    width = 2 * _EDGE + _LABELS + wide
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    top = round(draw_caption(measure, motion.caption, size=30, left=_EDGE, top=18, width=width - 2 * _EDGE)) + 12
    height = top + high + 44 + sum(len(grid) + _GAP for grid in shares) + 24 * len(routing.timesteps) + 100
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    draw_caption(pen, motion.caption, size=30, left=_EDGE, top=18, width=width - 2 * _EDGE)
    left = _EDGE + _LABELS
    for number, (moment, panel) in enumerate(zip(moments, people, strict=True)):
        picture.paste(panel, (left + number * PANEL_WIDTH, top))
        middle = left + (number + 0.5) * PANEL_WIDTH
        pen.text((middle, top + high + 20), f"{moment / motion.fps:.2f} s", INK, font(24), anchor="mm")
    y = top + high + 44
    for number, grid_HW3 in enumerate(shares):
        stage, token = divmod(number, num_tokens)
        if token == 0:
            first, last = routing.timesteps[stage]
            pen.text((left, y + 8), f"denoising steps at t = {first} to {last}", FAINT_INK, font(20), anchor="lm")
            y += 24
        picture.paste(Image.fromarray(grid_HW3), (left, y))
        pen.text((_EDGE, y + len(grid_HW3) / 2), routing.tokens[token], colours[token], font(20), anchor="lm")
        _name_layers(pen, y, len(grid_HW3), routing.gate_QMPLE.shape[1], left - 8)
        y += len(grid_HW3) + _GAP
    _, layers, _, _, experts = routing.gate_QMPLE.shape
    text = f"{layers} layers with {experts} experts each, one row an expert; stronger: larger gate"
    pen.text((left, y + 14), text, FAINT_INK, font(20), anchor="lm")
    draw_legend(pen, 22, left, y + 48, motion.skeleton.num_persons)
    picture.crop((0, 0, width, y + 72)).save(path, "PNG")


def _grid(
    routing: RoutingMap, place: tuple[int, int], frames: int, wide: int, colour_3: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """One panel [H, W, 3], of a stage and a token: rows of experts, layer by layer."""
    stage, token = place
    gate_MLE = routing.gate_QMPLE[stage, :, token].numpy()
    layers, _, experts = gate_MLE.shape
    row = max(2, 2 * _PANEL_HEIGHT // (max(2, len(routing.tokens)) * layers * experts))
    frame_W = np.arange(wide) * frames // wide
    gate_MEW = gate_MLE[:, frame_W // routing.stride].transpose(0, 2, 1)
    strength = np.where(gate_MEW > 0, 0.2 + 0.8 * np.clip(gate_MEW, 0, 1), 0)[..., None]
    colour_MEW3 = np.where(strength > 0, 255 + strength * (colour_3 - 255.0), np.array(_IDLE))
    rows = colour_MEW3.round().astype(np.uint8).repeat(row, axis=1)
    parts = [rows[0]]
    for layer in rows[1:]:
        parts += [np.full((_LAYER_GAP, wide, 3), 255, np.uint8), layer]
    return np.concatenate(parts)


def _name_layers(pen: ImageDraw.ImageDraw, top: int, height: int, layers: int, right: int) -> None:
    """The layers' numbers, beside their rows."""
    step = (height + _LAYER_GAP) / layers
    size = min(15.0, step * 0.9)
    for layer in range(layers):
        pen.text((right, top + (layer + 0.5) * step), f"layer {layer}", FAINT_INK, font(size), anchor="rm")
