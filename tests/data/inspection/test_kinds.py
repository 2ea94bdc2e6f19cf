"""Every kind of finding, by a set that is broken in this place alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpanoptic.data.inspection import KINDS
from rpanoptic.data.panoptic_source import PanopticSource
from tests.data.inspection import json_errors, warnings_and_notes  # noqa: F401  (add cases)
from tests.data.inspection.cases import CASES
from tests.data.inspection.file_errors import turn
from tests.data.inspection.small_set import SmallSet


@pytest.fixture
def data(tmp_path: Path) -> SmallSet:
    return SmallSet(tmp_path)


@pytest.mark.parametrize(
    ("kind", "breaker", "where", "message"), CASES, ids=[f"{one[0]}-{one[3]}" for one in CASES]
)
def test_a_fault_is_found_and_no_other(data, kind, breaker, where, message):
    breaker(data)
    found = data.inspect()
    assert found.numbers == {kind: 1}
    [finding] = found.findings
    assert (finding.kind, finding.where) == (kind, where)
    assert message in finding.message
    assert finding.severity == found.worst == KINDS[kind].severity


@pytest.mark.parametrize("key", ["categories", "images", "annotations"])
def test_an_empty_list_is_found(data, key):
    data.content[key] = []
    found = data.inspect()
    assert found.numbers["empty_list"] == 1
    assert found.worst == "error"


def test_every_kind_has_a_case():
    assert {kind for kind, *_ in CASES} | {"empty_list"} == set(KINDS)


def test_a_sound_set_has_no_finding(data):
    found = data.inspect()
    assert (found.findings, found.numbers, found.worst) == ([], {}, None)


def test_a_picture_that_is_turned_upright_and_fits_is_none(data):
    turn(data, 1, (24, 16))
    assert data.inspect().worst is None


def test_a_missing_file_is_looked_for_under_like_names(data):
    data.picture(1).rename(data.picture(1).with_suffix(".JPEG"))
    found = data.inspect()
    assert found.numbers == {"picture_missing": 1, "unlisted_picture": 1}
    assert found.findings[0].message == "is not there; there is 000002.JPEG"


def test_a_missing_file_is_looked_for_in_the_other_folder(data):
    data.source = PanopticSource(
        data.source.panoptic_root, data.source.panoptic_json, data.source.image_root
    )
    found = data.inspect()
    assert found.numbers["picture_missing"] == found.numbers["png_missing"] == 3
    for finding in found.findings[:6]:
        assert "the folders of pictures and PNGs may be swapped" in finding.message


def test_boxes_may_differ_by_a_pixel(data):
    for bbox in ([1.0, 6.0, 5.0, 3.0], [0.4, 6, 6.5, 4.9]):
        data.segments()[2]["bbox"] = bbox
        assert data.inspect().worst is None
