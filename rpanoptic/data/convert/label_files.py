"""Finds and reads label images: greyscale PNGs and TIFFs whose values are numbers, not light."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from rpanoptic.data.exif import UPRIGHT, exif_orientation, turned_size
from rpanoptic.errors import DatasetError, listed

LABEL_EXTENSIONS = (".png", ".tif", ".tiff")
PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# Modes of Pillow with one whole number per pixel. "I" has 32 bits with a sign.
_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
# Pillow stretches greyscale of these bits to 8, and turns it over in TIFFs whose 0 is white.
_CHANGED = (
    *("1;I", "1;IR", "L;I", "L;IR"),
    *("L;2", "L;2R", "L;2I", "L;2IR", "L;4", "L;4R", "L;4I", "L;4IR"),
)
_SAMPLE_FORMAT, _SIGNED = 339, 2  # a tag of TIFF, and one of its values


def read_label_image(path: Path, *, rgb: bool = False) -> np.ndarray:
    """The values of a label image, exactly as stored.

    Args:
        path: a greyscale or indexed PNG or TIFF of 8 or 16 bits, or a greyscale TIFF of 32 bits.
        rgb: also take a picture of three channels of 8 bits, for R + 256 G + 256**2 B.

    Returns:
        (H, W) int64, from 0.

    Raises:
        DatasetError: the file is missing, damaged or of another kind, or holds negative numbers.
    """
    try:
        with Image.open(path, formats=("PNG", "TIFF")) as image:
            kind = _kind(image, rgb=rgb)
            values = np.asarray(image)
            if values.dtype == np.uint8 and _is_signed(image):
                values = values.view(np.int8)
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file.") from None
    # Pillow reports damage by OSError, SyntaxError, ValueError and others.
    except Exception as error:
        raise DatasetError(f"{path}: cannot be read as a PNG or TIFF ({error}).") from None
    if kind:
        raise DatasetError(
            f"{path}: is {kind}; a label image holds one whole number per pixel, in 8 or 16 bits"
            f"{', or as R + 256 G + 256^2 B' if rgb else ''}."
        )
    values = values.astype(np.int64)
    if values.ndim == 3:
        values = values @ np.array([1, 256, 65536])
    if values.min(initial=0) < 0:
        raise DatasetError(f"{path}: holds the negative number {values.min()}.")
    return values


def _kind(image: Image.Image, *, rgb: bool) -> str:
    """What an image is that is no label image; empty if it is one."""
    if getattr(image, "n_frames", 1) > 1:
        return "a file of several pictures"
    if image.mode not in _NUMBERS and not (rgb and image.mode == "RGB"):
        return f"a picture of mode {image.mode!r}"
    for tile in getattr(image, "tile", ()):
        # A name, or for some codecs a tuple that begins with it.
        stored = tile[3] if isinstance(tile[3], str) else (tile[3] or ("",))[0]
        if stored in _CHANGED:
            return "greyscale of less than 8 bits, or a TIFF whose 0 is white"
    if exif_orientation(image) != UPRIGHT:
        return "to be turned by its EXIF orientation"
    return ""


def _is_signed(image: Image.Image) -> bool:
    """Whether the 8 bits of a TIFF are from -128 to 127, which Pillow overlooks."""
    tags = getattr(image, "tag_v2", {})
    return _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, but for hidden ones and those in hidden folders.

    Raises:
        DatasetError: there is no such folder.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder.")
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            found.append(path)
    return found


def files_by_key(
    folder: Path, *, suffix: str = "", extensions: Collection[str] = LABEL_EXTENSIONS
) -> dict[str, list[Path]]:
    """The files below a folder by what they are called, in the order of these keys.

    Args:
        folder: searched with its subfolders, but for what is hidden (begins with a dot).
        suffix: end of their names, before the extension.
        extensions: which files count; small letters, for capitals too.

    Returns:
        "town/000001" for "town/000001_labels.png" with the suffix "_labels". Several files where
        they differ in their extensions alone.

    Raises:
        DatasetError: there is no such folder.
    """
    found: dict[str, list[Path]] = {}
    for path in visible_files(folder):
        named = path.stem.endswith(suffix) and path.stem != suffix
        if named and path.suffix.lower() in extensions:
            place = path.relative_to(folder)
            key = place.with_name(place.stem[: len(place.stem) - len(suffix)]).as_posix()
            found.setdefault(key, []).append(path)
    return dict(sorted(found.items()))


def only_file(files: dict[str, list[Path]], key: str, what: str, folder: Path) -> Path:
    """The file of a key.

    Args:
        files: what :func:`files_by_key` found.
        key: what the file is called.
        what: the file is, for the message.
        folder: that was searched, for the message.

    Raises:
        DatasetError: there is none, or there are several.
    """
    paths = files.get(key, [])
    if not paths:
        raise DatasetError(f"{folder}: has no {what} for {key!r}.")
    if len(paths) > 1:
        names = listed([path.name for path in paths], most=3)
        raise DatasetError(f"{folder}: has several files as {what} for {key!r}: {names}.")
    return paths[0]


def check_picture_size(path: Path, values: np.ndarray, picture: Path) -> None:
    """Check that a label image has the size of its picture as it is shown.

    Raises:
        DatasetError: it has not, or the picture cannot be read.
    """
    height, width = values.shape
    expected = shown_size(picture)
    if (width, height) != expected:
        raise DatasetError(
            f"{path}: is {width} x {height} pixels, its picture {picture} is "
            f"{expected[0]} x {expected[1]}."
        )


def shown_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture, turned as its EXIF orientation says; its header is read alone.

    Raises:
        DatasetError: the file is missing or no picture.
    """
    try:
        with Image.open(path) as image:
            return turned_size(image)
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file.") from None
    # Pillow reports damage by OSError, SyntaxError, ValueError and others.
    except Exception as error:
        raise DatasetError(f"{path}: cannot be read as a picture ({error}).") from None
