import json

import pytest

from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.errors import DatasetError
from tests.data.helpers import write_tiny_coco


@pytest.fixture
def path(tmp_path):
    return write_tiny_coco(tmp_path) / "annotations/panoptic_val2017.json"


def _fault(path, message):
    with pytest.raises(DatasetError) as caught:
        load_panoptic_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_whole_file_is_returned_as_it_is(path):
    assert load_panoptic_json(path) == json.loads(path.read_text())


def test_a_mark_before_the_text_is_passed_over(path):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    assert load_panoptic_json(path) == content


def test_words_are_taken_for_image_ids(path):
    content = json.loads(path.read_text())
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        image["id"] = annotation["image_id"] = f"town_{image['id']}"
    path.write_text(json.dumps(content))
    assert load_panoptic_json(path) == content


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("categories", 1, "id"), [7], "categories[1] must have a whole number as 'id', got [7]"),
        (("categories", 1, "id"), 3, "categories[1] has the id 3 of an entry before it"),
        (("categories", 1, "id"), 2**63, f"categories[1] has the id {2**63}, too long for 64 bits"),
        (("images", 2, "id"), "3", "images have ids that are numbers, and ids that are strings"),
        (
            ("annotations", 1, "file_name"),
            "./000001.png",
            "annotations[1] has the PNG './000001.png' of another image",
        ),
        (("categories", 0, "isthing"), "yes", "must have 0 or 1 as 'isthing', got \"yes\""),
        (("categories", 0), None, "categories[0] must be an object, got null"),
        (("images", 2, "id"), {}, "images[2] must have a whole number or a string as 'id'"),
        (("images", 2, "width"), 0, "a whole number above 0 as 'width', got 0"),
        (("images", 2, "file_name"), 5, "images[2] must have a string as 'file_name', got 5"),
        (("annotations", 1), [], "annotations[1] must be an object, got []"),
        (("annotations", 1, "image_id"), [2], "annotations[1] must have a whole number or"),
        (("annotations", 1, "segments_info"), None, "a list as 'segments_info', got null"),
        (
            ("annotations", 1, "segments_info", 2),
            5,
            "annotations[1] (000002.png): segments_info[2] must be an object, got 5",
        ),
        (
            ("annotations", 1, "segments_info", 2, "id"),
            True,
            "segments_info[2] must have a whole number as 'id', got true",
        ),
        (
            ("annotations", 1, "segments_info", 2, "category_id"),
            [3],
            "segments_info[2] must have a whole number as 'category_id', got [3]",
        ),
        (
            ("annotations", 1, "segments_info", 2, "id"),
            300,
            "segments_info[2] has the id 300 of a segment before it",
        ),
        (
            ("annotations", 1, "segments_info", 2, "iscrowd"),
            None,
            "segments_info[2] must have 0 or 1 as 'iscrowd', got null",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_entry(path, place, value, message):
    content = json.loads(path.read_text())
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    path.write_text(json.dumps(content))
    _fault(path, message)


@pytest.mark.parametrize(
    ("place", "key", "message"),
    [
        (("categories", 2), "isthing", "categories[2] lacks 'isthing'"),
        (("images", 0), "height", "images[0] lacks 'height'"),
        (("annotations", 2), "file_name", "annotations[2] lacks 'file_name'"),
        (("annotations", 2), "segments_info", "annotations[2] lacks 'segments_info'"),
        (
            ("annotations", 2, "segments_info", 0),
            "category_id",
            "annotations[2] (000003.png): segments_info[0] lacks 'category_id'",
        ),
    ],
)
def test_a_missing_field_is_named_with_its_entry(path, place, key, message):
    content = json.loads(path.read_text())
    holder = content
    for step in place:
        holder = holder[step]
    del holder[key]
    path.write_text(json.dumps(content))
    _fault(path, message)


@pytest.mark.parametrize(
    "name",
    [
        "/tmp/x.png",
        "../x.png",
        "a/../../x.png",
        "..\\x.png",
        "C:\\x.png",
        "C:x.png",
        "",
        ".",
        "a\0b",
    ],
)
def test_a_file_name_that_leaves_its_folder_is_refused(path, name):
    content = json.loads(path.read_text())
    content["annotations"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    _fault(path, "annotations[0] must have a path below the folder of the PNGs")


@pytest.mark.parametrize("text", ["", "[]", "null", '{"categories": {}}', "[" * 100_000, "\xff"])
def test_another_file_is_no_panoptic_json(path, text):
    path.write_bytes(text.encode("latin-1"))
    _fault(path, "no COCO panoptic JSON")


def test_a_missing_file_is_named(path):
    path.unlink()
    _fault(path, "cannot be read (No such file or directory)")
