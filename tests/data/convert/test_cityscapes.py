import json

import numpy as np
import pytest
from PIL import Image

from rpanoptic.data.convert.cityscapes import cityscapes_to_panoptic, panoptic_to_cityscapes
from rpanoptic.data.convert.cityscapes_labels import CITYSCAPES_CLASSES, CITYSCAPES_IGNORED
from rpanoptic.data.convert.classes_file import read_classes
from rpanoptic.data.convert.label_images import LabelSuffixes
from rpanoptic.data.convert.label_segments import LabelRules
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError
from tests.data.convert.random_sets import inspection, sayings, write_random_set

FRAME = "bonn/bonn_000004_000019"


def to_cityscapes(source, output, **options):
    return panoptic_to_cityscapes(
        source.panoptic_json, source.panoptic_root, output, progress=False, **options
    )


def from_cityscapes(image_root, label_root, root, **options):
    made = PanopticSource(image_root, root / "made.json", root / "made")
    report = cityscapes_to_panoptic(
        image_root, label_root, made.panoptic_json, made.panoptic_root, progress=False, **options
    )
    return made, report


def test_the_labels_are_those_of_the_evaluation():
    assert len(CITYSCAPES_CLASSES.things) == 8
    assert len(CITYSCAPES_CLASSES.stuff) == 11
    ids = {one.id for one in CITYSCAPES_CLASSES.classes}
    assert not ids & CITYSCAPES_IGNORED
    assert ids | CITYSCAPES_IGNORED == set(range(34))  # labels are numbered without a gap
    assert CITYSCAPES_CLASSES.classes[0] == (7, "road", False, (128, 64, 128))
    assert CITYSCAPES_CLASSES.classes[-1] == (33, "bicycle", True, (119, 11, 32))


def test_there_and_back_each_pixel_class_and_crowd_is_the_same(tmp_path):
    source = write_random_set(tmp_path)
    report = to_cityscapes(source, tmp_path / "labels")
    assert report.notes == {}
    image = Image.open(tmp_path / "labels/ulm/ulm_000001_000019_gtFine_instanceIds.png")
    assert image.mode == "I;16"
    assert set(np.unique(image).tolist()) == {0, 7, 21, 23, 26, 26000, 26001, 33000}
    made, report = from_cityscapes(source.image_root, tmp_path / "labels", tmp_path)
    assert sayings(made) == sayings(source)
    assert report.notes == {"things without an instance taken for crowd": 2}
    assert inspection(made).worst != "error"
    content = json.loads(made.panoptic_json.read_text())
    ids = [image["id"] for image in content["images"]]
    assert ids == ["aachen_000000_000019", "ulm_000001_000019"]
    assert [annotation["image_id"] for annotation in content["annotations"]] == ids


@pytest.fixture
def city(tmp_path):
    """One frame, 4 x 2: two cars, a group of cars, road, a sky with a number; ignored labels."""
    label = tmp_path / "gtFine/val" / f"{FRAME}_gtFine_instanceIds.png"
    picture = tmp_path / "leftImg8bit/val" / f"{FRAME}_leftImg8bit.png"
    for path in (label, picture):
        path.parent.mkdir(parents=True)
    values = [[26000, 26001, 26, 7], [23, 23004, 4, 29001]]
    Image.fromarray(np.uint16(values)).save(label)
    (label.parent / label.name.replace("instance", "label")).write_bytes(b"another image")
    Image.new("RGB", (4, 2)).save(picture)
    return tmp_path


def from_city(root, **options):
    return from_cityscapes(root / "leftImg8bit/val", root / "gtFine/val", root, **options)


def test_groups_are_crowds_and_ignored_labels_void(city):
    made, report = from_city(city)
    assert {(name, crowd) for name, crowd, _ in sayings(made)[f"{FRAME}_leftImg8bit.png"]} == {
        ("car", False),
        ("car", True),
        ("road", False),
        ("sky", False),
    }
    content = json.loads(made.panoptic_json.read_text())
    areas = sorted(one["area"] for one in content["annotations"][0]["segments_info"])
    assert areas == [1, 1, 1, 1, 2]
    assert report.void_pixels == 2 / 8
    assert report.notes["instance numbers of stuff ignored"] == 1
    assert len(content["categories"]) == 19


def test_own_classes_and_names_may_be_told(city):
    (city / "classes.csv").write_text("id,name,isthing\n26,auto,1\n7,way,0\n23,air,0\n0,gap,0\n")
    rules = LabelRules.of(read_classes(city / "classes.csv"), (4, 29), "segment")
    label = city / "gtFine/val" / f"{FRAME}_gtFine_instanceIds.png"
    label.rename(label.with_name("1_ids.png"))
    picture = city / "leftImg8bit/val" / f"{FRAME}_leftImg8bit.png"
    picture.rename(picture.with_name("1.png"))
    made, _ = from_city(city, rules=rules, suffixes=LabelSuffixes("", "_ids"))
    assert sorted((name, crowd) for name, crowd, _ in sayings(made)["bonn/1.png"]) == [
        ("air", False),
        ("auto", False),
        ("auto", False),
        ("auto", False),
        ("way", False),
    ]


def test_the_first_instance_of_the_first_label_is_no_label(city):
    (city / "classes.csv").write_text("id,name,isthing\n1,dot,1\n999,last,0\n")
    path = city / "gtFine/val" / f"{FRAME}_gtFine_instanceIds.png"
    Image.fromarray(np.uint16([[1000, 999, 999, 0], [1000, 1, 1, 1999]])).save(path)
    made, _ = from_city(city, rules=LabelRules.of(read_classes(city / "classes.csv"), (0,)))
    segments = sayings(made)[f"{FRAME}_leftImg8bit.png"]
    assert sorted((name, crowd, sum(mask)) for name, crowd, mask in segments) == [
        ("dot", False, 1),
        ("dot", False, 2),
        ("dot", True, 2),
        ("last", False, 2),
    ]


@pytest.mark.parametrize(
    ("value", "message"), [(34, "holds the class 34,"), (65_535, "holds the class 65,")]
)
def test_an_unknown_label_is_named(city, value, message):
    path = city / "gtFine/val" / f"{FRAME}_gtFine_instanceIds.png"
    Image.fromarray(np.full((2, 4), value, dtype=np.uint16)).save(path)
    with pytest.raises(DatasetError) as caught:
        from_city(city)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert not (city / "made").exists()


def test_a_missing_picture_is_named(city):
    (city / "leftImg8bit/val" / f"{FRAME}_leftImg8bit.png").unlink()
    with pytest.raises(DatasetError, match=f"has no picture for '{FRAME}'"):
        from_city(city)


def change(source, edit):
    content = json.loads(source.panoptic_json.read_text())
    edit(content)
    source.panoptic_json.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("old", "new", "void", "message"),
    [
        (
            26,
            65,
            0,
            "class 65 (car) has no place in instance images of 16 bits, which take things f",
        ),
        (
            26,
            0,
            3,
            "class 0 (car) has no place in instance images of 16 bits, which take things fr",
        ),
        (
            7,
            1000,
            0,
            "class 1000 (road) has no place in instance images of 16 bits, which take stu",
        ),
        (7, 0, 0, "void cannot be 0: it must be from 0 to 999, and no class."),
    ],
)
def test_a_class_without_a_place_in_the_format_is_refused(tmp_path, old, new, void, message):
    source = write_random_set(tmp_path)
    text = source.panoptic_json.read_text()
    text = text.replace(f'"id": {old},', f'"id": {new},')
    source.panoptic_json.write_text(
        text.replace(f'"category_id": {old},', f'"category_id": {new},')
    )
    with pytest.raises(DatasetError) as caught:
        to_cityscapes(source, tmp_path / "labels", void=void)
    assert message in str(caught.value)
    assert not (tmp_path / "labels").exists()


def test_pictures_without_a_folder_get_that_of_their_city(tmp_path):
    source = write_random_set(tmp_path, ["bonn_000004_000019_gtFine_leftImg8bit.png"])
    to_cityscapes(source, tmp_path / "labels")
    assert (tmp_path / "labels" / f"{FRAME}_gtFine_instanceIds.png").is_file()


def test_two_pictures_are_never_written_to_one_file(tmp_path):
    source = write_random_set(tmp_path, ["ulm/ulm_1.png", "ulm_1.png"])
    with pytest.raises(DatasetError, match=r"two pictures would be written to the file ulm/ulm_1_"):
        to_cityscapes(source, tmp_path / "labels")


def test_what_the_format_cannot_say_is_counted(tmp_path):
    source = write_random_set(tmp_path)

    def edit(content):
        for segment in content["annotations"][0]["segments_info"]:
            if segment["category_id"] == 21:
                segment.update(category_id=7, iscrowd=1)

    change(source, edit)
    report = to_cityscapes(source, tmp_path / "labels")
    assert report.notes == {
        "segments merged with another of their stuff class or crowd": 1,
        "crowd flags of stuff lost": 1,
    }
