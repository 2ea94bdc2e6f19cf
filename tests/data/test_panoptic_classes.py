from __future__ import annotations

import json

import pytest
from detectron2.data import MetadataCatalog

from rpanoptic.data.panoptic_classes import ClassTable, PanopticClass, default_color
from rpanoptic.data.synthetic_classes import CLASSES
from rpanoptic.errors import DatasetError

CATEGORIES = [
    {"id": 9, "name": "sky", "isthing": False},
    {"id": 4, "name": "cat", "isthing": True, "color": [1, 2, 3]},
    {"id": 7, "name": "", "isthing": 0, "color": [1, 2, 300]},
    {"id": 2, "isthing": 1},
]


def test_classes_are_numbered_in_the_order_of_their_ids() -> None:
    metadata = ClassTable.from_categories(CATEGORIES).metadata()
    assert metadata["thing_classes"] == ["class 2", "cat"]
    assert metadata["thing_dataset_id_to_contiguous_id"] == {2: 0, 4: 1}
    assert metadata["stuff_classes"] == ["things", "class 7", "sky"]
    assert metadata["stuff_dataset_id_to_contiguous_id"] == {7: 1, 9: 2, 0: 0}
    assert metadata["thing_colors"][1] == [1, 2, 3]
    assert metadata["stuff_colors"][1:] == [
        list(default_color(1, isthing=False)),
        list(default_color(2, isthing=False)),
    ]


def test_a_category_may_have_the_id_0() -> None:
    table = ClassTable.from_categories([{"id": 0, "isthing": 0}, {"id": 3, "isthing": 0}])
    assert table.metadata()["stuff_dataset_id_to_contiguous_id"] == {0: 1, 3: 2, 4: 0}


def test_a_table_survives_json_and_metadata() -> None:
    table = ClassTable.from_categories(CATEGORIES)
    assert ClassTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    assert ClassTable.from_categories(table.categories()) == table
    synthetic = ClassTable.from_metadata(MetadataCatalog.get("synthetic_panoptic_val"))
    assert synthetic == ClassTable(CLASSES)


def test_the_tables_of_detectron2s_coco_are_read_in_both_forms() -> None:
    separated, whole = (
        ClassTable.from_metadata(MetadataCatalog.get(f"coco_2017_val_panoptic{form}"))
        for form in ("_separated", "")
    )
    assert separated is not None
    assert whole is not None
    assert (len(separated.things), len(separated.stuff)) == (80, 53)
    assert [one.id for one in whole.classes] == [one.id for one in separated.classes]
    assert separated.things[0] == PanopticClass(1, "person", True, (220, 20, 60))
    assert ClassTable.from_metadata(MetadataCatalog.get("digits_train")) is None


def test_too_many_stuff_classes() -> None:
    with pytest.raises(DatasetError, match="255 stuff classes"):
        ClassTable.from_categories([{"id": index, "isthing": 0} for index in range(255)])


@pytest.mark.parametrize("content", [None, {}, {"classes": [{"id": 1}]}, {"classes": 3}])
def test_what_is_no_table(content: object) -> None:
    with pytest.raises(DatasetError, match="no table of classes"):
        ClassTable.from_dict(content)
