"""Results against test steps: the figure that shows whether a model holds past its training.

As in figure 4 of Linsley et al. (NeurIPS 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rpanoptic.visualization.style import CURVES, INK, new_figure, style_axes

Row = Mapping[str, Any]

# About so many points of a curve have a marker.
_MARKERS = 20


@dataclass(frozen=True)
class Curve:
    """A result of one method against the steps, over its seeds.

    Attributes:
        label: name of the method.
        trained_steps: those of its seeds, ascending, each once; empty without recurrence.
        steps: ``(S,)``, ascending; empty without recurrence.
        values: ``(S, seeds)``, or ``(1, seeds)`` without recurrence; NaN where a seed was not
            evaluated.
    """

    label: str
    trained_steps: tuple[int, ...]
    steps: np.ndarray
    values: np.ndarray

    @property
    def seeds(self) -> int:
        """Number of checkpoints that have a value."""
        return int(np.isfinite(self.values).any(axis=0).sum())

    def over_seeds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, least and largest of the seeds that have a value, ``(S,)`` each."""
        values = self.values
        return np.nanmean(values, axis=1), np.nanmin(values, axis=1), np.nanmax(values, axis=1)


def curves(rows: Sequence[Row], metric: str) -> list[Curve]:
    """Gather the rows of a sweep into curves, a label each.

    Args:
        rows: of one dataset, with "label", "weights_sha256", "trained_steps", "test_steps" (None
            without recurrence) and the metric; those without it are left out.
        metric: name of a column.

    Raises:
        ValueError: a label stands for models with recurrence and without.
    """
    rows = [row for row in rows if row.get(metric) is not None]
    found = []
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        steps = sorted({row["test_steps"] for row in mine if row["test_steps"] is not None})
        if steps and any(row["test_steps"] is None for row in mine):
            raise ValueError(f"label {label!r} names recurrent and feed-forward checkpoints")
        seeds = list(dict.fromkeys(row["weights_sha256"] for row in mine))
        places = {count: place for place, count in enumerate(steps or [None])}
        values = np.full((len(places), len(seeds)), np.nan)
        for row in mine:
            values[places[row["test_steps"]], seeds.index(row["weights_sha256"])] = row[metric]
        trained = {row["trained_steps"] for row in mine} - {None}
        found.append(Curve(label, tuple(sorted(trained)), np.array(steps, int), values))
    return found


def draw_step_sweep(panels: Mapping[str, Sequence[Curve]], name: str, *, title: str = "") -> Figure:
    """Draw curves against the test steps, with a vertical line at the steps of training.

    Where a method has several seeds, the line is their mean and the band reaches from the least to
    the largest. A model without recurrence is a horizontal line. A label looks the same in all
    panels, and their axes are the same.

    Args:
        panels: the curves of each dataset, by its name, which stands over the panel if there are
            several; at least one curve in all.
        name: of the result, for the axis.
        title: over the figure.

    Raises:
        ValueError: no curve.
    """
    every = [curve for shown in panels.values() for curve in shown]
    if not every:
        raise ValueError("there is no curve to draw")
    columns = math.ceil(math.sqrt(len(panels)))
    lines = math.ceil(len(panels) / columns)
    width, height = (6.8, 4.2) if len(panels) == 1 else (4.2 * columns, 2.8 * lines + 0.6)
    figure = new_figure(width, height, title)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    last = max((int(curve.steps.max()) for curve in every if curve.steps.size), default=1)
    looks = dict(zip(dict.fromkeys(curve.label for curve in every), cycle(CURVES), strict=False))
    legend = {label: _legend(label, every) for label in looks}
    for place, (dataset, shown) in enumerate(panels.items()):
        axes = grid[place]
        for curve in shown:
            color, marker, dash = looks[curve.label]
            # Once for all panels.
            text = legend.pop(curve.label, None)
            if curve.steps.size:
                _draw_curve(axes, curve, color, marker, dash, text)
            else:
                _draw_level(axes, curve, color, max(last, 2), text)
        axes.set_xlim(0.4, max(last, 2) + 0.6)
        axes.margins(y=0.06)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        style_axes(axes)
        axes.set_title(dataset if len(panels) > 1 else "", fontsize=10, color=INK)
        if place + columns >= len(panels):
            axes.set_xlabel("test steps; vertical lines: steps in training")
        if place % columns == 0:
            axes.set_ylabel(name)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _draw_curve(
    axes: Axes, curve: Curve, color: str, marker: str, dash: str, text: str | None
) -> None:
    mean, low, high = curve.over_seeds()
    axes.plot(
        curve.steps,
        mean,
        color=color,
        marker=marker,
        markersize=4,
        markevery=math.ceil(len(mean) / _MARKERS),
        linestyle=dash,
        linewidth=1.6,
        label=text,
        zorder=3,
    )
    if curve.seeds > 1:
        axes.fill_between(curve.steps, low, high, color=color, alpha=0.18, linewidth=0)
    for trained in curve.trained_steps:
        axes.axvline(trained, color=color, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        at = np.flatnonzero(curve.steps == trained)
        # Lines of methods with equal steps hide each other; the rings stay apart.
        axes.scatter(
            curve.steps[at],
            mean[at],
            s=90,
            facecolors="none",
            edgecolors=color,
            linewidths=1.4,
            zorder=4,
            clip_on=False,
        )


def _draw_level(axes: Axes, curve: Curve, color: str, last: int, text: str | None) -> None:
    mean, low, high = (float(value[0]) for value in curve.over_seeds())
    (line,) = axes.plot([1, last], [mean, mean], color=color, linestyle=":", zorder=2)
    line.set(linewidth=1.8, label=text)
    if curve.seeds > 1:
        axes.axhspan(low, high, color=color, alpha=0.12, linewidth=0)


def _legend(label: str, curves: Sequence[Curve]) -> str:
    """The label, with the number of its seeds; datasets need not have the same."""
    seeds = sorted({curve.seeds for curve in curves if curve.label == label})
    if seeds == [1]:
        return label
    return f"{label} ({' or '.join(map(str, seeds))} seeds)"
