"""Registers a panoptic dataset of your own with Detectron2; everything else is derived from it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode

from rpanoptic.data.panoptic_cache import PanopticCache
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_format import VOID_LABEL
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError

_logger = logging.getLogger(__name__)


def register_panoptic(
    name: str,
    image_root: str | Path,
    panoptic_json: str | Path,
    panoptic_root: str | Path,
    *,
    cache: str | Path | None = None,
    replace: bool = False,
) -> ClassTable:
    """Register a COCO panoptic dataset, whatever its layout, under a name of your choice.

    Class tables, semantic PNGs (void is 255) and instance annotations (crowd stays crowd) are
    derived from the three paths. What takes time is done when it is first used, see
    :class:`rpanoptic.data.panoptic_cache.PanopticCache`. Registering the same files again changes
    nothing, unless the JSON has changed: then the classes are read anew.

    Args:
        name: what ``DATASETS.TRAIN`` and ``DATASETS.TEST`` call the dataset.
        image_root: folder of the pictures.
        panoptic_json: annotations in the COCO panoptic format.
        panoptic_root: folder of the panoptic PNGs.
        cache: folder that the folder of the derived files goes to; beside the JSON by default.
        replace: whether ``name`` may leave other files that this function registered, for these.

    Returns:
        The classes.

    Raises:
        DatasetError: a file or folder is missing, the JSON is none of a panoptic dataset, or
            ``name`` stands for another dataset.
    """
    source = PanopticSource.of(image_root, panoptic_json, panoptic_root).absolute()
    source.check_exists()
    derived = PanopticCache.of(source, cache)
    known = MetadataCatalog.data.get(name)
    if isinstance(known, PanopticMetadata) and name in DatasetCatalog:
        if known.cache != derived and not replace:
            raise DatasetError(
                f"dataset {name!r} is registered with other files: {known.cache.source}, derived "
                f"files in {known.cache.folder}. Choose another name, or pass replace=True."
            )
    elif name in DatasetCatalog or (known is not None and known.as_dict().keys() != {"name"}):
        raise DatasetError(f"dataset {name!r} is registered already. Choose another name.")
    classes = derived.classes()
    if known is None or known.get("cache") != derived or known.classes != classes:
        MetadataCatalog[name] = PanopticMetadata(name=name, cache=derived, classes=classes)
        DatasetCatalog[name] = lambda: load_panoptic_records(name)
    return classes


class PanopticMetadata(Metadata):
    """Metadata of a registered panoptic dataset, whose derived files are there when it is read."""

    cache: PanopticCache
    classes: ClassTable

    def __init__(self, *, name: str, cache: PanopticCache, classes: ClassTable) -> None:
        super().__init__(
            name=name,
            cache=cache,
            classes=classes,
            evaluator_type="coco_panoptic_seg",
            ignore_label=VOID_LABEL,
            label_divisor=1000,
            image_root=str(cache.source.image_root),
            panoptic_json=str(cache.source.panoptic_json),
            panoptic_root=str(cache.source.panoptic_root),
            **classes.metadata(),
        )

    @property
    def json_file(self) -> str:
        """File of the instance annotations, things alone."""
        self.cache.build()
        return str(self.cache.instances_json)

    @property
    def sem_seg_root(self) -> str:
        """Folder of the semantic PNGs."""
        self.cache.build()
        return str(self.cache.sem_seg_root)

    def check(self, max_pngs: int | None) -> None:
        """Derive what is not derived yet, which looks for faults; see ``check_dataset``."""
        self.cache.build()

    def as_dict(self) -> dict[str, Any]:
        """All metadata, the paths of the derived files too, which are made if need be."""
        plain = {key: value for key, value in super().as_dict().items() if key not in _OWN}
        return {**plain, "json_file": self.json_file, "sem_seg_root": self.sem_seg_root}


_OWN = ("cache", "classes")


def load_panoptic_records(name: str) -> list[dict[str, Any]]:
    """The records of a dataset that :func:`register_panoptic` registered.

    They are in Detectron2's separated panoptic form, with ``pan_seg_file_name`` and
    ``segments_info`` (contiguous ids, ``isthing``) beside it. Pictures without annotation are left
    out.

    Raises:
        DatasetError: the files have a fault.
    """
    metadata = MetadataCatalog.get(name)
    cache, source = metadata.cache, metadata.cache.source
    cache.build()
    content = load_panoptic_json(source.panoptic_json)
    things = metadata.thing_dataset_id_to_contiguous_id
    stuff = metadata.stuff_dataset_id_to_contiguous_id
    instances: dict[int | str, list[dict[str, Any]]] = {}
    for instance in json.loads(cache.instances_json.read_text())["annotations"]:
        instances.setdefault(instance["image_id"], []).append(
            {
                "category_id": things[instance["category_id"]],
                "iscrowd": instance["iscrowd"],
                "bbox": instance["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "segmentation": instance["segmentation"],
            }
        )
    images = {image["id"]: image for image in content["images"]}
    records = []
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        records.append(
            {
                "file_name": str(source.image_root / image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "sem_seg_file_name": str(cache.sem_seg_root / annotation["file_name"]),
                "pan_seg_file_name": str(source.panoptic_root / annotation["file_name"]),
                "segments_info": [
                    {
                        **segment,
                        "category_id": (things | stuff)[segment["category_id"]],
                        "isthing": segment["category_id"] in things,
                    }
                    for segment in annotation["segments_info"]
                ],
                "annotations": instances.get(image["id"], []),
            }
        )
    if left_out := len(images) - len(records):
        _logger.info(f"Dataset {name!r}: {left_out} pictures without annotation are left out.")
    return records
