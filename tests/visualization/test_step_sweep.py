from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from rpanoptic.visualization.step_sweep import Curve, curves, draw_step_sweep


def row(label: str, seed: int, steps: int | None, value: float | None) -> dict[str, Any]:
    trained = None if steps is None else 3
    names = {"label": label, "weights_sha256": f"{label}{seed}", "trained_steps": trained}
    return names | {"test_steps": steps, "PQ": value}


ROWS = [
    row("bptt", 1, 1, 10.0),
    row("bptt", 1, 3, 30.0),
    row("bptt", 2, 3, 34.0),
    row("bptt", 2, 9, 20.0),
    row("bptt", 2, 1, None),
    row("baseline", 1, None, 25.0),
    row("baseline", 2, None, 27.0),
]


def test_curves_gather_the_seeds_of_a_label() -> None:
    bptt, baseline = curves(ROWS, "PQ")
    assert (bptt.label, bptt.trained_steps, bptt.seeds) == ("bptt", (3,), 2)
    assert bptt.steps.tolist() == [1, 3, 9]
    mean, low, high = bptt.over_seeds()
    assert mean.tolist() == [10, 32, 20]
    assert low.tolist() == [10, 30, 20] and high.tolist() == [10, 34, 20]
    assert (baseline.trained_steps, baseline.steps.size, baseline.seeds) == ((), 0, 2)
    np.testing.assert_array_equal(baseline.values, [[25, 27]])
    assert curves(ROWS, "AP") == []


def test_a_label_of_two_kinds_is_refused() -> None:
    with pytest.raises(ValueError, match="'bptt' names recurrent and feed-forward"):
        curves([*ROWS, row("bptt", 3, None, 1.0)], "PQ")


def test_lines_bands_and_marks() -> None:
    figure = draw_step_sweep({"set": curves(ROWS, "PQ")}, "PQ", title="sweep")
    (axes,) = figure.axes
    line, mark, level = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 10], [3, 32], [9, 20]])
    assert mark.get_xdata() == [3, 3]
    assert list(level.get_ydata()) == [26, 26]
    assert line.get_color() == mark.get_color() != level.get_color()
    assert legend(figure) == ["bptt (2 seeds)", "baseline (2 seeds)"]
    # The ring on the curve at its trained steps, and the band of the seeds.
    assert len(axes.collections) == 2 and axes.get_ylabel() == "PQ"
    assert axes.get_title() == ""


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_seed_has_no_band() -> None:
    figure = draw_step_sweep({"set": curves(ROWS[:2], "PQ")}, "PQ")
    assert len(figure.axes[0].collections) == 1
    assert legend(figure) == ["bptt"]


def test_datasets_have_panels_in_which_a_label_looks_the_same() -> None:
    shorter = [row("baseline", 1, None, 50.0), row("crbp", 1, 1, 60.0), row("bptt", 1, 1, 5.0)]
    panels = {"14": curves(ROWS, "PQ"), "20": curves(shorter, "PQ"), "25": curves(ROWS[:2], "PQ")}
    figure = draw_step_sweep(panels, "PQ")
    first, second, third, empty = figure.axes
    assert [axes.get_title() for axes in (first, second, third)] == ["14", "20", "25"]
    assert not empty.get_visible()
    # The last panel of each column, and the first of each line.
    assert [bool(axes.get_xlabel()) for axes in (first, second, third)] == [False, True, True]
    assert [axes.get_ylabel() for axes in (first, second, third)] == ["PQ", "", "PQ"]
    assert legend(figure) == ["bptt (1 or 2 seeds)", "baseline (1 or 2 seeds)", "crbp"]
    # In the first: the line and the mark of bptt, the level of baseline; each in its place.
    (bptt, _, baseline), (level, crbp, _, other, _) = first.lines, second.lines
    assert other.get_color() == bptt.get_color() == third.lines[0].get_color()
    assert level.get_color() == baseline.get_color()
    assert crbp.get_color() not in (bptt.get_color(), baseline.get_color())
    assert first.get_xlim() == second.get_xlim() and first.get_ylim() == second.get_ylim()


def test_of_many_points_some_are_marked() -> None:
    many = [row("bptt", 1, steps, 1.0 * steps) for steps in range(1, 61)]
    (line, _) = draw_step_sweep({"set": curves(many, "PQ")}, "PQ").axes[0].lines
    assert len(line.get_xdata()) == 60 and line.get_markevery() == 3


@pytest.mark.parametrize("panels", [{}, {"set": []}])
def test_no_curve(panels: dict[str, list[Curve]]) -> None:
    with pytest.raises(ValueError, match="no curve"):
        draw_step_sweep(panels, "PQ")
