"""What all curves have in common: colours, axes, how they are saved."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from rpanoptic.data.paths import write_atomically

# Of the palette of Okabe and Ito, which is told apart by colour-blind readers too.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#E69F00"
INK, GREY = "#333333", "#999999"
# Colour, marker and dash of the curves of one figure, in this order. Markers tell them apart where
# colours do not.
CURVES = [
    (BLUE, "o", "-"),
    (ORANGE, "s", "-"),
    (GREEN, "^", "-"),
    (PURPLE, "D", "-"),
    (SKY, "v", "-"),
    (YELLOW, "P", "-"),
    (INK, "X", "-"),
    (BLUE, "o", "--"),
    (ORANGE, "s", "--"),
    (GREEN, "^", "--"),
    (PURPLE, "D", "--"),
    (INK, "X", "--"),
]
_GRID = "#E6E6E6"
_DPI = 150


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of no global state; sizes in inches, no title if it is empty."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    if title:
        figure.suptitle(as_it_is(title), fontsize=11, color=INK)
    return figure


def as_it_is(text: str) -> str:
    """Text for Matplotlib, which looks for a formula between two dollars, and may not read it."""
    return text.replace("$", r"\$")


def style_axes(axes: Axes) -> None:
    """Give axes the common look: two spines, a pale grid behind, labels in ink."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9, which="both")
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def save_figure(path: str | Path, figure: Figure, *, colors: int = 0) -> Path:
    """Write a figure as PNG; the file appears only when it is complete.

    Args:
        path: the file; its folder must exist.
        figure: what is drawn.
        colors: of a drawing with few colours, so many at most, up to 256: the file has a third of
            the size. 0: all.

    Returns:
        the path.
    """
    path = Path(path)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    if colors:
        # By how far colours are apart: the default, by how much of them there is, would give thin
        # lines the colour of broad areas.
        drawn = (
            Image.open(stream)
            .convert("RGB")
            .quantize(colors, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        )
        stream = io.BytesIO()
        drawn.save(stream, format="png", optimize=True)
    write_atomically(path, stream.getvalue())
    return path
