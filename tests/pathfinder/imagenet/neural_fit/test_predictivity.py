from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.pathfinder.imagenet.neural_fit import (
    FitSettings,
    MapSettings,
    NeuralFit,
    bin_rows,
    fit_neurons,
    overall_row,
)
from tests.pathfinder.imagenet.neural_fit.helpers import assembly, measured, neurons, trajectory

# The features move in six dimensions, bent by a threshold: ten components hold nearly all of it.
SETTINGS = FitSettings(map=MapSettings(components=10), splits=4)
TEACHER = trajectory()
RESPONSES = neurons(TEACHER)
MEASURED = measured(RESPONSES, 0.6)


def column(fit: NeuralFit, key: str) -> np.ndarray:
    return np.array([row[key] for row in bin_rows(fit)], dtype=float)


@pytest.fixture(scope="module")
def taught() -> NeuralFit:
    """The teacher's own features."""
    return fit_neurons(TEACHER, MEASURED, SETTINGS)


def test_the_teacher_predicts_its_neurons_at_the_ceiling(taught: NeuralFit) -> None:
    found, raw, ceiling = (column(taught, k) for k in ("predictivity", "correlation", "ceiling"))
    # The median of 20 neurons, each known to about 0.06 from the held-out stimuli of four splits;
    # the map, of ten components and of 60 stimuli, loses 0.02 to 0.05.
    np.testing.assert_allclose(found, 1, atol=0.08)
    # Of reliability 0.6, to 0.04: what a half of it makes.
    np.testing.assert_allclose(ceiling, np.sqrt(0.6), atol=0.04)
    # Noise alone keeps the raw correlation lower.
    assert (raw < ceiling + 0.01).all() and (raw > 0.85 * ceiling).all()
    assert taught.counted.all()
    row = overall_row(taught)
    assert row["predictivity"] == pytest.approx(1, abs=0.05)
    assert row["predictivity_low"] < row["predictivity"] < row["predictivity_high"]
    assert 0 < row["predictivity_split_std"] < 0.1
    assert (row["neuroids"], row["unreliable"], row["constant"]) == (20, 0, 0)
    assert (row["time_bin_start"], row["time_bin_end"]) == (0, 50)


def test_features_without_dynamics_lose(taught: NeuralFit) -> None:
    middle = fit_neurons(TEACHER[..., 2:3], MEASURED, SETTINGS)
    lost = column(taught, "predictivity") - column(middle, "predictivity")
    # The first bins and the last ones lie away from the one that the features are of.
    assert lost[[0, -1]].min() > 0.15, lost


def test_with_a_map_for_each_bin_features_lose_away_from_their_own(taught: NeuralFit) -> None:
    settings = replace(SETTINGS, map=MapSettings(10, "per_bin"))
    teacher, middle = (
        fit_neurons(features, MEASURED, settings) for features in (TEACHER, TEACHER[..., 2:3])
    )
    lost = column(teacher, "predictivity") - column(middle, "predictivity")
    # What the network has mapped to one point later on, its later features cannot tell apart.
    assert lost[0] > 0.1 and lost[2] == 0


def test_stimuli_in_another_order_predict_nothing() -> None:
    # What leaked from held-out presentations through their repetitions would predict here too.
    order = np.random.default_rng(4).permutation(len(TEACHER))
    found = column(fit_neurons(TEACHER[order], MEASURED, SETTINGS), "predictivity")
    # Chance: one neuron 0.13 / 0.77 from 60 stimuli; neurons share their dimensions, so that the
    # median is little better known than one.
    np.testing.assert_allclose(found, 0, atol=0.15)


def test_noise_is_left_out_as_unreliable_and_is_not_predicted() -> None:
    noise = np.random.default_rng(5).standard_normal((120 * 6, 20, 5))
    shown = np.repeat(np.arange(120), 6)
    half = MEASURED.responses.copy()
    half[:, :10] = noise[:, :10]
    fit = fit_neurons(TEACHER, assembly(half, shown), SETTINGS)
    # Reliability 0 is known to 0.09 or so, and the threshold is 0.3.
    assert not fit.counted[:10].any() and fit.counted[10:].all()
    assert [row["unreliable"] for row in bin_rows(fit)] == [10] * 5

    uncorrected = replace(SETTINGS, noise_correction=False)
    fit = fit_neurons(TEACHER, assembly(noise, shown), uncorrected)
    # 20 independent neurons, each known to 0.13 or better.
    np.testing.assert_allclose(column(fit, "correlation"), 0, atol=0.1)

    nothing = fit_neurons(TEACHER, assembly(noise, shown), SETTINGS)
    row = overall_row(nothing)
    assert (row["neuroids"], row["unreliable"]) == (0, 20)
    assert row["correlation"] is row["ceiling"] is row["predictivity"] is None


@pytest.mark.parametrize("reliability", [0.4, 0.9])
def test_the_correction_finds_the_correlation_without_noise(reliability: float) -> None:
    # Of the signal's variance the features explain 0.36: a perfect map would correlate by 0.6.
    features = trajectory(300, 12, 2, latent=3)
    own = np.random.default_rng(6).standard_normal((300, 40, 2))
    signal = 0.6 * neurons(features, 40) + 0.8 * own
    fit = fit_neurons(
        features, measured(signal, reliability), replace(SETTINGS, map=MapSettings(components=12))
    )
    # What the map learns of ``own`` by chance, in 12 dimensions from 300 rows, has a variance of
    # 0.03 beside the 0.36 that it should: 0.58. The median of 40 neurons is known to 0.03.
    np.testing.assert_allclose(column(fit, "predictivity"), 0.6, atol=0.06)
    raw = 0.6 * np.sqrt(reliability)
    # Before: less, by the noise of the responses and by what the map learns of it.
    assert (column(fit, "correlation") < raw + 0.03).all()


def test_noise_that_the_map_learns_is_corrected_for() -> None:
    # Many components of noisy features learn noise: the map agrees less with itself.
    noisy = trajectory(100, 60, 2, latent=20)
    given = measured(neurons(noisy), 0.5, repetitions=10)
    settings = replace(SETTINGS, map=MapSettings(components=20), splits=6)
    fit = fit_neurons(noisy, given, settings)
    assert fit.map_reliability is not None and fit.ceiling is not None
    of_map = float(np.median(fit.map_reliability))
    assert of_map < 0.9
    uncorrected = float(np.median(fit.raw.mean(axis=0) / fit.ceiling))
    found = overall_row(fit)["predictivity"]
    assert found == pytest.approx(uncorrected / np.sqrt(of_map), abs=0.03)
    assert found > uncorrected + 0.03


def test_responses_and_features_that_do_not_vary() -> None:
    responses = MEASURED.responses.copy()
    responses[:, 0] = 2.5
    responses[:, 1, 0] = 0
    fit = fit_neurons(TEACHER, replace(MEASURED, responses=responses), SETTINGS)
    assert [row["constant"] for row in bin_rows(fit)] == [2, 1, 1, 1, 1]
    assert [row["neuroids"] for row in bin_rows(fit)] == [18, 19, 19, 19, 19]
    assert overall_row(fit)["constant"] == 1
    assert np.isnan(fit.correlation[:, 0]).all()
    assert np.isfinite(column(fit, "predictivity")).all()

    # A bin before the neurons' latency: nothing fires in it, and maps of it alone predict that.
    responses[..., 0] = 0
    map_of_bins = replace(SETTINGS, map=replace(SETTINGS.map, kind="per_bin"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_neurons(TEACHER, replace(MEASURED, responses=responses), map_of_bins)
    assert [row["neuroids"] for row in bin_rows(fit)] == [0, 19, 19, 19, 19]

    silent = fit_neurons(np.ones((120, 4, 1)), MEASURED, SETTINGS)
    assert overall_row(silent)["predictivity"] == 0


def test_single_presentations_have_no_correction() -> None:
    once = assembly(RESPONSES, np.arange(120))
    with pytest.raises(DatasetError, match="120 of 120 were shown once: s000, s001"):
        fit_neurons(TEACHER, once, SETTINGS)
    fit = fit_neurons(TEACHER, once, replace(SETTINGS, noise_correction=False))
    row = overall_row(fit)
    # No noise, and nearly all of it in ten components.
    assert row["correlation"] > 0.95
    assert row["ceiling"] is row["predictivity"] is row["predictivity_split_std"] is None


def test_fits_follow_from_their_seed(taught: NeuralFit) -> None:
    again = fit_neurons(TEACHER, MEASURED, SETTINGS)
    np.testing.assert_array_equal(again.correlation, taught.correlation)
    assert bin_rows(again) == bin_rows(taught)
    other = fit_neurons(TEACHER, MEASURED, replace(SETTINGS, seed=1))
    assert (other.correlation != taught.correlation).all()


def test_features_that_do_not_fit() -> None:
    for shape in ((119, 30, 5), (120, 30, 4), (120, 30)):
        with pytest.raises(ConfigError, match=r"features must be \(120 stimuli, F, 5 or 1 bins\)"):
            fit_neurons(np.zeros(shape), MEASURED, SETTINGS)
    with pytest.raises(ConfigError, match="features are not finite"):
        fit_neurons(np.full((120, 3, 1), np.nan), MEASURED, SETTINGS)
    few = measured(RESPONSES[:7])
    with pytest.raises(DatasetError, match="needs at least 8 stimuli; it has 7"):
        fit_neurons(TEACHER[:7], few, SETTINGS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": 0}, "splits must be an integer of at least 1"),
        ({"seed": -1}, "seed must be"),
        ({"least_reliability": 0.0}, "above 0 and at most 1, got 0"),
        ({"least_reliability": 1.5}, "above 0 and at most 1, got 1.5"),
    ],
)
def test_impossible_settings(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitSettings(**options)
