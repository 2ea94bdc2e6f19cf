"""Fits as rows of numbers: one for each bin of time, and one for all of them together."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from rpanoptic.pathfinder.imagenet.neural_fit.predictivity import NeuralFit

Row = dict[str, Any]

#: What a row has beside what names the fit.
COLUMNS = (
    "time_bin_start",
    "time_bin_end",
    "correlation",
    "ceiling",
    "predictivity",
    "predictivity_low",
    "predictivity_high",
    "predictivity_split_std",
    "neuroids",
    "unreliable",
    "constant",
)
_RESAMPLES = 1000
# Per cent of the resampled medians that lie below "low", and above "high".
_TAIL = 2.5


def bin_rows(fit: NeuralFit, *, seed: int = 0) -> list[Row]:
    """A row for each bin of time.

    Args:
        fit: the fit.
        seed: of the bootstrap.

    Returns:
        rows of :data:`COLUMNS`: the bin, ms; medians over the neuroids that count, of the
        correlation (its mean over the splits), of its ceiling, and of the predictivity (corrected
        for noise); of the latter an interval of 95 per cent over resampled neuroids, and the
        standard deviation over the splits; how many neuroids count, how many do not because they
        are unreliable or constant. What is not known, without repetitions or where no neuroid
        counts, is None.
    """
    return [_row(fit, slice(place, place + 1), seed) for place in range(len(fit.bins))]


def overall_row(fit: NeuralFit, *, seed: int = 0) -> Row:
    """As :func:`bin_rows`, of a neuroid's mean over all bins in which it counts."""
    return _row(fit, slice(None), seed)


def _row(fit: NeuralFit, bins: slice, seed: int) -> Row:
    counted = fit.counted[:, bins].any(axis=1)
    constant = fit.constant[:, bins].all(axis=1)
    row: Row = dict.fromkeys(COLUMNS)
    row |= {
        "time_bin_start": float(fit.bins.start[bins].min()),
        "time_bin_end": float(fit.bins.end[bins].max()),
        "neuroids": int(counted.sum()),
        "unreliable": int((~counted & ~constant).sum()),
        "constant": int(constant.sum()),
    }
    if not counted.any():
        return row
    row["correlation"] = _median(_mean(_mean(fit.raw[:, counted, bins], axis=-1), axis=0))
    if fit.ceiling is None or fit.predictivity is None:
        return row
    row["ceiling"] = _median(_mean(fit.ceiling[counted, bins], axis=-1))
    by_split = _mean(fit.predictivity[:, counted, bins], axis=-1)
    neuroids = _mean(by_split, axis=0)
    drawn = np.random.default_rng(seed).integers(len(neuroids), size=(_RESAMPLES, len(neuroids)))
    medians = np.nanmedian(neuroids[drawn], axis=1)
    low, high = np.nanpercentile(medians, [_TAIL, 100 - _TAIL])
    row["predictivity"] = _median(neuroids)
    row["predictivity_low"], row["predictivity_high"] = float(low), float(high)
    row["predictivity_split_std"] = float(np.nanstd(np.nanmedian(by_split, axis=1)))
    return row


def _mean(values: np.ndarray, *, axis: int) -> np.ndarray:
    """The mean of what is a number; NaN where nothing is, as where a split holds nothing out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        mean: np.ndarray = np.nanmean(values, axis=axis)
    return mean


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values))
