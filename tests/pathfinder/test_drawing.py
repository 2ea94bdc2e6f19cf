from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from rpanoptic.pathfinder.drawing import draw, mask
from rpanoptic.pathfinder.generator import PathfinderSample, generate
from rpanoptic.pathfinder.settings import PathfinderSettings, paper_settings, small_32_settings
from tests.pathfinder.samples import SETS, distances, samples

NO_DISC = np.zeros((0, 2))
NO_PADDLES = np.zeros((0, 2, 2))


def _centers(paddles: np.ndarray) -> np.ndarray:
    """Pixels (row, column) of the paddles' middles, (L, 2)."""
    return np.floor(paddles.mean(1)).astype(int)[:, ::-1]


def _marked(sample: PathfinderSample) -> list[np.ndarray]:
    both = [sample.contours[sample.marked], sample.contours[1 - sample.marked]]
    return both[: 2 - sample.label]


@pytest.mark.parametrize("name", ["14", "25", "mixed", "14 classification"])
def test_paddles_can_be_counted_in_the_picture(name: str) -> None:
    for sample in samples(name):
        everything = (*sample.contours, *sample.distractors)
        number = sum(len(paddles) for paddles in everything)
        # The disc covers the paddle that it marks.
        assert cv2.connectedComponents((sample.image > 127).astype(np.uint8))[0] - 1 == number
        number = sum(len(paddles) for paddles in _marked(sample))
        assert cv2.connectedComponents(sample.target)[0] - 1 == number


@pytest.mark.parametrize("name", ["14", "25", "mixed", "14 classification"])
def test_the_target_is_the_marked_contour_of_the_picture(name: str) -> None:
    for sample in samples(name):
        _, parts = cv2.connectedComponents((sample.image > 127).astype(np.uint8))
        numbers = {
            parts[row, column] for one in _marked(sample) for row, column in _centers(one)
        } | {parts[int(y), int(x)] for x, y in sample.markers}
        assert 0 not in numbers
        np.testing.assert_array_equal(sample.target, np.isin(parts, list(numbers)))


@pytest.mark.parametrize("name", ["128", "32", "32 classification"])
def test_the_target_of_a_small_picture_follows_the_marked_contour(name: str) -> None:
    settings, _ = SETS[name]
    # A pixel's centre is at most 0.71 px from what covers part of it.
    far = settings.thickness / 2 + 0.75
    for sample in samples(name)[:150]:
        paddles = np.concatenate(_marked(sample))
        rows, columns = np.nonzero(sample.target)
        pixels = np.stack((columns, rows), axis=1) + 0.5
        apart = distances(np.stack((pixels, pixels), axis=1), paddles).min(1)
        to_disc = np.linalg.norm(pixels[:, None] - sample.markers, axis=2).min(1)
        assert ((apart <= far) | (to_disc <= settings.marker_radius + 0.75)).all()
        for row, column in _centers(paddles):
            assert sample.target[row - 1 : row + 2, column - 1 : column + 2].any()
        for paddles in sample.distractors:
            assert not sample.target[tuple(_centers(paddles).T)].any()


@pytest.mark.parametrize("antialias", [2, 4, 8])
def test_paddles_cover_their_area(antialias: int) -> None:
    settings = PathfinderSettings(size=300, antialias=antialias)
    rng = np.random.default_rng(0)
    headings = rng.uniform(0, 2 * math.pi, 400)
    along = 5 * np.stack((np.cos(headings), np.sin(headings)), axis=1)
    grid = 12.0 + 14 * np.stack(np.divmod(np.arange(400), 20), axis=1) + rng.uniform(0, 1, (400, 2))
    paddles = np.stack((grid - along / 2, grid + along / 2), axis=1)
    drawn = draw(settings, paddles, np.ones(400), NO_DISC)
    # 2 x 5 px each. OpenCV fills whole fine pixels: up to 4 per cent less at two to a pixel.
    assert drawn.sum() / 255 / 400 == pytest.approx(10, rel=0.05)


def test_a_disc_covers_its_area_and_is_bright() -> None:
    settings = PathfinderSettings()
    center = np.array([[100.0, 100.0]])
    drawn = draw(settings, NO_PADDLES, np.zeros(0), center)
    assert drawn.max() == 255 and drawn.sum() / 255 == pytest.approx(25 * math.pi, rel=0.05)
    rows, columns = np.nonzero(drawn)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((100, 100), abs=0.3)


def test_a_disc_is_drawn_over_what_it_marks() -> None:
    paddle = np.array([[[100.0, 100.0], [105.0, 100.0]]])
    alone = draw(PathfinderSettings(), NO_PADDLES, np.zeros(0), paddle[:, 0])
    both = draw(PathfinderSettings(), paddle, np.array([0.4]), paddle[:, 0])
    np.testing.assert_array_equal(both[alone == 255], 255)


def test_brightness_is_one_of_the_contrasts_of_each_paddle() -> None:
    settings = paper_settings(14, contrasts=(0.25, 0.5, 1.0))
    found = []
    for index in range(5):
        sample = generate(settings, 0, index)
        unmarked = sample.contours[1 - sample.marked]
        for paddles in (unmarked, *sample.distractors):
            rows, columns = _centers(paddles).T
            found.extend(
                sample.image[row - 1 : row + 2, column - 1 : column + 2].max()
                for row, column in zip(rows, columns, strict=True)
            )
    values, counts = np.unique(found, return_counts=True)
    # A pixel at the middle of a paddle 2 px thick may be covered in part alone.
    shares = [counts[np.abs(values - 255 * contrast) < 3].sum() for contrast in (0.25, 0.5, 1.0)]
    assert sum(shares) > 0.5 * len(found) and min(shares) > 0.2 * sum(shares)
    assert values.max() == 255


def test_thin_paddles_have_pixels_wherever_they_lie() -> None:
    settings = small_32_settings()
    for offset in np.linspace(0, 1, 9):
        for end in ((12.0, 10.0 + offset), (10.0, 12.0 + offset), (11.5, 11.3 + offset)):
            paddle = np.array([[[10.0, 10.0 + offset], end]])
            assert 2 <= mask(settings, [paddle], NO_DISC).sum() <= 8


def test_without_antialiasing_pixels_are_full_or_empty() -> None:
    sample = generate(replace(paper_settings(9), antialias=1), 0, 0)
    assert set(np.unique(sample.image)) == {0, 255}
