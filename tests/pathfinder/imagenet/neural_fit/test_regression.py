from __future__ import annotations

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression

from rpanoptic.pathfinder.imagenet.neural_fit import MapSettings
from rpanoptic.pathfinder.imagenet.neural_fit.regression import predictions
from tests.pathfinder.imagenet.neural_fit.helpers import neurons, trajectory

FEATURES = trajectory(stimuli=60, features=20, bins=3)
RESPONSES = neurons(FEATURES, 4) + np.random.default_rng(3).standard_normal((60, 4, 3))
TRAIN, TEST = slice(0, 40), slice(40, 60)


def predicted(features: np.ndarray, settings: MapSettings) -> np.ndarray:
    (found,) = predictions(features[TRAIN], [RESPONSES[TRAIN]], features[TEST], settings)
    return found


def test_maps_are_those_of_scikit_learn() -> None:
    shared, per_bin = (predicted(FEATURES, MapSettings(5, kind)) for kind in ("shared", "per_bin"))

    def rows(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x[..., place] for place in range(3)])

    # The library's own iterations, carried on until they are exact.
    exact = {"n_components": 5, "tol": 1e-16, "max_iter": 100_000}
    model = PLSRegression(**exact).fit(rows(FEATURES[TRAIN]), rows(RESPONSES[TRAIN]))
    for place in range(3):
        np.testing.assert_allclose(
            shared[..., place], model.predict(FEATURES[TEST][..., place]), atol=1e-5
        )
        own = PLSRegression(**exact).fit(FEATURES[TRAIN][..., place], RESPONSES[TRAIN][..., place])
        np.testing.assert_allclose(
            per_bin[..., place], own.predict(FEATURES[TEST][..., place]), atol=1e-5
        )
    assert np.abs(shared - per_bin).max() > 0.1


def test_features_that_do_not_change_predict_the_same_at_all_times() -> None:
    constant = predicted(FEATURES[..., :1], MapSettings(5))
    np.testing.assert_array_equal(constant, constant[..., :1].repeat(3, axis=-1))
    again = predicted(FEATURES[..., :1].repeat(3, axis=-1), MapSettings(5))
    np.testing.assert_array_equal(constant, again)


def test_features_of_fewer_directions_than_components() -> None:
    # Three directions, in float32: a fourth component would be made of rounding.
    generator = np.random.default_rng(0)
    flat = generator.standard_normal((60, 3)) @ generator.standard_normal((3, 20))
    features = flat[..., None].astype(np.float32)
    found = predicted(features, MapSettings(25))
    np.testing.assert_allclose(found, predicted(features, MapSettings(3)), atol=1e-6)
    assert np.abs(found).max() < 10


def test_features_that_say_nothing_give_the_mean() -> None:
    features = np.full((60, 20, 3), 7.0)
    found = predicted(features, MapSettings())
    expected = RESPONSES[TRAIN].mean(axis=(0, 2))
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None], found.shape))
    # One that hardly varies is left out, and not blown up.
    features[:, 0] += 1e-7 * np.random.default_rng(0).standard_normal((60, 3))
    np.testing.assert_allclose(predicted(features, MapSettings()), found)


def test_principal_components_are_those_of_the_training_stimuli() -> None:
    changed = FEATURES.copy()
    changed[59] *= 1000
    settings = MapSettings(4, pca=6)
    first, second = predicted(FEATURES, settings), predicted(changed, settings)
    np.testing.assert_array_equal(first[:19], second[:19])
    # As many components as the features have directions lose nothing but their scaling.
    assert np.abs(first - predicted(FEATURES, MapSettings(4))).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "components must be an integer of at least 1"),
        ({"kind": "ridge"}, "map must be one of 'shared', 'per_bin'"),
        ({"pca": -1}, "pca must be"),
    ],
)
def test_impossible_settings(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MapSettings(**options)
