import base64
import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from rpanoptic.data.convert import Segment, SegmentedPicture, write_panoptic
from rpanoptic.data.convert.classes_file import read_classes
from rpanoptic.data.convert.labelme import labelme_to_panoptic
from rpanoptic.data.convert.labelme_export import panoptic_to_labelme
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError
from tests.data.convert.random_sets import NAMES, inspection, sayings, write_random_set


def to_labelme(source, output, **options):
    return panoptic_to_labelme(
        source.image_root,
        source.panoptic_json,
        source.panoptic_root,
        output,
        progress=False,
        **options,
    )


def from_labelme(source, labels, root):
    made = PanopticSource(source.image_root, root / "made.json", root / "made")
    labelme_to_panoptic(
        made.image_root,
        labels,
        made.panoptic_json,
        made.panoptic_root,
        classes=read_classes(labels / "classes.csv"),
        progress=False,
    )
    return made


def write_one(root, label_map, segments, categories):
    """A set of one picture."""
    source = PanopticSource(root, root / "panoptic.json", root / "panoptic")
    Image.new("RGB", label_map.shape[::-1]).save(root / "a.jpg")
    write_panoptic(
        source.panoptic_json,
        source.panoptic_root,
        lambda picture: picture,
        [("a.jpg", SegmentedPicture(label_map, segments))],
        categories,
        progress=False,
    )
    return source


CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "Gras & Wiese, grün", "isthing": 0},
]


def test_there_and_back_each_pixel_class_and_crowd_is_the_same(tmp_path):
    source = write_random_set(tmp_path)
    report = to_labelme(source, tmp_path / "labels", workers=2)
    assert (report.pictures, report.notes) == (2, {})
    made = from_labelme(source, tmp_path / "labels", tmp_path)
    assert sayings(made) == sayings(source)
    assert inspection(made).worst != "error"
    images = json.loads(made.panoptic_json.read_text())["images"]
    assert [image["file_name"] for image in images] == NAMES


def test_the_file_is_one_of_labelme(tmp_path):
    label_map = np.zeros((5, 7), dtype=int)
    label_map[1:4, 2:6] = 1
    label_map[2, 3] = 0
    source = write_one(tmp_path, label_map, {1: Segment(1, iscrowd=True)}, CATEGORIES)
    to_labelme(source, tmp_path / "labels")
    content = json.loads((tmp_path / "labels/a.json").read_text(encoding="utf-8"))
    (shape,) = content.pop("shapes")
    assert content == {
        "version": "5.5.0",
        "flags": {},
        "imagePath": "../a.jpg",
        "imageData": None,
        "imageHeight": 5,
        "imageWidth": 7,
    }
    patch = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape.pop("mask")))))
    assert patch.tolist() == [[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]]
    assert shape == {
        "label": "cat",
        "points": [[2.0, 1.0], [5.0, 3.0]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {"iscrowd": True},
    }


def test_files_may_go_beside_the_pictures(tmp_path):
    source = write_random_set(tmp_path)
    with pytest.raises(DatasetError, match="images: holds files already"):
        to_labelme(source, source.image_root)
    to_labelme(source, source.image_root, overwrite=True)
    path = (source.image_root / NAMES[0]).with_suffix(".json")
    assert json.loads(path.read_text())["imagePath"] == path.with_suffix(".png").name
    assert sayings(from_labelme(source, source.image_root, tmp_path)) == sayings(source)


def test_polygons_are_outlines_that_keep_what_lies_in_holes(tmp_path):
    # Rings around each other, a thing in two parts, lines and single pixels. Discs of OpenCV.
    label_map = np.ones((40, 50), dtype=np.uint8)
    for radius, number in ((18, 2), (14, 1), (9, 3), (4, 2)):
        cv2.circle(label_map, (20, 20), radius, number, -1)
    label_map[2:9, 42:48] = 4
    label_map[30:38, 42:44] = 4
    label_map[20, 40:49] = 5
    label_map[39, 49] = 5
    segments = {1: Segment(2), 2: Segment(1), 3: Segment(1), 4: Segment(1), 5: Segment(1, True)}
    source = write_one(tmp_path, label_map, segments, CATEGORIES)
    report = to_labelme(source, tmp_path / "labels", polygons=True)
    assert report.notes == {}
    shapes = json.loads((tmp_path / "labels/a.json").read_text())["shapes"]
    assert [shape["shape_type"] for shape in shapes] == ["polygon"] * 9  # no outlines of holes
    assert min(len(shape["points"]) for shape in shapes) == 3
    assert sayings(from_labelme(source, tmp_path / "labels", tmp_path)) == sayings(source)


def test_a_void_hole_that_a_polygon_fills_is_counted(tmp_path):
    label_map = np.ones((9, 9), dtype=int)
    label_map[3:5, 3:6] = 0
    source = write_one(tmp_path, label_map, {1: Segment(2)}, CATEGORIES)
    report = to_labelme(source, tmp_path / "labels", polygons=True)
    assert report.notes == {"pixels that polygons give to another class or to none": 6}


def test_segments_of_stuff_that_become_one_are_counted(tmp_path):
    label_map = np.arange(9).reshape(3, 3)
    segments = {number: Segment(2, iscrowd=number == 8) for number in range(1, 9)}
    source = write_one(tmp_path, label_map, segments, CATEGORIES)
    report = to_labelme(source, tmp_path / "labels")
    assert report.notes == {"segments of stuff that are one with another of their class": 6}
    made = from_labelme(source, tmp_path / "labels", tmp_path)
    assert sorted(crowd for _, crowd, _ in sayings(made)["a.jpg"]) == [False, True]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat", "cat"), "the name 'cat' is that of 2 classes; labelme tells classes apart by"),
        (("cat", "__ignore__"), "the name '__ignore__' means void"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(tmp_path, names, message):
    categories = [dict(one, name=name) for one, name in zip(CATEGORIES, names, strict=True)]
    source = write_one(tmp_path, np.ones((2, 2), dtype=int), {1: Segment(1)}, categories)
    with pytest.raises(DatasetError) as caught:
        to_labelme(source, tmp_path / "labels")
    assert str(caught.value).startswith(f"{source.panoptic_json}: {message}")
    assert not (tmp_path / "labels").exists()


def test_a_missing_folder_is_named(tmp_path):
    source = write_random_set(tmp_path)
    moved = PanopticSource(tmp_path / "none", source.panoptic_json, source.panoptic_root)
    with pytest.raises(DatasetError, match="none: no such folder"):
        to_labelme(moved, tmp_path / "labels")
