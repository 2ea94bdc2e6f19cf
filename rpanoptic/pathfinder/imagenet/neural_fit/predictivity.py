"""How well a model's features predict neuroids: cross-validated and corrected for noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.pathfinder.imagenet.neural_fit.assembly import Assembly
from rpanoptic.pathfinder.imagenet.neural_fit.libraries import library
from rpanoptic.pathfinder.imagenet.neural_fit.regression import MapSettings, predictions
from rpanoptic.pathfinder.imagenet.neural_fit.reliability import (
    Repetitions,
    constant,
    pearson,
    spearman_brown,
)
from rpanoptic.pathfinder.imagenet.neural_fit.times import TimeBins
from rpanoptic.recurrent.checks import check_count, check_number

# Below, a correlation over half of the stimuli says nothing.
LEAST_STIMULI = 8


@dataclass(frozen=True)
class FitSettings:
    """How fits are cross-validated and corrected.

    Args:
        map: of the linear map.
        splits: how often the stimuli are split into halves, to train on and to be predicted.
        least_reliability: neuroids whose reliability in a bin is lower are left out there, above 0
            and at most 1. A map of lower reliability is corrected as if it had this one: without
            it, what a model fails on would count for more.
        noise_correction: False where stimuli were shown once: correlations stay as they are.
        seed: of the splits, and of the halves of the repetitions.

    Raises:
        ValueError: an impossible value.
    """

    map: MapSettings = field(default_factory=MapSettings)
    splits: int = 10
    least_reliability: float = 0.3
    noise_correction: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("splits", self.splits, least=1)
        check_count("seed", self.seed, least=0)
        check_number("least_reliability", self.least_reliability, least=0)
        if not 0 < self.least_reliability <= 1:
            raise ValueError(
                f"least_reliability must be above 0 and at most 1, got {self.least_reliability:g}"
            )


@dataclass(frozen=True)
class NeuralFit:
    """What a model's features predict of an assembly.

    Attributes:
        bins: T bins of time.
        correlation: ``(splits, N, T)`` Pearson's r of predicted and measured responses over the
            stimuli that a split holds out; 0 where the prediction does not depend on the stimulus,
            NaN where the response does not.
        constant: ``(N, T)`` which neuroids answer equally to all stimuli.
        reliability: ``(N, T)`` of the responses, averaged over all repetitions: the correlation of
            halves of the repetitions, over all stimuli, by the formula of Spearman and Brown; NaN
            of constant ones. None without noise correction.
        map_reliability: ``(N, T)`` of the predictions of held-out stimuli: the same of maps that
            are trained on the two halves. None without noise correction.
        least_reliability: see :class:`FitSettings`.
    """

    bins: TimeBins
    correlation: np.ndarray
    constant: np.ndarray
    reliability: np.ndarray | None
    map_reliability: np.ndarray | None
    least_reliability: float

    @cached_property
    def counted(self) -> np.ndarray:
        """``(N, T)`` which neuroids count: not constant, reliable as far as that is known."""
        counted = ~self.constant & np.isfinite(self.correlation).any(axis=0)
        if self.reliability is not None:
            counted &= np.nan_to_num(self.reliability) >= self.least_reliability
        return counted

    @cached_property
    def ceiling(self) -> np.ndarray | None:
        """``(N, T)`` the correlation that a perfect prediction would have: root of reliability."""
        if self.reliability is None:
            return None
        return np.sqrt(np.where(self.counted, self.reliability, np.nan))

    @cached_property
    def raw(self) -> np.ndarray:
        """``(splits, N, T)`` :attr:`correlation` of those that count, NaN of the others."""
        return np.where(self.counted, self.correlation, np.nan)

    @cached_property
    def predictivity(self) -> np.ndarray | None:
        """``(splits, N, T)`` corrected for noise: ``r / sqrt(r_map r_neuroid)``.

        1 is what could be predicted at best; estimates may exceed it. NaN of those that do not
        count, None without noise correction.
        """
        if self.reliability is None or self.map_reliability is None:
            return None
        of_map = np.fmax(self.map_reliability, self.least_reliability)
        product = np.where(self.counted, of_map * self.reliability, np.nan)
        return self.raw / np.sqrt(product)


def check_assembly(assembly: Assembly, settings: FitSettings) -> None:
    """Check that an assembly can be fitted, before features are taken.

    Raises:
        DatasetError: fewer than eight stimuli; or, with noise correction, a stimulus that was shown
            once.
    """
    if len(assembly.stimuli) < LEAST_STIMULI:
        raise DatasetError(
            f"assembly {assembly.name}: a fit needs at least {LEAST_STIMULI} stimuli; it has "
            f"{len(assembly.stimuli)}."
        )
    if settings.noise_correction:
        Repetitions(assembly).check_halves()


def fit_neurons(
    features: np.ndarray, assembly: Assembly, settings: FitSettings | None = None
) -> NeuralFit:
    """Predict neuroids from a model's features, on stimuli that the map was not trained on.

    A split holds out half of the stimuli, with all their repetitions. Noise is corrected for as in
    Nayebi et al. (Neural Computation 2022): that of the measured responses, and that which the map
    learns from those it is trained on.

    Args:
        features: ``(S, F, T)``, in the order of ``assembly.stimuli`` and of its bins; T of 1 stands
            for all bins.
        assembly: the responses.
        settings: None for the defaults.

    Raises:
        DatasetError: see :func:`check_assembly`.
        ConfigError: features of other stimuli or bins, or that are not finite.
        UserError: scikit-learn is not installed.
    """
    settings = settings or FitSettings()
    _check(features, assembly)
    check_assembly(assembly, settings)
    repetitions = Repetitions(assembly)
    responses = repetitions.mean()
    flat = constant(responses)
    generator = np.random.default_rng(settings.seed)
    splits = library("sklearn.model_selection").ShuffleSplit(
        settings.splits, train_size=0.5, random_state=settings.seed
    )
    correlations, of_halves, of_maps = [], [], []
    for train, test in splits.split(responses):
        measured = [responses]
        if settings.noise_correction:
            measured += repetitions.halves(generator)
        predicted = predictions(
            features[train],
            [y[train] for y in measured],
            features[test],
            settings.map,
            seed=settings.seed,
        )
        correlations.append(_correlation(predicted[0], responses[test]))
        if settings.noise_correction:
            of_halves.append(pearson(*measured[1:]))
            # Maps that predict the same for all stimuli are not reliable.
            of_maps.append(np.nan_to_num(pearson(*predicted[1:])))
    reliability = map_reliability = None
    if settings.noise_correction:
        # Averaged first: the formula bends, so that noise would remain in a mean of its values.
        reliability, map_reliability = (
            spearman_brown(_mean(found), repetitions.factor) for found in (of_halves, of_maps)
        )
    return NeuralFit(
        bins=assembly.bins,
        correlation=np.stack(correlations),
        constant=flat,
        reliability=reliability,
        map_reliability=map_reliability,
        least_reliability=settings.least_reliability,
    )


def _correlation(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    found = pearson(predicted, measured)
    found[constant(predicted) & ~constant(measured)] = 0
    return found


def _mean(found: list[np.ndarray]) -> np.ndarray:
    """The mean of what is a number; NaN where nothing is."""
    values = np.stack(found)
    there = np.isfinite(values)
    total = np.where(there, values, 0).sum(axis=0)
    count: np.ndarray = there.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _check(features: np.ndarray, assembly: Assembly) -> None:
    stimuli, bins = len(assembly.stimuli), len(assembly.bins)
    if features.ndim != 3 or len(features) != stimuli or features.shape[2] not in (1, bins):
        raise ConfigError(
            f"features must be ({stimuli} stimuli, F, {bins} or 1 bins) for assembly "
            f"{assembly.name}, got {features.shape}"
        )
    if not np.isfinite(features).all():
        raise ConfigError("features are not finite: has the model's training diverged?")
