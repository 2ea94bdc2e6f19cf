"""How a recurrence traces a contour: a strip of steps, and the frames of a moving picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from rpanoptic.visualization.contours import draw_contour, draw_prediction
from rpanoptic.visualization.grid import picture_grid
from rpanoptic.visualization.steps import STEPS
from rpanoptic.visualization.style import GREY, INK, ORANGE, SKY

_BAND_HEIGHT = 30
_FONT_SIZE = 14
_MARGIN = 8
# Left of the bar, for the text of up to three digits each.
_TEXT_WIDTH = 190


@dataclass(frozen=True, kw_only=True)
class ContourTrace:
    """What a model reads out of its state for one picture, step by step.

    Attributes:
        image: ``(H, W)`` uint8, grey.
        probability: ``(steps, H, W)``, 0 to 1, of the contour after step 1, 2, ...
        target: ``(H, W)``, above 0 on the true contour; None where it is not known.
    """

    image: np.ndarray
    probability: np.ndarray
    target: np.ndarray | None = None


def strip_steps(steps: int, trained_steps: int) -> list[int]:
    """The numbers of steps that a strip shows: 1, 2, 5, 10, 20, the trained ones and the last.

    Args:
        steps: how many there are.
        trained_steps: the steps in training.
    """
    return sorted({count for count in (*STEPS, trained_steps, steps) if count <= steps})


def draw_trace_strip(
    traces: Sequence[ContourTrace], counts: Sequence[int], *, cell_width: int = 220
) -> np.ndarray:
    """Draw pictures, true contours if they are known, and the readout after some steps in a row.

    Args:
        traces: a row each.
        counts: after how many steps, 1 to as many as each trace has.
        cell_width: width of one picture, pixels.

    Returns:
        ``(H, W, 3)`` uint8, RGB, with headings.

    Raises:
        ValueError: no trace, the truth known of some only, or a count out of range.
    """
    headings = [*_headings(traces), *("1 step" if n == 1 else f"{n} steps" for n in counts)]
    rows = []
    for trace in traces:
        for count in counts:
            if not 1 <= count <= len(trace.probability):
                raise ValueError(f"step {count} of a trace of {len(trace.probability)} steps")
        pictures = [*_given(trace), *(_readout(trace, count) for count in counts)]
        rows.append([_enlarged(picture, cell_width) for picture in pictures])
    return picture_grid(rows, headings=headings, cell_width=cell_width)


def trace_frames(
    traces: Sequence[ContourTrace],
    trained_steps: int,
    *,
    columns: int = 1,
    cell_width: int = 150,
) -> Iterator[np.ndarray]:
    """Draw a frame for each step: pictures, true contours if they are known, and the readout.

    A bar below tells the step; it is orange past the trained steps.

    Args:
        traces: all of equally many steps.
        trained_steps: the steps in training, marked in the bar if there are so many.
        columns: how many traces stand side by side.
        cell_width: width of one picture, pixels.

    Yields:
        ``(H, W, 3)`` uint8, RGB, all of one size.

    Raises:
        ValueError: no trace, the truth known of some only, or traces of unequal length.
    """
    lengths = {len(trace.probability) for trace in traces}
    if len(lengths) > 1:
        raise ValueError(f"traces of {sorted(lengths)} steps cannot run side by side")
    columns = min(columns, len(traces))
    headings = [*_headings(traces), "readout"] * columns
    given = [[_enlarged(picture, cell_width) for picture in _given(trace)] for trace in traces]
    blank = [np.full_like(given[0][0], 255)] * (len(given[0]) + 1)
    (steps,) = lengths
    for count in range(1, steps + 1):
        cells = [
            [*fixed, _enlarged(_readout(trace, count), cell_width)]
            for fixed, trace in zip(given, traces, strict=True)
        ]
        cells += [blank] * (math.ceil(len(cells) / columns) * columns - len(cells))
        rows = [
            [picture for cell in cells[start : start + columns] for picture in cell]
            for start in range(0, len(cells), columns)
        ]
        grid = picture_grid(rows, headings=headings, cell_width=cell_width)
        yield np.concatenate([grid, _step_band(grid.shape[1], count, steps, trained_steps)])


def _headings(traces: Sequence[ContourTrace]) -> list[str]:
    known = {trace.target is not None for trace in traces}
    if len(known) != 1:
        raise ValueError(
            "no trace to draw" if not known else "the true contour is known of some traces only"
        )
    return ["picture", "ground truth"] if known == {True} else ["picture"]


def _given(trace: ContourTrace) -> list[np.ndarray]:
    """What does not change: the picture, and the truth if it is known."""
    shown = [cv2.cvtColor(trace.image, cv2.COLOR_GRAY2RGB)]
    return shown if trace.target is None else [*shown, draw_contour(trace.image, trace.target)]


def _readout(trace: ContourTrace, count: int) -> np.ndarray:
    # Without the truth: its colours would show the whole contour before it is traced.
    return draw_prediction(trace.image, None, trace.probability[count - 1])


def _enlarged(picture: np.ndarray, cell_width: int) -> np.ndarray:
    """A picture much smaller than its cell by a whole number, pixels as squares.

    Smooth enlargement would blur and ring, and take three times as much room in a GIF.
    """
    factor = math.ceil(cell_width / picture.shape[1])
    return picture if factor <= 2 else picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _step_band(width: int, count: int, steps: int, trained_steps: int) -> np.ndarray:
    """``(30, width, 3)``: the number of the step, and a bar that grows to the right."""
    band = Image.new("RGB", (width, _BAND_HEIGHT), "white")
    draw, middle = ImageDraw.Draw(band), (_BAND_HEIGHT - _MARGIN) / 2
    text = f"step {count}, trained for {trained_steps}"
    draw.text((_MARGIN, middle), text, fill=INK, font=_font(), anchor="lm")
    left, right = _MARGIN + _TEXT_WIDTH, max(width, _TEXT_WIDTH + 4 * _MARGIN) - _MARGIN

    def place(step: int) -> float:
        return left + (right - left) * step / steps

    draw.line([(left, middle), (right, middle)], fill=GREY, width=1)
    within = min(count, trained_steps)
    draw.rectangle([left, middle - 3, place(within), middle + 3], fill=SKY)
    if count > trained_steps:
        draw.rectangle([place(trained_steps), middle - 3, place(count), middle + 3], fill=ORANGE)
    if trained_steps <= steps:
        mark = place(trained_steps)
        draw.line([(mark, middle - 8), (mark, middle + 8)], fill=INK, width=2)
    return np.asarray(band)


@cache
def _font() -> ImageFont.FreeTypeFont:
    # Matplotlib ships this font; a system may have none.
    return ImageFont.truetype(findfont("DejaVu Sans"), _FONT_SIZE)
