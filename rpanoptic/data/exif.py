"""Pictures that are turned as their EXIF orientation says, as Detectron2 reads them."""

from __future__ import annotations

from PIL import ExifTags, Image

UPRIGHT = 1
_ORIENTATIONS = range(2, 9)
# Those that exchange width and height.
_TURNED = (5, 6, 7, 8)


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation of a picture, 1 to 8; 1 (upright) where it says none."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as Detectron2, which takes a picture with a damaged EXIF as it is
        return UPRIGHT
    return next((one for one in _ORIENTATIONS if one == orientation), UPRIGHT)


def turned_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of a picture once it is turned; its pixels are not read."""
    return image.size[::-1] if exif_orientation(image) in _TURNED else image.size
