"""What the checker calls an error stops a training before it begins, and nothing else does."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from rpanoptic.data import check_dataset, panoptic_cache, register_panoptic
from rpanoptic.data.inspection import KINDS
from rpanoptic.errors import DatasetError
from tests.data.inspection import file_errors, json_errors, warnings_and_notes  # noqa: F401  (add cases)
from tests.data.inspection.cases import CASES, Breaker
from tests.data.inspection.small_set import SmallSet

NAME = "rpanoptic_test_before_training"


@pytest.fixture(autouse=True)
def unregistered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(panoptic_cache, "_workers", lambda: 1)
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


@pytest.mark.parametrize(
    ("kind", "breaker"), [one[:2] for one in CASES], ids=[f"{one[0]}-{one[3]}" for one in CASES]
)
def test_a_fault_is_found_when_the_dataset_is_checked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, breaker: Breaker
) -> None:
    data = SmallSet(tmp_path)
    breaker(data)
    data.source.panoptic_json.write_text(json.dumps(data.content))

    def check() -> None:
        register_panoptic(NAME, *vars(data.source).values())
        check_dataset(NAME)

    if KINDS[kind].severity == "error":
        with pytest.raises(DatasetError, match=r"_val2017\.json: .*tools/check_dataset\.py"):
            check()
        assert not (data.source.panoptic_json.with_suffix(".rpanoptic") / "manifest.json").exists()
        return
    with caplog.at_level(logging.INFO, logger="rpanoptic"):
        check()
    assert len(DatasetCatalog.get(NAME)) == len(data.annotations)
    assert ("1 warning. " in caplog.text) == (KINDS[kind].severity == "warning")
