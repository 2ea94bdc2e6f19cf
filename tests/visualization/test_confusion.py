from __future__ import annotations

import itertools

import numpy as np
import pytest

from rpanoptic.visualization.confusion import draw_confusion
from rpanoptic.visualization.style import save_figure


def test_shares_are_those_of_the_rows(tmp_path) -> None:
    pixels = np.array([[90, 10, 0], [0, 0, 0], [1, 2, 997]])
    figure = draw_confusion(pixels, ["dog", "sky"], (1, 1), title="a set")
    axes, _ = figure.axes
    shares = axes.images[0].get_array()
    assert np.allclose(shares[0], [90, 10, 0])
    # A class without pixels has no shares.
    assert np.ma.getmaskarray(shares)[1].all()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["dog", "sky", "void"]
    assert axes.get_xticklabels()[-1].get_text() == "nothing predicted"
    assert [text.get_text() for text in axes.texts] == ["90", "10", "<1", "<1", "100"]
    assert save_figure(tmp_path / "confusion.png", figure).stat().st_size > 0


def test_many_classes_have_a_name_each_and_no_numbers() -> None:
    count = 40
    figure = draw_confusion(
        np.eye(count + 1, dtype=int), [f"class {place}" for place in range(count)], (30, 10)
    )
    axes = figure.axes[0]
    assert not axes.texts
    assert len(axes.get_yticklabels()) == len(axes.get_xticklabels()) == count + 1
    # Rows are higher than their names, which so do not overlap.
    figure.canvas.draw()
    labels = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert all(one.y0 > other.y1 for one, other in itertools.pairwise(labels))


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path) -> None:
    figure = draw_confusion(np.eye(3, dtype=int), ["$\\frac{car_x$", "a $_^$"], title="$_^$ set")
    assert save_figure(tmp_path / "confusion.png", figure).stat().st_size > 0


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(3, 3\) for 2 names: \(2, 2\)"):
        draw_confusion(np.zeros((2, 2)), ["dog", "sky"])
