import cv2
import numpy as np
import pytest

from rpanoptic.data.synthetic_classes import STUFF, THINGS
from rpanoptic.data.synthetic_scene import draw_scene
from rpanoptic.data.synthetic_shapes import OUTLINES, shape_area, shape_coverage
from rpanoptic.data.synthetic_textures import TEXTURES, partition


def _scenes(count: int, size: int):
    return [draw_scene(size, np.random.default_rng(i)) for i in range(count)]


@pytest.mark.parametrize("size", [64, 101, 160])
def test_every_pixel_belongs_to_a_segment_and_every_segment_is_visible(size):
    for scene in _scenes(40, size):
        assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
        areas = np.bincount(scene.index_map.ravel())
        assert len(areas) == len(scene.segments)
        for item, area in zip(scene.segments, areas, strict=True):
            assert area >= (40 if item.isthing else 0.02 * size * size), item.name


def test_scenes_hold_one_to_four_things_and_distinct_stuff():
    scenes = _scenes(200, 96)
    things = [sum(item.isthing for item in scene.segments) for scene in scenes]
    stuff = [[item.id for item in scene.segments if not item.isthing] for scene in scenes]
    assert set(things) == {1, 2, 3, 4}
    assert {len(ids) for ids in stuff} == {1, 2, 3}
    assert all(len(set(ids)) == len(ids) for ids in stuff)
    drawn = {item.id for scene in scenes for item in scene.segments}
    assert drawn == {item.id for item in THINGS + STUFF}


def test_things_hide_each_other():
    hidden = 0
    for scene in _scenes(60, 128):
        for index, item in enumerate(scene.segments):
            if item.isthing:
                rows, columns = np.nonzero(scene.index_map == index)
                window = scene.index_map[
                    rows.min() : rows.max() + 1, columns.min() : columns.max() + 1
                ]
                later = [other for other in np.unique(window) if other > index]
                hidden += bool(later)
    assert hidden > 20


def test_equal_generators_draw_equal_scenes_and_others_do_not():
    first, again, other = (draw_scene(96, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.index_map, again.index_map)
    assert first.segments == again.segments
    assert not np.array_equal(first.image, other.image)


def test_a_class_of_things_has_a_wide_range_of_hues_of_its_own():
    offsets: dict[str, list[float]] = {item.name: [] for item in THINGS}
    for scene in _scenes(300, 64):
        for index, item in enumerate(scene.segments):
            if item.isthing:
                color = np.float32(scene.image[scene.index_map == index].mean(axis=0) / 255)
                _, a, b = cv2.cvtColor(color[None, None], cv2.COLOR_RGB2LAB)[0, 0]
                own = 2 * np.pi * THINGS.index(item) / len(THINGS)
                offsets[item.name].append(float(np.angle(np.exp(1j * (np.arctan2(b, a) - own)))))
    for name, found in offsets.items():
        # 0.8 radians are drawn to either side. What a screen cannot show is clipped, which turns
        # the hue: by some 0.3 for the strongest greens.
        assert np.abs(found).max() < 0.8 + 0.4, name
        # An even spread over that range has a deviation of 0.46, one colour a class has 0.
        assert np.std(found) > 0.3, name


@pytest.mark.parametrize("name", sorted(OUTLINES))
def test_coverage_sums_to_the_area_of_the_shape(name):
    coverage = shape_coverage(name, 128, (61.3, 70.8), 30.0, 0.7)
    # Polygons are filled with their outline on a grid four times finer: half a fine pixel more
    # all around, some 3 % here for the shape with the longest outline.
    assert coverage.alpha.sum() == pytest.approx(shape_area(name, 30.0), rel=0.05)
    rows, columns = coverage.window
    assert coverage.alpha.shape == (rows.stop - rows.start, columns.stop - columns.start)


def test_coverage_of_a_shape_at_the_border_is_cut():
    whole = shape_coverage("disk", 100, (50.0, 50.0), 20.0, 0.0)
    cut = shape_coverage("disk", 100, (0.0, 50.0), 20.0, 0.0)
    assert cut.alpha.sum() == pytest.approx(whole.alpha.sum() / 2, rel=0.03)


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_textures_use_the_range_from_0_to_1(name):
    field = TEXTURES[name](128, np.random.default_rng(0))
    assert field.shape == (128, 128) and field.dtype == np.float32
    assert field.min() >= -1e-6 and field.max() <= 1 + 1e-6
    assert field.max() - field.min() > 0.9


@pytest.mark.parametrize("regions", [1, 2, 3])
def test_partition_leaves_no_small_region(regions):
    for seed in range(30):
        labels = partition(96, regions, np.random.default_rng(seed))
        shares = np.bincount(labels.ravel(), minlength=regions) / labels.size
        assert len(shares) == regions
        # Two cuts of at least 0.3 of the largest region, which holds half the picture or more.
        assert shares.min() > 0.14


def test_a_picture_too_small_for_its_things_is_refused():
    with pytest.raises(ValueError, match="at least 64, got 63"):
        draw_scene(63, np.random.default_rng(0))
