"""Figures of a study: how it went, and what mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from rpanoptic.visualization.style import BLUE, GREY, INK, ORANGE, new_figure, style_axes

# Parameters that the figure of importance shows.
_SHOWN = 15


def draw_history(trials: Sequence[FrozenTrial], best: Sequence[FrozenTrial], metric: str) -> Figure:
    """Draw the results of the trials in their order, and the best so far.

    Args:
        trials: that have ended. Of those stopped early the last evaluation is shown; of those that
            failed, that they did.
        best: the completed ones that count, in any order.
        metric: name of the result.
    """
    figure = new_figure(6.8, 3.8, "")
    axes = figure.subplots()
    style_axes(axes)
    counting = {trial.number for trial in best}
    done = sorted(best, key=lambda trial: trial.number)
    stopped = [t for t in trials if t.number not in counting and t.last_step is not None]
    failed = [t.number for t in trials if t.state == TrialState.FAIL]
    if stopped:
        last = [t.intermediate_values[t.last_step] for t in stopped if t.last_step is not None]
        axes.plot(
            [t.number for t in stopped], last, "x", color=GREY, markersize=5, label="stopped early"
        )
    if done:
        numbers = [trial.number for trial in done]
        values = np.array([trial.value for trial in done], float)
        axes.plot(numbers, values, "o", color=BLUE, markersize=4, label="trial")
        axes.step(
            [*numbers, max(t.number for t in trials)],
            [*np.maximum.accumulate(values), values.max()],
            where="post",
            color=ORANGE,
            linewidth=1.4,
            label="best so far",
        )
    if failed:
        axes.plot(
            failed,
            np.zeros(len(failed)),
            "|",
            color=INK,
            markersize=8,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            label="failed",
        )
    axes.set_xlabel("trial")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def draw_importances(importances: Mapping[str, float]) -> Figure:
    """Draw the importances of the parameters that have the largest, as bars.

    Args:
        importances: by name, which add up to 1, the largest first; at least one.
    """
    shown = list(importances.items())[:_SHOWN]
    figure = new_figure(6.8, 0.26 * len(shown) + 0.9, "")
    axes = figure.subplots()
    style_axes(axes)
    places = np.arange(len(shown))
    axes.barh(places, [value for _, value in shown], color=BLUE, height=0.65)
    axes.set_yticks(places, [name for name, _ in shown])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("importance, of 1 in all")
    return figure
