"""Reads labelme's JSON files and draws their shapes.

The format is that of labelme 3 to 5 (https://github.com/wkentaro/labelme). A JSON holds
"imagePath", relative to it, and "shapes" with "label", "points" (x, y in pixels; pixel centres have
whole numbers), "shape_type", "group_id" and "flags". A shape of the type "mask", known since
labelme 5.4, has the corners of its box as points, the second one inclusive, and a base64 PNG as
"mask", not 0 where the shape is.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from rpanoptic.data.panoptic_json import read_lists
from rpanoptic.errors import DatasetError

#: A flag of a shape, of our own, for the crowd flag of a segment.
CROWD_FLAG = "iscrowd"
_NO_AREA = ("line", "linestrip", "point", "points")
# Number of points of a shape. Some programs write all four corners of a rectangle.
_POINTS = {"polygon": range(3, 10**9), "circle": (2,), "rectangle": (2, 4), "mask": (2,)}
_POINTS["oriented_rectangle"] = (4,)
# Coordinates beyond any picture, which drawing might not end with.
_MOST_COORDINATE = 100_000


class Shape(NamedTuple):
    """A shape with an area.

    Attributes:
        place: of the shape in the list, from 0.
        label: its class.
        kind: its "shape_type".
        points: x and y in pixels.
        group: number that parts of one thing share; None for a thing by itself.
        iscrowd: whether it has the flag :data:`CROWD_FLAG`.
        mask: base64 PNG of a mask, else empty.
    """

    place: int
    label: str
    kind: str
    points: tuple[tuple[float, float], ...]
    group: int | None
    iscrowd: bool
    mask: str


class LabelmeFile(NamedTuple):
    """What a JSON of labelme says.

    Attributes:
        image_path: of the picture, relative to the JSON; as it stands there.
        size: width and height of the picture, None where the file says nothing.
        shapes: in the order of the file.
        notes: which shapes were left out, and how many.
    """

    image_path: str
    size: tuple[int | None, int | None]
    shapes: list[Shape]
    notes: Counter[str]


def read_labelme(path: Path) -> LabelmeFile:
    """Read a JSON of labelme; the picture in it ("imageData") is ignored.

    Raises:
        DatasetError: it cannot be read, is no such JSON, or an entry lacks a field or holds
            something else there; the message names file and entry.
    """
    content = read_lists(path, "JSON of labelme", ("shapes",))
    image_path = content.get("imagePath")
    if not isinstance(image_path, str) or not image_path.strip() or "\0" in image_path:
        raise DatasetError(f"{path}: must have a path as 'imagePath', got {image_path!r}.")
    width, height = content.get("imageWidth"), content.get("imageHeight")
    for key, value in (("imageWidth", width), ("imageHeight", height)):
        if value is not None and (type(value) is not int or value < 1):
            raise DatasetError(f"{path}: must have a whole number as {key!r}, got {value!r}.")
    shapes = []
    notes: Counter[str] = Counter()
    for place, entry in enumerate(content["shapes"]):
        try:
            shape = parse_shape(place, entry)
        except ValueError as error:
            raise DatasetError(f"{path}: shapes[{place}] {error}.") from None
        if shape.kind in _NO_AREA:
            notes[f"shapes without an area left out ({shape.kind})"] += 1
        else:
            shapes.append(shape)
    return LabelmeFile(image_path, (width, height), shapes, notes)


def parse_shape(place: int, entry: Any) -> Shape:
    """The shape that an entry of "shapes" describes.

    Raises:
        ValueError: it lacks a field or holds something else there.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"must be an object, got {entry!r}")
    label, group = entry.get("label"), entry.get("group_id")
    if not isinstance(label, str) or not label:
        raise ValueError(f"must have a name as 'label', got {label!r}")
    if group is not None and type(group) is not int:
        raise ValueError(f"must have a whole number or null as 'group_id', got {group!r}")
    kind = entry.get("shape_type") or "polygon"  # which old files leave out
    if not isinstance(kind, str) or kind not in (*_POINTS, *_NO_AREA):
        raise ValueError(f"has the unknown 'shape_type' {kind!r}; known: {', '.join(_POINTS)}")
    if kind in _NO_AREA:
        return Shape(place, label, kind, (), group, False, "")
    points = entry.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise ValueError(
            f"must have a list of [x, y], each up to {_MOST_COORDINATE} pixels, as 'points'"
        )
    if len(points) not in _POINTS[kind]:
        wanted = "at least 3" if kind == "polygon" else " or ".join(map(str, _POINTS[kind]))
        raise ValueError(f"must have {wanted} points as a {kind}, got {len(points)}")
    mask = entry.get("mask") or ""
    if kind == "mask" and (not isinstance(mask, str) or not mask):
        raise ValueError("must have a base64 PNG as 'mask'")
    flags = entry.get("flags")
    crowd = isinstance(flags, dict) and flags.get(CROWD_FLAG) is True
    corners = tuple((float(x), float(y)) for x, y in points)
    return Shape(place, label, kind, corners, group, crowd, mask if kind == "mask" else "")


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(part) in (int, float) and abs(part) <= _MOST_COORDINATE for part in value)
    )


def draw_shape(shape: Shape, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels of a shape, as labelme's own ``shape_to_mask`` draws them.

    Args:
        shape: to draw. What lies outside the picture is cut off.
        size: width and height of the picture.

    Returns:
        (H, W).

    Raises:
        ValueError: the PNG of a mask is damaged, larger than the picture, or of another size than
            its corners say.
    """
    width, height = size
    if shape.kind == "mask":
        return _placed(_decoded(shape, size), shape, size)
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    if shape.kind == "circle":
        (x, y), on_circle = shape.points
        radius = math.dist((x, y), on_circle)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    elif shape.kind == "rectangle":
        xs, ys = zip(*shape.points, strict=True)
        draw.rectangle((min(xs), min(ys), max(xs), max(ys)), outline=1, fill=1)
    else:
        draw.polygon(list(shape.points), outline=1, fill=1)
    return np.asarray(image) > 0


def _decoded(shape: Shape, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The PNG of a mask, its size checked before its pixels are unpacked."""
    try:
        data = base64.b64decode(shape.mask, validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            found = image.size
            fits = all(side <= most for side, most in zip(found, size, strict=True))
            pixels = np.asarray(image) if fits else None
    # Damage shows in base64 (ValueError) or in Pillow (OSError, SyntaxError and others).
    except Exception as error:
        raise ValueError(f"has a 'mask' that cannot be read as a base64 PNG ({error})") from None
    (x1, y1), (x2, y2) = shape.points
    box = abs(x2 - x1) + 1, abs(y2 - y1) + 1
    # A pixel of tolerance for corners that are no whole numbers.
    if pixels is None or any(abs(a - b) > 1 for a, b in zip(found, box, strict=True)):
        raise ValueError(
            f"has a 'mask' of {found[0]} x {found[1]} pixels in a box of {box[0]:g} x {box[1]:g} "
            f"and a picture of {size[0]} x {size[1]}"
        )
    if pixels.ndim != 2:
        raise ValueError(f"has a 'mask' of mode {image.mode!r}, which is to be greyscale")
    return pixels > 0


def _placed(
    patch: npt.NDArray[np.bool_], shape: Shape, size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """A picture that holds ``patch`` at the first corner of the shape's box."""
    width, height = size
    mask = np.zeros((height, width), dtype=bool)
    x, y = (round(min(part)) for part in zip(*shape.points, strict=True))
    inside = mask[max(y, 0) : max(y + patch.shape[0], 0), max(x, 0) : max(x + patch.shape[1], 0)]
    top, left = max(-y, 0), max(-x, 0)
    inside[:] = patch[top : top + inside.shape[0], left : left + inside.shape[1]]
    return mask
