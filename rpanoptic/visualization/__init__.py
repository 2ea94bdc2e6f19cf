"""Pictures: overlays of panoptics and contours, grids, a recurrence's steps and its dynamics."""

from rpanoptic.visualization.contours import draw_contour, draw_prediction
from rpanoptic.visualization.dynamics import (
    draw_components,
    draw_past_trained_steps,
    draw_residuals,
    draw_spectrum,
)
from rpanoptic.visualization.grid import picture_grid, save_png
from rpanoptic.visualization.panoptic import draw_output, draw_panoptic, draw_record
from rpanoptic.visualization.steps import draw_steps
from rpanoptic.visualization.style import save_figure

__all__ = [
    "draw_components",
    "draw_contour",
    "draw_output",
    "draw_panoptic",
    "draw_past_trained_steps",
    "draw_prediction",
    "draw_record",
    "draw_residuals",
    "draw_spectrum",
    "draw_steps",
    "picture_grid",
    "save_figure",
    "save_png",
]
