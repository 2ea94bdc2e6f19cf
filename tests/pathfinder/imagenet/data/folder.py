"""Small folders of pictures that several tests write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from rpanoptic import add_rpanoptic_config
from rpanoptic.pathfinder.imagenet.data import register_image_folder

CLASSES = ("apple", "bee", "cat")


def write_folder(root: Path, classes: Sequence[str] = CLASSES, pictures: int = 3) -> Path:
    """Pictures of random colours, 12 to 20 px, JPEG but for each class's last one, a PNG."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(pictures):
            rng = np.random.default_rng((label, number))
            shape = (*rng.integers(12, 21, 2), 3)
            image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            suffix = "png" if number == pictures - 1 else "JPEG"
            image.save(root / name / f"{name}.{number}.{suffix}")
    return root


def truncate(path: Path) -> None:
    """Cut a file in half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def config(**classification: Any) -> CfgNode:
    """A config whose pictures have 10 px, with keys of RPANOPTIC.CLASSIFICATION."""
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SEED = 5
    for key, value in ({"SIZE": 10, "RESIZE": 12} | classification).items():
        cfg.RPANOPTIC.CLASSIFICATION[key] = value
    return cfg


@contextmanager
def registered(root: Path, name: str = "rpanoptic_test_pictures") -> Iterator[str]:
    """The name of a folder that is registered inside."""
    register_image_folder(name, root)
    try:
        yield name
    finally:
        forget(name)


def forget(name: str) -> None:
    """Undo a registration."""
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
