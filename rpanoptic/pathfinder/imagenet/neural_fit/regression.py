"""Linear maps from a model's features to neuroids: partial least squares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rpanoptic.pathfinder.imagenet.neural_fit.libraries import library
from rpanoptic.pathfinder.imagenet.neural_fit.reliability import constant
from rpanoptic.recurrent.checks import check_choice, check_count

MAPS = ("shared", "per_bin")
# Directions in which features vary by less than this part of the most are rounding, float32.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class MapSettings:
    """How features are mapped to neuroids.

    Args:
        components: of the partial least squares, at least 1. Where there are fewer training
            stimuli, or directions in which features vary, as many as there are stimuli less one,
            or directions.
        kind: "shared", one map for all bins of time, so that whatever changes in time must come
            from the model (Nayebi et al., Neural Computation 2022); or "per_bin", one map a bin.
        pca: principal components that features are reduced to first; 0 for none. They are those of
            the training stimuli.

    Raises:
        ValueError: an impossible value.
    """

    components: int = 25
    kind: str = "shared"
    pca: int = 0

    def __post_init__(self) -> None:
        check_count("components", self.components, least=1)
        check_choice("map", self.kind, MAPS)
        check_count("pca", self.pca, least=0)


def predictions(
    train: np.ndarray,
    responses: Sequence[np.ndarray],
    test: np.ndarray,
    settings: MapSettings,
    *,
    seed: int = 0,
) -> list[np.ndarray]:
    """Fit a map to each of several measurements of the same responses, and predict others.

    Args:
        train: ``(S, F, T)`` features of the training stimuli; T of 1 stands for all bins.
        responses: arrays ``(S, N, T)``, the measurements.
        test: ``(S_test, F, T)`` features of other stimuli.
        settings: of the map.
        seed: of what the principal components start from.

    Returns:
        ``(S_test, N, T)`` for each of ``responses``.
    """
    bins = responses[0].shape[-1]
    train, test = (_all_bins(features, bins) for features in (train, test))
    every = range(bins)
    groups = [[*every]] if settings.kind == "shared" else [[place] for place in every]
    found = [np.empty((len(test), y.shape[1], bins)) for y in responses]
    for group in groups:
        fitted = _fitted(
            _rows(train[..., group]),
            [_rows(y[..., group]) for y in responses],
            _rows(test[..., group]),
            settings,
            stimuli=len(train),
            seed=seed,
        )
        for result, predicted in zip(found, fitted, strict=True):
            result[..., group] = predicted.reshape(len(test), len(group), -1).swapaxes(1, 2)
    return found


def _all_bins(features: np.ndarray, bins: int) -> np.ndarray:
    return np.broadcast_to(features, (*features.shape[:2], bins))


def _rows(x: np.ndarray) -> np.ndarray:
    """``(S T, C)`` of ``(S, C, T)``."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1])


def _fitted(
    train: np.ndarray,
    responses: Sequence[np.ndarray],
    test: np.ndarray,
    settings: MapSettings,
    *,
    stimuli: int,
    seed: int,
) -> list[np.ndarray]:
    """As :func:`predictions` in one group of bins, of rows instead of stimuli and bins."""
    # The library would blow their rounding up to the size of the others.
    varying = ~constant(train)
    if not varying.any():
        return [_unchanging(y, len(test)) for y in responses]
    train, test = train[:, varying], test[:, varying]
    most = min(stimuli - 1, train.shape[1])
    if 0 < settings.pca < most:
        pca = library("sklearn.decomposition").PCA(settings.pca, random_state=seed).fit(train)
        train, test = pca.transform(train), pca.transform(test)
        most = min(most, settings.pca)
    components = _directions(train, min(settings.components, most), seed)
    return [
        # As in bins in which no neuron fires: the library would divide by zero.
        _unchanging(y, len(test)) if constant(y).all() else _regress(train, y, components, test)
        for y in responses
    ]


def _unchanging(responses: np.ndarray, count: int) -> np.ndarray:
    """The same prediction for all stimuli, the mean."""
    return np.tile(responses.mean(axis=0), (count, 1))


def _regress(
    train: np.ndarray, responses: np.ndarray, components: int, test: np.ndarray
) -> np.ndarray:
    model = library("sklearn.cross_decomposition").PLSRegression(n_components=components)
    # Each direction by a decomposition, as for the library's other models of this family, and not
    # by iterations, which take several times as long and end where they are near.
    model.algorithm = "svd"
    with warnings.catch_warnings():
        # Responses without noise may need fewer components than there are.
        warnings.filterwarnings("ignore", message="y residual is constant")
        predicted: np.ndarray = model.fit(train, responses).predict(test)
    return predicted


def _directions(train: np.ndarray, most: int, seed: int) -> int:
    """In how many directions features vary, ``most`` at most.

    A component more would regress on rounding. So many random mixtures of the features as are
    asked about vary in as many directions as the features do, or in all.
    """
    x = train - train.mean(axis=0, dtype=np.float64)
    x /= x.std(axis=0)
    mixing = np.random.default_rng(seed).standard_normal((x.shape[1], most))
    sizes = np.linalg.svd(x @ mixing, compute_uv=False)
    return max(int((sizes > _ROUNDING * sizes[0]).sum()), 1)
