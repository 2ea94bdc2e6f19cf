"""How well models predict neurons, over time: the figure of neural fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rpanoptic.visualization.style import CURVES, GREY, INK, new_figure, style_axes

Row = Mapping[str, Any]

_RAW = "correlation, held-out stimuli"
_CORRECTED = "predictivity, corrected for noise"


def draw_neural_fits(rows: Sequence[Row], *, title: str = "") -> Figure:
    """Draw predictivity over time, a curve for each model and layer, a line of panels an assembly.

    On the left are correlations as measured, with a dashed line at what a perfect prediction would
    reach, given the noise of the responses. On the right, where repetitions tell the noise, they
    are corrected for it, with the interval of 95 per cent over neuroids as a band and the ceiling
    of 1 dashed. A bin in which no neuroid counts is a gap.

    Args:
        rows: of bins, see :func:`rpanoptic.pathfinder.imagenet.neural_fit.bin_rows`, with
            "assembly", "label" and "layer".
        title: over the figure.

    Raises:
        ValueError: no row has a correlation.
    """
    if all(row["correlation"] is None for row in rows):
        raise ValueError("there is no fit to draw: no neuroid counts in any bin of time")
    assemblies = list(dict.fromkeys(row["assembly"] for row in rows))
    corrected = any(row["predictivity"] is not None for row in rows)
    columns = 2 if corrected else 1
    figure = new_figure(1.4 + 4.4 * columns, 1.0 + 2.9 * len(assemblies), title)
    grid = figure.subplots(len(assemblies), columns, squeeze=False, sharex="row", sharey="col")
    looks = dict(zip(_names(rows), cycle(CURVES), strict=False))
    for line, assembly in zip(grid, assemblies, strict=True):
        mine = [row for row in rows if row["assembly"] == assembly]
        _draw_ceiling(line[0], mine)
        for name, look in looks.items():
            found = sorted(
                (row for row in mine if _name(row) == name), key=lambda row: row["time_bin_start"]
            )
            _draw_curve(line[0], found, "correlation", look)
            if corrected:
                _draw_curve(line[1], found, "predictivity", look, band=True)
        if corrected:
            line[1].axhline(1, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
        for axes, text in zip(line, (_RAW, _CORRECTED), strict=False):
            axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
            axes.set_ylabel(text)
            style_axes(axes)
            axes.set_title(assembly if len(assemblies) > 1 else "", fontsize=10, color=INK)
    for axes in grid[-1]:
        axes.set_xlabel("time from the onset of the image, ms")
    _add_legend(figure, looks, any(row["ceiling"] is not None for row in rows))
    return figure


def _name(row: Row) -> tuple[str, str]:
    return row["label"], row["layer"]


def _names(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(_name(row) for row in rows))


def _values(rows: Sequence[Row], key: str) -> np.ndarray:
    """A column, NaN where it is not known."""
    return np.array([np.nan if row[key] is None else row[key] for row in rows], dtype=float)


def _centres(rows: Sequence[Row]) -> np.ndarray:
    return (_values(rows, "time_bin_start") + _values(rows, "time_bin_end")) / 2


def _draw_curve(
    axes: Axes, rows: Sequence[Row], key: str, look: tuple[str, str, str], *, band: bool = False
) -> None:
    color, marker, dash = look
    times = _centres(rows)
    axes.plot(
        times,
        _values(rows, key),
        color=color,
        marker=marker,
        linestyle=dash,
        markersize=4,
        linewidth=1.6,
        zorder=3,
    )
    if band:
        low, high = _values(rows, f"{key}_low"), _values(rows, f"{key}_high")
        axes.fill_between(times, low, high, color=color, alpha=0.18, linewidth=0)


def _draw_ceiling(axes: Axes, rows: Sequence[Row]) -> None:
    """That of the fit with the most bins: it is a matter of the neurons alone."""
    names = [_name(row) for row in rows]
    most = max(names, key=names.count)
    longest = [row for row in rows if _name(row) == most]
    longest.sort(key=lambda row: row["time_bin_start"])
    axes.plot(
        _centres(longest),
        _values(longest, "ceiling"),
        color=GREY,
        linestyle="--",
        linewidth=1.2,
        zorder=2,
    )


def _add_legend(
    figure: Figure, looks: Mapping[tuple[str, str], tuple[str, str, str]], ceiling: bool
) -> None:
    axes = figure.axes[0]
    handles = []
    for (label, layer), (color, marker, dash) in looks.items():
        handles += axes.plot(
            [],
            [],
            color=color,
            marker=marker,
            linestyle=dash,
            markersize=4,
            label=f"{label} {layer}",
        )
    if ceiling:
        handles += axes.plot([], [], color=GREY, linestyle="--", label="noise ceiling")
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
