"""Random panoptic sets, and whether two of them say the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from rpanoptic.data.convert import Segment, SegmentedPicture, write_panoptic
from rpanoptic.data.inspection import Inspection, inspect_panoptic
from rpanoptic.data.panoptic_format import read_panoptic_png
from rpanoptic.data.panoptic_source import PanopticSource

#: Two things, three stuff classes; ids as Cityscapes has them, so that all formats can hold them.
CATEGORIES = [
    {"id": 26, "name": "car", "isthing": 1, "color": [0, 0, 142]},
    {"id": 33, "name": "bicycle", "isthing": 1, "color": [119, 11, 32]},
    {"id": 7, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 21, "name": "vegetation", "isthing": 0, "color": [107, 142, 35]},
    {"id": 23, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
]
NAMES = ["aachen/aachen_000000_000019_leftImg8bit.png", "ulm/ulm_000001_000019_leftImg8bit.png"]
_CLASSES = {1: (26, 0), 2: (26, 0), 3: (26, 1), 4: (33, 0), 5: (7, 0), 6: (21, 0), 7: (23, 0)}


def random_segmentation(seed: int, shape: tuple[int, int] = (31, 44)) -> SegmentedPicture:
    """Cells around random points: void, and seven segments of several cells each."""
    rng = np.random.default_rng(seed)
    points = rng.random((24, 2)) * shape
    rows, columns = np.indices(shape)
    distances = np.hypot(rows[..., None] - points[:, 0], columns[..., None] - points[:, 1])
    label_map = (np.arange(24) % 8)[distances.argmin(axis=2)]
    label_map[rng.random(shape) < 0.02] = 0  # single void pixels
    segments = {
        number: Segment(category, bool(crowd)) for number, (category, crowd) in _CLASSES.items()
    }
    return SegmentedPicture(label_map, segments)


def write_random_set(root: Path, names: list[str] = NAMES) -> PanopticSource:
    """A panoptic set below ``root`` with random pictures and segmentations."""
    source = PanopticSource(root / "images", root / "panoptic.json", root / "panoptic")
    for seed, name in enumerate(names):
        path = source.image_root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (31, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    write_panoptic(
        source.panoptic_json,
        source.panoptic_root,
        random_segmentation,
        [(name, seed) for seed, name in enumerate(names)],
        CATEGORIES,
        progress=False,
    )
    return source


def sayings(source: PanopticSource) -> dict[str, set[tuple[str, bool, bytes]]]:
    """For each picture its segments: name of the class, crowd flag and pixels."""
    content = json.loads(source.panoptic_json.read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    said = {}
    for annotation in content["annotations"]:
        ids = read_panoptic_png(source.panoptic_root / annotation["file_name"])
        segments = [
            (names[one["category_id"]], bool(one["iscrowd"]), (ids == one["id"]).tobytes())
            for one in annotation["segments_info"]
        ]
        said[files[annotation["image_id"]]] = set(segments)
        assert len(set(segments)) == len(segments)
    return said


def inspection(source: PanopticSource) -> Inspection:
    return inspect_panoptic(source, workers=1, progress=False)
