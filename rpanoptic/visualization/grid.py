"""Pictures side by side under headings, and saving them whole."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from rpanoptic.data.paths import write_atomically

_GAP = 8
_HEADING_HEIGHT = 34
_FONT_SIZE = 19
_MAX_PROPORTION = 8
_INK = (40, 40, 40)


def picture_grid(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    headings: Sequence[str] = (),
    cell_width: int = 440,
) -> np.ndarray:
    """Put pictures into rows and columns of equal width on white.

    Args:
        rows: rows of RGB uint8 pictures of any size, as many in each row. They keep their
            proportions; a row is as high as its highest picture, at most eight times its width.
        headings: a text above each column, or none.
        cell_width: width of a column, pixels.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        ValueError: no picture, rows of different length, or another number of headings.
    """
    columns = len(rows[0]) if rows else 0
    if columns == 0 or any(len(row) != columns for row in rows):
        raise ValueError(f"rows must be equally long and not empty: {[len(row) for row in rows]}")
    if headings and len(headings) != columns:
        raise ValueError(f"{len(headings)} headings for {columns} columns")
    bands = [_heading_band(headings, cell_width)] if headings else []
    bands += [_row_band([_fit(picture, cell_width) for picture in row]) for row in rows]
    gap = np.full((_GAP, bands[0].shape[1], 3), 255, dtype=np.uint8)
    first = [] if headings else [gap]
    return np.concatenate([*first, *(part for band in bands for part in (band, gap))])


def save_png(path: str | Path, picture: np.ndarray) -> Path:
    """Write an RGB picture as PNG; the file appears only when it is complete.

    Args:
        path: the file; its folder must exist.
        picture: ``(H, W, 3)`` uint8, RGB.

    Returns:
        the path.
    """
    path = Path(path)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    write_atomically(path, stream.getvalue())
    return path


def _fit(picture: np.ndarray, width: int) -> np.ndarray:
    """The picture at the width, on white if it would be more than eight times as high."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    if height > _MAX_PROPORTION * width:
        shown = max(1, round(_MAX_PROPORTION * width**2 / height))
        cell = np.full((_MAX_PROPORTION * width, width, 3), 255, dtype=np.uint8)
        cell[:, :shown] = _resized(picture, shown, _MAX_PROPORTION * width)
        return cell
    return _resized(picture, width, height)


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    shrink = width < picture.shape[1]
    interpolation = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=interpolation)


def _row_band(pictures: Sequence[np.ndarray]) -> np.ndarray:
    height = max(picture.shape[0] for picture in pictures)
    gap = np.full((height, _GAP, 3), 255, dtype=np.uint8)
    parts = [gap]
    for picture in pictures:
        cell = np.full((height, picture.shape[1], 3), 255, dtype=np.uint8)
        cell[: picture.shape[0]] = picture
        parts += [cell, gap]
    return np.concatenate(parts, axis=1)


def _heading_band(headings: Sequence[str], cell_width: int) -> np.ndarray:
    width = len(headings) * (cell_width + _GAP) + _GAP
    band = Image.new("RGB", (width, _HEADING_HEIGHT), "white")
    draw = ImageDraw.Draw(band)
    # Matplotlib ships this font; a system may have none.
    font = ImageFont.truetype(findfont("DejaVu Sans"), _FONT_SIZE)
    for column, text in enumerate(headings):
        middle = _GAP + column * (cell_width + _GAP) + cell_width / 2
        draw.text((middle, _HEADING_HEIGHT / 2), text, fill=_INK, font=font, anchor="mm")
    return np.asarray(band)
