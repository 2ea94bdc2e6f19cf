"""What a classifier of pictures answers: under each picture, and on the whole over time."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rpanoptic.visualization.style import (
    BLUE,
    CURVES,
    GREEN,
    GREY,
    INK,
    ORANGE,
    new_figure,
    style_axes,
)

# A cell with a picture and its answer: inches, dots an inch, share of the panel below the picture.
_WIDTH, _HEIGHT, _DPI = 4.4, 5.8, 100
_PANEL = 0.4
# Characters of a class's name in a title and beside a bar.
_TITLE, _BAR = 26, 16
_BARS = 3


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
        axes.legend(frameon=False, fontsize=9)
    return figure


def draw_answer(
    image: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    label: int,
    *,
    answer: np.ndarray,
    steps: Sequence[int],
) -> np.ndarray:
    """Draw a picture with the answer above it and the way to the answer below.

    A right answer is marked by a tick and green, a wrong one by a cross, orange and the true class.
    Below stand, for several readouts, the probability of the true class after each step and that of
    a wrong answer, else the most probable classes.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        probabilities: ``(R, K)``, of each readout.
        classes: names of the K classes.
        label: the true class, 0 to K - 1.
        answer: ``(K,)``, the probabilities of the answer.
        steps: after which the R readouts were taken.

    Returns:
        ``(H, W, 3)`` uint8, RGB; of one size, whatever is drawn.

    Raises:
        ValueError: arrays of other shapes.
    """
    shape = (len(steps), len(classes))
    if probabilities.shape != shape or answer.shape != shape[1:]:
        raise ValueError(
            f"probabilities must be {shape} and the answer's {shape[1:]}, got "
            f"{probabilities.shape} and {answer.shape}"
        )
    found = int(answer.argmax())
    figure = new_figure(_WIDTH, _HEIGHT, "")
    picture, panel = figure.subplots(2, height_ratios=(1 - _PANEL, _PANEL))
    # Small pictures with whole pixels: smoothed, they would seem to be finer than they are.
    small = max(image.shape[:2]) < 100
    picture.imshow(image, interpolation="nearest" if small else "antialiased")
    picture.set_axis_off()
    text = f"{_short(classes[found], _TITLE)}, {answer[found]:.0%}"
    right = found == label
    # Two lines in any case, so that the pictures of a grid stand in rows.
    title = f"✓ {text}\n " if right else f"✗ {text}\nit is {_short(classes[label], _TITLE)}"
    picture.set_title(title, fontsize=13, color=GREEN if right else ORANGE)
    style_axes(panel)
    if len(steps) > 1:
        _draw_course(panel, steps, probabilities, label, found)
    else:
        _draw_bars(panel, answer, classes, label)
    return _pixels(figure)


def _draw_course(
    panel: Axes, steps: Sequence[int], probabilities: np.ndarray, label: int, found: int
) -> None:
    """The true class over the steps, and a wrong answer beside it."""
    panel.plot(steps, 100 * probabilities[:, label], color=BLUE, marker="o", label="true class")
    if found != label:
        wrong = 100 * probabilities[:, found]
        panel.plot(steps, wrong, color=ORANGE, marker="s", linestyle="--", label="answer")
        panel.legend(frameon=False, fontsize=9)
    panel.set(xlabel="readout after step", ylabel="probability, %", ylim=(-3, 103))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_bars(panel: Axes, answer: np.ndarray, classes: Sequence[str], label: int) -> None:
    """The most probable classes; the bar of the true one is blue and its name bold."""
    shown = np.argsort(-answer, kind="stable")[:_BARS]
    colors = [BLUE if one == label else GREY for one in shown]
    panel.barh(range(len(shown)), 100 * answer[shown], color=colors)
    names = [_short(classes[one], _BAR) for one in shown]
    panel.set_yticks(range(len(shown)), names, color=INK)
    for one, text in zip(shown, panel.get_yticklabels(), strict=True):
        text.set_fontweight("bold" if one == label else "normal")
    panel.set(xlabel="probability, %", xlim=(0, 100))
    panel.invert_yaxis()


def _short(name: str, most: int) -> str:
    return textwrap.shorten(name, most, placeholder="...")


def _pixels(figure: Figure) -> np.ndarray:
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
