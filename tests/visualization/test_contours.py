from __future__ import annotations

import numpy as np
import pytest

from rpanoptic.visualization.contours import draw_contour, draw_prediction


@pytest.fixture()
def image() -> np.ndarray:
    """Black, with a white line in row 2."""
    picture = np.zeros((6, 8), dtype=np.uint8)
    picture[2] = 255
    return picture


@pytest.fixture()
def target(image: np.ndarray) -> np.ndarray:
    """The left half of the line."""
    mask = np.zeros_like(image)
    mask[2, :4] = 1
    return mask


def colors(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(int(value) for value in pixel) for pixel in picture.reshape(-1, 3)}


def test_contour_is_coloured_and_the_rest_of_the_picture_stays_grey(
    image: np.ndarray, target: np.ndarray
) -> None:
    drawn = draw_contour(image, target)
    assert drawn.shape == (6, 8, 3) and drawn.dtype == np.uint8
    assert colors(drawn) == {tuple(drawn[0, 0]), tuple(drawn[2, 0]), tuple(drawn[2, 7])}
    assert (drawn[2, :4] == drawn[2, 0]).all()
    line, ground = drawn[2, 7].astype(int), drawn[0, 0].astype(int)
    assert (line > ground + 80).all()
    # Grey is nearly without hue, the contour is not.
    assert np.ptp(line) < 20 < 100 < np.ptp(drawn[2, 0].astype(int))
    assert image.max() == 255 and target.max() == 1  # the arguments are left alone


def test_prediction_beside_the_truth_is_right_wrong_or_missed(
    image: np.ndarray, target: np.ndarray
) -> None:
    probability = np.zeros(image.shape)
    probability[2, 2:6] = (0.5, 1.0, 0.51, 0.9)
    drawn = draw_prediction(image, target, probability)
    truth = draw_contour(image, target)
    right, wrong, missed = drawn[2, 2], drawn[2, 4], drawn[2, 0]
    assert (right == truth[2, 0]).all()
    assert len(colors(np.stack([right, wrong, missed, drawn[2, 7], drawn[0, 0]]))) == 5
    assert (
        drawn[2] == np.stack([missed] * 2 + [right] * 2 + [wrong] * 2 + [truth[2, 7]] * 2)
    ).all()
    untouched = np.delete(drawn, 2, axis=0)
    assert (untouched == np.delete(truth, 2, axis=0)).all()
    assert (draw_prediction(image, target, target) == truth).all()


def test_prediction_without_truth_grows_stronger_with_its_probability(
    image: np.ndarray, target: np.ndarray
) -> None:
    truth = draw_contour(image, target)
    blue = [
        int(draw_prediction(image, None, np.full(image.shape, share))[0, 0, 2])
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert blue == sorted(set(blue))
    assert blue[0] == truth[0, 0, 2] and blue[-1] == truth[2, 0, 2]
    assert (draw_prediction(image, None, target) == truth).all()
    # Beyond the range there is no other colour; nothing of a state that ran away is a contour.
    odd = np.zeros(image.shape)
    odd[0, :5] = (1.5, -1, np.nan, np.inf, -np.inf)
    drawn = draw_prediction(image, None, odd)
    assert (drawn[0, 0] == truth[2, 0]).all()
    assert (drawn[0, 1:] == truth[0, 0]).all()


def test_shapes_that_do_not_fit_are_refused(image: np.ndarray, target: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"image must be \(H, W\) uint8, grey; got \(6, 8, 3\)"):
        draw_contour(np.zeros((6, 8, 3), dtype=np.uint8), target)
    with pytest.raises(ValueError, match=r"image must be .* of float64"):
        draw_contour(image / 255, target)
    with pytest.raises(ValueError, match=r"target must be \(6, 8\) like the image, got \(6, 7\)"):
        draw_contour(image, target[:, :7])
    with pytest.raises(ValueError, match="probability must be"):
        draw_prediction(image, target, target[:3])
    with pytest.raises(ValueError, match="target must be"):
        draw_prediction(image, target[:3], target)
