from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

from rpanoptic.modeling.backbone.conv_rnn_graph import ConvRNNGraph, Layer
from rpanoptic.modeling.backbone.conv_rnn_layers import TEN_LAYERS, five_layers, ten_layers
from rpanoptic.visualization.conv_rnn_graph import draw_graph, feedback_lanes, map_sizes
from rpanoptic.visualization.conv_rnn_schedule import Unrolling
from rpanoptic.visualization.style import BLUE, GREEN, ORANGE, YELLOW, save_figure

FEEDBACK = [
    ("conv8", "conv5"),
    ("conv9", "conv6"),
    ("conv10", "conv7"),
    ("conv7", "conv6"),
    ("conv10", "conv9"),
]
TEN = ten_layers([8] * 10, cells=TEN_LAYERS[3:], feedback=FEEDBACK, residual=True)
# conv1 is before the loop of conv2 and conv3.
THREE = ConvRNNGraph(
    (
        Layer("conv1", 4, kernel_size=7, stride=2, pool=True),
        Layer("conv2", 8, cell=True),
        Layer("conv3", 8, cell=True),
    ),
    (("conv3", "conv2"),),
)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def fields(axes: Axes) -> dict[tuple[float, float], tuple[str, int]]:
    """Colour and steps of each field, by its first step and row."""
    found = {}
    for patch in axes.patches:
        assert isinstance(patch, Rectangle)
        first = round(patch.get_x() + 0.42)
        row = round(patch.get_y() + patch.get_height() / 2)
        found[first, row] = to_hex(patch.get_facecolor()).upper(), round(patch.get_width())
    return found


def row(axes: Axes, number: int) -> list[str]:
    """The colours of a row of single fields, in the order of the steps."""
    return [color for (_, y), (color, _) in sorted(fields(axes).items()) if y == number]


def marks(axes: Axes, marker: str) -> list[tuple[int, int]]:
    lines = (line for line in axes.lines if line.get_marker() == marker)
    return sorted((int(x), int(y)) for line in lines for x, y in line.get_xydata())


def test_sizes_are_rounded_up_at_strides_and_poolings() -> None:
    sizes = map_sizes(five_layers(), (224, 130))
    assert sizes["conv1"] == ((112, 65), (56, 33))
    assert sizes["conv5"] == ((7, 5), (4, 3))


def test_feedback_edges_share_a_lane_only_if_none_covers_another() -> None:
    lanes = feedback_lanes(TEN)
    assert set(lanes) == set(FEEDBACK)
    places = {edge: [TEN.names.index(name) for name in edge] for edge in lanes}
    for one, other in itertools.combinations(lanes, 2):
        if lanes[one] == lanes[other]:
            (high, low), (other_high, other_low) = places[one], places[other]
            assert high <= other_low or other_high <= low
    # Four of the five lie over the gap between conv6 and conv7, or that above it.
    assert max(lanes.values()) == 3
    assert feedback_lanes(five_layers()) == {}


def test_a_row_for_each_layer_with_its_cell_and_its_feedback() -> None:
    cells = dict.fromkeys(TEN_LAYERS[3:], "conv_gru")
    figure = draw_graph(
        TEN,
        (224, 224),
        cells=cells,
        connection="1 × 1 convolution, add",
        readout="10 classes\npooled",
        title="ten",
    )
    (axes,) = figure.axes
    found = texts(figure)
    for name in ("image", *TEN_LAYERS, "readout"):
        assert found.count(name) == 1
    assert found.count("↻ conv gru") == 7
    assert {"3 × 224 × 224", "8 × 112 × 112", "7 × 7, stride 2", "3 × 3, residual"} <= set(found)
    assert {"10 classes", "pooled"} <= set(found)
    # That of conv10 is for the feedback alone: outputs are read before it.
    assert found.count("2 × 2 max-pooling") == 4
    assert sorted(text for text in found if "→" in text) == ["4→14", "4→7", "7→28", "7→28", "7→28"]
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    colors = [to_hex(patch.get_edgecolor()).upper() for patch in arrows]
    assert colors.count(ORANGE) == 5 and len(colors) == 5 + 11
    assert len([patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]) == 12 + 7
    assert "feedback: bilinear resizing (heights in px), 1 × 1 convolution, add" in legend(figure)


def test_feedback_edges_end_at_the_layers() -> None:
    figure = draw_graph(TEN, (224, 224))
    arrows = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    ends = []
    for patch in arrows:
        if to_hex(patch.get_edgecolor()).upper() == ORANGE:
            path = patch._path_original
            ends.append(
                tuple(f"conv{round(y)}" for y in (path.vertices[0, 1], path.vertices[-1, 1]))
            )
    assert sorted(ends) == sorted(FEEDBACK)


def test_what_both_schedules_evaluate_and_what_only_one_does() -> None:
    unrolling = Unrolling(
        steps=4,
        first=0,
        image_steps=2,
        needed={"conv2": [0, 1, 2, 3], "conv3": [0, 1, 2, 3, 4]},
        readouts={"conv3": [4]},
    )
    figure = draw_graph(THREE, (32, 32), unrolling=unrolling)
    _, axes = figure.axes
    pale, empty = row(axes, 2)[0], row(axes, 2)[-1]
    assert row(axes, 0) == [YELLOW] * 2 + ["#FFFFFF"] * 3
    assert row(axes, 2) == [pale] + [BLUE] * 3 + [empty]
    assert row(axes, 3) == [pale] * 2 + [BLUE] * 3
    assert len({pale, empty, BLUE}) == 3
    # conv1 runs once for the image and once for the blank.
    found = fields(axes)
    assert found[0, 1] == (BLUE, 2) and found[2, 1] == (BLUE, 3)
    assert marks(axes, "o") == [(0, 1), (1, 2), (2, 3)]
    assert marks(axes, "D") == [(4, 3)]
    assert legend(figure)[2:] == [
        "image",
        "blank",
        "evaluated by both schedules (9)",
        "of these, before the image arrives: once for a batch",
        "by the faithful schedule alone (1)",
        "the image arrives",
        "read out",
    ]


def test_the_marked_arrivals_are_the_graphs() -> None:
    unrolling = Unrolling(steps=13, first=-2)
    for name in TEN_LAYERS[3:]:
        assert unrolling.arrival(TEN, name) == TEN.arrival(name, 1)
    sweep = Unrolling(steps=13, delay=0)
    assert {sweep.arrival(TEN, name) for name in TEN_LAYERS} == {1}


def test_a_sweep_evaluates_all_and_has_one_axis_of_time() -> None:
    figure = draw_graph(THREE, (32, 32), unrolling=Unrolling(steps=3, delay=0))
    _, axes = figure.axes
    assert row(axes, 2) == row(axes, 3) == [BLUE] * 3
    assert row(axes, 0) == [YELLOW] * 3
    assert marks(axes, "o") == [(1, 1), (1, 2), (1, 3)]
    assert axes.child_axes == []
    assert legend(figure)[2:] == ["image", "evaluated", "the image arrives"]


def test_the_paper_counts_from_the_image() -> None:
    figure = draw_graph(TEN, (32, 32), unrolling=Unrolling(steps=13, first=-2))
    figure.draw_without_rendering()
    (above,) = figure.axes[1].child_axes
    np.testing.assert_allclose(above.get_xlim(), np.array(figure.axes[1].get_xlim()) + 2)


@pytest.mark.parametrize("graph", [ten_layers([8] * 10), THREE], ids=["no loop", "no steps"])
def test_without_a_loop_or_its_steps_there_is_one_panel(graph: ConvRNNGraph) -> None:
    unrolling = None if graph.loop else Unrolling(steps=3)
    assert len(draw_graph(graph, (32, 32), unrolling=unrolling).axes) == 1


def test_no_text_leaves_the_figure_or_covers_another() -> None:
    figure = draw_graph(
        TEN,
        (224, 224),
        cells=dict.fromkeys(TEN_LAYERS, "general_reciprocal_gated"),
        readout="1000 classes\npooled, convolution",
        unrolling=Unrolling(steps=13, first=-2, image_steps=12),
        title="ten",
    )
    figure.draw_without_rendering()
    boxes = [
        text.get_window_extent() for axes in figure.axes for text in axes.texts if text.get_text()
    ]
    whole = figure.bbox
    for box in boxes:
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1
    for one, other in itertools.combinations(boxes, 2):
        # Lines of one box may touch by a pixel or two, as their extents have room for descenders.
        overlap = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert overlap < 3 or not (one.x0 < other.x1 and other.x0 < one.x1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readouts": {"conv3": [5]}}, "conv3: step 5 is not among 0 to 4"),
        ({"needed": {"conv2": [-1]}}, "conv2: step -1 is not among 0 to 4"),
        ({"first": 5}, "first must be at most steps, 4, got 5"),
    ],
)
def test_impossible_steps(options: dict[str, Sequence[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Unrolling(**{"steps": 4, "first": 0} | options)


def test_an_image_without_pixels() -> None:
    with pytest.raises(ValueError, match="0 x 32"):
        draw_graph(THREE, (0, 32))


def test_a_saved_picture_of_few_colours(tmp_path: Path) -> None:
    figure = draw_graph(THREE, (32, 32), unrolling=Unrolling(steps=3, readouts={"conv3": [3]}))
    whole = save_figure(tmp_path / "whole.png", figure)
    small = save_figure(tmp_path / "small.png", figure, colors=64)
    with Image.open(whole) as one, Image.open(small) as other:
        pixels = [np.asarray(image.convert("RGB")).astype(int) for image in (one, other)]
        assert len(other.getcolors()) <= 64
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    # Of 255; the shades of the letters' edges are those that differ.
    assert np.abs(pixels[0] - pixels[1]).mean() < 1
    green = 255 * np.array(to_rgb(GREEN))
    assert (np.abs(pixels[1] - green).max(-1) < 16).any()
