from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from rpanoptic.visualization.classification import draw_accuracy_over_steps, draw_answer
from rpanoptic.visualization.style import BLUE, GREEN, ORANGE

CLASSES = ["cat", "dog", "owl", "tench, Tinca tinca"]


def has(picture: np.ndarray, color: str, *, rows: slice = slice(None)) -> bool:
    return bool((picture[rows] == np.rint(255 * np.array(to_rgb(color)))).all(axis=2).any())


def drawn(label: int, **changes: Any) -> np.ndarray:
    """An answer of "dog" after steps 4 to 6, on a grey picture."""
    probabilities = np.array([[0.4, 0.3, 0.2, 0.1], [0.3, 0.5, 0.1, 0.1], [0.1, 0.8, 0.05, 0.05]])
    given = {"answer": probabilities[-1], "steps": (4, 5, 6)} | changes
    image = given.pop("image", np.full((8, 8, 3), 128, np.uint8))
    probabilities = given.pop("probabilities", probabilities)
    return draw_answer(image, probabilities, CLASSES, label, **given)


# Of a cell's height: the title, and the panel.
TITLE, PANEL = slice(0, 60), slice(-200, None)


def test_right_and_wrong_are_told_apart() -> None:
    right, wrong = drawn(1), drawn(3)
    assert right.dtype == np.uint8 and right.shape == wrong.shape and right.shape[2] == 3
    assert has(right, GREEN, rows=TITLE) and not has(right, ORANGE)
    assert has(wrong, ORANGE, rows=TITLE) and not has(wrong, GREEN)
    # Below: the true class, and beside it the answer where that is another.
    assert has(right, BLUE, rows=PANEL) and has(wrong, BLUE, rows=PANEL)
    assert has(wrong, ORANGE, rows=PANEL)


def test_marks_are_read_without_colour() -> None:
    grey = [picture[TITLE].min(axis=2) < 200 for picture in (drawn(1), drawn(3))]
    assert (grey[0] != grey[1]).any()


def test_a_single_readout_shows_the_most_probable_classes() -> None:
    one = {"probabilities": np.array([[0.1, 0.8, 0.05, 0.05]]), "steps": (1,)}
    right, wrong = drawn(1, **one), drawn(3, **one)
    assert right.shape == drawn(1).shape
    # The longest bar is that of the answer.
    blue = [(p == np.rint(255 * np.array(to_rgb(BLUE)))).all(axis=2).sum() for p in (right, wrong)]
    assert blue[0] > 1000 > blue[1]


def test_pictures_of_any_form() -> None:
    sizes = {drawn(1, image=np.zeros((*size, 3), np.uint8)).shape for size in ((8, 8), (300, 90))}
    assert len(sizes) == 1


def test_arrays_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(2, 4\) .*got \(3, 4\)"):
        drawn(1, steps=(1, 2))
    with pytest.raises(ValueError, match=r"answer's \(4,\).* and \(3,\)"):
        drawn(1, answer=np.ones(3))


def test_accuracy_over_steps() -> None:
    accuracies = {"top-1": [10.0, 40.0, 70.0], "top-5": [50.0, 80.0, 95.0]}
    (axes,) = draw_accuracy_over_steps((3, 4, 6), accuracies).axes
    found = {line.get_label(): (*line.get_data(),) for line in axes.lines}
    assert found.keys() == accuracies.keys()
    for name, (steps, values) in found.items():
        assert [*steps] == [3, 4, 6] and [*values] == accuracies[name]
    assert axes.get_ylim() == (0, 101)
    with pytest.raises(ValueError, match="top-1 has 2 points for 3 steps"):
        draw_accuracy_over_steps((3, 4, 6), {"top-1": [1.0, 2.0]})
