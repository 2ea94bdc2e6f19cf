import numpy as np
import pytest

from rpanoptic.data.panoptic_format import drawn_segments


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 5), (30, 40)])
@pytest.mark.parametrize("number", [1, 3, 50])
def test_areas_and_boxes_are_those_of_the_pixels(shape, number):
    generator = np.random.default_rng(number)
    ids = generator.integers(0, 256**3, number)[generator.integers(0, number, shape)]
    drawn = drawn_segments(ids.astype(np.uint32))
    assert drawn.keys() == set(ids.ravel().tolist())
    for segment_id, (area, bbox) in drawn.items():
        rows, columns = np.nonzero(ids == segment_id)
        x, y = columns.min(), rows.min()
        assert area == len(rows)
        assert bbox == (x, y, columns.max() - x + 1, rows.max() - y + 1)


def test_a_segment_that_goes_round_the_edge_is_two_runs():
    ids = np.array([[1, 1, 2], [2, 1, 1]])
    assert drawn_segments(ids) == {1: (4, (0, 0, 3, 2)), 2: (2, (0, 0, 3, 2))}
