from __future__ import annotations

import math
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest

from rpanoptic.pathfinder import drawing
from rpanoptic.pathfinder.generator import PathfinderSample, generate
from rpanoptic.pathfinder.settings import paper_settings, small_32_settings
from tests.pathfinder.samples import (
    SEED,
    SETS,
    directions,
    distances,
    edges,
    pivots,
    samples,
)

# Coordinates are float64 of up to three digits.
EXACT = 1e-9
# Of the first sample of PF-14 with seed 0: the first paddle of the first contour, the last ones of
# both and of the last distractor.
PINNED = [
    [[134.0920792, 161.2374427], [136.695683, 165.5060779]],
    [[259.8865371, 215.3027376], [264.8655612, 214.8452239]],
    [[233.7809504, 256.7372348], [238.7263502, 256.0003351]],
    [[253.5912161, 138.2956964], [257.6213983, 141.2550259]],
]
EVERY_SET = pytest.mark.parametrize("name", SETS)
CLASSIFICATION = [name for name in SETS if name.endswith("classification")]
SEGMENTATION = [name for name in SETS if name not in CLASSIFICATION]


def _assert_same(one: PathfinderSample, other: PathfinderSample) -> None:
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.target, other.target)
    assert (one.label, one.marked) == (other.label, other.marked)
    np.testing.assert_array_equal(one.markers, other.markers)
    for mine, theirs in zip(
        (*one.contours, *one.distractors), (*other.contours, *other.distractors), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


@EVERY_SET
def test_a_sample_depends_on_its_settings_seed_and_index_alone(name: str) -> None:
    settings, _ = SETS[name]
    for index in (11, 4, 0):
        _assert_same(generate(settings, SEED, index), samples(name)[index])
    assert not np.array_equal(generate(settings, SEED + 1, 0).image, samples(name)[0].image)
    assert not np.array_equal(samples(name)[1].image, samples(name)[0].image)


def _in_a_process(index: int) -> PathfinderSample:
    return generate(SETS["mixed"][0], SEED, index)


def test_a_sample_does_not_depend_on_the_process() -> None:
    indices = [7, 3, 0, 5]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for index, sample in zip(indices, pool.map(_in_a_process, indices), strict=True):
            _assert_same(sample, samples("mixed")[index])


def test_the_drawn_set_is_the_one_of_this_version_of_the_generator() -> None:
    # GENERATOR_VERSION must rise when this changes. To a millionth of a pixel, not to the last bit:
    # sine and cosine differ between machines.
    sample = generate(paper_settings(14), 0, 0)
    first, second = sample.contours
    found = [first[0], first[-1], second[-1], sample.distractors[-1][-1]]
    np.testing.assert_allclose(found, PINNED, atol=1e-6)
    assert sample.marked == 1


@EVERY_SET
def test_every_contour_has_its_number_of_paddles(name: str) -> None:
    settings, _ = SETS[name]
    for index, sample in enumerate(samples(name)):
        length = settings.lengths[index % len(settings.lengths)]
        assert [len(contour) for contour in sample.contours] == [length, length]
        expected = [max(length // 3, 1)] * settings.distractors
        assert [len(distractor) for distractor in sample.distractors] == expected


def test_a_length_of_distractors_of_its_own() -> None:
    settings = replace(small_32_settings(), distractors=3, distractor_length=1)
    sample = generate(settings, 0, 0)
    assert [distractor.shape for distractor in sample.distractors] == [(1, 2, 2)] * 3
    assert generate(replace(settings, distractors=0), 0, 0).distractors == ()


@EVERY_SET
def test_paddles_are_links_of_chains_that_turn_within_the_limit(name: str) -> None:
    settings, _ = SETS[name]
    limit = math.pi / 2 / settings.continuity
    for sample in samples(name):
        for paddles in (*sample.contours, *sample.distractors):
            along = paddles[:, 1] - paddles[:, 0]
            assert np.abs(np.hypot(*along.T) - settings.paddle_length).max() < EXACT
            one_side, other_side = pivots(settings, paddles)
            assert np.abs(one_side - other_side).max(initial=0) < EXACT
            cosines = (along[1:] * along[:-1]).sum(1) / settings.paddle_length**2
            assert cosines.min(initial=1) >= math.cos(limit) - EXACT


def test_turns_have_the_wanted_distribution() -> None:
    # Alone on large ground, nothing is in the way: |d| has the density
    # 4 c / pi * cos^2(c d) on 0..pi/(2c), whose mean is (pi/4 - 1/pi) / c.
    settings = replace(
        paper_settings(3), size=600, distractors=0, seed_distance=100.0, continuity=1.8
    )
    turns = []
    for index in range(300):
        for contour in generate(settings, 0, index).contours:
            angles = np.arctan2(*directions(contour).T[::-1])
            turns.extend((np.diff(angles) + math.pi) % (2 * math.pi) - math.pi)
    scaled = settings.continuity * np.array(turns)
    standard_error = scaled.std() / math.sqrt(len(scaled))
    assert abs(scaled.mean()) < 4 * standard_error
    assert abs(np.abs(scaled).mean() - (math.pi / 4 - 1 / math.pi)) < 4 * standard_error


@EVERY_SET
def test_contours_keep_clear_of_each_other_and_of_themselves(name: str) -> None:
    settings, _ = SETS[name]
    least = settings.margin + settings.thickness
    for sample in samples(name):
        chains = [edges(settings, one) for one in (*sample.contours, *sample.distractors)]
        segments = np.concatenate(chains)
        owner = np.repeat(np.arange(len(chains)), [len(chain) for chain in chains])
        number = np.concatenate([np.arange(len(chain)) for chain in chains])
        neighbours = owner[:, None] == owner[None]
        neighbours &= np.abs(number[:, None] - number[None]) <= 1
        assert distances(segments, segments)[~neighbours].min() >= least


@EVERY_SET
def test_places_of_discs_are_kept_free_whether_or_not_they_are_marked(name: str) -> None:
    settings, _ = SETS[name]
    least = settings.marker_radius + settings.margin + settings.thickness / 2
    both_ends = settings.form == "classification"
    for sample in samples(name):
        chains = [edges(settings, one) for one in (*sample.contours, *sample.distractors)]
        for mine, contour in enumerate(sample.contours):
            others = np.concatenate([c for place, c in enumerate(chains) if place != mine])
            for end in (contour[0, 0], contour[-1, 1])[: 1 + both_ends]:
                assert distances(np.array([[end, end]]), others).min() >= least


@EVERY_SET
def test_the_first_ends_are_as_far_apart_as_wanted_and_from_the_border(name: str) -> None:
    settings, _ = SETS[name]
    for sample in samples(name):
        ends = np.array([contour[0, 0] for contour in sample.contours])
        apart = np.linalg.norm(ends[0] - ends[1])
        assert apart == pytest.approx(settings.seed_distance, abs=EXACT)
        # In the classification form the middle between them is far from the border.
        places = np.stack([ends.mean(0)] if name in CLASSIFICATION else ends)
        from_border = np.minimum(places, settings.size - places).min(1) - settings.border
        assert from_border.max() >= 2 * settings.seed_distance
        # The other first end is a seed distance away from the one that is far from the border.
        assert from_border.min() >= settings.seed_distance


@EVERY_SET
def test_nothing_enters_the_border(name: str) -> None:
    settings, _ = SETS[name]
    border = settings.border
    for sample in samples(name):
        frame = sample.image.copy()
        frame[border:-border, border:-border] = 0
        assert not frame.any()
        ends = np.concatenate((*sample.contours, *sample.distractors))
        low = border + settings.thickness / 2 - EXACT
        assert low <= ends.min() and ends.max() <= settings.size - low


@pytest.mark.parametrize("name", SEGMENTATION)
def test_the_disc_of_the_segmentation_form_marks_a_first_end(name: str) -> None:
    for sample in samples(name):
        np.testing.assert_array_equal(sample.markers, sample.contours[sample.marked][:1, 0])
        assert sample.label == 1


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_the_discs_of_the_classification_form_agree_with_the_label(name: str) -> None:
    for sample in samples(name):
        first = sample.contours[sample.marked]
        last = sample.contours[sample.marked if sample.label else 1 - sample.marked]
        assert np.abs(sample.markers - [first[0, 0], last[-1, 1]]).max() < EXACT


@EVERY_SET
def test_the_target_is_what_the_marked_contours_alone_draw(name: str) -> None:
    settings, _ = SETS[name]
    for sample in samples(name)[:100]:
        contours = [sample.contours[sample.marked]]
        if not sample.label:
            contours.append(sample.contours[1 - sample.marked])
        expected = drawing.mask(settings, contours, sample.markers)
        np.testing.assert_array_equal(sample.target, expected)
        assert sample.image.dtype == sample.target.dtype == np.uint8
        assert sample.image.shape == sample.target.shape == (settings.size, settings.size)


def test_contours_of_a_mixed_set_take_turns() -> None:
    settings, number = SETS["mixed"]
    found = [len(sample.contours[0]) for sample in samples("mixed")]
    assert found == [10 + index % 16 for index in range(number)]
    assert [settings.length(index) for index in range(number)] == found


@EVERY_SET
def test_both_contours_are_marked_and_both_labels_given_equally_often(name: str) -> None:
    found = samples(name)
    bound = 4 * 0.5 / math.sqrt(len(found))  # four standard deviations of a fair coin
    assert abs(np.mean([sample.marked for sample in found]) - 0.5) < bound
    if name in CLASSIFICATION:
        assert abs(np.mean([sample.label for sample in found]) - 0.5) < bound
        for label in (0, 1):
            marked = [sample.marked for sample in found if sample.label == label]
            assert abs(np.mean(marked) - 0.5) < 4 * 0.5 / math.sqrt(len(marked))
