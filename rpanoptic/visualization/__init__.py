"""Pictures: panoptic overlays, grids that compare, strips of a recurrence's steps."""

from rpanoptic.visualization.grid import picture_grid, save_png
from rpanoptic.visualization.panoptic import draw_output, draw_panoptic, draw_record
from rpanoptic.visualization.steps import draw_steps

__all__ = [
    "draw_output",
    "draw_panoptic",
    "draw_record",
    "draw_steps",
    "picture_grid",
    "save_png",
]
