from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rpanoptic.visualization.step_sweep import curves, draw_step_sweep


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
    figure = draw_step_sweep(curves(ROWS, "PQ"), "PQ", title="sweep")
    (axes,) = figure.axes
    line, mark, level = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 10], [3, 32], [9, 20]])
    assert mark.get_xdata() == [3, 3]
    assert list(level.get_ydata()) == [26, 26]
    assert line.get_color() == mark.get_color() != level.get_color()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["bptt (2 seeds)", "baseline (2 seeds)"]
    # The ring on the curve at its trained steps, and the band of the seeds.
    assert len(axes.collections) == 2 and axes.get_ylabel() == "PQ"


def test_one_seed_has_no_band() -> None:
    figure = draw_step_sweep(curves(ROWS[:2], "PQ"), "PQ")
    assert len(figure.axes[0].collections) == 1
    assert figure.legends[0].get_texts()[0].get_text() == "bptt"


def test_no_curve() -> None:
    with pytest.raises(ValueError, match="no curve"):
        draw_step_sweep([], "PQ")
