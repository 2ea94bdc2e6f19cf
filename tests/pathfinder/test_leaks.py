"""The answer must not show in anything but the contours' course."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from rpanoptic.pathfinder.generator import PathfinderSample
from tests.pathfinder.samples import SETS, samples


def _accuracy(features: np.ndarray, answers: np.ndarray) -> tuple[float, float]:
    """Of a classifier on held-out samples, and its bound: chance and four standard deviations."""
    half = len(answers) // 2
    classifier = make_pipeline(
        StandardScaler(), PolynomialFeatures(2), StandardScaler(), LogisticRegression(C=0.1)
    )
    classifier.fit(features[:half], answers[:half])
    held_out = answers[half:]
    chance = max(held_out.mean(), 1 - held_out.mean())
    bound = chance + 4 * 0.5 / math.sqrt(len(held_out))
    return classifier.score(features[half:], held_out), bound


def _statistics(sample: PathfinderSample, contour: np.ndarray) -> list[float]:
    """Of a contour but for its first paddle, which a disc may cover."""
    middle = sample.image.shape[0] / 2
    points = contour[1:].reshape(-1, 2)
    columns, rows = np.floor(contour[1:].mean(1)).astype(int).T
    brightness = sample.image[rows, columns].astype(float)
    first, last = contour[0, 0], contour[-1, 1]
    return [
        *points.mean(0),
        *first,
        *last,
        np.linalg.norm(first - middle),
        np.linalg.norm(last - middle),
        brightness.mean(),
        brightness.std(),
        float((brightness > 0).sum()),
        *np.ptp(points, axis=0),
        np.linalg.norm(last - first),
        len(contour),
    ]


def test_which_contour_is_marked_does_not_show_in_its_statistics() -> None:
    found = samples("32")
    features = np.array(
        [
            np.subtract(_statistics(sample, sample.contours[0]), _statistics(sample, other))
            for sample in found
            for other in sample.contours[1:]
        ]
    )
    accuracy, bound = _accuracy(features, np.array([sample.marked for sample in found]))
    assert accuracy < bound


def test_this_classifier_would_see_a_leak() -> None:
    found = samples("32")
    answers = np.array([sample.marked for sample in found])
    # One pixel more of the contour that is marked.
    features = np.array([_statistics(sample, sample.contours[0]) for sample in found])
    features[:, 10] += answers
    accuracy, bound = _accuracy(features, answers)
    assert accuracy > bound


def _of_discs(sample: PathfinderSample) -> list[float]:
    middle = sample.image.shape[0] / 2
    first, last = sample.markers
    return [
        float(np.linalg.norm(first - last)),
        *first,
        *last,
        float(np.linalg.norm(first - middle)),
        float(np.linalg.norm(last - middle)),
        float(sample.image.sum()),
        float((sample.image > 0).sum()),
        float(sample.image[sample.image > 0].mean()),
    ]


def test_whether_discs_are_on_one_contour_does_not_show_in_their_places() -> None:
    found = samples("32 classification")
    features = np.array([_of_discs(sample) for sample in found])
    accuracy, bound = _accuracy(features, np.array([sample.label for sample in found]))
    assert accuracy < bound


def _directions_of_discs(sample: PathfinderSample) -> list[float]:
    """How far the contours at the discs head for the other disc, and along each other."""
    ends = [
        (here, (there - here) / np.linalg.norm(there - here))
        for contour in sample.contours
        for here, there in (contour[0], contour[-1, ::-1])
    ]
    first, last = sample.markers
    apart = (last - first) / np.linalg.norm(last - first)
    at_first, at_last = (
        min(ends, key=lambda end: float(np.linalg.norm(end[0] - disc)))[1]
        for disc in sample.markers
    )
    return [at_first @ apart, -at_last @ apart, at_first @ at_last]


def test_whether_discs_are_on_one_contour_does_not_show_in_where_it_sets_out() -> None:
    found = samples("32 classification")
    features = np.array([_directions_of_discs(sample) for sample in found])
    accuracy, bound = _accuracy(features, np.array([sample.label for sample in found]))
    assert accuracy < bound


@pytest.mark.parametrize("name", ["14 classification", "32 classification"])
def test_the_distance_of_two_discs_has_one_distribution(name: str) -> None:
    apart: tuple[list[float], list[float]] = ([], [])
    for sample in samples(name):
        apart[sample.label].append(float(np.linalg.norm(np.subtract(*sample.markers))))
    assert ks_2samp(*apart).pvalue > 0.001
    settings, _ = SETS[name]
    assert min(map(min, apart)) >= 2 * settings.marker_radius + settings.margin
