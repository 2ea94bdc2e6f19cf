"""The synthetic set is what Detectron2's own registration of the separated format reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_panoptic_separated

from rpanoptic.data.synthetic_classes import class_metadata

NAME = "test_separated_format"


@pytest.fixture()
def registered(synthetic_set: Path) -> Iterator[str]:
    folder = synthetic_set / "synthetic_panoptic"
    register_coco_panoptic_separated(
        NAME,
        class_metadata(),
        str(folder / "val"),
        str(folder / "panoptic_val"),
        str(folder / "annotations" / "panoptic_val.json"),
        str(folder / "panoptic_stuff_val"),
        str(folder / "annotations" / "instances_val.json"),
    )
    yield f"{NAME}_separated"
    for name in (f"{NAME}_separated", f"{NAME}_stuffonly"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_reads_the_same_records(
    registered: str, synthetic_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic_set))
    theirs, ours = DatasetCatalog.get(registered), DatasetCatalog.get("synthetic_panoptic_val")
    assert len(theirs) == len(ours) > 0
    for one, other in zip(theirs, ours, strict=True):
        assert one["annotations"]
        for key in ("file_name", "sem_seg_file_name", "image_id", "annotations"):
            assert one[key] == other[key], key
    assert MetadataCatalog.get(registered).thing_classes == class_metadata()["thing_classes"]
