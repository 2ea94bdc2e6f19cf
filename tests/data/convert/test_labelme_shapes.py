import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from rpanoptic.data.convert.labelme_shapes import draw_shape, parse_shape, read_labelme
from rpanoptic.errors import DatasetError

SIZE = (12, 9)


def mask_text(pixels, **options):
    """A base64 PNG as labelme writes it."""
    data = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(data, format="PNG", **options)
    return base64.b64encode(data.getvalue()).decode()


def drawn(kind, points, mask=None):
    entry = {"label": "a", "shape_type": kind, "points": points, "mask": mask}
    return draw_shape(parse_shape(0, entry), SIZE)


def rows(*lines):
    return np.array([[character == "#" for character in line] for line in lines])


def test_rectangles_and_polygons_hold_the_pixels_of_their_corners():
    expected = np.zeros((9, 12), dtype=bool)
    expected[2:6, 3:8] = True
    corners = [[3, 2], [7, 2], [7, 5], [3, 5]]
    assert np.array_equal(drawn("rectangle", [[7, 5], [3, 2]]), expected)
    for kind in ("rectangle", "polygon", "oriented_rectangle", None):
        assert np.array_equal(drawn(kind, corners), expected)


def test_a_triangle():
    assert np.array_equal(
        drawn("polygon", [[0, 0], [4, 0], [0, 4]])[:6, :6],
        rows("#####.", "####..", "###...", "##....", "#.....", "......"),
    )


def test_a_circle_is_centre_and_a_point_on_it():
    mask = drawn("circle", [[5, 4], [8, 4]])
    y, x = np.indices(mask.shape)
    distance = np.hypot(x - 5, y - 4)
    # Drawing may round at the rim, by less than a pixel.
    assert mask[distance < 2.5].all()
    assert not mask[distance > 3.5].any()


def test_shapes_are_cut_off_at_the_picture():
    assert np.array_equal(drawn("rectangle", [[-9.5, -9], [99, 99]]), np.ones((9, 12)))
    assert not drawn("polygon", [[-5, -5], [-2, -5], [-2, -2]]).any()
    patch = np.ones((4, 4))
    expected = np.zeros((9, 12), dtype=bool)
    expected[:2, :1] = True
    mask = drawn("mask", [[-3, -2], [0, 1]], mask_text(patch))
    assert np.array_equal(mask, expected)
    expected = np.zeros((9, 12), dtype=bool)
    expected[7:, 10:] = True
    assert np.array_equal(drawn("mask", [[10, 7], [13, 10]], mask_text(patch)), expected)
    assert not drawn("mask", [[40, 40], [43, 43]], mask_text(patch)).any()


@pytest.mark.parametrize(("scale", "options"), [(1, {}), (255, {}), (1, {"bits": 1})])
def test_a_mask_lies_where_its_first_corner_is(scale, options):
    patch = rows("#.#", ".#.")
    mask = drawn("mask", [[4.2, 3.4], [6.0, 4.4]], mask_text(patch * scale, **options))
    expected = np.zeros((9, 12), dtype=bool)
    expected[3:5, 4:7] = patch
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    ("mask", "points", "message"),
    [
        ("%%%", [[0, 0], [1, 1]], "cannot be read as a base64 PNG"),
        ("AAAA", [[0, 0], [1, 1]], "cannot be read as a base64 PNG"),
        (mask_text(np.eye(2))[:60], [[0, 0], [1, 1]], "cannot be read as a base64 PNG"),
        (mask_text(np.eye(2)), [[0, 0], [5, 1]], "of 2 x 2 pixels in a box of 6 x 2 and a pic"),
        (mask_text(np.eye(13)), [[0, 0], [12, 12]], "of 13 x 13 pixels in a box of 13 x 13 and"),
        (mask_text(np.ones((2, 2, 3))), [[0, 0], [1, 1]], "'mask' of mode 'RGB'"),
    ],
)
def test_a_damaged_mask_is_an_error(mask, points, message):
    with pytest.raises(ValueError) as caught:
        drawn("mask", points, mask)
    assert message in str(caught.value)


def test_a_mask_that_is_no_png_is_not_decoded():
    data = io.BytesIO()
    Image.new("L", (2, 2)).save(data, format="GIF")
    with pytest.raises(ValueError, match="cannot be read as a base64 PNG"):
        drawn("mask", [[0, 0], [1, 1]], base64.b64encode(data.getvalue()).decode())


def test_a_huge_mask_is_refused_before_it_is_unpacked(monkeypatch):
    text = mask_text(np.zeros((3000, 3000)))
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("was unpacked"))
    with pytest.raises(ValueError, match=r"of 3000 x 3000 pixels .* and a picture of 12 x 9"):
        drawn("mask", [[0, 0], [2999, 2999]], text)


SHAPE = {"label": "cat", "points": [[0, 0], [3, 0], [3, 3]], "shape_type": "polygon"}


def write(path, *shapes, **changes):
    content = {"imagePath": "a.jpg", "imageData": "x", "shapes": list(shapes), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    return path


def test_a_file_is_read_with_what_it_leaves_out(tmp_path):
    old = {"label": "dog", "points": [[0, 0], [3, 0.5], [3, 3]], "line_color": None}
    path = write(
        tmp_path / "a.json",
        SHAPE | {"group_id": 4, "flags": {"iscrowd": True, "difficult": False}},
        old,
        {"label": "cat", "shape_type": "linestrip", "points": [[1, 1]]},
        {"label": "cat", "shape_type": "point", "points": [[1, 1]]},
        imageWidth=12,
        imageHeight=None,
    )
    content = read_labelme(path)
    assert content.image_path == "a.jpg"
    assert content.size == (12, None)
    assert dict(content.notes) == {
        "shapes without an area left out (linestrip)": 1,
        "shapes without an area left out (point)": 1,
    }
    first, second = content.shapes
    assert (first.place, first.label, first.group, first.iscrowd) == (0, "cat", 4, True)
    assert (second.kind, second.group, second.iscrowd) == ("polygon", None, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 5}, "must have a name as 'label', got 5"),
        ({"group_id": "x"}, "must have a whole number or null as 'group_id', got 'x'"),
        ({"shape_type": "star"}, "has the unknown 'shape_type' 'star'; known: polygon,"),
        ({"points": None}, "must have a list of [x, y], each up to 100000 pixels, as 'points'"),
        ({"points": [[1, 2, 3]] * 3}, "must have a list of [x, y]"),
        ({"points": [[1, True]] * 3}, "must have a list of [x, y]"),
        ({"points": [[1, math.nan]] * 3}, "must have a list of [x, y]"),
        ({"points": [[1, 1e300]] * 3}, "must have a list of [x, y]"),
        ({"points": [[1, 2]] * 2}, "must have at least 3 points as a polygon, got 2"),
        ({"shape_type": "circle"}, "must have 2 points as a circle, got 3"),
        ({"shape_type": "rectangle"}, "must have 2 or 4 points as a rectangle, got 3"),
        ({"shape_type": "mask", "points": [[0, 0], [1, 1]]}, "must have a base64 PNG as 'mask'"),
        ({"shape_type": ["mask"]}, "has the unknown 'shape_type' ['mask']"),
    ],
)
def test_a_wrong_value_is_named_with_its_shape(tmp_path, change, message):
    path = write(tmp_path / "a.json", SHAPE, SHAPE | change)
    with pytest.raises(DatasetError) as caught:
        read_labelme(path)
    assert str(caught.value).startswith(f"{path}: shapes[1] {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imagePath": ...}, "must have a path as 'imagePath', got None"),
        ({"imagePath": "a\0b"}, "must have a path as 'imagePath'"),
        ({"imageWidth": "9"}, "must have a whole number as 'imageWidth', got '9'"),
        ({"imageHeight": 0}, "must have a whole number as 'imageHeight', got 0"),
        ({"shapes": {}}, "no JSON of labelme (it has no list 'shapes')"),
    ],
)
def test_a_wrong_value_of_the_file_is_named(tmp_path, changes, message):
    path = write(tmp_path / "a.json", **changes)
    with pytest.raises(DatasetError) as caught:
        read_labelme(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000, "\xff", '{"shapes": [3]}'])
def test_another_file_is_no_json_of_labelme(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError) as caught:
        read_labelme(path)
    assert str(caught.value).startswith(f"{path}: ")
