"""A panoptic set as other people write them, written without the package under test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CAR, ROAD, UNNAMED, WALKER = 0, 7, 12, 500


class ForeignSet(NamedTuple):
    """The three paths, in the order that the package takes them."""

    image_root: Path
    panoptic_json: Path
    panoptic_root: Path


def write_foreign_set(
    root: Path, *, pictures: int = 4, side: int = 32, seed: int = 0
) -> ForeignSet:
    """A set that has little of COCO's layout; all it holds is allowed.

    Image ids are words. Pictures lie in subfolders, as .JPG or .png; their PNGs have other stems
    and subfolders. Category ids begin at 0, have gaps, and are in no order; flags are booleans;
    names, colours, areas, boxes and iscrowd are missing here and there; unknown keys are not.
    Each picture is 3/2 side x side (width x height): a road below, a nameless stuff above, a car,
    a crowd of walkers, a void column. Beside these pictures there is one whose annotation has no
    segments (all void), and one without annotation, which lacks a PNG.
    """
    found = ForeignSet(root / "Photos 1", root / "labels" / "my set.json", root / "masks")
    random = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(pictures + 2):
        width, height = side * 3 // 2, side
        suffix, folder = (".JPG", "north/day") if number % 2 else (".png", "south")
        name = f"{folder}/frame.{number}{suffix}"
        image_id = f"{folder}#{number}"
        path = found.image_root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = {"id": image_id, "file_name": name, "width": width, "height": height}
        images.append({**image, "weather": "rain"})
        ids = np.zeros((height, width), dtype=np.int64)
        segments = []
        if number < pictures:
            ids[:], ids[height // 2 :] = 9, 16777215
            row, column = random.integers(0, [height // 2, width // 2])
            ids[row : row + height // 2, column : column + width // 4] = 70000 + number
            ids[-height // 4 :, : width // 3] = 256
            ids[:, -2:] = 0
            segments = [
                {"id": 16777215, "category_id": ROAD, "iscrowd": False, "score": 1.0},
                {"id": 9, "category_id": UNNAMED},
                {"id": 70000 + number, "category_id": CAR, "iscrowd": False},
                {"id": 256, "category_id": WALKER, "iscrowd": True},
            ]
        colors = np.stack([ids % 200, ids // 7 % 200, ids // 31 % 200], -1) + 20
        noise = random.integers(0, 30, colors.shape)
        Image.fromarray((colors + noise).astype(np.uint8)).save(path)
        if number <= pictures:
            png = f"{number % 2}/label_{1000 - number}.PNG"
            (found.panoptic_root / png).parent.mkdir(parents=True, exist_ok=True)
            rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
            Image.fromarray(rgb).save(found.panoptic_root / png, format="PNG")
            annotations.append({"image_id": image_id, "file_name": png, "segments_info": segments})
    found.panoptic_json.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "categories": [
            {"id": WALKER, "isthing": True, "name": "walker"},
            {"id": ROAD, "isthing": False, "name": "road", "color": [128, 64, 128]},
            {"id": CAR, "isthing": True, "name": "car", "color": [0, 0, 142], "wheels": 4},
            {"id": UNNAMED, "isthing": False},
        ],
        "images": images,
        "annotations": annotations[::-1],
        "source": "a toolbox",
    }
    found.panoptic_json.write_text(json.dumps(content))
    return found
