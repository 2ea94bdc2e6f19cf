import json

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import Image

from rpanoptic.data.coco_panoptic import check_segments
from rpanoptic.data.convert import Segment, SegmentedPicture, write_panoptic
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.errors import DatasetError

CATEGORIES = [
    {"id": 7, "name": "grass", "isthing": False, "supercategory": "plant"},
    {"id": 0, "name": "cat", "isthing": True, "color": [0, 0, 0]},
    {"id": 3, "name": "dog", "isthing": 1, "color": [200, 80, 80]},
]


def picture(image=None, shape=(6, 8), **changes):
    """Grass (1), two dogs (5 and 300), void; and a hidden cat (9)."""
    label_map = np.ones(shape, dtype=np.uint16)
    label_map[1:3, 2:6] = 300
    label_map[4, 5] = 5
    label_map[:, -1] = 0
    segments = {
        300: Segment(3, iscrowd=True),
        1: Segment(7),
        9: Segment(0, origin="annotation 12"),
        5: Segment(3),
    }
    return SegmentedPicture(label_map, {**segments, **changes.pop("segments", {})}, image or {})


def identity(source):
    return source


def write(root, pictures, categories=CATEGORIES, convert=identity, **options):
    return write_panoptic(
        root / "panoptic.json",
        root / "panoptic",
        convert,
        pictures,
        categories,
        progress=False,
        **options,
    )


def test_what_is_written_is_what_was_given(tmp_path):
    report = write(
        tmp_path, [("a/One.JPG", picture()), ("two.jpeg", picture({"id": 9, "licence": 3}))]
    )
    content = load_panoptic_json(tmp_path / "panoptic.json")
    assert content["images"] == [
        {"id": 1, "file_name": "a/One.JPG", "width": 8, "height": 6},
        {"id": 9, "licence": 3, "file_name": "two.jpeg", "width": 8, "height": 6},
    ]
    assert [a["file_name"] for a in content["annotations"]] == ["a/One.png", "two.png"]
    assert [a["image_id"] for a in content["annotations"]] == [1, 9]
    for annotation in content["annotations"]:
        segments = annotation["segments_info"]
        assert [(s["category_id"], s["iscrowd"], s["area"], s["bbox"]) for s in segments] == [
            (3, 1, 8, [2, 1, 4, 2]),
            (7, 0, 6 * 7 - 9, [0, 0, 7, 6]),
            (3, 0, 1, [5, 4, 1, 1]),
        ]
        path = tmp_path / "panoptic" / annotation["file_name"]
        ids = rgb2id(np.array(Image.open(path)))
        check_segments(path, ids, segments)
        expected = np.zeros((6, 8), dtype=int)
        for segment, label in zip(segments, (300, 1, 5), strict=True):
            expected[picture().label_map == label] = segment["id"]
        assert np.array_equal(ids, expected)
    assert (report.pictures, report.segments, report.hidden) == (2, 6, 2)
    assert report.examples == ("annotation 12 of a/One.JPG", "annotation 12 of two.jpeg")
    assert report.void_pixels == pytest.approx(1 / 8)
    assert "2 segments without a pixel left out (annotation 12 of a/One.JPG;" in str(report)


def test_categories_are_completed(tmp_path):
    write(tmp_path, [("a.jpg", picture())])
    cat, dog, grass = json.loads((tmp_path / "panoptic.json").read_text())["categories"]
    assert (cat["id"], cat["isthing"], cat["color"]) == (0, 1, [0, 0, 0])
    assert (dog["id"], dog["color"]) == (3, [200, 80, 80])
    assert (grass["isthing"], grass["supercategory"]) == (0, "plant")
    assert len(grass["color"]) == 3


def test_ids_are_never_void_and_never_twice(tmp_path):
    # Black is the colour of "cat", and void's id.
    rng = np.random.default_rng(0)
    label_map = rng.permutation(np.arange(1600) % 401).reshape(40, 40)
    segments = {number: Segment((0, 3, 7)[number % 3]) for number in range(1, 401)}
    write(tmp_path, [("a.png", SegmentedPicture(label_map, segments))])
    (annotation,) = load_panoptic_json(tmp_path / "panoptic.json")["annotations"]
    ids = [segment["id"] for segment in annotation["segments_info"]]
    assert len(set(ids)) == 400 and 0 < min(ids) <= max(ids) < 256**3
    drawn = rgb2id(np.array(Image.open(tmp_path / "panoptic/a.png")))
    assert np.array_equal(drawn == 0, label_map == 0)


def test_files_do_not_depend_on_workers(tmp_path):
    pictures = [(f"{number}.jpg", picture()) for number in range(5)]
    made = []
    for workers in (1, 2):
        root = tmp_path / str(workers)
        write(root, pictures, workers=workers)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        made.append([(path.relative_to(root), path.read_bytes()) for path in files])
    assert made[0] == made[1] and len(made[0]) == 6


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "no pictures"),
        ([("a.jpg", picture({"width": 9}))], r"a.jpg: .* is 8 x 6 pixels, its entry says 9 x 6"),
        ([("a.jpg", picture(segments={5: Segment(8)}))], r"a.jpg: .* category 8"),
        (
            [("a.jpg", SegmentedPicture(np.array([[0, 4, 2]]), {2: Segment(3)}))],
            r"a.jpg: .* labels that belong to no segment: 4\.",
        ),
        ([("a.jpg", picture({"id": 1})), ("b.jpg", picture({"id": 1}))], "a.jpg and b.jpg .* id 1"),
        ([("a.jpg", picture()), ("b.jpg", picture({"id": "b"}))], "numbers, and ids that are str"),
        ([("a.jpg", picture({"id": 2**63}))], f"the id {2**63}, too long for 64 bits"),
        ([("a.jpg", picture({"id": None}))], "a.jpg: its id must be .* got None"),
        ([("a.jpg", picture()), ("A.png", picture())], r"'A.png' and 'a.jpg' share 'A.png'"),
        ([("a.jpg", picture()), ("a.jpg", picture())], r"'a.jpg' is listed twice"),
        ([("../a.jpg", picture())], r"'../a.jpg': .* without '..'"),
        ([("/a.jpg", picture())], r"'/a.jpg'"),
    ],
)
def test_contradictions_are_named_and_leave_nothing(tmp_path, pictures, message):
    with pytest.raises(DatasetError, match=message):
        write(tmp_path, pictures)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"isthing": 2}, "category 3: must have 0 or 1 as 'isthing'"),
        ({"id": "3"}, "whole number as 'id'"),
        ({"id": 7}, "there twice: 7"),
    ],
)
def test_impossible_categories_are_named(tmp_path, change, message):
    with pytest.raises(DatasetError, match=message):
        write(tmp_path, [("a.jpg", picture())], [*CATEGORIES[:2], {**CATEGORIES[2], **change}])
    assert list(tmp_path.iterdir()) == []


def _content(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_there_is_kept_unless_told(tmp_path):
    write(tmp_path, [("a.jpg", picture()), ("b.jpg", picture())])
    before = _content(tmp_path)
    with pytest.raises(DatasetError, match=r"panoptic: holds files already.*--overwrite"):
        write(tmp_path, [("a.jpg", picture())])
    with pytest.raises(DatasetError, match=r"panoptic.json: is there already"):
        write_panoptic(
            tmp_path / "panoptic.json", tmp_path / "new", identity, [("a", picture())], CATEGORIES
        )
    assert _content(tmp_path) == before
    bad = [("a.jpg", picture({"note": "new"})), ("b.jpg", picture({"width": 1}))]
    with pytest.raises(DatasetError, match=r"b.jpg"):
        write(tmp_path, bad, overwrite=True)
    assert _content(tmp_path) == before
    write(tmp_path, bad[:1], overwrite=True)
    assert json.loads((tmp_path / "panoptic.json").read_text())["images"][0]["note"] == "new"


def test_inputs_are_never_written_to(tmp_path):
    (tmp_path / "panoptic/in").mkdir(parents=True)
    (tmp_path / "panoptic.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "panoptic")
    for path in ("panoptic", "link", "panoptic/in"):
        with pytest.raises(DatasetError, match=r"panoptic: the output would go to where the input"):
            write(tmp_path, [("a", picture())], inputs=[tmp_path / path], overwrite=True)
    with pytest.raises(DatasetError, match=r"panoptic.json: the output would replace an input"):
        write(tmp_path, [("a", picture())], inputs=[tmp_path / "panoptic.json"], overwrite=True)
    assert (tmp_path / "panoptic.json").read_text() == "{}"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot write to .*file"):
        write(tmp_path / "file" / "below", [("a", picture())])
