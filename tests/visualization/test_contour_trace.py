from __future__ import annotations

import numpy as np
import pytest

from rpanoptic.visualization.contour_trace import (
    ContourTrace,
    draw_trace_strip,
    strip_steps,
    trace_frames,
)
from rpanoptic.visualization.contours import draw_contour, draw_prediction

# Of the pictures here, between pictures, and of the headings with the gap below them; pixels.
SIZE, GAP, HEADINGS = 100, 8, 42


def trace(steps: int = 6, *, known: bool = True, row: int = 50) -> ContourTrace:
    """A line of which a sixth more is read out at each step."""
    image = np.zeros((SIZE, SIZE), dtype=np.uint8)
    image[row : row + 4] = 255
    probability = np.zeros((steps, SIZE, SIZE), dtype=np.float16)
    for step in range(steps):
        probability[step, row : row + 4, : (step + 1) * SIZE // 6] = 0.75
    return ContourTrace(
        image=image, probability=probability, target=image // 255 if known else None
    )


def cell(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """A picture out of a grid whose cells are as wide as the pictures are."""
    top, left = HEADINGS + row * (SIZE + GAP), GAP + column * (SIZE + GAP)
    return picture[top : top + SIZE, left : left + SIZE]


def test_strip_is_picture_truth_and_readouts_a_row_for_each_trace() -> None:
    traces = [trace(), trace(row=20)]
    strip = draw_trace_strip(traces, [1, 6], cell_width=SIZE)
    assert strip.shape == (HEADINGS + 2 * (SIZE + GAP), 4 * (SIZE + GAP) + GAP, 3)
    for row, one in enumerate(traces):
        assert one.target is not None
        expected = [
            np.repeat(one.image[:, :, None], 3, axis=2),
            draw_contour(one.image, one.target),
            draw_prediction(one.image, None, one.probability[0]),
            draw_prediction(one.image, None, one.probability[5]),
        ]
        for column, picture in enumerate(expected):
            assert (cell(strip, row, column) == picture).all()


def test_strip_without_the_truth_has_a_picture_less() -> None:
    known = draw_trace_strip([trace()], [2], cell_width=SIZE)
    unknown = draw_trace_strip([trace(known=False)], [2], cell_width=SIZE)
    assert known.shape[1] - unknown.shape[1] == SIZE + GAP
    assert (cell(unknown, 0, 1) == cell(known, 0, 2)).all()


@pytest.mark.parametrize(
    ("steps", "trained", "expected"),
    [
        (40, 20, [1, 2, 5, 10, 20, 40]),
        (12, 6, [1, 2, 5, 6, 10, 12]),
        (4, 8, [1, 2, 4]),
        (1, 1, [1]),
    ],
)
def test_steps_of_a_strip(steps: int, trained: int, expected: list[int]) -> None:
    assert strip_steps(steps, trained) == expected


def test_a_frame_for_each_step_in_which_the_readout_alone_changes() -> None:
    one = trace()
    frames = np.stack(list(trace_frames([one], 3, cell_width=SIZE)))
    grid = HEADINGS + SIZE + GAP
    assert frames.shape == (6, grid + 30, 3 * (SIZE + GAP) + GAP, 3)
    for count, frame in enumerate(frames):
        readout = draw_prediction(one.image, None, one.probability[count])
        assert (cell(frame, 0, 2) == readout).all()
    left = 2 * (SIZE + GAP)
    assert (frames[:, :grid, :left] == frames[0, :grid, :left]).all()


def test_the_bar_grows_and_is_orange_past_the_trained_steps() -> None:
    frames = np.stack(list(trace_frames([trace()], 3, cell_width=200))).astype(int)
    bands = frames[:, -30:]
    red, blue = bands[..., 0], bands[..., 2]
    within = (blue > red + 100).sum(axis=(1, 2))
    past = (red > blue + 100).sum(axis=(1, 2))
    assert (np.diff(within)[:2] > 0).all() and (np.diff(within)[3:] == 0).all()
    assert (past[:3] == 0).all() and (np.diff(past[2:]) > 0).all()
    # The number of the step is written.
    assert (bands[1, :, :190] != bands[0, :, :190]).any()


def test_traces_side_by_side_leave_the_rest_of_the_last_row_white() -> None:
    traces = [trace(row=row) for row in (10, 40, 70)]
    (frame,) = trace_frames(
        [
            ContourTrace(image=t.image, probability=t.probability[:1], target=t.target)
            for t in traces
        ],
        1,
        columns=2,
        cell_width=SIZE,
    )
    assert frame.shape == (HEADINGS + 2 * (SIZE + GAP) + 30, 6 * (SIZE + GAP) + GAP, 3)
    assert (cell(frame, 0, 3)[:, :, 0] == traces[1].image).all()
    assert (cell(frame, 1, 0)[:, :, 0] == traces[2].image).all()
    for column in (3, 4, 5):
        assert (cell(frame, 1, column) == 255).all()
    # More columns than traces: no empty ones.
    (wide,) = trace_frames([trace(1)], 1, columns=5, cell_width=SIZE)
    assert wide.shape[1] == 3 * (SIZE + GAP) + GAP


def test_the_pixels_of_small_pictures_are_squares() -> None:
    one = trace()
    strip = draw_trace_strip([one], [1], cell_width=4 * SIZE)
    squares = np.repeat(np.repeat(one.image, 4, axis=0), 4, axis=1)
    assert (strip[HEADINGS : HEADINGS + 4 * SIZE, GAP : GAP + 4 * SIZE, 0] == squares).all()
    # Of a cell that is no multiple, the edges of the squares are mixed.
    (frame, *_) = trace_frames([one], 3, cell_width=350)
    shown = frame[HEADINGS : HEADINGS + 350, GAP : GAP + 350, 0]
    assert shown[175 + 2, 0] == 255 and shown[175 - 4, 0] == 0
    assert abs(shown.mean() - one.image.mean()) < 0.1  # of 255


def test_a_narrow_frame_is_drawn() -> None:
    frames = list(trace_frames([trace(2, known=False)], 1, cell_width=40))
    assert len({frame.shape for frame in frames}) == 1


def test_traces_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="no trace to draw"):
        draw_trace_strip([], [1])
    with pytest.raises(ValueError, match="known of some traces only"):
        draw_trace_strip([trace(), trace(known=False)], [1])
    with pytest.raises(ValueError, match="step 7 of a trace of 6 steps"):
        draw_trace_strip([trace()], [1, 7])
    with pytest.raises(ValueError, match="step 0"):
        draw_trace_strip([trace()], [0])
    with pytest.raises(ValueError, match=r"traces of \[4, 6\] steps cannot run side by side"):
        next(trace_frames([trace(), trace(4)], 3))
    with pytest.raises(ValueError, match="no trace to draw"):
        next(trace_frames([], 3))
