"""Figures of how a recurrence behaves: its residuals, its Jacobian, its course over many steps.

The functions take plain arrays, as :mod:`rpanoptic.recurrent.stability` gives them (``numpy`` reads
a CPU tensor as it is), and return figures that belong to no global state of Matplotlib.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from rpanoptic.visualization.style import BLUE, GREY, INK, ORANGE, new_figure, style_axes

_COLORMAP = "viridis"
_WIDTH, _HEIGHT = 6.4, 4.0
# Of so many samples a trajectory is drawn.
MAX_PANELS = 12
_LEAST_EXTENT = 0.2
_PANEL_COLUMNS = 4


def draw_residuals(residual: ArrayLike, trained_steps: int, *, title: str = "") -> Figure:
    """Draw the relative change of the state over the steps, on a logarithmic axis.

    Args:
        residual: ``(steps, N)``, above 0 where it is to be seen; a line for each sample and a
            strong one for their median.
        trained_steps: the steps in training, marked.
        title: over the figure.

    Raises:
        ValueError: not ``(steps, N)``, or empty.
    """
    values = _samples_over_steps("residual", residual)
    figure, axes = _one_panel(title)
    # An exact equilibrium has no place on a logarithmic axis; its line ends.
    _draw_lines(axes, np.where(values > 0, values, np.nan))
    axes.set_yscale("log")
    axes.set_ylabel("relative change of the state")
    _finish_steps(axes, len(values), trained_steps)
    return figure


def draw_past_trained_steps(
    distance: ArrayLike,
    trained_steps: int,
    *,
    score: ArrayLike | None = None,
    score_name: str = "score",
    title: str = "",
) -> Figure:
    """Draw how far the state is from that after the trained steps, and a score if there is one.

    Args:
        distance: ``(steps, N)``, relative to the norm of the state after the trained steps.
        trained_steps: the steps in training, marked.
        score: ``(steps, N)``, drawn in a panel below.
        score_name: what the score is, for its axis.
        title: over the figure.

    Raises:
        ValueError: not ``(steps, N)``, or empty; a score of another shape.
    """
    values = _samples_over_steps("distance", distance)
    panels = [("relative distance to the state\nafter the trained steps", values)]
    if score is not None:
        scores = _samples_over_steps("score", score)
        if scores.shape != values.shape:
            raise ValueError(f"score must be {values.shape} like distance, got {scores.shape}")
        panels.append((score_name, scores))
    figure = new_figure(_WIDTH, _HEIGHT if score is None else 1.6 * _HEIGHT, title)
    column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, lines) in zip(column, panels, strict=True):
        style_axes(axes)
        _draw_lines(axes, lines)
        axes.set_ylabel(label)
        _finish_steps(axes, len(lines), trained_steps, last=axes is column[-1])
    column[0].set_ylim(bottom=0)
    return figure


def draw_spectrum(
    spectral_radius: ArrayLike, largest_singular_value: ArrayLike, *, title: str = ""
) -> Figure:
    """Draw spectral radius and largest singular value of the state Jacobian, a dot a sample.

    Left of the line at 1 an equilibrium is stable (radius), or the step contracts (singular
    value).

    Args:
        spectral_radius: ``(N,)``.
        largest_singular_value: ``(N,)``.
        title: over the figure.

    Raises:
        ValueError: not ``(N,)`` both, or empty.
    """
    rows = [np.asarray(spectral_radius, float), np.asarray(largest_singular_value, float)]
    if rows[0].ndim != 1 or rows[0].shape != rows[1].shape or not rows[0].size:
        raise ValueError(
            "spectral_radius and largest_singular_value must be (N,) both, N at least 1; "
            f"got {rows[0].shape} and {rows[1].shape}"
        )
    figure, axes = _one_panel(title, height=0.6 * _HEIGHT)
    # Even spacing around the row's middle: dots of equal values stay apart, without chance.
    spread = np.linspace(-0.2, 0.2, rows[0].size) if rows[0].size > 1 else np.zeros(1)
    for place, (values, color) in enumerate(zip(rows, (BLUE, ORANGE), strict=True)):
        axes.scatter(values, place + spread, s=26, color=color, alpha=0.75, linewidths=0)
        if np.isfinite(values).any():
            middle = np.nanmedian(values)
            axes.plot([middle] * 2, [place - 0.33, place + 0.33], color=INK, linewidth=1.5)
    axes.axvline(1, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks([0, 1], ["spectral radius", "largest\nsingular value"])
    axes.set_ylim(1.5, -0.5)
    axes.tick_params(axis="y", length=0)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), max(high, 1.1))
    axes.set_xlabel("state Jacobian at the trained steps; bars are medians")
    axes.grid(axis="y", visible=False)
    return figure


def draw_components(
    projections: ArrayLike, explained: ArrayLike, trained_steps: int, *, title: str = ""
) -> Figure:
    """Draw the trajectory of each sample in the plane of its first two principal components.

    Lengths are in units of its largest distance from the mean. Of more than twelve samples the
    first twelve are drawn.

    Args:
        projections: ``(steps, N, components)`` with at least two components; point i is the
            state after step i + 1.
        explained: ``(N, components)``, shares of the variance.
        trained_steps: the steps in training, marked.
        title: over the figure.

    Raises:
        ValueError: arrays of other shapes, or empty; a trajectory that ends before the trained
            steps.
    """
    points, shares = np.asarray(projections, float), np.asarray(explained, float)
    if points.ndim != 3 or points.shape[2] < 2 or 0 in points.shape:
        raise ValueError(
            "projections must be (steps, N, components), with at least 2 components, and not "
            f"empty; got {points.shape}"
        )
    if shares.shape != points.shape[1:]:
        raise ValueError(f"explained must be {points.shape[1:]}, got {shares.shape}")
    if not 1 <= trained_steps <= len(points):
        raise ValueError(f"trained_steps must be 1 to {len(points)}, got {trained_steps}")
    samples = min(points.shape[1], MAX_PANELS)
    rows = math.ceil(samples / _PANEL_COLUMNS)
    columns = math.ceil(samples / rows)
    width = max(_WIDTH * 0.75, 2.6 * columns + 0.9)
    figure = new_figure(width, 2.5 * rows + 0.9, title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[samples:]:
        axes.set_visible(False)
    panels = list(grid.flat[:samples])
    for number, axes in enumerate(panels):
        style_axes(axes)
        dots = _draw_trajectory(axes, points[:, number, :2], trained_steps)
        first, second = (f"{100 * share:.0f} %" for share in shares[number, :2])
        axes.set_xlabel(f"component 1 ({first})", fontsize=8)
        axes.set_ylabel(f"component 2 ({second})", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(f"sample {number + 1}", fontsize=9, color=INK)
    bar = figure.colorbar(dots, ax=panels, aspect=30, pad=0.02)
    bar.set_label("step", fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    bar.outline.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _samples_over_steps(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be (steps, N) and not empty, got {array.shape}")
    return array


def _one_panel(title: str, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure = new_figure(_WIDTH, height, title)
    axes = figure.subplots()
    style_axes(axes)
    return figure, axes


def _draw_lines(axes: Axes, values: np.ndarray) -> None:
    """A thin line for each sample, a strong one for the median of those that are finite."""
    steps = np.arange(1, len(values) + 1)
    shown = np.where(np.isfinite(values), values, np.nan)
    if shown.shape[1] > 1:
        lines = axes.plot(steps, shown, color=BLUE, linewidth=0.8, alpha=0.35)
        lines[0].set_label("a sample")
    known = np.isfinite(shown).any(axis=1)
    median = np.full(len(shown), np.nan)
    median[known] = np.nanmedian(shown[known], axis=1)
    label = "median" if shown.shape[1] > 1 else "the sample"
    axes.plot(steps, median, color=BLUE, linewidth=2, label=label)


def _finish_steps(axes: Axes, steps: int, trained_steps: int, *, last: bool = True) -> None:
    axes.axvline(
        trained_steps,
        color=ORANGE,
        linewidth=1.2,
        linestyle="--",
        label=f"trained steps ({trained_steps})",
    )
    axes.set_xlim(1, max(steps, trained_steps, 2))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if last:
        axes.set_xlabel("step")
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def _draw_trajectory(axes: Axes, points: np.ndarray, trained_steps: int) -> PathCollection:
    """The path of ``(steps, 2)`` points, its dots coloured by step, in units of its reach.

    Returns:
        the dots.
    """
    reach = np.linalg.norm(points, axis=1).max()
    first, second = points.T / (reach if reach > 0 else 1)
    axes.plot(first, second, color=GREY, linewidth=0.8, zorder=1)
    steps = np.arange(1, len(points) + 1)
    dots = axes.scatter(first, second, c=steps, cmap=_COLORMAP, s=14, linewidths=0, zorder=2)
    marks = [(1, "o", 70, INK, "step 1"), (trained_steps, "D", 60, ORANGE, "trained steps")]
    for step, marker, size, color, label in marks:
        axes.scatter(
            first[step - 1],
            second[step - 1],
            marker=marker,
            s=size,
            facecolors="none",
            edgecolors=color,
            linewidths=1.4,
            label=label if step == 1 else f"{label} ({step})",
            zorder=3,
        )
    axes.margins(0.12)
    for bounds, widen in ((axes.get_xlim, axes.set_xlim), (axes.get_ylim, axes.set_ylim)):
        low, high = bounds()
        # Without a least extent a straight path would show its rounding errors, enlarged.
        missing = max(_LEAST_EXTENT - (high - low), 0)
        widen(low - missing / 2, high + missing / 2)
    return dots
