from __future__ import annotations

import numpy as np
import pytest

from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.neural_fit.reliability import (
    Repetitions,
    pearson,
    spearman_brown,
)
from tests.pathfinder.imagenet.neural_fit.helpers import assembly, measured


def test_pearson_is_that_of_numpy() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 30, 4, 3))
    found = pearson(x, x + y)
    expected = [
        [np.corrcoef(x[:, i, j], (x + y)[:, i, j])[0, 1] for j in (0, 1, 2)] for i in range(4)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_pearson_of_what_does_not_vary_is_nan() -> None:
    x = np.random.default_rng(0).standard_normal((30, 2))
    constant = x.copy()
    # Float32 cannot tell 1 from this.
    constant[:, 0] = 1 + 1e-8 * x[:, 0]
    assert np.isnan(pearson(x, constant)).tolist() == [True, False]


def test_spearman_brown() -> None:
    # Halves that correlate by 0.5 make a whole of reliability 2/3; three times as much, 3/4.
    np.testing.assert_allclose(spearman_brown(np.array([0.5, 0.0, 1.0]), 2), [2 / 3, 0, 1])
    np.testing.assert_allclose(spearman_brown(np.array([0.5]), 3), 0.75)


def test_means_and_halves_of_unequal_repetitions() -> None:
    shown = np.array([1, 0, 1, 0, 1, 2, 2, 1, 0, 2])
    responses = np.random.default_rng(0).standard_normal((10, 2, 3))
    repetitions = Repetitions(assembly(responses, shown))
    expected = np.stack([responses[shown == place].mean(axis=0) for place in range(3)])
    np.testing.assert_allclose(repetitions.mean(), expected, atol=1e-6)
    # Three, four and three repetitions: halves of one, two and one.
    assert repetitions.factor == pytest.approx(10 / 4)
    first, second = repetitions.halves(np.random.default_rng(1))
    whole = (first[1] + second[1]) / 2
    np.testing.assert_allclose(whole, expected[1], atol=1e-6)
    singles = responses[shown == 0].astype(np.float32)
    chosen = [
        next(n for n, one in enumerate(singles) if np.allclose(one, half[0], atol=1e-6))
        for half in (first, second)
    ]
    assert chosen[0] != chosen[1]
    other, _ = repetitions.halves(np.random.default_rng(2))
    assert not np.allclose(other, first)


@pytest.mark.parametrize("reliability", [0.3, 0.8])
def test_known_reliability_is_found(reliability: float) -> None:
    signal = np.random.default_rng(0).standard_normal((400, 30, 2))
    repetitions = Repetitions(measured(signal, reliability))
    found = pearson(*repetitions.halves(np.random.default_rng(0)))
    mean = spearman_brown(found, repetitions.factor).mean()
    # The error of one correlation of 400 pairs is at most 0.05, that of 60 of them 0.007.
    assert mean == pytest.approx(reliability, abs=0.03)


def test_a_stimulus_that_was_shown_once_is_named() -> None:
    repetitions = Repetitions(assembly(np.zeros((4, 1, 1)), np.array([0, 0, 1, 2])))
    with pytest.raises(DatasetError, match=r"synthetic\.nc: .* 2 of 3 were shown once: s001, s002"):
        repetitions.check_halves()
