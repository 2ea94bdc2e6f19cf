"""Registers a panoptic dataset of your own with Detectron2; everything else is derived from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode

from rpanoptic.data.inspection import Inspection
from rpanoptic.data.panoptic_cache import PanopticCache, check_command
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_format import VOID_LABEL
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError, listed

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
        name: what ``DATASETS.TRAIN`` and ``DATASETS.TEST`` call the dataset, and what names of
            results begin with.
        image_root: folder of the pictures.
        panoptic_json: annotations in the COCO panoptic format.
        panoptic_root: folder of the panoptic PNGs.
        cache: folder that the folder of the derived files goes to; beside the JSON by default.
        replace: whether ``name`` may leave other files that this function registered, for these.

    Returns:
        The classes.

    Raises:
        DatasetError: a file or folder is missing, the JSON is none of a panoptic dataset, or
            ``name`` stands for another dataset, or cannot be a part of a file's name.
    """
    if not name.strip() or set(name) & set("/\\\0"):
        raise DatasetError(
            f"{name!r} cannot be the name of a dataset: files of results are called by it, so it "
            "needs a letter, and has no slashes."
        )
    source = PanopticSource.of(image_root, panoptic_json, panoptic_root).absolute()
    source.check_exists()
    derived = PanopticCache.of(source, cache)
    known = MetadataCatalog.data.get(name)
    ours = isinstance(known, PanopticMetadata)
    if not ours and (name in DatasetCatalog or (known is not None and len(vars(known)) > 1)):
        raise DatasetError(f"there is another dataset of the name {name!r}; choose a new name.")
    same = ours and known.cache.same_files(derived)
    if ours and name in DatasetCatalog and not (same or replace):
        raise DatasetError(
            f"dataset {name!r} is registered with other files: "
            f"{listed(list(vars(known.cache.source).values()), most=3)}, and {known.cache.folder} "
            "for what is derived from them. Choose another name, or pass replace=True."
        )
    classes = derived.classes()
    if not same or known.class_table != classes:
        MetadataCatalog[name] = PanopticMetadata(name=name, cache=derived, class_table=classes)
    DatasetCatalog[name] = partial(load_panoptic_records, name)
    return classes


class PanopticMetadata(Metadata):
    """Metadata of a registered panoptic dataset, whose derived files are there when it is read.

    Evaluators open ``json_file`` and its like without asking ``DatasetCatalog`` first, so reading
    one derives what is missing or outdated.

    Attributes:
        cache: the derived files.
        class_table: the classes when the dataset was registered.
    """

    cache: PanopticCache
    class_table: ClassTable

    def __init__(self, *, name: str, cache: PanopticCache, class_table: ClassTable) -> None:
        super().__init__(
            name=name,
            cache=cache,
            class_table=class_table,
            evaluator_type="coco_panoptic_seg",
            ignore_label=VOID_LABEL,
            label_divisor=1000,
            **{key: str(path) for key, path in vars(cache.source).items()},
            **class_table.metadata(),
        )

    @property
    def json_file(self) -> str:
        """File of the instance annotations, things alone."""
        self.build()
        return str(self.cache.instances_json)

    @property
    def sem_seg_root(self) -> str:
        """Folder of the semantic PNGs."""
        self.build()
        return str(self.cache.sem_seg_root)

    def __reduce__(self) -> tuple[Any, ...]:
        # Else a namespace is copied and pickled by being built without arguments.
        built = {key: getattr(self, key) for key in ("name", "cache", "class_table")}
        return partial(type(self), **built), (), vars(self)

    def build(self) -> Inspection:
        """Derive what is missing or outdated; see :meth:`PanopticCache.build`.

        Raises:
            DatasetError: the dataset has a fault, or other classes than when it was registered.
        """
        inspection = self.cache.build()
        if self.cache.classes() != self.class_table:
            raise DatasetError(
                f"{self.panoptic_json}: its classes have changed since it was registered as "
                f"{self.name!r}. Call register_panoptic again, or start again."
            )
        return inspection

    def check(self, max_pngs: int | None) -> None:
        """What ``rpanoptic.data.check_dataset`` does: :meth:`build`, which leaves out no picture.

        Args:
            max_pngs: of no importance.
        """
        inspection = self.build()
        _logger.info(
            f"Dataset {self.name!r}: {inspection.counts.annotated} annotated pictures, all looked "
            "through without an error."
        )
        if count := inspection.number("warning"):
            first = inspection.warnings[0]
            _logger.warning(
                f"Dataset {self.name!r}: {count} warning{'s' * (count > 1)}. {first.where}: "
                f"{first.message}. To list all: {check_command(self.cache.source)}"
            )

    def as_dict(self) -> dict[str, Any]:
        """All metadata, the paths of the derived files too, which are made if need be."""
        return {
            **super().as_dict(),
            "json_file": self.json_file,
            "sem_seg_root": self.sem_seg_root,
        }


def load_panoptic_records(name: str) -> list[dict[str, Any]]:
    """The records of a dataset that :func:`register_panoptic` registered.

    They are in Detectron2's separated panoptic form, with ``pan_seg_file_name`` and
    ``segments_info`` (contiguous ids, ``isthing``) beside it, from which the ground truth can be
    drawn. Pictures without annotation are left out. Without a class of things there are no
    "annotations": Detectron2 takes only pictures that have some, where any may have them.

    Raises:
        DatasetError: the files have a fault, or other classes than when they were registered.
    """
    metadata = MetadataCatalog.get(name)
    cache, source = metadata.cache, metadata.cache.source
    metadata.build()
    content = load_panoptic_json(source.panoptic_json)
    things = metadata.thing_dataset_id_to_contiguous_id
    contiguous = things | metadata.stuff_dataset_id_to_contiguous_id
    instances = _instances(cache.instances_json, things)
    images = {image["id"]: image for image in content["images"]}
    records = []
    for annotation in content["annotations"]:
        image, png = images[annotation["image_id"]], annotation["file_name"]
        segments = [
            {
                **segment,
                "category_id": contiguous[segment["category_id"]],
                "isthing": segment["category_id"] in things,
                "iscrowd": int(segment.get("iscrowd", 0)),
            }
            for segment in annotation["segments_info"]
        ]
        record = {
            "file_name": str(source.image_root / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "sem_seg_file_name": str(cache.sem_seg_root / png),
            "pan_seg_file_name": str(source.panoptic_root / png),
            "segments_info": segments,
        }
        if things:
            record["annotations"] = instances.get(image["id"], [])
        records.append(record)
    if left_out := len(images) - len(records):
        have = "has" if left_out == 1 else "have"
        _logger.info(
            f"Dataset {name!r}: {left_out} of {len(images)} pictures {have} no annotation, and "
            f"{'is' if left_out == 1 else 'are'} left out."
        )
    return records


def _instances(path: Path, things: Mapping[int, int]) -> dict[int | str, list[dict[str, Any]]]:
    """The instance annotations of each image, as Detectron2 wants them.

    Args:
        path: the derived JSON.
        things: category id to contiguous id.
    """
    instances: dict[int | str, list[dict[str, Any]]] = {}
    for instance in json.loads(path.read_bytes())["annotations"]:
        instances.setdefault(instance["image_id"], []).append(
            {
                "category_id": things[instance["category_id"]],
                "iscrowd": instance["iscrowd"],
                "bbox": instance["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "segmentation": instance["segmentation"],
            }
        )
    return instances
