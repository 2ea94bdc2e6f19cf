"""Sets of pictures with one label under names in Detectron2's catalogs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from rpanoptic.errors import DatasetError, listed
from rpanoptic.pathfinder.imagenet.data.mapper import ClassificationMapper
from rpanoptic.pathfinder.imagenet.data.pictures import read_record

_logger = logging.getLogger(__name__)


class PictureSource(Protocol):
    """Where the pictures of a set are."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; a label is a place in it. Raises as :meth:`records`."""

    def records(self) -> list[dict[str, Any]]:
        """What :func:`rpanoptic.pathfinder.imagenet.data.pictures.read_record` asks for, and
        "label"; new ones at each call.

        Raises:
            DatasetError: the set is missing or has a fault that can be seen without a look at
                pictures.
        """


class ClassificationMetadata(Metadata):
    """Metadata whose list of classes is there when it is read, and not before."""

    def __init__(self, *, name: str, opener: Callable[[], PictureSource], **others: Any) -> None:
        super().__init__(name=name, opener=opener, **others)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label.

        Raises:
            DatasetError: the set is missing.
        """
        return list(self.opener().classes)


def register_source(name: str, opener: Callable[[], PictureSource]) -> None:
    """Register a set of pictures with one label.

    Args:
        name: for configs; not yet taken.
        opener: called whenever the set is used, so that nothing is read before.
    """
    DatasetCatalog.register(name, partial(_records, name, opener))
    MetadataCatalog[name] = ClassificationMetadata(
        name=name,
        opener=opener,
        evaluator_type="image_classification",
        mapper=ClassificationMapper,
        check=partial(_check, name, opener),
    )


def _records(name: str, opener: Callable[[], PictureSource]) -> list[dict[str, Any]]:
    records = opener().records()
    for index, record in enumerate(records):
        record.update(dataset=name, index=index, image_id=index)
    return records


def _check(name: str, opener: Callable[[], PictureSource], most: int | None) -> None:
    """Look at all folders or shards, and read ``most`` pictures, evenly spread; None: all.

    Raises:
        DatasetError: there is a fault. A few unreadable ones of a sample are but named in the log,
            as a run may be told to skip them.
    """
    records = opener().records()
    count = len(records) if most is None else min(most, len(records))
    faults = []
    for index in np.linspace(0, len(records) - 1, count).round().astype(int):
        try:
            read_record(records[index])
        except DatasetError as error:
            faults.append(str(error))
    if faults and (most is None or len(faults) == count):
        raise DatasetError(
            f"dataset {name}: {len(faults)} of {count} pictures that were opened cannot be read: "
            f"{listed(faults, most=3)}"
        )
    for fault in faults:
        _logger.warning(
            "Dataset %s: %s A run ends there unless RPANOPTIC.CLASSIFICATION.UNREADABLE is skip.",
            name,
            fault,
        )
    _logger.info("Dataset %s: opened %d of %d pictures.", name, count, len(records))
