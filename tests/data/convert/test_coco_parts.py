import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from rpanoptic.data.convert.coco_annotations import decoded_mask
from rpanoptic.data.convert.coco_parts import Stuff, convert_coco_parts
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_format import read_panoptic_png
from rpanoptic.errors import DatasetError

HEIGHT, WIDTH = 10, 14
CLASSES = ClassTable.from_categories(
    [
        {"id": 1, "name": "cat", "isthing": 1},
        {"id": 2, "name": "dog", "isthing": 1},
        {"id": 92, "name": "grass", "isthing": 0},
        {"id": 93, "name": "sky", "isthing": 0},
    ]
)
# As in COCO's files, which say nothing of things and stuff.
THINGS = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"})
IMAGES = [{"id": "x", "file_name": "a/One.JPG", "width": WIDTH, "height": HEIGHT, "licence": 4}]


def box(top, left, bottom, right):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def polygon(top, left, bottom, right):
    return [[left, top, right, top, right, bottom, left, bottom]]


def compressed(mask):
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def uncompressed(mask):
    pixels = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(pixels, prepend=0))
    counts = np.diff([0, *changes, pixels.size])
    return {"size": [HEIGHT, WIDTH], "counts": counts.tolist()}


def annotation(number, segmentation, category=1, **more):
    return {
        "id": number,
        "image_id": "x",
        "category_id": category,
        "segmentation": segmentation,
        **more,
    }


def write_json(path, annotations, categories=THINGS, images=IMAGES):
    content = {"images": images, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(content))
    return path


def write_map(root, labels, name="a/One.png"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return root


def stuff_map(dtype=np.uint8):
    """Grass below, sky above, void at the left."""
    labels = np.full((HEIGHT, WIDTH), 93, dtype=dtype)
    labels[5:] = 92
    labels[:, 0] = 0
    return labels


def convert(root, **options):
    return convert_coco_parts(
        root / "out/panoptic.json", root / "out/panoptic", progress=False, **options
    )


def read(root):
    """The segments (category, crowd) of the one picture -> their pixels; several in a list."""
    content = json.loads((root / "out/panoptic.json").read_text())
    (made,) = content["annotations"]
    ids = read_panoptic_png(root / "out/panoptic" / made["file_name"])
    found = {}
    for segment in made["segments_info"]:
        key = segment["category_id"], segment["iscrowd"]
        found.setdefault(key, []).append(ids == segment["id"])
    return found


def same(mask, expected):
    return np.array_equal(mask, expected)


def test_things_lie_above_stuff(tmp_path):
    things = write_json(
        tmp_path / "things.json",
        [
            annotation(5, polygon(3, 4, 7, 9)),
            annotation(6, uncompressed(box(0, 11, 2, 13)), category=2, iscrowd=1),
            annotation(7, compressed(box(8, 0, 9, 3)), iscrowd=0),
        ],
    )
    report = convert(
        tmp_path,
        instances=things,
        stuff=Stuff(write_map(tmp_path / "stuff", stuff_map())),
        classes=CLASSES,
    )
    found = read(tmp_path)
    assert set(found) == {(1, 0), (2, 1), (92, 0), (93, 0)}
    cats, (crowd,), (grass,), (sky,) = (found[key] for key in sorted(found))
    assert same(cats, [box(3, 4, 7, 9), box(8, 0, 9, 3)])
    assert same(crowd, box(0, 11, 2, 13))
    covered = cats[0] | cats[1] | crowd
    assert same(grass, box(5, 1, HEIGHT, WIDTH) & ~covered)
    assert same(sky, box(0, 1, 5, WIDTH) & ~covered)
    assert (report.segments, report.hidden, report.notes) == (5, 0, {})
    content = json.loads((tmp_path / "out/panoptic.json").read_text())
    assert content["images"] == IMAGES


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stuff_alone_is_enough(tmp_path, dtype):
    pictures = tmp_path / "pictures"
    write_map(pictures, np.zeros((HEIGHT, WIDTH, 3), np.uint8), "a/One.PNG")
    maps = Stuff(write_map(tmp_path / "stuff", stuff_map(dtype)))
    with pytest.raises(DatasetError, match=r"names of the pictures"):
        convert(tmp_path, stuff=maps, classes=CLASSES)
    with pytest.raises(DatasetError, match=r"stuff: label images do not tell what their classes"):
        convert(tmp_path, stuff=maps, images=pictures)
    with pytest.raises(DatasetError, match=r"neither instances nor stuff are given"):
        convert(tmp_path, classes=CLASSES)
    write_map(pictures, np.zeros((HEIGHT, WIDTH, 3), np.uint8), "a/Two.PNG")
    report = convert(tmp_path, stuff=maps, images=pictures, classes=CLASSES)
    assert report.notes == {"pictures without a label image left out": 1}
    found = read(tmp_path)
    assert same(found[92, 0], [box(5, 1, HEIGHT, WIDTH)])
    assert same(found[93, 0], [box(0, 1, 5, WIDTH)])
    image = json.loads((tmp_path / "out/panoptic.json").read_text())["images"]
    assert image == [{"id": 1, "file_name": "a/One.PNG", "width": WIDTH, "height": HEIGHT}]


def test_a_list_of_classes_with_other_names_is_noted(tmp_path):
    # As when the labels of label images are not the ids of the instances' file.
    things = write_json(tmp_path / "i.json", [annotation(1, polygon(1, 1, 3, 3))])
    others = ClassTable(tuple(one._replace(name=f"no {one.name}") for one in CLASSES.classes))
    assert convert(tmp_path, instances=things, classes=CLASSES).notes == {}
    report = convert(tmp_path, instances=things, classes=others, overwrite=True)
    assert report.notes == {"classes by another name than in their JSON": len(THINGS)}


def test_licences_stay_with_the_pictures(tmp_path):
    path = write_json(tmp_path / "i.json", [annotation(1, polygon(1, 1, 3, 3))])
    licences = [{"id": 4, "name": "CC BY"}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "licenses": licences}))
    convert(tmp_path, instances=path)
    made = json.loads((tmp_path / "out/panoptic.json").read_text())
    assert (made["info"], made["licenses"]) == ({}, licences)


def test_a_mark_before_the_text_of_a_json_is_passed_over(tmp_path):
    path = write_json(tmp_path / "i.json", [annotation(1, polygon(1, 1, 3, 3))])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert convert(tmp_path, instances=path).segments == 1


def test_instances_alone_are_enough(tmp_path):
    report = convert(
        tmp_path, instances=write_json(tmp_path / "i.json", [annotation(1, polygon(1, 1, 3, 3))])
    )
    assert same(read(tmp_path)[1, 0], [box(1, 1, 3, 3)])
    assert report.void_pixels == pytest.approx(1 - 4 / (HEIGHT * WIDTH))
    convert_coco_parts(
        tmp_path / "none.json",
        tmp_path / "none",
        instances=write_json(tmp_path / "empty.json", []),
        progress=False,
    )
    content = json.loads((tmp_path / "none.json").read_text())
    assert content["annotations"][0]["segments_info"] == []
    with pytest.raises(DatasetError, match=r"nothing to convert"):
        convert(tmp_path)


def test_stuff_may_come_as_segments(tmp_path):
    other = {"id": 183, "name": "other"}
    stuff = write_json(
        tmp_path / "stuff.json",
        [
            annotation(1, compressed(box(0, 0, 10, 14)), category=183),
            annotation(2, compressed(box(0, 0, 4, 14)), category=93),
            annotation(3, compressed(box(6, 0, 10, 5)), category=93),
        ],
        [other, {"id": 93, "name": "sky"}],
    )
    things = write_json(tmp_path / "things.json", [annotation(1, polygon(2, 2, 5, 6))])
    convert(tmp_path, instances=things, stuff=Stuff(stuff, void=(183,)))
    found = read(tmp_path)
    assert set(found) == {(1, 0), (93, 0)}
    # Both segments of the sky are one.
    assert same(found[93, 0], [(box(0, 0, 4, 14) | box(6, 0, 10, 5)) & ~box(2, 2, 5, 6)])
    categories = json.loads((tmp_path / "out/panoptic.json").read_text())["categories"]
    assert [(one["id"], one["isthing"]) for one in categories] == [(1, 1), (2, 1), (93, 0)]


def test_the_order_of_overlapping_instances(tmp_path):
    small, large, crowd = box(2, 2, 5, 5), box(1, 1, 6, 9), box(3, 3, 4, 4)
    things = write_json(
        tmp_path / "i.json",
        [
            annotation(1, compressed(small), category=1),
            annotation(2, compressed(large), category=2),
            annotation(3, compressed(crowd), category=1, iscrowd=1),
        ],
    )
    report = convert(tmp_path, instances=things)
    found = read(tmp_path)
    assert same(found[1, 0], [small]) and same(found[2, 0], [large & ~small])
    assert (1, 1) not in found
    assert (report.hidden, report.examples) == (1, ("annotation 3 of a/One.JPG",))
    report = convert(tmp_path, instances=things, order="file", overwrite=True)
    found = read(tmp_path)
    assert (1, 0) not in found
    assert same(found[2, 0], [large & ~crowd]) and same(found[1, 1], [crowd])
    assert (report.hidden, report.examples) == (1, ("annotation 1 of a/One.JPG",))
    with pytest.raises(ValueError, match=r"order must be one of 'area', 'file'"):
        convert(tmp_path, instances=things, order="size")


def test_of_equal_areas_the_later_is_above(tmp_path):
    first, second = box(1, 1, 4, 4), box(2, 2, 5, 5)
    things = [annotation(1, compressed(first)), annotation(2, compressed(second), category=2)]
    convert(tmp_path, instances=write_json(tmp_path / "i.json", things))
    assert same(read(tmp_path)[1, 0], [first & ~second])
    assert same(read(tmp_path)[2, 0], [second])


def test_things_of_label_images_need_an_instance(tmp_path):
    labels = stuff_map()
    labels[:2] = 1
    things = write_json(tmp_path / "i.json", [annotation(1, polygon(0, 0, 2, 10))])
    report = convert(
        tmp_path,
        instances=things,
        stuff=Stuff(write_map(tmp_path / "stuff", labels)),
        classes=CLASSES,
    )
    assert same(read(tmp_path)[1, 0], [box(0, 0, 2, 10)])
    assert same(read(tmp_path)[93, 0], [box(2, 1, 5, WIDTH)])
    assert report.notes == {"pixels of things without an instance, taken for void": 8}


def test_values_with_an_offset(tmp_path):
    """As COCO's stuffthingmaps: values are category ids less one, 255 is void."""
    labels = stuff_map() - 1
    assert (labels[:, 0] == 255).all()
    things = write_json(tmp_path / "i.json", [])
    stuff = Stuff(write_map(tmp_path / "stuff", labels), offset=1)
    convert(tmp_path, instances=things, stuff=stuff, classes=CLASSES)
    assert same(read(tmp_path)[92, 0], [box(5, 1, HEIGHT, WIDTH)])
    other = Stuff(stuff.path, void=(92, 255), offset=1)
    convert(tmp_path, instances=things, stuff=other, classes=CLASSES, overwrite=True)
    assert set(read(tmp_path)) == {(92, 0)}


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [3, 3], "counts": [9]}, r"annotation 9: its RLE is of size \[3, 3\]"),
        ({"size": [HEIGHT, WIDTH], "counts": [9]}, r"annotation 9: its RLE counts 9 pixels of 140"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, 141]}, r"annotation 9: .* whole numbers from 0"),
        ({"size": [HEIGHT, WIDTH], "counts": "PPPPPPPPPP"}, r"annotation 9: its RLE cannot"),
        ({"size": [HEIGHT, WIDTH]}, r"annotation 9: its RLE must have a list or a string"),
        ([[1, 2, 3, 4, 5]], r"annotation 9: a polygon must be a list of numbers"),
        ([[1, 2, 3, 4, 5, "6"]], r"annotation 9: a polygon must be a list of numbers"),
        # pycocotools would end the process at the first of these.
        ([[1, 2, 3, 4, 1e9, 6]], r"annotation 9: a polygon must be .* up to 100000 pixels"),
        ([[1, 2, 3, 4, 10**400, 6]], r"annotation 9: a polygon must be a list of numbers"),
        ([1, 2, 3, 4, 5, 6], r"annotation 9: a polygon must be a list of numbers"),
        (None, r"annotation 9: 'segmentation' must be a list of polygons, or RLE"),
    ],
)
def test_masks_that_are_none_are_named(tmp_path, segmentation, message):
    things = write_json(tmp_path / "i.json", [annotation(9, segmentation)])
    with pytest.raises(DatasetError, match=rf"i.json: {message}"):
        convert(tmp_path, instances=things)
    assert not (tmp_path / "out").exists()


def test_an_rle_that_ends_early_never_gives_what_the_memory_held():
    rle = mask_util.encode(np.asfortranarray(np.ones((4, 4), dtype=np.uint8)))
    counts = rle["counts"].decode()
    assert decoded_mask({"size": [4, 4], "counts": counts}, 4, 4).all()
    for side in (40, 400):
        # 16 of many pixels; the rest is not there. pycocotools fills it with anything.
        short = {"size": [side, side], "counts": counts}
        try:
            mask = decoded_mask(short, side, side)
        except ValueError as error:
            assert "ends before the last pixel" in str(error)
        else:
            assert mask.sum() == 16


@pytest.mark.parametrize("segmentation", [[], [[1, 1, 5, 5]], [[1, 1]]])
def test_masks_without_area_are_counted(tmp_path, segmentation):
    # Four numbers are two points, not a box as pycocotools would have it.
    things = write_json(tmp_path / "i.json", [annotation(4, segmentation)])
    report = convert(tmp_path, instances=things)
    assert (report.hidden, report.examples) == (1, ("annotation 4 of a/One.JPG",))
    assert read(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), r"no COCO JSON of annotations \(it has no list 'images'\)"),
        (lambda c: c["images"][0].pop("width"), r"images\[0\] lacks 'width'"),
        (lambda c: c["categories"][0].update(id="1"), r"categories\[0\] must have a whole number"),
        (lambda c: c["annotations"].append(3), r"annotations\[1\] \(an annotation\) must be an"),
        (
            lambda c: c["annotations"][0].update(image_id=7),
            r"annotations\[0\] \(annotation 1\) has image_id 7, which the file lacks",
        ),
        (lambda c: c["annotations"][0].update(category_id=5), r"has category_id 5, which the file"),
        (lambda c: c["annotations"][0].update(iscrowd=2), r"must have 0 or 1 as 'iscrowd', got 2"),
        (lambda c: c["annotations"][0].pop("segmentation"), r"lacks 'segmentation'"),
        (lambda c: c["annotations"][0].update(segments_info=[]), r"is of a COCO panoptic JSON"),
    ],
)
def test_entries_that_do_not_fit_are_named(tmp_path, change, message):
    path = write_json(tmp_path / "i.json", [annotation(1, polygon(1, 1, 3, 3))])
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=rf"i.json: .*{message}"):
        convert(tmp_path, instances=path)


def test_files_that_do_not_fit_are_named(tmp_path):
    things = write_json(tmp_path / "i.json", [annotation(1, polygon(1, 1, 3, 3))])
    maps = tmp_path / "maps"
    cases = {
        r"nowhere: cannot be read": Stuff(tmp_path / "nowhere"),
        r"empty: has no stuff map for 'a/One'": Stuff(tmp_path / "empty"),
        r"a/One.png: is 3 x 2 pixels, the picture 14 x 10": Stuff(
            write_map(maps / "size", np.full((2, 3), 92, np.uint8))
        ),
        r"a/One.png: holds the class 50": Stuff(
            write_map(maps / "value", np.full((HEIGHT, WIDTH), 50, np.uint8))
        ),
    }
    (tmp_path / "empty").mkdir()
    for message, stuff in cases.items():
        with pytest.raises(DatasetError, match=message):
            convert(tmp_path, instances=things, stuff=stuff, classes=CLASSES)
    small = ClassTable(CLASSES.classes[1:])
    with pytest.raises(DatasetError, match=r"i.json: annotation 1 has category 1, which is not"):
        convert(tmp_path, instances=things, classes=small)
    both = write_json(tmp_path / "both.json", [])
    with pytest.raises(DatasetError, match=r"both.json: category 1 is stuff here and a thing"):
        convert(tmp_path, instances=things, stuff=Stuff(both))
    moved = write_json(tmp_path / "m.json", [], [], [{**IMAGES[0], "width": 9}])
    with pytest.raises(DatasetError, match=r"m.json: image x has width 9, in the other file 14"):
        convert(tmp_path, instances=things, stuff=Stuff(moved))
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(DatasetError, match=r"torn.json: no COCO JSON"):
        convert(tmp_path, instances=tmp_path / "torn.json")
