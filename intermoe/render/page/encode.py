"""Motions as plain values for the page: numbers in base64, so that a second of two people takes 11 kB, of one 4 kB.

The root joint of each person goes as float32 metres, the other joints as int16 steps from it. A step is 1/32767 of the
largest distance along an axis, 0.06 mm for an adult, so no joint is off by more than 0.04 mm, wherever they walk. All
numbers are little-endian.

Legend: T frames, P persons (of gates the tokens of a moment), J joints, K joints that touch the ground, L latent
frames, E experts, M layers with experts, Q stages of denoising.
"""

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from intermoe.body.conventions import FPS
from intermoe.body.features import CONTACT_SQUARED_STEP
from intermoe.body.skeletons import Skeleton
from intermoe.moe.routing_map import RoutingMap
from intermoe.render.body import Body
from intermoe.render.camera import best_azimuth
from intermoe.render.page.scene import Panel, Scene

if TYPE_CHECKING:  # a motion draws itself: it imports this package
    from intermoe.motion import Motion

# Metres per second below which a joint rests, as in the features.
_CONTACT_SPEED = CONTACT_SQUARED_STEP**0.5 * FPS
_STEPS = 32767


def encoded_scene(scene: Scene) -> dict[str, Any]:
    """A scene as plain values; the camera begins at the best side of the first motion."""
    first = scene.panels[0].motion
    return {
        "caption": scene.caption,
        "azimuth": round(float(best_azimuth(first.joints, first.skeleton)), 4),
        "panels": [_encoded_panel(panel) for panel in scene.panels],
    }


def encoded_skeleton(skeleton: Skeleton) -> dict[str, Any]:
    """The body of a skeleton, and the joints of it that touch the ground, by foot."""
    sides: dict[str, list[int]] = {}
    for number, contact in enumerate(skeleton.contacts):
        name = skeleton.joint_names[contact.joint]
        side = next((side for side in ("left", "right") if name.startswith(f"{side}_")), name.replace("_", " "))
        sides.setdefault(side, []).append(number)
    return {
        "joints": skeleton.num_joints,
        "contacts": [contact.joint for contact in skeleton.contacts],
        "feet": [[side, numbers] for side, numbers in sides.items()],
        **Body(skeleton).plan(),
    }


def ground_contacts(motion: "Motion") -> NDArray[np.bool_]:
    """Which joints touch the ground [T, P, K]: they are low and slow, as in the features; the last frame repeats."""
    contacts = motion.skeleton.contacts
    feet_TPK3 = motion.joints[:, :, [contact.joint for contact in contacts]].astype(np.float64)
    low_TPK = feet_TPK3[..., 1] < np.array([contact.height for contact in contacts])
    speed_TPK = np.linalg.norm(np.diff(feet_TPK3, axis=0), axis=-1) * motion.fps
    # What is not known to move does not: a motion of one frame.
    speed_TPK = np.concatenate([speed_TPK, speed_TPK[-1:] if len(speed_TPK) else np.zeros(low_TPK.shape)])
    return low_TPK & (speed_TPK < _CONTACT_SPEED)


def _encoded_panel(panel: Panel) -> dict[str, Any]:
    motion = panel.motion
    offset_TPJ3 = motion.joints[:, :, 1:].astype(np.float64) - motion.joints[:, :, :1]
    step = max(float(np.abs(offset_TPJ3).max(initial=0)), 1e-6) / _STEPS
    return {
        "label": panel.label,
        "skeleton": motion.skeleton.name,
        "fps": motion.fps,
        "frames": len(motion.joints),
        "scale": [round(float(scale), 4) for scale in Body(motion.skeleton).scale(motion.joints)],
        "root": _base64(motion.joints[:, :, 0], "<f4"),
        "step": step,
        "offsets": _base64((offset_TPJ3 / step).round(), "<i2"),
        "contacts": _base64(ground_contacts(motion), "u1"),
        "routing": None if panel.routing is None else _encoded_routing(panel.routing),
    }


def _encoded_routing(routing: RoutingMap) -> dict[str, Any]:
    gate_QMPLE = routing.gate_QMPLE.numpy()
    _, layers, _, latents, experts = gate_QMPLE.shape
    return {
        "stages": [list(span) for span in routing.timesteps],
        "layers": layers,
        "latents": latents,
        "experts": experts,
        "stride": routing.stride,
        "tokens": list(routing.tokens),
        # Rounded up: the smallest gate is not mistaken for none.
        "gates": _base64(np.ceil(gate_QMPLE.clip(0, 1) * 255), "u1"),
    }


def _base64(numbers: NDArray, kind: str) -> str:
    return b64encode(numbers.astype(kind).tobytes()).decode()
