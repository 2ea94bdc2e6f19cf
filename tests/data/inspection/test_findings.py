import json

import pytest

from rpanoptic.data.inspection import Inspection
from rpanoptic.data.inspection.findings import MOST_KEPT, Findings, id_range, printable
from rpanoptic.errors import DatasetError
from tests.data.inspection.small_set import SmallSet


def test_the_first_of_each_kind_are_kept_and_all_are_counted():
    findings = Findings(most=2)
    for number in range(5):
        findings.add("png_mode", number, "is odd")
    findings.add("no_stuff", "categories", "all are things")
    assert findings.numbers == {"png_mode": 5, "no_stuff": 1}
    assert [one.where for one in findings.kept] == ["0", "1", "categories"]


def test_merging_counts_what_was_not_kept():
    whole = Findings()
    for number in range(MOST_KEPT):
        part = Findings(most=2)
        for _ in range(3):
            part.add("png_mode", number, "is odd")
        whole.merge(part)
    assert whole.numbers == {"png_mode": 3 * MOST_KEPT}
    assert len(whole.kept) == MOST_KEPT
    assert whole.kept[-1].where == str(MOST_KEPT // 2 - 1)


def test_an_unknown_kind_is_refused():
    with pytest.raises(KeyError):
        Findings().add("odd", "here", "is odd")


def test_severities(tmp_path):
    data = SmallSet(tmp_path)
    data.segments()[0]["area"] = 1
    del data.segments()[1]["area"]
    data.png(1).unlink()
    found = data.inspect()
    assert found.worst == "error"
    assert [one.kind for one in found.errors] == ["png_missing"]
    assert [one.kind for one in found.warnings] == ["area_mismatch"]
    assert [one.kind for one in found.of_severity("note")] == ["missing_area"]


def test_a_report_is_read_back(tmp_path):
    data = SmallSet(tmp_path)
    data.png(1).unlink()
    found = data.inspect()
    assert Inspection.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "content", [None, [], {}, {"source": {}}, {"source": {"image_root": 3}, "findings": []}]
)
def test_what_is_no_report_is_refused(content):
    with pytest.raises(DatasetError, match="no report of an inspection"):
        Inspection.from_dict(content)


def test_a_report_of_an_unknown_kind_is_refused(tmp_path):
    content = SmallSet(tmp_path).inspect().to_dict()
    content["numbers"] = {"odd": 3}
    with pytest.raises(DatasetError, match="no report of an inspection"):
        Inspection.from_dict(content)


def test_ranges_of_ids():
    assert id_range([5, 3, 9]) == (3, 9)
    assert id_range([]) is None
    assert id_range([5, "town"]) is None


def test_printable_text():
    assert printable("Grün 草") == "Grün 草"
    assert printable("a\nb\x1b\ud800") == "a\\nb\\x1b\\ud800"
