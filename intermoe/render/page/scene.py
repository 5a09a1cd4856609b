"""What a page shows: scenes to choose from, each of one motion or of several beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intermoe.moe.routing_map import RoutingMap

if TYPE_CHECKING:  # a motion draws itself: it imports this package
    from intermoe.motion import Motion


@dataclass(frozen=True, eq=False)
class Panel:
    """A motion on a page.

    Attributes:
        motion: any skeleton, length and frame rate.
        label: what sets it apart from those beside it, such as "recorded".
        routing: the experts that worked on it, where they were recorded.
    """

    motion: "Motion"
    label: str = ""
    routing: RoutingMap | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """Motions that are shown beside each other, played together and seen by one camera.

    Attributes:
        caption: what they do; plain text, whatever it holds.
        panels: one or more, from the left to the right.
    """

    caption: str
    panels: Sequence[Panel]

    @classmethod
    def of(cls, motion: "Motion", routing: RoutingMap | None = None) -> "Scene":
        """A scene of one motion under its own caption."""
        return cls(motion.caption, (Panel(motion, routing=routing),))
