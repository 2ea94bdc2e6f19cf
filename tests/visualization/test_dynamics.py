from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from rpanoptic.visualization import (
    draw_components,
    draw_past_trained_steps,
    draw_residuals,
    draw_spectrum,
    save_figure,
)

STEPS, SAMPLES, TRAINED = 12, 5, 6
DECAY = 0.5 ** np.arange(STEPS)[:, None] * np.linspace(1, 2, SAMPLES)
PATHS = np.random.default_rng(0).normal(size=(STEPS, SAMPLES, 3))
SHARES = np.tile([0.6, 0.3, 0.1], (SAMPLES, 1))


def legend(figure: object) -> list[str]:
    axes = figure.axes[-1]
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_residuals_on_a_logarithmic_axis_with_the_trained_steps_marked() -> None:
    figure = draw_residuals(DECAY, TRAINED, title="a block")
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    lines = {line.get_label(): line for line in axes.lines}
    assert len(axes.lines) == SAMPLES + 2
    np.testing.assert_allclose(lines["median"].get_xydata()[:, 0], np.arange(1, STEPS + 1))
    np.testing.assert_allclose(lines["median"].get_xydata()[:, 1], np.median(DECAY, axis=1))
    assert set(lines["trained steps (6)"].get_xdata()) == {TRAINED}
    assert legend(figure) == ["a sample", "median", "trained steps (6)"]
    assert figure.get_suptitle() == "a block"


def test_one_sample_is_one_line() -> None:
    figure = draw_residuals(DECAY[:, :1], TRAINED)
    assert legend(figure) == ["the sample", "trained steps (6)"]


def test_what_is_zero_or_not_finite_leaves_a_gap(tmp_path: Path) -> None:
    values = DECAY.copy()
    values[3:5], values[7, 0], values[8, 1] = 0, np.nan, np.inf
    figure = draw_residuals(values, TRAINED)
    median = {line.get_label(): line for line in figure.axes[0].lines}["median"].get_ydata()
    assert np.isnan(median[3:5]).all() and np.isfinite(np.delete(median, [3, 4])).all()
    save_figure(tmp_path / "gaps.png", figure)


def test_distance_alone_and_with_a_score_below() -> None:
    assert len(draw_past_trained_steps(DECAY, TRAINED).axes) == 1
    upper, lower = draw_past_trained_steps(DECAY, TRAINED, score=-DECAY, score_name="IoU").axes
    assert upper.get_ylim()[0] == 0 and lower.get_ylim()[0] < 0
    assert lower.get_ylabel() == "IoU" and lower.get_xlabel() == "step"


def test_spectrum_has_a_dot_a_sample_and_shows_the_line_at_1() -> None:
    (axes,) = draw_spectrum([0.2, 0.3, 0.25], [0.4, np.inf, 0.5]).axes
    radius, sigma = (dots.get_offsets() for dots in axes.collections)
    assert radius[:, 0].tolist() == [0.2, 0.3, 0.25]
    assert len(set(radius[:, 1])) == 3  # dots of equal value would not hide each other
    assert np.isfinite(sigma[:, 0]).sum() == 2
    low, high = axes.get_xlim()
    assert low < 0.2 and high > 1


def test_components_have_a_panel_a_sample_and_mark_start_and_trained_steps() -> None:
    figure = draw_components(PATHS, SHARES, TRAINED)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [f"sample {n + 1}" for n in range(SAMPLES)]
    for number, axes in enumerate(panels):
        dots, start, trained = (c.get_offsets() for c in axes.collections)
        path = PATHS[:, number, :2]
        path = path / np.linalg.norm(path, axis=1).max()
        np.testing.assert_allclose(dots, path)
        np.testing.assert_allclose(start[0], path[0])
        np.testing.assert_allclose(trained[0], path[TRAINED - 1])
    assert panels[0].get_xlabel() == "component 1 (60 %)"


def test_rounding_errors_of_a_straight_path_are_not_enlarged() -> None:
    path = np.stack([np.linspace(-1e-5, 1e-5, 4), [1e-13, 0, -1e-13, 0]], axis=1)[:, None]
    axes = draw_components(path, np.array([[1.0, 0.0]]), 2).axes[0]
    low, high = axes.get_ylim()
    assert high - low >= 0.2 and axes.get_xlim()[1] > 1


def test_of_many_samples_the_first_twelve_are_drawn() -> None:
    figure = draw_components(np.ones((3, 20, 2)), np.ones((20, 2)), 1)
    assert sum(bool(axes.get_title()) for axes in figure.axes) == 12


def test_figures_are_saved_as_pictures_and_belong_to_no_global_state(tmp_path: Path) -> None:
    figures = [
        draw_residuals(np.full((3, 1), np.nan), 9),
        draw_past_trained_steps(DECAY[:1], 1),
        draw_spectrum([np.nan], [np.nan]),
        draw_components(np.full((3, 1, 2), np.nan), np.full((1, 2), np.nan), 3),
    ]
    for number, figure in enumerate(figures):
        path = save_figure(tmp_path / f"{number}.png", figure)
        picture = np.asarray(Image.open(path).convert("L"))
        assert picture.shape[1] > 600 and picture.min() < 100 < picture.max()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n}.png" for n in range(4)]
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: draw_residuals(DECAY[:, 0], 1), r"residual must be \(steps, N\)"),
        (lambda: draw_residuals(DECAY[:, :0], 1), r"not empty, got \(12, 0\)"),
        (lambda: draw_past_trained_steps(DECAY[0], 1), r"distance must be \(steps, N\)"),
        (
            lambda: draw_past_trained_steps(DECAY, 1, score=DECAY[:3]),
            r"score must be \(12, 5\) like distance, got \(3, 5\)",
        ),
        (lambda: draw_spectrum([1.0], [1.0, 2.0]), r"got \(1,\) and \(2,\)"),
        (lambda: draw_spectrum([], []), "N at least 1"),
        (lambda: draw_components(PATHS[:, :, :1], SHARES, 1), "at least 2 components"),
        (lambda: draw_components(PATHS, SHARES[:2], 1), r"explained must be \(5, 3\)"),
        (lambda: draw_components(PATHS, SHARES, 13), "trained_steps must be 1 to 12, got 13"),
    ],
)
def test_impossible_arrays(draw: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
