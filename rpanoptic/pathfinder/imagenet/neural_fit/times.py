"""Bins of time, in milliseconds from the onset of the image, and how a model's meet a neuron's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# One step of a network in which every connection costs a step (Nayebi et al., NeurIPS 2018).
STEP_MS = 10.0
# Bins that come closer than this are the same, ms.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class TimeBins:
    """Bins of time.

    Args:
        start, end: ``(T,)``, ms from the onset of the image; each end after its start. An answer
            that does not change has one bin from 0 to infinity.

    Raises:
        ValueError: none, of different numbers, not a number, an end that is not after its start,
            or one twice.
    """

    start: np.ndarray
    end: np.ndarray

    def __post_init__(self) -> None:
        start, end = (np.asarray(edge, dtype=np.float64) for edge in (self.start, self.end))
        if start.ndim != 1 or start.shape != end.shape or not start.size:
            raise ValueError(
                "bins of time need as many starts as ends, one at least; got the shapes "
                f"{start.shape} and {end.shape}"
            )
        if np.isnan(start).any() or np.isnan(end).any():
            raise ValueError("a bin of time is not a number")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", end)
        for place in np.flatnonzero(~(end > start)):
            raise ValueError(f"the bin of time {self.label(place)} does not end after its start")
        if len(np.unique(np.stack([start, end]), axis=1).T) < len(start):
            raise ValueError(f"a bin of time stands twice: {', '.join(self.labels)}")

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, places: np.ndarray | Sequence[int]) -> TimeBins:
        return TimeBins(self.start[places], self.end[places])

    def label(self, place: int) -> str:
        """Such as "70-80 ms"."""
        return f"{self.start[place]:g}-{self.end[place]:g} ms"

    @property
    def labels(self) -> list[str]:
        """All of them."""
        return [self.label(place) for place in range(len(self))]

    def within(self, first: float, last: float) -> np.ndarray:
        """Places of the bins that lie between two times, ms."""
        inside = (self.start >= first - _TOLERANCE) & (self.end <= last + _TOLERANCE)
        return np.flatnonzero(inside)


def step_bins(first: int, count: int) -> TimeBins:
    """The bins of ``count`` steps of a network from step ``first`` on; step t lasts from 10 t ms.

    Args:
        first: 0 is the step in which the image first drives the first layer.
        count: at least 1.
    """
    start = STEP_MS * np.arange(first, first + count)
    return TimeBins(start, start + STEP_MS)


def unchanging() -> TimeBins:
    """The one bin of an answer that does not change, as a feed-forward network's."""
    return TimeBins(np.zeros(1), np.full(1, np.inf))


def averaging(given: TimeBins, wanted: TimeBins) -> tuple[np.ndarray, np.ndarray]:
    """How bins are averaged into others.

    Args:
        given: such as a model's.
        wanted: such as a neuron's, none of them endless.

    Returns:
        weights ``(T_given, T_wanted)``, each column the parts of a wanted bin that the given ones
        make up; and ``(T_wanted,)`` boolean, which of the wanted ones the given ones cover whole.
    """
    start = np.maximum(given.start[:, None], wanted.start)
    overlap = (np.minimum(given.end[:, None], wanted.end) - start).clip(min=0)
    length = wanted.end - wanted.start
    return overlap / length, np.abs(overlap.sum(axis=0) - length) < _TOLERANCE
