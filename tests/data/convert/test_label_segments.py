from pathlib import Path

import numpy as np
import pytest

from rpanoptic.data.convert.label_segments import LabelRules
from rpanoptic.data.panoptic_classes import ClassTable, PanopticClass
from rpanoptic.errors import DatasetError

CLASSES = ClassTable(
    (
        PanopticClass(0, "sky", False, (0, 0, 0)),
        PanopticClass(2, "cat", True, (0, 0, 0)),
        PanopticClass(3, "dog", True, (0, 0, 0)),
    )
)
VALUES = np.array([[0, 20, 21], [31, 21, 0], [4, 90, 31]])


def split(value):
    label, instance = divmod(value, 10)
    return label, instance or None


def segmented(values=VALUES, void=(9,), without_instance="crowd"):
    rules = LabelRules.of(CLASSES, void, without_instance)
    picture = rules.segmented(np.asarray(values), split, Path("a/b.png"))
    found = {
        (one.category_id, one.iscrowd, one.origin): (picture.label_map == number).nonzero()
        for number, one in picture.segments.items()
    }
    places = {key: list(zip(*(p.tolist() for p in at), strict=True)) for key, at in found.items()}
    return places, dict(picture.notes)


def test_each_instance_and_each_stuff_class_is_a_segment():
    places, notes = segmented()
    assert places == {
        (0, False, "sky"): [(0, 0), (1, 2), (2, 0)],
        (2, True, "cat"): [(0, 1)],
        (2, False, "cat 1"): [(0, 2), (1, 1)],
        (3, False, "dog 1"): [(1, 0), (2, 2)],
    }
    assert notes == {
        "instance numbers of stuff ignored": 1,
        "things without an instance taken for crowd": 1,
    }


@pytest.mark.parametrize(("rule", "expected"), [("segment", False), ("void", None)])
def test_a_thing_without_an_instance_becomes_what_the_rule_says(rule, expected):
    places, notes = segmented(without_instance=rule)
    assert ((2, False, "cat") in places) == (expected is False)
    assert notes[f"things without an instance taken for {rule}"] == 1
    assert len(places) == (4 if rule == "segment" else 3)


def test_a_thing_without_an_instance_may_be_an_error():
    with pytest.raises(DatasetError, match=r"a/b\.png: holds the thing 2 \(cat\) without an inst"):
        segmented(without_instance="error")


def test_an_unknown_class_is_an_error_that_names_it():
    with pytest.raises(DatasetError, match=r"a/b\.png: holds the class 7, which is neither"):
        segmented([[0, 71]])


def test_the_usual_void_is_void_unless_it_is_a_class():
    assert LabelRules.of(CLASSES, None).void == {255, 65535}
    assert LabelRules.of(CLASSES, []).void == set()


def test_numbers_of_many_digits_stay_apart():
    values = np.array([[2 * 2**32 + 1, 2 * 2**32 + 65_536, 3 * 2**32 + 1]])
    rules = LabelRules(CLASSES)
    picture = rules.segmented(values, lambda value: divmod(value, 2**32), Path("a.png"))
    assert len(picture.segments) == 3
