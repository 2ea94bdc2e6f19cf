"""One picture of the synthetic panoptic set: textured regions, and things that hide each other."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rpanoptic.data.panoptic_classes import PanopticClass
from rpanoptic.data.synthetic_classes import STUFF, THINGS
from rpanoptic.data.synthetic_shapes import Coverage, shape_area, shape_coverage
from rpanoptic.data.synthetic_textures import TEXTURES, Field, partition

MIN_SIZE = 64

# Limits of what is drawn. Lengths are fractions of the picture's side.
_MAX_REGIONS = 3
_MAX_THINGS = 4
_DIAMETERS = (0.26, 0.52)
# Hues of a class of things, radians around its own. Neighbours' ranges hardly overlap: colour and
# shape tell the class together, so that minutes of training suffice.
_HUE_SPREAD = 0.8
_ATTEMPTS = 12
# A thing may leave the picture, and others may hide it, but not more than this.
_MIN_INSIDE = 0.7
_MIN_VISIBLE = 1 / 2
_MIN_THING_PIXELS = 40
_MIN_STUFF_SHARE = 0.02
_SHADOW = 0.3
_SHADOW_MARGIN = 0.07


@dataclass(frozen=True)
class Scene:
    """A picture and its exact panoptic segmentation.

    Attributes:
        image: (size, size, 3) uint8, R G B.
        index_map: (size, size) uint8, the index in ``segments`` of each pixel's segment. No
            pixel is void.
        segments: the class of each segment; stuff first, one segment a stuff class.
    """

    image: npt.NDArray[np.uint8]
    index_map: npt.NDArray[np.uint8]
    segments: tuple[PanopticClass, ...]


def draw_scene(size: int, rng: np.random.Generator) -> Scene:
    """Draw a picture with 1 to 3 stuff regions and 1 to 4 things.

    Every thing shows at least half of its shape and 40 pixels, every stuff region a fiftieth
    of the picture.

    Args:
        size: side in pixels, at least 64.
        rng: the only source of chance; equal states draw equal scenes.

    Raises:
        ValueError: ``size`` is below 64.
    """
    if size < MIN_SIZE:
        raise ValueError(f"a synthetic picture has a side of at least {MIN_SIZE}, got {size}")
    canvas, index_map, segments, tones = _background(size, rng)
    full_areas: dict[int, float] = {}
    wanted = int(rng.integers(1, _MAX_THINGS + 1))
    for _ in range(wanted):
        for _attempt in range(_ATTEMPTS):
            thing = THINGS[rng.integers(len(THINGS))]
            radius = size * rng.uniform(*_DIAMETERS) / 2
            x, y = rng.uniform(0.3 * radius, size - 0.3 * radius, size=2)
            angle = rng.uniform(0, 2 * np.pi)
            coverage = shape_coverage(
                thing.name, size, (x, y), radius, angle, _SHADOW_MARGIN * size
            )
            area = shape_area(thing.name, radius)
            candidate = index_map.copy()
            candidate[coverage.window][coverage.alpha >= 0.5] = len(segments)
            if not _fits(candidate, len(segments), full_areas, area):
                continue
            full_areas[len(segments)] = area
            index_map = candidate
            segments.append(thing)
            tones.append(_thing_color(thing, tones, rng))
            _paint(canvas, coverage, tones[-1], rng)
            break
    return Scene(_photograph(canvas, rng), index_map, tuple(segments))


def _background(
    size: int, rng: np.random.Generator
) -> tuple[Field, npt.NDArray[np.uint8], list[PanopticClass], list[Field]]:
    """Canvas (3, size, size) from 0 to 1, index map, the stuff classes and their mean colours."""
    count = int(rng.integers(1, _MAX_REGIONS + 1))
    index_map = partition(size, count, rng)
    stuff = [STUFF[i] for i in rng.permutation(len(STUFF))[:count]]
    blend = np.zeros((size, size), dtype=np.float32)
    # Tones of each region: R, G, B where its texture is 0, and what 1 adds.
    dark = np.zeros((3, 256), dtype=np.float32)
    span = np.zeros((3, 256), dtype=np.float32)
    for index, item in enumerate(stuff):
        lightness, chroma, hue = rng.uniform((80, 6, 0), (93, 24, 2 * np.pi))
        darker = lightness - rng.uniform(18, 28)
        low, high = _colors([(darker, chroma + 4, hue), (lightness, chroma, hue)])
        dark[:, index], span[:, index] = low, high - low
        blend += TEXTURES[item.name](size, rng) * (index_map == index)
    planes = [
        cv2.LUT(index_map, low) + blend * cv2.LUT(index_map, more)
        for low, more in zip(dark, span, strict=True)
    ]
    tones = [dark[:, index] + span[:, index] / 2 for index in range(count)]
    return np.stack(planes), index_map, stuff, tones


def _fits(
    candidate: npt.NDArray[np.uint8], index: int, full_areas: dict[int, float], area: float
) -> bool:
    """Whether a new thing shows enough of itself, and leaves enough of what was drawn before."""
    visible = np.bincount(candidate.ravel(), minlength=index + 1)
    if visible[index] < max(_MIN_INSIDE * area, _MIN_THING_PIXELS):
        return False
    stuff_limit = _MIN_STUFF_SHARE * candidate.size
    return all(
        visible[other] >= max(_MIN_VISIBLE * full_areas[other], _MIN_THING_PIXELS)
        if other in full_areas
        else visible[other] >= stuff_limit
        for other in range(index)
    )


def _colors(lch: npt.ArrayLike) -> Field:
    """CIE LCh (N, 3; 0 to 100, 0 to about 100, radians) -> R, G, B (N, 3) from 0 to 1.

    Equal lightness and chroma look equally strong in every hue, which keeps the pictures calm.
    """
    lightness, chroma, hue = np.asarray(lch, dtype=np.float32).T
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    return np.clip(cv2.cvtColor(lab[None], cv2.COLOR_LAB2RGB)[0], 0, 1)


def _thing_color(thing: PanopticClass, tones: list[Field], rng: np.random.Generator) -> Field:
    """Of four colours of its class, the one farthest from every colour already in the picture."""
    hue = 2 * np.pi * THINGS.index(thing) / len(THINGS)
    low, high = (46, 34, hue - _HUE_SPREAD), (74, 60, hue + _HUE_SPREAD)
    choices = _colors(rng.uniform(low, high, size=(4, 3)))
    distances = np.abs(choices[:, None] - np.stack(tones)).sum(axis=-1)
    return choices[distances.min(axis=1).argmax()]


def _paint(canvas: Field, coverage: Coverage, color: Field, rng: np.random.Generator) -> None:
    """Lay a thing with a soft shadow and a slight gradient over the canvas, in place."""
    size, alpha = canvas.shape[-1], coverage.alpha
    height, width = alpha.shape
    shift = np.array([[1, 0, rng.uniform(-0.02, 0.02) * size], [0, 1, 0.02 * size]])
    shadow = cv2.warpAffine(alpha, shift, (width, height))
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.015 * size)
    rows, columns = coverage.window
    window = canvas[:, rows, columns]
    window *= 1 - np.float32(_SHADOW) * shadow
    ramp = np.linspace(1.06, 0.92, height, dtype=np.float32)[:, None]
    window += alpha * (color[:, None, None] * ramp - window)


def _photograph(canvas: Field, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Blur and grain of a camera: (3, size, size) from 0 to 1 -> (size, size, 3) uint8."""
    size = canvas.shape[-1]
    picture = cv2.GaussianBlur(cv2.merge(list(canvas)), (0, 0), rng.uniform(0.2, 0.8) * size / 128)
    picture *= 255
    grain = rng.random((size, size, 1), dtype=np.float32) - np.float32(0.5)
    picture += grain * np.float32(rng.uniform(0, 18))
    np.clip(picture, 0, 255, out=picture)
    return np.rint(picture, out=picture).astype(np.uint8)
