import json

import cv2
import numpy as np
import pytest
from PIL import Image

from rpanoptic.data.convert import Segment, SegmentedPicture, write_panoptic
from rpanoptic.data.convert.classes_file import read_classes
from rpanoptic.data.convert.label_images import (
    LabelSuffixes,
    label_images_to_panoptic,
    panoptic_to_label_images,
)
from rpanoptic.data.convert.label_segments import LabelRules
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError
from tests.data.convert.random_sets import (
    CATEGORIES,
    NAMES,
    inspection,
    sayings,
    write_random_set,
)

RULES = LabelRules.of(ClassTable.from_categories(CATEGORIES), None)


def to_labels(source, output, **options):
    return panoptic_to_label_images(
        source.panoptic_json, source.panoptic_root, output, progress=False, **options
    )


def from_labels(source, label_root, root, rules=RULES, **options):
    made = PanopticSource(source.image_root, root / "made.json", root / "made")
    report = label_images_to_panoptic(
        made.image_root,
        label_root,
        made.panoptic_json,
        made.panoptic_root,
        rules,
        progress=False,
        **options,
    )
    return made, report


def test_pictures_without_a_label_image_are_counted(tmp_path):
    source = write_random_set(tmp_path)
    to_labels(source, tmp_path / "labels")
    Image.new("RGB", (3, 3)).save(source.image_root / "more.jpg")
    _, report = from_labels(source, tmp_path / "labels/classes", tmp_path)
    assert report.pictures == 2
    assert "pictures without a label image left out: 1" in str(report)


@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.parametrize(
    ("divisor", "void", "mode"),
    [(None, None, "L"), (None, 60_000, "I;16"), (1000, None, "I;16"), (65_536, 255, None)],
)
def test_there_and_back_each_pixel_class_and_crowd_is_the_same(
    tmp_path, extension, divisor, void, mode
):
    source = write_random_set(tmp_path)
    options = {"divisor": divisor, "void": void, "extension": extension}
    used, report = to_labels(source, tmp_path / "labels", **options)
    assert used == void or (void is None and used == 0)
    assert report.notes == {}
    assert report.pictures == 2
    label_root = tmp_path / "labels" / ("combined" if divisor else "classes")
    first = label_root / NAMES[0].replace(".png", extension)
    with Image.open(first) as image:
        assert image.mode == (mode or {".png": "RGB", ".tif": "I"}[extension])
    rules = LabelRules(read_classes(tmp_path / "labels/classes.csv"), frozenset((used,)))
    instances = None if divisor else tmp_path / "labels/instances"
    made, report = from_labels(
        source, label_root, tmp_path, rules, instance_root=instances, divisor=divisor
    )
    assert sayings(made) == sayings(source)
    assert report.notes == {"things without an instance taken for crowd": 2}
    assert inspection(made).worst != "error"
    images = json.loads(made.panoptic_json.read_text())["images"]
    assert [image["id"] for image in images] == [name.removesuffix(".png") for name in NAMES]


def test_sixteen_bits_are_kept_exactly(tmp_path):
    # Classes and instances of which the low, or the high, byte alone would be ambiguous.
    categories = [
        {"id": number, "name": str(number), "isthing": number != 256}
        for number in (1, 256, 257, 65_534)
    ]
    source = PanopticSource(tmp_path, tmp_path / "p.json", tmp_path / "p")
    Image.new("RGB", (4, 300)).save(tmp_path / "a.jpg")
    label_map = np.arange(1, 1201).reshape(300, 4)
    ids = np.array([category["id"] for category in categories])
    segments = {number: Segment(int(ids[number % 4])) for number in label_map.ravel().tolist()}
    stuff = [number for number, segment in segments.items() if segment.category_id == 256]
    for number in stuff[1:]:
        label_map[label_map == number] = stuff[0]
        del segments[number]
    write_panoptic(
        source.panoptic_json,
        source.panoptic_root,
        lambda picture: picture,
        [("a.jpg", SegmentedPicture(label_map, segments))],
        categories,
        progress=False,
    )
    to_labels(source, tmp_path / "labels")
    classes = cv2.imread(str(tmp_path / "labels/classes/a.png"), cv2.IMREAD_UNCHANGED)
    assert classes.dtype == np.uint16
    assert np.array_equal(classes, ids[np.arange(1, 1201).reshape(300, 4) % 4])
    instances = cv2.imread(str(tmp_path / "labels/instances/a.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(instances).tolist()) == set(range(901))
    rules = LabelRules(ClassTable.from_categories(categories))
    made, _ = from_labels(
        source,
        tmp_path / "labels/classes",
        tmp_path,
        rules,
        instance_root=tmp_path / "labels/instances",
    )
    assert sayings(made) == sayings(source)


def write_label(path, values, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=dtype)).save(path)


@pytest.fixture
def pairs(tmp_path):
    """A picture, 3 x 2, with its maps beside it, and a picture without."""
    write_label(tmp_path / "set/b/x.jpg", np.zeros((2, 3, 3)))
    write_label(tmp_path / "set/b/y.jpg", np.zeros((2, 3, 3)))
    write_label(tmp_path / "set/b/x_cls.png", [[26, 26, 7], [26, 255, 7]])
    write_label(tmp_path / "set/b/x_ins.tif", [[300, 0, 5], [300, 1, 0]], np.uint16)
    return tmp_path


def from_pairs(root, rules=RULES, **options):
    source = PanopticSource(root / "set", root / "none.json", root / "none")
    suffixes = LabelSuffixes(classes="_cls", instances="_ins")
    options = {"suffixes": suffixes, "instance_root": root / "set", **options}
    return from_labels(source, root / "set", root, rules, **options)


def test_files_may_lie_together(pairs):
    made, report = from_pairs(pairs)
    assert {(name, crowd) for name, crowd, _ in sayings(made)["b/x.jpg"]} == {
        ("car", False),
        ("car", True),
        ("road", False),
    }
    assert report.pictures == 1
    assert report.notes["instance numbers of stuff ignored"] == 1
    assert report.void_pixels == pytest.approx(1 / 6)


def test_without_instances_the_things_are_crowds(pairs):
    made, _ = from_pairs(pairs, instance_root=None)
    assert {(n, c) for n, c, _ in sayings(made)["b/x.jpg"]} == {("car", True), ("road", False)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (s / "x.jpg").unlink(), "set: has no picture for 'b/x'."),
        (lambda s: write_label(s / "x.png", [[0]]), "several files as picture for 'b/x': x.jpg"),
        (lambda s: (s / "x_ins.tif").unlink(), "set: has no instance map for 'b/x'."),
        (lambda s: (s / "x_cls.png").unlink(), "set: holds no PNG or TIFF named '*_cls.*'."),
        (lambda s: (s / "x_cls.png").write_bytes(b"?"), "x_cls.png: cannot be read as a PNG"),
        (lambda s: write_label(s / "x_cls.png", [[26]]), "x_cls.png: is 1 x 1 pixels, its picture"),
        (lambda s: write_label(s / "x_ins.tif", [[1]]), "x_ins.tif: is 1 x 1 pixels, its picture"),
        (
            lambda s: write_label(s / "x_cls.png", [[26, 26, 7], [26, 8, 7]]),
            "x_cls.png: holds the class 8, which is neither among the classes (",
        ),
    ],
)
def test_a_fault_is_named_and_nothing_is_written(pairs, change, message):
    change(pairs / "set/b")
    with pytest.raises(DatasetError) as caught:
        from_pairs(pairs)
    assert message in str(caught.value)
    assert not (pairs / "made.json").exists()
    assert not (pairs / "made").exists()


def test_impossible_options_are_refused(pairs):
    for options in ({"divisor": 1, "instance_root": None}, {"divisor": 1000}):
        with pytest.raises(ValueError, match="a divisor is at least 2 and without instance maps"):
            from_pairs(pairs, **options)
    source = PanopticSource(pairs, pairs / "p.json", pairs / "p")
    with pytest.raises(ValueError, match="a divisor is at least 2, got 1"):
        to_labels(source, pairs / "out", divisor=1)
    with pytest.raises(ValueError, match=r"label images end in \.png or \.tif, got '\.jpg'"):
        to_labels(source, pairs / "out", extension=".jpg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"void": 26}, "void cannot be 26, which is a class."),
        ({"void": 65_536}, "the class 65536 has no place in label images"),
        ({"divisor": 2}, "has 3 things; label images tell 1 apart."),
        ({"divisor": 2**20}, "the class 33 has no place in label images"),
    ],
)
def test_what_has_no_place_in_label_images_is_refused(tmp_path, options, message):
    source = write_random_set(tmp_path)
    with pytest.raises(DatasetError) as caught:
        to_labels(source, tmp_path / "labels", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "labels").exists()


def test_what_label_images_cannot_say_is_counted(tmp_path):
    source = write_random_set(tmp_path)
    content = json.loads(source.panoptic_json.read_text())
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["iscrowd"] = int(segment["category_id"] == 26)  # three crowds of cars
            if segment["category_id"] == 21:
                segment.update(category_id=7, iscrowd=1)  # a second road, as crowd
    content["images"].append({"id": 9, "file_name": "x.jpg", "width": 4, "height": 4})
    source.panoptic_json.write_text(json.dumps(content))
    _, report = to_labels(source, tmp_path / "labels")
    assert report.notes == {
        "segments merged with another of their stuff class or crowd": 2 * (2 + 1),
        "crowd flags of stuff lost": 2,
    }
    assert report.unannotated == 1
    assert str(report).startswith("2 pictures; 1 pictures without an annotation left out; crowd")
    made, _ = from_labels(
        source, tmp_path / "labels/classes", tmp_path, instance_root=tmp_path / "labels/instances"
    )
    assert {len(segments) for segments in sayings(made).values()} == {4}


def test_several_processes_write_what_one_does(tmp_path):
    source = write_random_set(tmp_path)
    to_labels(source, tmp_path / "one", divisor=1000)
    to_labels(source, tmp_path / "two", divisor=1000, workers=2)
    files = sorted(path for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 3
    for path in files:
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()
