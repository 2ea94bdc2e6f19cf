"""Which pictures a user means, and reading them."""

from __future__ import annotations

import glob
from collections.abc import Collection, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import read_image

from rpanoptic.errors import UserError

_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class PictureError(UserError, ValueError):
    """A picture is missing, cannot be read, or has no size that a model can take."""


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """Expand files, glob patterns and folders to picture files, in order, each once.

    Args:
        inputs: names of files (taken whatever their ending), patterns such as ``photos/*.jpg``,
            or folders (the pictures directly in them).

    Raises:
        PictureError: one of the inputs matches nothing.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            matches = [p for p in sorted(path.iterdir()) if p.suffix.lower() in _SUFFIXES]
        elif path.is_file():
            matches = [path]
        else:
            # Path.glob would refuse an absolute pattern.
            names = sorted(glob.glob(text))  # noqa: PTH207
            matches = [p for p in map(Path, names) if p.is_file()]
        if not matches:
            what = "a folder without pictures" if path.is_dir() else "no file, pattern or folder"
            raise PictureError(f"input {text}: {what}.")
        found.update(dict.fromkeys(matches))
    return list(found)


def read_picture(path: Path) -> np.ndarray:
    """Read a picture, turned upright as its camera noted.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        PictureError: the file is no picture, is cut short, or has more pixels than Pillow takes
            for harmless.
    """
    try:
        return np.ascontiguousarray(read_image(str(path), format="RGB"))
    # Pillow reports damage by OSError, SyntaxError, struct.error and others, and a picture that
    # would fill the memory by an error of its own.
    except Exception as error:
        raise PictureError(f"picture {path} cannot be read: {error}.") from error


def output_names(pictures: Sequence[Path], *, taken: Collection[str] = ()) -> dict[Path, str]:
    """Name what is made of each picture: its stem, with a number where that is taken.

    Args:
        pictures: the pictures.
        taken: names that none may have.

    Returns:
        a name for each picture, all different.
    """
    used = set(taken)
    names = {}
    for path in pictures:
        numbered = (f"{path.stem}_{number}" for number in count(2))
        name = path.stem
        while name in used:
            name = next(numbered)
        used.add(name)
        names[path] = name
    return names
