"""Which classes a segmentation takes for which."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from rpanoptic.visualization.style import GREY, INK, as_it_is, new_figure

# Side of a cell in inches, and size of the names, points: of few classes, and of many.
_CELLS = (0.5, 0.15)
_NAMES = (9.0, 6.5)
# So many rows are still few.
_FEW = 20
_LONGEST_NAME = 28
# Room for the scale, inches.
_BAR = 1.0
_NO_PIXELS = "#EDEDED"


def draw_confusion(
    pixels: np.ndarray, names: Sequence[str], groups: Sequence[int] = (), *, title: str = ""
) -> Figure:
    """Draw the share of each true class's pixels that is predicted as each class.

    Args:
        pixels: (K + 1, K + 1) counts; a row is a true class, a column a predicted one. The last
            row is void, pixels without ground truth; the last column those of which nothing is
            predicted.
        names: of the K classes.
        groups: how many classes belong together, as things and stuff; lines part them.
        title: over the figure.

    Returns:
        a figure whose cells are per cent of their rows, written out where there are few classes; a
        row without pixels is grey.

    Raises:
        ValueError: the shape and the names do not agree.
    """
    count = len(names) + 1
    if pixels.shape != (count, count):
        raise ValueError(f"pixels must be {(count, count)} for {count - 1} names: {pixels.shape}")
    few = count <= _FEW
    cell, size = (options[0 if few else 1] for options in (_CELLS, _NAMES))
    totals = pixels.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shares = np.where(totals > 0, 100 * pixels / totals, np.nan)
    labels = [
        name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..." for name in names
    ]
    labels = [as_it_is(label) for label in labels]
    # Letters are about 0.6 of their size wide.
    margin = 0.6 * size / 72 * max(map(len, [*labels, "nothing predicted"])) + 0.6
    side = cell * count + margin
    figure = new_figure(side + _BAR, side + (0.4 if title else 0), title)
    axes = figure.subplots()
    axes.set_facecolor(_NO_PIXELS)
    # By their roots: the shares of a confusion are small beside those of what is right.
    scale = PowerNorm(0.5, vmin=0, vmax=100)
    image = axes.imshow(shares, cmap="Blues", norm=scale, interpolation="nearest")
    bar = figure.colorbar(
        image,
        ax=axes,
        fraction=0.2 * _BAR / side,
        pad=0.1 * _BAR / side,
        shrink=min(1.0, 3 / side),
        aspect=20,
        ticks=(0, 1, 5, 10, 25, 50, 100),
    )
    bar.set_label("% of the pixels of the true class", color=INK, fontsize=9)
    bar.outline.set_visible(False)
    axes.set_xticks(range(count), [*labels, "nothing predicted"], rotation=90, fontsize=size)
    axes.set_yticks(range(count), [*labels, "void"], fontsize=size)
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_color(GREY)
    axes.set_xlabel("predicted class", color=INK)
    axes.set_ylabel("true class", color=INK)
    for place in accumulate(groups):
        axes.axhline(place - 0.5, color=GREY, linewidth=0.8)
        axes.axvline(place - 0.5, color=GREY, linewidth=0.8)
    if few:
        _write_shares(axes, shares)
    return figure


def _write_shares(axes: Axes, shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        # A cell without pixels stays empty; one with few says so.
        if share > 0:
            text = f"{share:.0f}" if share >= 0.5 else "<1"
            color = "white" if share > 40 else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
