import dataclasses
import json
import random

import pytest

from rpanoptic.data.inspection import Inspection, inspect_panoptic
from rpanoptic.data.inspection.findings import MOST_KEPT
from rpanoptic.errors import DatasetError
from tests.data.inspection.small_set import SmallSet


@pytest.fixture
def data(tmp_path):
    return SmallSet(tmp_path)


def _break_much(data):
    data.picture(0).unlink()
    data.png(1).write_bytes(data.png(1).read_bytes()[:50])
    data.segments(2)[0]["area"] = 1
    del data.images[2]["width"]
    del data.categories[1]["isthing"]
    data.categories.append("dog")


def test_all_faults_are_found_at_once(data):
    _break_much(data)
    assert data.inspect().numbers == {
        "picture_missing": 1,
        "png_unreadable": 1,
        "area_mismatch": 1,
        "missing_key": 2,
        "wrong_value": 1,
    }


def test_any_number_of_workers_finds_the_same(data):
    _break_much(data)
    assert data.inspect(workers=3) == data.inspect(workers=1)


def test_errors_come_before_warnings(data):
    _break_much(data)
    severities = [finding.severity for finding in data.inspect().findings]
    assert severities == sorted(severities)  # "error" < "warning"


def test_what_there_is_is_counted(data):
    data.segments(0)[2]["category_id"] = 77  # unknown: counted for no class
    del data.annotations[2]
    counts = data.inspect().counts
    assert (counts.pictures, counts.annotated, counts.segments, counts.crowds) == (3, 2, 8, 2)
    assert (counts.pixels, counts.void) == (2 * 24 * 16, 2 * 2 * 16)
    assert counts.void_share == pytest.approx(2 / 24)
    assert counts.image_ids == (1, 3)
    assert counts.category_ids == (3, 9)
    assert counts.segment_ids == (5, 131000)
    cat, grass, sky = counts.classes
    assert (cat.id, cat.name, cat.isthing) == (3, "cat", True)
    # One cat of 24 pixels, and a crowd of 15 in each picture.
    assert (cat.segments, cat.crowds, cat.pictures, cat.pixels) == (3, 2, 2, 24 + 2 * 15)
    assert (grass.segments, grass.pictures) == (sky.segments, sky.pictures) == (2, 2)
    assert cat.pixels + grass.pixels + sky.pixels == counts.pixels - counts.void - 24


def test_a_foreign_layout_has_notes_alone(data):
    """What other tools write, and what is no fault."""
    data.categories[0].update(id=0, isthing=True)
    for category in data.categories[1:]:
        category["isthing"] = False
        del category["name"], category["color"], category["supercategory"]
    for number in range(3):
        folder = f"town {number}"
        for path, name in ((data.picture(number), "A.JPEG"), (data.png(number), "b_ids.PNG")):
            (path.parent / folder).mkdir()
            path.rename(path.parent / folder / name)
        image, annotation = data.images[number], data.annotations[number]
        image |= {"id": f"town_{number}", "file_name": f"{folder}/A.JPEG", "licence": None}
        annotation |= {"image_id": f"town_{number}", "file_name": f"{folder}/b_ids.PNG", "by": 1}
        for segment in annotation["segments_info"]:
            del segment["area"], segment["bbox"]
            if not segment.pop("iscrowd"):
                segment["note"] = [1]
            if segment["category_id"] == 3:
                segment["category_id"] = 0
    data.images.append({"id": "x", "file_name": "absent.jpg", "width": 5, "height": 5})
    found = data.inspect()
    assert found.numbers == {"not_annotated": 1, "missing_area": 1, "unnamed_class": 2}
    assert found.worst == "note"
    assert found.counts.image_ids is None


def test_pictures_and_pngs_may_share_a_folder(data):
    for number in range(3):
        data.png(number).rename(data.source.image_root / data.png(number).name)
    data.source.panoptic_json.write_text(json.dumps(data.content))
    source = type(data.source)(
        data.source.image_root, data.source.panoptic_json, data.source.image_root
    )
    assert inspect_panoptic(source, workers=1, progress=False).worst is None
    (data.source.image_root / "more.png").write_bytes(b"")
    found = inspect_panoptic(source, workers=1, progress=False)
    assert found.numbers == {"unlisted_picture": 1}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"images": [], "categories": []}', "[" * 99999])
def test_what_is_no_panoptic_json_is_an_error(data, text):
    data.source.panoptic_json.write_text(text)
    with pytest.raises(DatasetError, match="no COCO panoptic JSON"):
        inspect_panoptic(data.source, workers=1, progress=False)


@pytest.mark.parametrize("key", ["image_root", "panoptic_json", "panoptic_root"])
def test_a_missing_path_is_an_error(data, key):
    path = getattr(data.source, key)
    path.rename(path.with_name("moved"))
    with pytest.raises(DatasetError, match=f"^{path}: no such f"):
        inspect_panoptic(data.source, workers=1, progress=False)


@pytest.mark.parametrize("key", ["image_root", "panoptic_json", "panoptic_root"])
def test_a_path_that_cannot_even_be_asked_for_is_an_error(data, key):
    source = dataclasses.replace(data.source, **{key: data.source.image_root / ("x" * 300)})
    with pytest.raises(DatasetError, match=r"x: no usable f.* \(File name too long\)"):
        inspect_panoptic(source, workers=1, progress=False)


def test_workers_are_at_least_one(data):
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        data.inspect(workers=0)


# No file of these names exists; the last two cannot even be asked for.
@pytest.mark.parametrize("name", ["a\nb\x1b[31m.jpg", "\udc80.jpg", "\ud800.jpg", "a\0b.jpg"])
def test_odd_names_are_escaped(data, name):
    data.picture(0).unlink()
    data.images[0]["file_name"] = name
    found = data.inspect()
    assert found.worst == "error"
    for finding in found.findings:
        assert finding.where.isprintable() and finding.message.isprintable()
        finding.where.encode()


def test_findings_beyond_the_first_are_counted(data):
    for _ in range(3 * MOST_KEPT):
        data.categories.append(None)
    found = data.inspect()
    assert found.numbers == {"wrong_value": 3 * MOST_KEPT}
    assert len(found.findings) == MOST_KEPT


def _places(value, place=()):
    """Where the values of a JSON stand."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        yield (*place, key)
        if isinstance(part, (dict, list)):
            yield from _places(part, (*place, key))


def test_no_value_in_any_place_stops_the_inspection(data):
    """Each place of the JSON gets a wrong value in turn, drawn by a seeded generator."""
    text = json.dumps(data.content)
    generator = random.Random(7)
    values = [None, True, -1, 0, 2**70, 1e400, "", "x", [], [[]], {}, [None], {"id": {}}]
    top = {("categories",), ("images",), ("annotations",)}
    for place in set(_places(data.content)) - top:
        data.content = json.loads(text)
        holder = data.content
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = generator.choice(values)
        found = data.inspect()
        assert Inspection.from_dict(json.loads(json.dumps(found.to_dict()))) == found
