"""Inspects the files of one picture: the picture and its panoptic PNG."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from rpanoptic.data.exif import UPRIGHT, exif_orientation, turned_size
from rpanoptic.data.inspection.content import Picture
from rpanoptic.data.inspection.findings import Findings
from rpanoptic.data.panoptic_format import (
    LARGEST_SEGMENT_ID,
    VOID_ID,
    DrawnSegment,
    drawn_segments,
    segment_ids,
)
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import listed

# Of the findings of one picture, so that those of many pictures need little memory.
_MOST_KEPT = 5
_MOST_VOID = 0.9
# Detectron2's default INPUT.MAX_SIZE_TRAIN, and the largest stride of an FPN.
_LONG_SIDE = 1333
_STRIDE = 32
# Some tools leave the last row and column out of a box, or count them twice.
_BOX_TOLERANCE = 1
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The bits of a channel stand here in every PNG: after signature, length and name of the first
# chunk, width, and height.
_PNG_DEPTH = 24
_MODES = {"1": "black and white", "L": "grey", "LA": "grey with alpha", "P": "a palette"}


class FileResult(NamedTuple):
    """What the files of a picture say.

    Attributes:
        findings: what is wrong with them.
        digest: of the picture's bytes; b"" where it cannot be read.
        pixels: number of pixels of the panoptic PNG; 0 where it cannot be read.
        void: how many of them are void.
        classes: number of pixels by category id.
    """

    findings: Findings
    digest: bytes
    pixels: int
    void: int
    classes: dict[int, int]


class _Unusable(Exception):
    """A file that cannot be opened as a picture, with the kind of the finding and its message."""


def inspect_files(picture: Picture, source: PanopticSource) -> FileResult:
    """Read a picture and its panoptic PNG, whole, and compare both with the JSON.

    Args:
        picture: from the JSON.
        source: where the files are.

    Returns:
        small, so that it can be sent to another process.
    """
    findings = Findings(most=_MOST_KEPT)
    digest, size = b"", None
    if picture.file_name is not None:
        try:
            path = source.image_root / picture.file_name
            data, image = _opened(path, "picture", source.panoptic_root / picture.file_name)
            digest = hashlib.blake2b(data, digest_size=16).digest()
            size = _check_picture(picture.file_name, picture.size, image, findings)
            _decode(image, "picture", as_rgb=True)
        except _Unusable as error:
            findings.add(error.args[0], picture.file_name, error.args[1])
    if picture.png is None:
        return FileResult(findings, digest, 0, 0, {})
    try:
        swapped = source.image_root / picture.png
        ids = _read_ids(source.panoptic_root / picture.png, swapped, picture.png, findings)
    except _Unusable as error:
        findings.add(error.args[0], picture.png, error.args[1])
        return FileResult(findings, digest, 0, 0, {})
    drawn = drawn_segments(ids)
    void = drawn.pop(VOID_ID).area if VOID_ID in drawn else 0
    height, width = ids.shape
    expected, by = (picture.size, "the JSON") if picture.size else (size, "the picture")
    if expected and expected != (width, height):
        findings.add("png_size", picture.png, _other_size((width, height), expected, by))
    else:
        _check_geometry(picture.png, picture, drawn, findings)
    _check_ids(picture.png, picture, drawn, findings)
    if picture.segments and void > _MOST_VOID * ids.size:
        findings.add("void_picture", picture.png, f"{void / ids.size:.1%} of its pixels are void")
    classes: dict[int, int] = {}
    for segment in picture.segments:
        if segment.category_id is not None and segment.id in drawn:
            before = classes.get(segment.category_id, 0)
            classes[segment.category_id] = before + drawn[segment.id].area
    return FileResult(findings, digest, ids.size, void, classes)


def _opened(path: Path, what: str, swapped: Path) -> tuple[bytes, Image.Image]:
    """The bytes of a file, and the image in them, not yet decoded.

    Args:
        path: the file.
        what: begins the kind of a finding, "picture" or "png".
        swapped: where it would be if the two folders were taken for each other.
    """
    try:
        # Opening a pipe would wait for ever.
        if path.exists() and not path.is_file():
            raise _Unusable(f"{what}_unreadable", "is no file")
        data = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return data, Image.open(io.BytesIO(data))
    except (FileNotFoundError, NotADirectoryError):
        raise _Unusable(f"{what}_missing", f"is not there{_hint(path, swapped)}") from None
    except _Unusable:
        raise
    # Pillow reports damage by OSError, SyntaxError, ValueError and others.
    except Exception as error:
        # Else it is one that Pillow takes for too large.
        said = "no picture" if isinstance(error, UnidentifiedImageError) else str(error)
        reason = (isinstance(error, OSError) and error.strerror) or said
        raise _Unusable(f"{what}_unreadable", f"cannot be read ({reason})") from None


def _decode(image: Image.Image, what: str, *, as_rgb: bool) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            if as_rgb and image.mode != "RGB":
                image.convert("RGB")
    except Exception as error:
        raise _Unusable(f"{what}_unreadable", f"cannot be decoded ({error})") from None


def _hint(path: Path, swapped: Path) -> str:
    """What there is instead of a missing file; see :func:`_opened`."""
    with contextlib.suppress(OSError):
        if swapped.is_file():
            return f"; it is {swapped}: the folders of pictures and PNGs may be swapped"
    if path.is_symlink():
        return f"; it is a link to {path.readlink()}"
    if "\\" in path.name:
        return "; the folders in its name must be parted by /"
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent}"
    names = _by_stem(path.parent).get(path.stem.lower())
    return f"; there is {listed(names, most=3)}" if names else ""


@lru_cache(maxsize=8)
def _by_stem(folder: Path) -> dict[str, list[str]]:
    """The files of a folder by their names in lower case, without extension."""
    found: dict[str, list[str]] = {}
    for entry in sorted(folder.iterdir()):
        found.setdefault(entry.stem.lower(), []).append(entry.name)
    return found


def _check_picture(
    where: str, expected: tuple[int, int] | None, image: Image.Image, findings: Findings
) -> tuple[int, int]:
    """Compare a picture with the JSON.

    Args:
        where: its file name.
        expected: (width, height) by the JSON; None if unknown.
        image: not yet decoded.
        findings: to add to.

    Returns:
        (width, height) when it is turned as its EXIF orientation says, as Detectron2 does.
    """
    orientation, turned = exif_orientation(image), turned_size(image)
    if expected is not None and turned != expected:
        what = _other_size(turned, expected, "the JSON")
        if image.size == expected:
            what += f", for its EXIF orientation {orientation} turns it"
            findings.add("picture_turned", where, what)
        else:
            findings.add("picture_size", where, what)
    elif orientation != UPRIGHT:
        findings.add("picture_oriented", where, f"has the EXIF orientation {orientation}")
    if image.mode.startswith("I") or image.mode == "F":
        findings.add("picture_depth", where, f"has more than 8 bits (Pillow's mode {image.mode})")
    elif image.mode != "RGB":
        words = _MODES.get(image.mode, image.mode)
        findings.add("picture_colors", where, f"is {words}, not RGB")
    short, long = sorted(turned)
    if short * _LONG_SIDE < _STRIDE * long:
        left = short * _LONG_SIDE / long
        what = f"is {turned[0]} x {turned[1]}: at a long side of {_LONG_SIDE}, {left:.1f} are left"
        findings.add("thin_picture", where, what)
    return turned


def _read_ids(path: Path, swapped: Path, where: str, findings: Findings) -> np.ndarray:
    """The segment ids of a panoptic PNG, (H, W)."""
    data, image = _opened(path, "png", swapped)
    depth = data[_PNG_DEPTH] if data.startswith(_PNG_SIGNATURE) else 8
    if image.format == "JPEG":
        raise _Unusable("png_mode", "is a JPEG, which does not keep ids exactly")
    if image.mode not in ("RGB", "RGBA") or depth > 8:
        words = _MODES.get(image.mode, f"of Pillow's mode {image.mode}")
        what = f"is {words}, {depth} bits a channel, not RGB of 8 bits"
        if image.mode not in ("RGB", "RGBA"):
            what += " (label images: datasets/convert_panoptic.py from-labels)"
        raise _Unusable("png_mode", what)
    _decode(image, "png", as_rgb=False)
    if image.mode == "RGBA":
        findings.add("png_alpha", where, "has an alpha channel, which is left out")
    return segment_ids(np.asarray(image))


def _check_ids(
    where: str, picture: Picture, drawn: Mapping[int, DrawnSegment], findings: Findings
) -> None:
    ids = {segment.id for segment in picture.segments}
    if picture.complete and (missing := sorted(drawn.keys() - ids)):
        what = f"has {_segments(missing)}, which the JSON does not list"
        findings.add("segment_only_in_png", where, what)
    if missing := sorted(one for one in ids - drawn.keys() if 0 < one <= LARGEST_SEGMENT_ID):
        what = f"lacks {_segments(missing)}, which the JSON lists"
        findings.add("segment_only_in_json", where, what)


def _check_geometry(
    where: str, picture: Picture, drawn: Mapping[int, DrawnSegment], findings: Findings
) -> None:
    """Compare the areas and boxes of the JSON, where it has any, with the pixels."""
    for segment in picture.segments:
        if segment.id not in drawn:
            continue
        area, bbox = drawn[segment.id]
        if segment.area is not None and segment.area != area:
            what = f"segment {segment.id} has {area} pixels, its area is {segment.area!r:.60}"
            findings.add("area_mismatch", where, what)
        if segment.bbox is not None and _bbox_differs(segment.bbox, bbox):
            what = (
                f"segment {segment.id} has the box {list(bbox)}, its bbox is {segment.bbox!r:.60}"
            )
            findings.add("bbox_mismatch", where, what)


def _bbox_differs(claimed: Any, drawn: tuple[int, int, int, int]) -> bool:
    """Whether a bbox of the JSON is no box, or has an edge more than a pixel from the drawn one.

    Args:
        claimed: any value; x, y, width and height are expected.
        drawn: x, y, width and height.
    """
    if not isinstance(claimed, list) or len(claimed) != 4:
        return True
    if any(type(side) not in (int, float) for side in claimed):
        return True
    try:
        return not all(
            abs(one - other) <= _BOX_TOLERANCE
            for one, other in zip(_edges(claimed), _edges(drawn), strict=True)
        )
    except OverflowError:  # A whole number of hundreds of digits and a floating-point one.
        return True


def _edges(bbox: Any) -> tuple[float, float, float, float]:
    x, y, width, height = bbox
    return x, y, x + width, y + height


def _segments(ids: list[int]) -> str:
    return f"{'segment' if len(ids) == 1 else 'segments'} {listed(ids, most=5)}"


def _other_size(found: tuple[int, int], expected: tuple[int, int], by: str) -> str:
    return f"is {found[0]} x {found[1]} pixels, but {expected[0]} x {expected[1]} by {by}"
