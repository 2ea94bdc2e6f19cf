"""Colours that stay with a class, from picture to picture and from run to run."""

from __future__ import annotations

import colorsys

from detectron2.data.catalog import Metadata

from rpanoptic.data.panoptic_classes import default_color

Color = tuple[float, float, float]

# Lightness of the first, second, ... instance of a class in one picture, relative to the class.
_SHADES = (1.0, 1.25, 0.78, 1.45, 0.62)


def class_color(metadata: Metadata, kind: str, index: int) -> Color:
    """The colour of a class.

    Args:
        metadata: its ``thing_colors`` or ``stuff_colors`` (RGB, 0 to 255) are used if present.
        kind: "thing" or "stuff".
        index: contiguous id of the class.

    Returns:
        RGB, 0 to 1 each.
    """
    colors = metadata.get(f"{kind}_colors")
    known = colors is not None and index < len(colors)
    color = colors[index] if known else default_color(index, isthing=kind == "thing")
    red, green, blue = (value / 255 for value in color)
    return red, green, blue


def instance_color(color: Color, ordinal: int) -> Color:
    """A shade of a class's colour that tells its instances apart.

    Args:
        color: of the class.
        ordinal: 0 for the first instance of the class in the picture (the colour itself), 1 ...
    """
    hue, lightness, saturation = colorsys.rgb_to_hls(*color)
    shade = min(0.9, lightness * _SHADES[ordinal % len(_SHADES)])
    return colorsys.hls_to_rgb(hue, shade, saturation)
