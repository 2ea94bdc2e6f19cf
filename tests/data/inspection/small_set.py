"""A small panoptic dataset that tests break in one place at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rpanoptic.data.inspection import Inspection, inspect_panoptic
from rpanoptic.data.panoptic_source import PanopticSource
from tests.data.helpers import write_tiny_coco

SKY, GRASS, CAT, CROWD = 70000, 300, 5, 131000


class SmallSet:
    """Three pictures of 24 x 16, see :func:`tests.data.helpers.write_tiny_coco`.

    Attributes:
        content: the panoptic JSON, written when the set is inspected.
    """

    def __init__(self, folder: Path) -> None:
        coco = write_tiny_coco(folder)
        self.source = PanopticSource(
            coco / "val2017",
            coco / "annotations" / "panoptic_val2017.json",
            coco / "panoptic_val2017",
        )
        self.content: dict[str, Any] = json.loads(self.source.panoptic_json.read_text())

    @property
    def categories(self) -> list[dict[str, Any]]:
        """Cat (3, a thing), grass (7) and sky (9)."""
        return self.content["categories"]

    @property
    def images(self) -> list[dict[str, Any]]:
        return self.content["images"]

    @property
    def annotations(self) -> list[dict[str, Any]]:
        return self.content["annotations"]

    def segments(self, number: int = 0) -> list[dict[str, Any]]:
        """Sky, grass, cat and crowd of a picture."""
        return self.annotations[number]["segments_info"]

    def picture(self, number: int = 0) -> Path:
        return self.source.image_root / self.images[number]["file_name"]

    def png(self, number: int = 0) -> Path:
        return self.source.panoptic_root / self.annotations[number]["file_name"]

    def redraw(self, change: Callable[[np.ndarray], np.ndarray], number: int = 0) -> None:
        """Change the pixels (16, 24, 3) of a PNG."""
        pixels = np.array(Image.open(self.png(number)))
        Image.fromarray(change(pixels)).save(self.png(number))

    def inspect(self, workers: int = 1) -> Inspection:
        self.source.panoptic_json.write_text(json.dumps(self.content))
        return inspect_panoptic(self.source, workers=workers, progress=False)


def rgb(segment_id: int) -> tuple[int, int, int]:
    return segment_id & 255, segment_id >> 8 & 255, segment_id >> 16
