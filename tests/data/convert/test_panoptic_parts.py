import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from rpanoptic.data.convert import Segment, SegmentedPicture, write_panoptic
from rpanoptic.data.convert.classes_file import read_classes
from rpanoptic.data.convert.coco_parts import Stuff, convert_coco_parts
from rpanoptic.data.convert.panoptic_parts import panoptic_to_instances, panoptic_to_semantic
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError
from tests.data.convert.random_sets import inspection, sayings
from tests.data.helpers import load_script, write_tiny_coco

# Ids as foreign datasets have them: not contiguous, 0 among them, some above 255.
CATEGORIES = [
    {"id": 0, "name": "cat", "isthing": 1},
    {"id": 17, "name": "grass", "isthing": 0},
    {"id": 300, "name": "dog", "isthing": 1},
    {"id": 301, "name": "sky", "isthing": 0},
    {"id": 4000, "name": "road", "isthing": 0},
]


def _random_picture(rng):
    """A picture of random size with void, things in pieces, crowds; each stuff class once."""
    height, width = rng.integers(5, 40, size=2)
    segments = {1: Segment(17), 2: Segment(301), 3: Segment(4000)}
    for number in range(4, 4 + rng.integers(0, 8)):
        segments[number] = Segment(int(rng.choice((0, 300))), bool(rng.random() < 0.2))
    coarse = rng.integers(0, len(segments) + 1, size=(height // 3 + 1, width // 3 + 1))
    labels = np.kron(coarse, np.ones((3, 3), dtype=np.int64))[:height, :width]
    return SegmentedPicture(labels, segments)


def _itself(picture):
    return picture


def _random_set(root, seed):
    rng = np.random.default_rng(seed)
    source = PanopticSource(root, root / "panoptic.json", root / "panoptic")
    pictures = [(f"deep/{number:03d}.JPG", _random_picture(rng)) for number in range(6)]
    write_panoptic(
        source.panoptic_json, source.panoptic_root, _itself, pictures, CATEGORIES, progress=False
    )
    return source


def _round_trip(source, root, **semantic):
    """Panoptic -> instances and stuff maps -> panoptic."""
    inputs = source.panoptic_json, source.panoptic_root
    things, maps = root / "parts/instances.json", root / "parts/stuff"
    panoptic_to_instances(*inputs, things, progress=False)
    void, _ = panoptic_to_semantic(
        *inputs, maps, numbering="categories", progress=False, **semantic
    )
    again = PanopticSource(source.image_root, root / "again.json", root / "again")
    report = convert_coco_parts(
        again.panoptic_json,
        again.panoptic_root,
        instances=things,
        stuff=Stuff(maps, void=(void,)),
        classes=read_classes(maps / "classes.csv"),
        progress=False,
    )
    return again, report


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("things", [True, False])
def test_random_segmentations_come_back(tmp_path, seed, things):
    source = _random_set(tmp_path, seed)
    again, report = _round_trip(source, tmp_path, things=things)
    assert sayings(again) == sayings(source)
    assert (report.hidden, report.notes) == (0, {})


def test_pictures_without_annotation_are_not_taken_for_empty_ones(tmp_path):
    source = _random_set(tmp_path, 0)
    content = json.loads(source.panoptic_json.read_text())
    del content["annotations"][2]
    source.panoptic_json.write_text(json.dumps(content))
    again, _ = _round_trip(source, tmp_path)
    said = sayings(again)
    assert said == sayings(source) and len(said) == 5


def test_the_synthetic_set_comes_back(synthetic_set, tmp_path):
    root = synthetic_set / "synthetic_panoptic"
    source = PanopticSource(
        root / "val", root / "annotations/panoptic_val.json", root / "panoptic_val"
    )
    again, _ = _round_trip(source, tmp_path)
    assert sayings(again) == sayings(source)
    assert inspection(again).errors == []


def test_real_pictures_come_back(coco_layout, tmp_path):
    coco = coco_layout / "coco"
    source = PanopticSource(
        coco / "val2017", coco / "annotations/panoptic_val2017.json", coco / "panoptic_val2017"
    )
    again, _ = _round_trip(source, tmp_path)
    assert sayings(again) == sayings(source)
    assert inspection(again).errors == []
    # COCO's own areas and boxes, of both things and stuff, are found again.
    geometry = [
        sorted(
            (s["category_id"], s["area"], s["bbox"])
            for a in json.loads(path.read_text())["annotations"]
            for s in a["segments_info"]
        )
        for path in (source.panoptic_json, again.panoptic_json)
    ]
    assert geometry[0] == geometry[1]


@pytest.fixture
def tiny(tmp_path):
    coco = write_tiny_coco(tmp_path)
    return coco / "annotations/panoptic_val2017.json", coco / "panoptic_val2017"


def test_instances_load_in_pycocotools(tiny, tmp_path, capsys):
    path = tmp_path / "new/instances.json"
    assert panoptic_to_instances(*tiny, path, progress=False) == 6
    loaded = COCO(str(path))
    capsys.readouterr()
    assert sorted(loaded.anns) == [1, 2, 3, 4, 5, 6] and sorted(loaded.cats) == [3]
    (cat,) = loaded.loadAnns(loaded.getAnnIds(imgIds=[2], iscrowd=False))
    expected = np.zeros((16, 24))
    expected[6:10, 2:8] = 1
    assert np.array_equal(loaded.annToMask(cat), expected)
    assert len(loaded.getAnnIds(iscrowd=True)) == 3


@pytest.mark.parametrize(
    ("options", "void", "labels"),
    [
        ({}, 0, {"cat": 1, "grass": 2, "sky": 3}),
        ({"things": False}, 0, {"cat": 0, "grass": 2, "sky": 3}),
        ({"numbering": "categories"}, 0, {"cat": 3, "grass": 7, "sky": 9}),
    ],
)
def test_labels_are_numbered_as_told(tiny, tmp_path, options, void, labels):
    found, report = panoptic_to_semantic(*tiny, tmp_path / "semantic", progress=False, **options)
    assert (found, report.pictures) == (void, 3)
    pixels = np.array(Image.open(tmp_path / "semantic/000002.png"))
    expected = np.full((16, 24), labels["sky"])
    expected[8:] = labels["grass"]
    expected[6:10, 2:8] = expected[12:15, 10:15] = labels["cat"]
    expected[:, 22:] = void
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected)
    classes = read_classes(tmp_path / "semantic/classes.csv").classes
    # Their ids are the labels, also where things are void, so that the images can be read.
    whole = {"cat": 3, "grass": 7, "sky": 9} if "numbering" in options else {}
    assert {one.name: one.id for one in classes} == (whole or {"cat": 1, "grass": 2, "sky": 3})


def _with_category_ids(path, **ids):
    content = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    for category in content["categories"]:
        category["id"] = ids[category["name"]]
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] = ids[names[segment["category_id"]]]
    path.write_text(json.dumps(content))


def test_large_ids_need_16_bits_and_void_is_free(tiny, tmp_path):
    _with_category_ids(tiny[0], cat=0, grass=255, sky=60000)
    void, _ = panoptic_to_semantic(
        *tiny, tmp_path / "semantic", numbering="categories", progress=False
    )
    assert void == 65535
    pixels = np.array(Image.open(tmp_path / "semantic/000001.png"))
    assert set(np.unique(pixels)) == {0, 255, 60000, 65535}


@pytest.mark.parametrize("sky", [-1, 65536])
def test_ids_that_no_png_holds_are_named(tiny, tmp_path, sky):
    _with_category_ids(tiny[0], cat=3, grass=7, sky=sky)
    with pytest.raises(DatasetError, match=rf"panoptic_val2017.json: the label {sky} does not fit"):
        panoptic_to_semantic(*tiny, tmp_path / "s", numbering="categories", progress=False)
    assert not (tmp_path / "s").exists()
    panoptic_to_semantic(*tiny, tmp_path / "s", progress=False)


def test_damage_is_named_and_leaves_nothing(tiny, tmp_path):
    path = tiny[1] / "000003.png"
    path.write_bytes(path.read_bytes()[:60])
    before = sorted(tmp_path.rglob("*"))
    for convert, output in ((panoptic_to_instances, "i.json"), (panoptic_to_semantic, "s")):
        with pytest.raises(DatasetError, match=r"000003.png: cannot be read"):
            convert(*tiny, tmp_path / output, progress=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_outputs_that_are_there_are_kept_unless_told(tiny, tmp_path):
    path = tmp_path / "i.json"
    path.write_text("mine")
    with pytest.raises(DatasetError, match=r"i.json: is there already.*--overwrite"):
        panoptic_to_instances(*tiny, path, progress=False)
    assert path.read_text() == "mine"
    panoptic_to_instances(*tiny, path, overwrite=True, progress=False)
    assert json.loads(path.read_text())["annotations"]
    before = tiny[0].read_bytes()
    with pytest.raises(DatasetError, match=r"would replace an input"):
        panoptic_to_instances(*tiny, tiny[0], overwrite=True, progress=False)
    with pytest.raises(DatasetError, match=r"where the input"):
        panoptic_to_semantic(*tiny, tiny[1], overwrite=True, progress=False)
    assert tiny[0].read_bytes() == before


def test_a_set_without_things_has_no_instances(tiny, tmp_path):
    content = json.loads(tiny[0].read_text())
    for category in content["categories"]:
        category["isthing"] = 0
    tiny[0].write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"panoptic_val2017.json: has no class of things"):
        panoptic_to_instances(*tiny, tmp_path / "i.json", progress=False)


def test_the_commands(tiny, tmp_path, capsys):
    main = load_script("datasets/convert_panoptic.py").main
    given = ["--panoptic-json", str(tiny[0]), "--panoptic-root", str(tiny[1]), "--workers", "1"]
    instances, maps = tmp_path / "instances.json", tmp_path / "semantic"
    assert main(["to-instances", *given, "--output", str(instances)]) == 0
    assert "instances.json: 6 instances" in capsys.readouterr().out
    options = ["--numbering", "categories", "--stuff-only"]
    assert main(["to-semantic", *given, "--output", str(maps), *options]) == 0
    assert "3 pictures; void is 0" in capsys.readouterr().out
    made = PanopticSource(tmp_path, tmp_path / "made.json", tmp_path / "made")
    command = [
        *("from-coco", "--instances", str(instances), "--stuff", str(maps)),
        *("--classes", str(maps / "classes.csv"), "--workers", "2"),
        *("--output-json", str(made.panoptic_json)),
        *("--output-pngs", str(made.panoptic_root)),
    ]
    assert main(command) == 0
    assert "3 pictures, 12 segments, 8.3 % of the pixels void" in capsys.readouterr().out
    assert sayings(made) == sayings(PanopticSource(tmp_path, *tiny))
    assert main(command) == 2
    assert "error:" in capsys.readouterr().err
