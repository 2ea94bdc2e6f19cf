"""How alike two measurements of the same responses are, and what that bounds."""

from __future__ import annotations

import numpy as np

from rpanoptic.errors import DatasetError, listed
from rpanoptic.pathfinder.imagenet.neural_fit.assembly import Assembly
from rpanoptic.pathfinder.imagenet.neural_fit.libraries import library

# Standard deviations below this part of the largest magnitude are those of rounding.
_ROUNDING = 1e-6


def constant(x: np.ndarray) -> np.ndarray:
    """Whether x is the same along the first axis, as far as float32 can tell; without that axis."""
    scale = np.abs(x).max(axis=0)
    flat: np.ndarray = x.std(axis=0, dtype=np.float64) <= _ROUNDING * scale
    return flat


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation along the first axis, in float64.

    Args:
        x, y: ``(S, ...)`` of equal shapes.

    Returns:
        ``(...)``, -1 to 1; NaN where x or y is constant.
    """
    flat = constant(x) | constant(y)
    x, y = (z.astype(np.float64) - z.mean(axis=0, dtype=np.float64) for z in (x, y))
    norm = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    norm[flat] = np.nan
    return (x * y).sum(axis=0) / norm


def spearman_brown(r: np.ndarray, factor: float) -> np.ndarray:
    """The reliability of ``factor`` times as many measurements as those of reliability ``r``.

    ``factor r / (1 + (factor - 1) r)``: Spearman (1910), Brown (1910); 2 for halves.
    """
    return factor * r / (1 + (factor - 1) * r)


class Repetitions:
    """The repetitions of an assembly's stimuli, averaged all together or in two halves.

    Args:
        assembly: the responses.
    """

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._counts = assembly.repetitions
        self._half = self._counts // 2

    @property
    def halved(self) -> bool:
        """Whether every stimulus was shown twice at least."""
        return bool((self._half > 0).all())

    @property
    def factor(self) -> float:
        """How many times the repetitions of a half all repetitions are; 2 for even numbers."""
        return float(self._counts.mean() / self._half.mean())

    def check_halves(self) -> None:
        """Raise a DatasetError unless every stimulus was shown twice at least."""
        if not self.halved:
            stimuli = self._assembly.stimuli
            once = [stimuli[place] for place in np.flatnonzero(self._half == 0)]
            raise DatasetError(
                f"assembly {self._assembly.name}: a noise ceiling needs two repetitions of each "
                f"stimulus; {len(once)} of {len(stimuli)} were shown once: {listed(once, most=4)}. "
                "Without noise correction (--no-noise-correction) one is enough."
            )

    def mean(self) -> np.ndarray:
        """``(S, N, T)``, over all repetitions."""
        return self._mean(np.arange(len(self._assembly.shown)))

    def halves(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Means over two halves of the repetitions, drawn at random and disjoint.

        Both are as large; of an odd number one repetition is in neither.

        Returns:
            two arrays ``(S, N, T)``.
        """
        order = generator.permutation(len(self._assembly.shown))
        order = order[np.argsort(self._assembly.shown[order], kind="stable")]
        shown = self._assembly.shown[order]
        first_of = np.cumsum(self._counts) - self._counts
        rank, half = np.arange(len(order)) - first_of[shown], self._half[shown]
        return self._mean(order[rank < half]), self._mean(order[(rank >= half) & (rank < 2 * half)])

    def _mean(self, presentations: np.ndarray) -> np.ndarray:
        """The mean over some presentations, of which each stimulus has one at least."""
        responses, shown = self._assembly.responses, self._assembly.shown[presentations]
        weights = 1 / np.bincount(shown, minlength=len(self._counts))[shown]
        # Sparse: a stimulus reads its own presentations alone.
        average = library("scipy.sparse").csr_array(
            (weights, (shown, presentations)), shape=(len(self._counts), len(responses))
        )
        means = average @ responses.reshape(len(responses), -1)
        return np.asarray(means).reshape(-1, *responses.shape[1:])
