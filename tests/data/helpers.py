"""What several tests of the data package use."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from tests.paths import ROOT

TINY_CATEGORIES = [
    {"id": 3, "name": "cat", "supercategory": "animal", "isthing": 1, "color": [200, 80, 80]},
    {"id": 7, "name": "grass", "supercategory": "plant", "isthing": 0, "color": [80, 200, 80]},
    {"id": 9, "name": "sky", "supercategory": "sky", "isthing": 0, "color": [80, 80, 200]},
]


def load_script(relative: str) -> ModuleType:
    """Import a command line of ``tools/`` or ``datasets/``, which belong to no package."""
    path = ROOT / relative
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_tiny_coco(root: Path, pictures: int = 3, split: str = "val2017") -> Path:
    """A COCO panoptic set in COCO's own layout, written without the package under test.

    Each picture is 24 x 16 (width x height): sky above grass, one cat of 6 x 4, a crowd of
    cats of 5 x 3, and a void column of 2 pixels at the right. Segment ids use all three bytes.
    """
    coco = root / "coco"
    for name in (split, f"panoptic_{split}", "annotations"):
        (coco / name).mkdir(parents=True)
    ids = {"sky": 70000, "grass": 300, "cat": 5, "crowd": 131000}
    images, annotations = [], []
    for number in range(1, pictures + 1):
        segment_ids = np.full((16, 24), ids["sky"])
        segment_ids[8:] = ids["grass"]
        segment_ids[6:10, number : number + 6] = ids["cat"]
        segment_ids[12:15, 10:15] = ids["crowd"]
        segment_ids[:, 22:] = 0
        blue_green_red = np.stack([segment_ids >> 16, segment_ids >> 8 & 255, segment_ids & 255], 2)
        stem = f"{number:06d}"
        cv2.imwrite(str(coco / f"panoptic_{split}" / f"{stem}.png"), blue_green_red)
        gray = np.random.default_rng(number).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(coco / split / f"{stem}.jpg"), gray)
        segments = []
        for name, category, crowd in (
            ("sky", 9, 0),
            ("grass", 7, 0),
            ("cat", 3, 0),
            ("crowd", 3, 1),
        ):
            rows, columns = np.nonzero(segment_ids == ids[name])
            x, y = int(columns.min()), int(rows.min())
            box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
            segment = {"id": ids[name], "category_id": category, "iscrowd": crowd}
            segments.append({**segment, "area": len(rows), "bbox": box})
        images.append({"id": number, "file_name": f"{stem}.jpg", "width": 24, "height": 16})
        annotations.append(
            {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
        )
    content = {"images": images, "annotations": annotations, "categories": TINY_CATEGORIES}
    (coco / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))
    return coco


def add_segment(content: dict) -> None:
    """Give the second picture of a panoptic JSON a segment that its PNG lacks."""
    segments = content["annotations"][1]["segments_info"]
    segments.append({**segments[0], "id": 424242})


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def derived_content(folder: Path) -> dict[str, bytes]:
    """The derived files. What tells of times, and of this folder's place, is left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "pictures.json", "build.lock")
    }
