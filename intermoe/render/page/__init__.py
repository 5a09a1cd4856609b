"""The page: one HTML file that shows motions in 3D, with all it needs inside."""

from intermoe.render.page.document import write_page
from intermoe.render.page.scene import Panel, Scene

__all__ = ["Panel", "Scene", "write_page"]
