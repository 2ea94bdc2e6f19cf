"""What a classifier of pictures answers: under each picture, and on the whole over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rpanoptic.visualization.style import CURVES, new_figure, style_axes


def draw_accuracy_over_steps(
    steps: Sequence[int], accuracies: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw accuracies against the steps after which a recurrent classifier is read out.

    Args:
        steps: at least one, ascending.
        accuracies: name of a curve -> per cent for each of the steps.

    Returns:
        one panel, its axis of accuracy from 0 to 100.

    Raises:
        ValueError: a curve has another number of points than there are steps.
    """
    figure = new_figure(5, 3.4, "")
    axes = figure.add_subplot()
    style_axes(axes)
    for (name, values), (color, marker, dash) in zip(accuracies.items(), CURVES, strict=False):
        if len(values) != len(steps):
            raise ValueError(f"{name} has {len(values)} points for {len(steps)} steps")
        axes.plot(
            steps, values, color=color, marker=marker, linestyle=dash, markersize=5, label=name
        )
    axes.set(xlabel="readout after step", ylabel="accuracy, %", ylim=(0, 101))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(accuracies) > 1:
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure
