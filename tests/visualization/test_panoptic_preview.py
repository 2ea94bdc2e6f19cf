import numpy as np
import pytest
from PIL import Image

from rpanoptic.visualization import panoptic_preview
from rpanoptic.visualization.panoptic_preview import draw_preview
from tests.data.inspection.small_set import SmallSet, rgb


@pytest.fixture
def data(tmp_path):
    return SmallSet(tmp_path)


@pytest.fixture
def headings(monkeypatch):
    """What stands above the cells of the next grids."""
    found = []
    grid = panoptic_preview.picture_grid

    def noting(rows, *, headings, cell_width):
        found.extend(headings)
        return grid(rows, headings=headings, cell_width=cell_width)

    monkeypatch.setattr(panoptic_preview, "picture_grid", noting)
    return found


def test_ground_truth_is_drawn_over_the_pictures(data):
    drawn = draw_preview(data.inspect())
    assert drawn.dtype == np.uint8 and drawn.shape[1:] == (3 * 448 + 8, 3)
    # Another annotation gives another drawing.
    data.redraw(lambda pixels: np.full_like(pixels, rgb(300)))
    data.annotations[0]["segments_info"] = data.segments()[1:2]
    assert not np.array_equal(draw_preview(data.inspect()), drawn)


def test_pictures_with_faults_come_first(data, headings):
    data.segments(1)[0]["category_id"] = 77
    data.segments(2)[0]["area"] = 1
    draw_preview(data.inspect())
    assert headings == [
        "unknown_category: 000002.png",
        "area_mismatch: 000003.png",
        "000001.png",
    ]


def test_faults_of_a_picture_are_known_by_names_with_spaces(data, headings):
    name = "a of (b) c.png"
    data.png(2).rename(data.png(2).with_name(name))
    data.annotations[2]["file_name"] = name
    data.segments(2)[0]["iscrowd"] = 3
    data.segments(2)[1]["category_id"] = 77
    draw_preview(data.inspect(), pictures=1)
    assert headings == ["wrong_flag, unknown_category: a of (b) ..."]


def test_the_rest_are_evenly_spread(data, headings):
    draw_preview(data.inspect(), pictures=2)
    assert headings == ["000001.png", "000003.png"]


def test_rows_are_filled_up(data, headings):
    drawn = draw_preview(data.inspect(), columns=2)
    assert headings == ["000001.png", "000002.png", "000003.png", ""]
    assert (drawn[-200:, -400:] == 255).all()


def test_what_cannot_be_read_is_left_out(data, headings):
    data.picture(0).unlink()
    data.png(1).write_bytes(b"")
    Image.open(data.picture(2)).resize((30, 30)).save(data.picture(2))
    assert draw_preview(data.inspect()) is not None
    assert [text.split(":")[0] for text in headings] == [
        "picture_missing",
        "png_unreadable",
        "picture_size",
    ]


def test_names_that_no_file_can_have_are_left_out(data, headings):
    data.images[0]["file_name"] = "x" * 300
    data.annotations[1]["file_name"] = "y" * 300
    assert draw_preview(data.inspect(), pictures=2) is not None
    assert [text.split(":")[0] for text in headings] == ["picture_unreadable", "png_unreadable"]


def test_a_narrow_picture_gets_margins(data):
    Image.new("RGB", (4, 500)).save(data.picture())
    drawn = draw_preview(data.inspect(), pictures=1)
    assert drawn.shape[0] < 1.5 * 440 + 60


def test_a_large_picture_is_shrunk_with_its_segments(data):
    for path, mode in ((data.picture(), Image.Resampling.BICUBIC), (data.png(), 0)):
        Image.open(path).resize((2400, 1600), mode).save(path)
    data.images[0].update(width=2400, height=1600)
    assert draw_preview(data.inspect(), pictures=1).shape[1] == 440 + 16


def test_a_set_without_annotations_has_no_preview(data):
    data.annotations.clear()
    assert draw_preview(data.inspect()) is None


def test_names_that_no_font_has_and_formulas_are_drawn(data):
    for category, name in zip(data.categories, ("a\ud800", "$_^$", "a\n"), strict=True):
        category["name"] = name
    assert draw_preview(data.inspect(), pictures=1) is not None
