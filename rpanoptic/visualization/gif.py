"""Moving pictures as GIF, small enough for a page on the web."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from rpanoptic.data.paths import write_atomically

# One less than a power of two: the last place of the table is for pixels that do not change.
_COLORS = 127
_LOOKED_AT = 8


def save_gif(
    path: str | Path,
    frames: Iterable[np.ndarray],
    *,
    frame_ms: int = 120,
    last_ms: int = 2000,
) -> Path:
    """Write pictures as a GIF that repeats; the file appears only when it is complete.

    All frames share one palette of 127 colours and are not dithered: what stays the same in the
    pictures stays the same on the screen, and takes no room.

    Args:
        path: the file; its folder must exist.
        frames: ``(H, W, 3)`` uint8, RGB, all of one size; at least one.
        frame_ms: how long each frame is shown, milliseconds. A GIF counts in tens of them, and
            viewers show less than 20 as 100.
        last_ms: how long the last frame is held.

    Returns:
        the path.

    Raises:
        ValueError: no frame, or one of another size than the first.
    """
    path, pictures = Path(path), [Image.fromarray(frame) for frame in frames]
    if not pictures:
        raise ValueError("a GIF needs at least one frame")
    for number, picture in enumerate(pictures):
        if picture.size != pictures[0].size:
            raise ValueError(
                f"frame {number} is {picture.size} pixels, the first one {pictures[0].size}"
            )
    palette = _shared_palette(pictures)
    first, *rest = [
        picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    ]
    stream = io.BytesIO()
    first.save(
        stream,
        format="GIF",
        save_all=True,
        append_images=rest,
        # Of frames without change Pillow writes the first, for as long as all of them.
        duration=[frame_ms] * len(rest) + [last_ms],
        loop=0,
        disposal=1,
        optimize=True,
        # Without it each frame would carry a table of its own.
        palette=palette.palette,
    )
    write_atomically(path, stream.getvalue())
    return path


def _shared_palette(pictures: list[Image.Image]) -> Image.Image:
    """A picture whose palette serves all: chosen from frames spread evenly, first and last too."""
    places = np.linspace(0, len(pictures) - 1, min(len(pictures), _LOOKED_AT)).round().astype(int)
    stack = np.concatenate([np.asarray(pictures[place]) for place in places])
    # Median cut, Pillow's default, would make white grey where most pixels are dark, and files
    # nearly twice as large.
    return Image.fromarray(stack).quantize(_COLORS, method=Image.Quantize.FASTOCTREE)
