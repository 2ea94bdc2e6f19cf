"""A picture of a ConvRNN: its layers and their feedback, and beside them its course in time.

A row stands for the same layer in both panels. The image comes in at the bottom.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from rpanoptic.visualization.conv_rnn_schedule import Unrolling, draw_schedule, schedule_legend
from rpanoptic.visualization.style import BLUE, GREEN, GREY, INK, ORANGE, YELLOW, new_figure

if TYPE_CHECKING:
    from rpanoptic.modeling.backbone.conv_rnn_graph import ConvRNNGraph, Layer

# Inches. Rows, the y of both panels, are 1 apart; the x of the left panel are inches.
_ROW, _LANE, _STEP = 0.56, 0.32, 0.31
_BOX, _GAP, _CELL, _MARGIN = 1.85, 0.22, 1.5, 0.1
# The least width of a figure; a line of its legend.
_LEAST, _LINE = 3.6, 0.17
# In rows.
_BOX_HEIGHT, _PORTS = 0.62, 0.4
# In inches, of the corners of boxes and of feedback edges.
_CORNER = 0.06
_CELL_COLOR = "#DCEBF5"
_HEAD = "-|>,head_width=2.4,head_length=4.5"

Size = tuple[int, int]
Edge = tuple[str, str]


def draw_graph(
    graph: ConvRNNGraph,
    size: Size,
    *,
    cells: Mapping[str, str] | None = None,
    connection: str = "",
    readout: str = "",
    unrolling: Unrolling | None = None,
    title: str = "",
) -> Figure:
    """Draw a network and, where it has a loop, when its layers are evaluated.

    Args:
        graph: the network.
        size: height and width of the image, px.
        cells: what the cells are called, by the names of their layers; else "cell".
        connection: what a feedback does after it is resized, such as "1 x 1 convolution, add".
        readout: what reads the last layer out, such as "1000 classes"; what follows a line break
            is written smaller. "" for nothing.
        unrolling: how the loop is run; None leaves the second panel out.
        title: over the figure.

    Raises:
        ValueError: an image without pixels.
    """
    if min(size) < 1:
        raise ValueError(f"an image has a pixel at least, got {size[0]} x {size[1]}")
    names = ["image", *graph.names, *(["readout"] if readout else [])]
    rows = {name: float(row) for row, name in enumerate(names)}
    lanes = feedback_lanes(graph)
    left = _LANE * (max(lanes.values(), default=-1) + 1) + _GAP
    held = any(layer.cell for layer in graph.layers)
    right = left + _BOX + (_GAP + _CELL if held else 0) + _MARGIN
    timed = unrolling if graph.loop else None
    widths = [right] if timed is None else [right, len(timed.all) * _STEP]
    figure = new_figure(max(sum(widths) + 0.5, _LEAST), len(rows) * _ROW + 1.4, title)
    panels = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    axes = panels[0]
    axes.set(
        xlim=(0, max(right, _LEAST - 0.5) if timed is None else right), ylim=(-0.6, len(rows) - 0.4)
    )
    axes.axis("off")
    sizes = map_sizes(graph, size)
    channels = graph.input_channels
    _draw_end(axes, left, rows["image"], "image", _shape(channels, size), YELLOW)
    for layer in graph.layers:
        _draw_layer(axes, left, rows[layer.name], layer, sizes[layer.name])
        if layer.cell:
            _draw_cell(axes, left + _BOX, rows[layer.name], (cells or {}).get(layer.name, "cell"))
    if readout:
        _draw_end(axes, left, rows["readout"], "readout", readout, GREEN)
    _draw_forward(axes, left, graph, rows)
    _draw_feedback(axes, left, graph, rows, lanes, sizes)
    entries = _chain_legend(graph, connection)
    if timed is not None:
        draw_schedule(panels[1], graph, timed, rows=rows)
        entries += schedule_legend(graph, timed)
    _add_legend(figure, entries, most=2 if timed is None else 3)
    return figure


def map_sizes(graph: ConvRNNGraph, size: Size) -> dict[str, tuple[Size, Size]]:
    """Height and width of each layer's output, and of what others read of it after its pooling.

    Args:
        graph: the network.
        size: of the image, px.
    """
    sizes: dict[str, tuple[Size, Size]] = {}
    for layer in graph.layers:
        own = _divided(size, layer.stride)
        size = _divided(own, 2 if layer.pool else 1)
        sizes[layer.name] = own, size
    return sizes


def feedback_lanes(graph: ConvRNNGraph) -> dict[Edge, int]:
    """A column for each feedback edge, 0 beside the layers, so that none covers another."""

    def span(edge: Edge) -> tuple[int, int]:
        source, target = edge
        return graph.names.index(target), graph.names.index(source)

    lanes: dict[Edge, int] = {}
    for edge in sorted(graph.feedback, key=lambda edge: (span(edge)[1] - span(edge)[0], edge)):
        low, high = span(edge)
        # Edges that only share a layer may be in one column: one ends above where the other begins.
        taken = {
            lane for other, lane in lanes.items() if low < span(other)[1] and span(other)[0] < high
        }
        lanes[edge] = next(lane for lane in range(len(lanes) + 1) if lane not in taken)
    return lanes


def _draw_layer(axes: Axes, x: float, row: float, layer: Layer, sizes: tuple[Size, Size]) -> None:
    what = [f"{layer.kernel_size} × {layer.kernel_size}"]
    if layer.stride > 1:
        what.append(f"stride {layer.stride}")
    if layer.residual:
        what.append("residual")
    _draw_box(axes, x, row, _BOX, "white", GREY)
    shape = _shape(layer.out_channels, sizes[0])
    _write(axes, x, row, layer.name, shape, ", ".join(what))


def _draw_end(axes: Axes, x: float, row: float, name: str, text: str, color: str) -> None:
    _draw_box(axes, x, row, _BOX, "white", color)
    text, _, detail = text.partition("\n")
    _write(axes, x, row, name, text, detail)


def _write(axes: Axes, x: float, row: float, name: str, text: str, detail: str) -> None:
    height = 0.13 if detail else 0.0
    left, right = x + 0.1, x + _BOX - 0.1
    axes.text(left, row, name, fontsize=8.5, weight="bold", color=INK, va="center_baseline")
    place: dict[str, Any] = {"ha": "right", "va": "center_baseline", "color": INK}
    axes.text(right, row + height, text, fontsize=8, **place)
    axes.text(right, row - height, detail, fontsize=7, **place)


def _draw_cell(axes: Axes, x: float, row: float, name: str) -> None:
    axes.plot([x, x + _GAP], [row, row], color=BLUE, linewidth=1.2, zorder=0)
    _draw_box(axes, x + _GAP, row, _CELL, _CELL_COLOR, BLUE)
    text = f"↻ {name.replace('_', ' ')}"
    size = min(8.0, 8.0 * 23 / len(text))
    middle = x + _GAP + _CELL / 2
    axes.text(middle, row, text, fontsize=size, color=INK, ha="center", va="center_baseline")


def _draw_box(axes: Axes, x: float, row: float, width: float, face: str, edge: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, row - _BOX_HEIGHT / 2),
            width,
            _BOX_HEIGHT,
            boxstyle=f"round,pad=0,rounding_size={_CORNER}",
            mutation_aspect=1 / _ROW,
            facecolor=face,
            edgecolor=edge,
            linewidth=1.2,
        )
    )


def _draw_forward(axes: Axes, left: float, graph: ConvRNNGraph, rows: Mapping[str, float]) -> None:
    x = left + _BOX / 2
    names = list(rows)
    for name, following in pairwise(names):
        start, end = rows[name] + _BOX_HEIGHT / 2, rows[following] - _BOX_HEIGHT / 2
        axes.add_patch(_arrow([(x, start), (x, end)], INK))
        # An output is read before its pooling.
        if following in graph.names and name in graph.names and graph[name].pool:
            middle = (start + end) / 2
            axes.text(
                x + 0.1, middle, "2 × 2 max-pooling", fontsize=6.5, color=INK, va="center_baseline"
            )


def _draw_feedback(
    axes: Axes,
    left: float,
    graph: ConvRNNGraph,
    rows: Mapping[str, float],
    lanes: Mapping[Edge, int],
    sizes: Mapping[str, tuple[Size, Size]],
) -> None:
    ports = _ports(graph, lanes)
    for edge, lane in lanes.items():
        source, target = edge
        x = left - _GAP - _LANE * (lane + 0.4)
        start, end = (rows[name] + ports[edge, name] for name in edge)
        axes.add_patch(_arrow([(left, start), (x, start), (x, end), (left, end)], ORANGE))
        # Between two rows, where no other edge passes.
        middle = (rows[source] + rows[target]) // 2 + 0.5
        axes.text(
            x,
            middle,
            f"{sizes[source][1][0]}→{sizes[target][0][0]}",
            fontsize=6.5,
            color=INK,
            rotation=90,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )


def _ports(graph: ConvRNNGraph, lanes: Mapping[Edge, int]) -> dict[tuple[Edge, str], float]:
    """Where edges leave and enter a layer, in rows from its middle, so that few cross."""
    found = {}
    for name in graph.names:
        entering = sorted((e for e in lanes if e[1] == name), key=lanes.__getitem__)
        leaving = sorted((e for e in lanes if e[0] == name), key=lanes.__getitem__, reverse=True)
        edges = [*entering, *leaving]
        for place, edge in enumerate(edges):
            found[edge, name] = _PORTS * (0.5 - (place + 0.5) / len(edges))
    return found


def _arrow(points: list[tuple[float, float]], color: str) -> FancyArrowPatch:
    """An arrow along points; the corners between them are rounded."""
    vertices, codes = [points[0]], [Path.MOVETO]
    for before, (x, y), after in zip(points, points[1:], points[2:], strict=False):
        vertices += [_towards((x, y), before), (x, y), _towards((x, y), after)]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    path = Path([*vertices, points[-1]], [*codes, Path.LINETO])
    return FancyArrowPatch(
        path=path, arrowstyle=_HEAD, color=color, linewidth=1.2, joinstyle="miter", zorder=1.5
    )


def _towards(point: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """A corner's length from a point, along one of the axes."""
    (x, y), (to_x, to_y) = point, other
    if x == to_x:
        return x, y + (_CORNER / _ROW if to_y > y else -_CORNER / _ROW)
    return x + (_CORNER if to_x > x else -_CORNER), y


def _chain_legend(graph: ConvRNNGraph, connection: str) -> list[Artist]:
    entries: list[Artist] = [Line2D([], [], color=INK, linewidth=1.2, label="feed-forward")]
    if graph.feedback:
        words = ["bilinear resizing (heights in px)", *([connection] if connection else [])]
        text = f"feedback: {', '.join(words)}"
        entries.append(Line2D([], [], color=ORANGE, linewidth=1.2, label=text))
    return entries


def _add_legend(figure: Figure, entries: list[Artist], *, most: int) -> None:
    """Below the panels, in as many columns as there is room for; the figure grows by its lines."""
    width, height = figure.get_size_inches()
    for columns in range(most, 0, -1):
        legend = figure.legend(
            handles=entries,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=8,
            labelcolor=INK,
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            more = -(-len(entries) // columns) - -(-len(entries) // most)
            figure.set_size_inches(width, height + more * _LINE)
            return
        legend.remove()


def _shape(channels: int, size: Size) -> str:
    return f"{channels} × {size[0]} × {size[1]}"


def _divided(size: Size, divisor: int) -> Size:
    return -(-size[0] // divisor), -(-size[1] // divisor)
