"""When the layers of a ConvRNN are evaluated: rows of fields, a field a step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MultipleLocator

from rpanoptic.visualization.style import BLUE, GREEN, INK, YELLOW

if TYPE_CHECKING:
    from rpanoptic.modeling.backbone.conv_rnn_graph import ConvRNNGraph

# Of a field of the grid, whose fields are 1 apart.
_WIDTH, _HEIGHT = 0.84, 0.6
_PALE, _EMPTY = "#B9D6EA", "#CFCFCF"
_READOUT: dict[str, Any] = {
    "marker": "D",
    "markersize": 7,
    "markerfacecolor": GREEN,
    "markeredgecolor": "white",
    "linestyle": "none",
}
_ARRIVAL: dict[str, Any] = {
    "marker": "o",
    "markersize": 5,
    "markerfacecolor": "white",
    "markeredgecolor": INK,
    "linestyle": "none",
}
# About as wide as a letter, in steps.
_LETTER = 0.24
# So many steps have a number each.
_NUMBERED = 20


@dataclass(frozen=True, kw_only=True)
class Unrolling:
    """How the loop of a ConvRNN is run.

    Args:
        steps: the last one; the image enters the loop in step 1.
        first: the step in which the run begins: with delay 1 as much before 1 as there are layers
            before the loop.
        delay: 1 if every edge costs a step; 0 if a step is a sweep through all layers.
        image_steps: steps of the loop that see the image before it is taken away; 0: all.
        needed: the steps at which the readouts depend on a layer, by the names of the layers of
            the loop; None where all are evaluated at every step.
        readouts: the steps after which layers of the loop are read out, by their names.

    Raises:
        ValueError: a step that is not among those of the run.
    """

    steps: int
    first: int = 1
    delay: int = 1
    image_steps: int = 0
    needed: Mapping[str, Collection[int]] | None = None
    readouts: Mapping[str, Collection[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.first > self.steps:
            raise ValueError(f"first must be at most steps, {self.steps}, got {self.first}")
        for name, given in (*(self.needed or {}).items(), *self.readouts.items()):
            strange = [step for step in given if step not in self.all]
            if strange:
                raise ValueError(
                    f"{name}: step {strange[0]} is not among {self.first} to {self.steps}"
                )

    @property
    def all(self) -> range:
        """The steps of the run."""
        return range(self.first, self.steps + 1)

    def arrival(self, graph: ConvRNNGraph, name: str) -> int:
        """The first step at which the image has a part in the output of any layer."""
        place = graph.names.index(name)
        return self.first + (place if self.delay else 0)

    def blank(self, arrival: int = 0) -> int:
        """The first step that the blank has a part in, at a layer of this arrival."""
        return arrival + self.image_steps if self.image_steps else self.steps + 1


def draw_schedule(
    axes: Axes, graph: ConvRNNGraph, unrolling: Unrolling, *, rows: Mapping[str, float]
) -> None:
    """Draw at which steps the image is there, and layers are evaluated and read out.

    Args:
        axes: its x are steps.
        graph: the network; it has a loop.
        unrolling: how that is run.
        rows: the y of "image" and of each layer, by its name.
    """
    first, last = unrolling.first, unrolling.steps
    gone = unrolling.blank(first)
    for step in unrolling.all:
        shown = step < gone
        _field(axes, step, step, rows["image"], YELLOW if shown else "white", YELLOW)
    for layer in graph.before:
        arrival = unrolling.arrival(graph, layer.name)
        gone = unrolling.blank(arrival)
        row = rows[layer.name]
        for step in range(first, min(arrival, last + 1)):
            _field(axes, step, step, row, _PALE, BLUE)
        _bar(axes, arrival, min(gone - 1, last), row, "once for the image")
        _bar(axes, gone, last, row, "once for the blank")
        _arrived(axes, arrival, row, last)
    for layer in graph.loop:
        arrival = unrolling.arrival(graph, layer.name)
        row = rows[layer.name]
        needed = unrolling.all if unrolling.needed is None else unrolling.needed[layer.name]
        for step in unrolling.all:
            if step not in needed:
                _field(axes, step, step, row, "white", _EMPTY)
            elif step < arrival:
                _field(axes, step, step, row, _PALE, BLUE)
            else:
                _field(axes, step, step, row, BLUE, BLUE)
        _arrived(axes, arrival, row, last)
    for name, steps in unrolling.readouts.items():
        for step in steps:
            axes.plot(step, rows[name], **_READOUT, zorder=5)
    _label_steps(axes, unrolling)


def schedule_legend(graph: ConvRNNGraph, unrolling: Unrolling) -> list[Artist]:
    """What fields and marks mean, as entries of a legend."""
    needed = unrolling.needed or {layer.name: unrolling.all for layer in graph.loop}
    early = any(
        step < unrolling.arrival(graph, name) for name, steps in needed.items() for step in steps
    )
    total = len(needed) * len(unrolling.all)
    count = sum(map(len, needed.values()))
    entries: list[Artist] = [Patch(facecolor=YELLOW, edgecolor=YELLOW, label="image")]
    if unrolling.blank(unrolling.first) <= unrolling.steps:
        entries.append(Patch(facecolor="white", edgecolor=YELLOW, label="blank"))
    evaluated = "evaluated" if count == total else f"evaluated by both schedules ({count})"
    entries.append(Patch(facecolor=BLUE, edgecolor=BLUE, label=evaluated))
    if early:
        text = "of these, before the image arrives: once for a batch"
        entries.append(Patch(facecolor=_PALE, edgecolor=BLUE, label=text))
    if count < total:
        text = f"by the faithful schedule alone ({total - count})"
        entries.append(Patch(facecolor="white", edgecolor=_EMPTY, label=text))
    entries.append(Line2D([], [], **_ARRIVAL, label="the image arrives"))
    if unrolling.readouts:
        entries.append(Line2D([], [], **_READOUT, label="read out"))
    return entries


def _label_steps(axes: Axes, unrolling: Unrolling) -> None:
    first, last = unrolling.first, unrolling.steps
    axes.set_xlim(first - 0.6, last + 0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=8)
    axes.tick_params(axis="y", labelleft=False)
    every = 1 if len(unrolling.all) <= _NUMBERED else 5
    axes.xaxis.set_major_locator(MultipleLocator(every))
    axes.set_xlabel("step of the loop", fontsize=9, color=INK)
    if unrolling.delay and first < 1:
        above = axes.secondary_xaxis(
            "top",
            functions=(lambda step: np.subtract(step, first), lambda time: np.add(time, first)),
        )
        above.xaxis.set_major_locator(MultipleLocator(every))
        above.spines[:].set_visible(False)
        above.tick_params(length=0, colors=INK, labelsize=8)
        above.set_xlabel("steps since the image came on", fontsize=9, color=INK)


def _bar(axes: Axes, first: int, last: int, row: float, text: str) -> None:
    """One evaluation whose result holds for several steps; the text is left out of short ones."""
    if first > last:
        return
    _field(axes, first, last, row, BLUE, BLUE)
    if len(text) * _LETTER < last - first - 0.6:
        middle = (first + last) / 2
        axes.text(middle, row, text, color="white", fontsize=7, ha="center", va="center_baseline")


def _arrived(axes: Axes, arrival: int, row: float, last: int) -> None:
    if arrival <= last:
        axes.plot(arrival, row, **_ARRIVAL, zorder=4)


def _field(axes: Axes, first: int, last: int, row: float, face: str, edge: str) -> None:
    axes.add_patch(
        Rectangle(
            (first - _WIDTH / 2, row - _HEIGHT / 2),
            last - first + _WIDTH,
            _HEIGHT,
            facecolor=face,
            edgecolor=edge,
            linewidth=0.8,
        )
    )
