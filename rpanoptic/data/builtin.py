"""Registers the synthetic sets with Detectron2. They are built when first used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets.coco import load_coco_json, load_sem_seg
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json, merge_to_panoptic

from rpanoptic.data.paths import datasets_root
from rpanoptic.data.synthetic_classes import class_metadata
from rpanoptic.errors import DatasetError

SYNTHETIC_FOLDER = "synthetic_panoptic"
SYNTHETIC_DATASETS = {
    "synthetic_panoptic_train": "train",
    "synthetic_panoptic_val": "val",
}


def ensure_synthetic_panoptic() -> Path:
    """Build the synthetic set under :func:`datasets_root` unless it is there; return its folder.

    A complete set that was made with other parameters is taken as it is.

    Raises:
        DatasetError: the folder holds something else, a set of another generator version, or
            cannot be written; or OpenCV is missing.
    """
    folder = datasets_root() / SYNTHETIC_FOLDER
    try:
        from rpanoptic.data.synthetic_panoptic import build_synthetic_panoptic, read_manifest
    except ModuleNotFoundError as error:
        raise DatasetError(
            "The synthetic panoptic set is drawn with OpenCV, which is missing "
            f"({error}): pip install opencv-python-headless"
        ) from error
    if read_manifest(folder) is None:
        build_synthetic_panoptic(folder)
    return folder


class SyntheticMetadata(Metadata):
    """Metadata whose paths follow ``$DETECTRON2_DATASETS`` and are there when they are read.

    Evaluators open ``json_file`` and its like without asking ``DatasetCatalog`` first, and plain
    metadata keeps the first value it was given. So the paths are computed, and reading one
    builds the set if need be.
    """

    def __init__(self, *, name: str, split: str, **kwargs: Any) -> None:
        super().__init__(name=name, split=split, **kwargs)

    @property
    def image_root(self) -> str:
        """Folder of the pictures."""
        return self._path(self.split)

    @property
    def panoptic_root(self) -> str:
        """Folder of the panoptic PNGs."""
        return self._path(f"panoptic_{self.split}")

    @property
    def sem_seg_root(self) -> str:
        """Folder of the semantic PNGs."""
        return self._path(f"panoptic_stuff_{self.split}")

    @property
    def panoptic_json(self) -> str:
        """File of the panoptic annotations."""
        return self._path(f"annotations/panoptic_{self.split}.json")

    @property
    def json_file(self) -> str:
        """File of the instance annotations, things alone."""
        return self._path(f"annotations/instances_{self.split}.json")

    def as_dict(self) -> dict[str, Any]:
        """All metadata, the paths too; builds the set if need be."""
        paths = ("image_root", "panoptic_root", "sem_seg_root", "panoptic_json", "json_file")
        return {**super().as_dict(), **{key: getattr(self, key) for key in paths}}

    def _path(self, relative: str) -> str:
        return str(ensure_synthetic_panoptic() / relative)


def load_synthetic_panoptic(name: str) -> list[dict[str, Any]]:
    """The records of a registered synthetic set, in Detectron2's separated panoptic form.

    Each also carries ``pan_seg_file_name`` and ``segments_info`` (contiguous ids, ``isthing``),
    from which the ground truth can be drawn.

    Args:
        name: a key of ``SYNTHETIC_DATASETS``.

    Raises:
        DatasetError: see :func:`ensure_synthetic_panoptic`.
    """
    meta = MetadataCatalog.get(name)
    records = merge_to_panoptic(
        load_coco_json(meta.json_file, meta.image_root, name),
        load_sem_seg(meta.sem_seg_root, meta.image_root),
    )
    panoptic = load_coco_panoptic_json(
        meta.panoptic_json, meta.image_root, meta.panoptic_root, class_metadata()
    )
    by_image = {record["image_id"]: record for record in panoptic}
    for record in records:
        for key in ("pan_seg_file_name", "segments_info"):
            record[key] = by_image[record["image_id"]][key]
    return records


def register_synthetic_panoptic() -> None:
    """Register every name of ``SYNTHETIC_DATASETS``. Calling again changes nothing."""
    for name, split in SYNTHETIC_DATASETS.items():
        if name in DatasetCatalog:
            continue
        DatasetCatalog.register(name, lambda name=name: load_synthetic_panoptic(name))
        MetadataCatalog[name] = SyntheticMetadata(
            name=name,
            split=split,
            evaluator_type="coco_panoptic_seg",
            ignore_label=255,
            label_divisor=1000,
            **class_metadata(),
        )
