from __future__ import annotations

import numpy as np
import pytest

from rpanoptic.pathfinder.imagenet.neural_fit.times import (
    TimeBins,
    averaging,
    step_bins,
    unchanging,
)


def test_steps_last_ten_milliseconds() -> None:
    bins = step_bins(3, 2)
    assert bins.start.tolist() == [30, 40] and bins.end.tolist() == [40, 50]
    assert bins.labels == ["30-40 ms", "40-50 ms"] and len(bins) == 2
    assert bins.within(30, 40).tolist() == [0] and bins.within(31, 60).tolist() == [1]


def test_bins_of_other_lengths_are_averaged_by_overlap() -> None:
    steps = step_bins(2, 4)  # 20 to 60 ms
    wanted = TimeBins(np.array([20.0, 20.0, 35.0, 50.0]), np.array([30.0, 40.0, 50.0, 70.0]))
    weights, covered = averaging(steps, wanted)
    expected = [[1, 0.5, 0, 0], [0, 0.5, 1 / 3, 0], [0, 0, 2 / 3, 0], [0, 0, 0, 0.5]]
    np.testing.assert_allclose(weights, expected)
    # The model ends at 60 ms.
    assert covered.tolist() == [True, True, True, False]


def test_an_answer_that_does_not_change_covers_all_after_the_onset() -> None:
    weights, covered = averaging(unchanging(), TimeBins([-10.0, 0.0, 500.0], [0.0, 10.0, 700.0]))
    assert covered.tolist() == [False, True, True] and weights[0, 1:].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ([], [], "one at least"),
        ([0.0], [1.0, 2.0], "as many starts as ends"),
        ([0.0, np.nan], [1.0, 2.0], "not a number"),
        ([0.0, 5.0], [1.0, 5.0], "5-5 ms does not end after its start"),
        ([0.0, 0.0], [1.0, 1.0], "stands twice: 0-1 ms"),
    ],
)
def test_impossible_bins(start: list[float], end: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimeBins(np.array(start), np.array(end))
