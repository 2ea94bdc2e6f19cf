import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rpanoptic.data.convert.labelme import labelme_to_panoptic
from rpanoptic.data.panoptic_classes import ClassTable, PanopticClass
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError
from tests.data.convert.random_sets import inspection, sayings

CLASSES = ClassTable(
    (
        PanopticClass(2, "cat", True, (200, 80, 80)),
        PanopticClass(9, "grass", False, (80, 200, 80)),
    )
)


def box(label, left, top, right, bottom, **changes):
    """A shape of the pixels from ``left`` to ``right``, without ``right``."""
    points = [[left, top], [right - 1, bottom - 1]]
    return {"label": label, "points": points, "shape_type": "rectangle", **changes}


def write(path, *shapes, picture="a.jpg", **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"imagePath": picture, "shapes": list(shapes), **changes}
    path.write_text(json.dumps(content))


def write_picture(path, size=(8, 6), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)


def convert(root, labels=None, images=None, **options):
    made = PanopticSource(images or root / "set", root / "made.json", root / "made")
    report = labelme_to_panoptic(
        made.image_root,
        labels or root / "set",
        made.panoptic_json,
        made.panoptic_root,
        progress=False,
        **options,
    )
    return made, report


def masks(made, name="a.jpg", shape=(6, 8)):
    """For each segment of a picture its class, its crowd flag and its number of pixels."""
    found = [
        (label, crowd, np.frombuffer(mask, dtype=bool).reshape(shape))
        for label, crowd, mask in sayings(made)[name]
    ]
    return sorted((label, crowd, int(mask.sum())) for label, crowd, mask in found)


@pytest.fixture
def one(tmp_path):
    """A picture of 8 x 6 with its JSON beside it: shapes on top of each other."""
    write_picture(tmp_path / "set/a.jpg")
    write(
        tmp_path / "set/a.json",
        box("grass", 0, 0, 4, 6),
        box("cat", 2, 0, 4, 2),
        box("cat", 6, 0, 7, 1, group_id=1),
        box("cat", 7, 5, 8, 6, group_id=1),
        box("cat", 5, 3, 7, 5, flags={"iscrowd": True}),
        box("grass", 0, 0, 1, 1, group_id=1),
        box("_background_", 0, 5, 8, 6),
        {"label": "cat", "points": [[1, 1], [5, 5]], "shape_type": "line"},
        imageData="not looked at",
        imageWidth=8,
        imageHeight=6,
    )
    return tmp_path


def test_later_shapes_lie_above_and_groups_are_one(one):
    made, report = convert(one, classes=CLASSES)
    assert masks(made) == [("cat", False, 1), ("cat", False, 4), ("cat", True, 4), ("grass", 0, 16)]
    # Grass has 24 pixels less 4 under a cat and 4 under void; void is also what has no shape.
    assert report.void_pixels == (48 - 25) / 48
    assert report.notes == {"shapes without an area left out (line)": 1}
    assert inspection(made).worst != "error"
    content = json.loads(made.panoptic_json.read_text())
    assert content["images"] == [{"id": "a", "file_name": "a.jpg", "width": 8, "height": 6}]
    assert [category["id"] for category in content["categories"]] == [2, 9]


def test_a_json_of_labelme_is_never_written_to(one):
    before = (one / "set/a.json").read_bytes()
    with pytest.raises(DatasetError, match=r"a\.json: the output would replace an input"):
        labelme_to_panoptic(
            one / "set", one / "set", one / "set/a.json", one / "new", overwrite=True
        )
    assert (one / "set/a.json").read_bytes() == before


def test_hidden_folders_are_passed_over(one):
    write(one / "set/.checkpoints/b.json", box("cat", 0, 0, 1, 1))
    _, report = convert(one, classes=CLASSES)
    assert report.pictures == 1


def test_a_shape_that_is_hidden_whole_is_counted(one):
    write(one / "set/a.json", box("cat", 1, 1, 3, 3), box("grass", 0, 0, 8, 6))
    made, report = convert(one, classes=CLASSES)
    assert masks(made) == [("grass", False, 48)]
    assert report.hidden == 1
    assert "shapes[0] (cat) of a.jpg" in str(report)


def test_without_classes_the_labels_are_the_classes(one):
    made, _ = convert(one, stuff=["grass"])
    categories = json.loads(made.panoptic_json.read_text())["categories"]
    assert [(c["id"], c["name"], c["isthing"]) for c in categories] == [
        (1, "cat", 1),
        (2, "grass", 0),
    ]
    _, report = convert(one, overwrite=True)  # grass is a thing, too: another one for its group
    assert report.segments == 3 + 2


def test_pictures_are_found_from_the_json_or_in_the_same_place_of_their_own_folder(tmp_path):
    write_picture(tmp_path / "images/x/a.JPG")
    write_picture(tmp_path / "images/x/b.png")
    write(
        tmp_path / "labels/1/one.json", box("cat", 0, 0, 1, 1), picture="..\\..\\images\\x\\a.JPG"
    )
    write(tmp_path / "labels/x/two.json", box("cat", 0, 0, 2, 1), picture="b.png")
    made, _ = convert(tmp_path, tmp_path / "labels", tmp_path / "images", workers=2)
    assert {name: len(segments) for name, segments in sayings(made).items()} == {
        "x/a.JPG": 1,
        "x/b.png": 1,
    }
    ids = [image["id"] for image in json.loads(made.panoptic_json.read_text())["images"]]
    assert ids == ["x/a", "x/b"]


def test_a_picture_is_as_large_as_it_is_shown(one):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    write_picture(one / "set/a.jpg", (6, 8), exif=exif)
    made, _ = convert(one, classes=CLASSES)
    assert json.loads(made.panoptic_json.read_text())["images"][0]["width"] == 8


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("/etc/passwd", "is no relative path"),
        ("C:\\a.jpg", "is no relative path"),
        ("../a.jpg", "leads out of the folder of the pictures"),
        ("x/../../other/a.jpg", "leads out of the folder of the pictures"),
        ("..", "leads out of the folder of the pictures"),
        ("b.jpg", "is not there, below the folder of the pictures"),
        (".", "is not there, below the folder of the pictures"),
    ],
)
def test_a_picture_must_lie_in_its_folder(one, picture, message):
    write_picture(one / "a.jpg")
    write_picture(one / "other/a.jpg")
    write(one / "set/a.json", box("cat", 0, 0, 1, 1), picture=picture)
    with pytest.raises(DatasetError) as caught:
        convert(one, classes=CLASSES)
    assert str(caught.value).startswith(f"{one / 'set/a.json'}: its picture {picture!r} {message}")
    assert not (one / "made").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: write(s / "a.json", box("cta", 0, 0, 1, 1)), "label 'cta', which is no class."),
        (lambda s: write(s / "b.json"), "b.json: is of the picture a.jpg, as is "),
        (lambda s: write_picture(s / "a.jpg", (9, 6)), "a picture of 8 x 6 pixels, "),
        (lambda s: (s / "a.jpg").write_bytes(b"?"), "a.jpg: cannot be read as a picture"),
        (lambda s: (s / "c.json").write_text("{}"), "c.json: no JSON of labelme"),
        (
            lambda s: write(
                s / "a.json",
                box("cat", 0, 0, 2, 2),
                box("cat", 0, 0, 2, 2, shape_type="mask", mask="AAAA"),
            ),
            "a.json: shapes[1] has a 'mask' that cannot be read as a base64 PNG",
        ),
    ],
)
def test_a_fault_is_named_and_nothing_is_written(one, change, message):
    change(one / "set")
    with pytest.raises(DatasetError) as caught:
        convert(one, classes=CLASSES)
    assert message in str(caught.value)
    assert not (one / "made.json").exists()
    assert not (one / "made").exists()


def test_a_label_that_is_close_to_a_class_is_hinted_at(one):
    write(one / "set/a.json", box("gras", 0, 0, 1, 1))
    with pytest.raises(DatasetError, match=r"a\.json: has the label 'gras', .* mean 'grass'\?"):
        convert(one, classes=CLASSES)


def test_faults_of_the_classes_are_named(one):
    with pytest.raises(
        DatasetError,
        match=r"set: no shape has the label gras of the stuff; .* are there: cat, grass",
    ):
        convert(one, stuff=["gras"])
    twice = ClassTable((*CLASSES.classes, PanopticClass(10, "cat", False, (0, 0, 0))))
    with pytest.raises(DatasetError, match="several classes have the name cat"):
        convert(one, classes=twice)
    with pytest.raises(ValueError, match="says itself which of them are stuff"):
        convert(one, classes=CLASSES, stuff=["grass"])
    write(one / "set/a.json", box("__ignore__", 0, 0, 1, 1))
    with pytest.raises(DatasetError, match="set: no shape has a label that is not void"):
        convert(one)


def test_missing_folders_and_files_are_named(one):
    with pytest.raises(DatasetError, match="none: no such folder"):
        convert(one, labels=Path(one / "none"))
    (one / "set/a.json").unlink()
    with pytest.raises(DatasetError, match="set: holds no JSON file"):
        convert(one)
