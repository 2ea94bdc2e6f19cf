"""Pictures that cannot be read: an error, or skipped, named and counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from rpanoptic.data import build_mapper, build_test_loader, build_train_loader
from rpanoptic.errors import DatasetError
from tests.pathfinder.imagenet.data.folder import config, registered, truncate, write_folder

BAD = ("apple/apple.1.JPEG", "cat/cat.0.JPEG")


@pytest.fixture
def name(tmp_path: Path) -> Iterator[str]:
    """A set of nine pictures, the second and the seventh of which are truncated."""
    write_folder(tmp_path)
    for path in BAD:
        truncate(tmp_path / path)
    with registered(tmp_path) as name:
        yield name


def skipping(name: str, **others: Any) -> CfgNode:
    cfg = config(UNREADABLE="skip", **others)
    cfg.DATASETS.TRAIN = (name,)
    cfg.RPANOPTIC.TEST_BATCH = 2
    return cfg


def named(text: str) -> dict[str, int]:
    """How often each unreadable picture stands in a log."""
    found = re.findall(r"(\w+/[\w.]+): cannot be read", text)
    return {path: found.count(path) for path in sorted(set(found))}


@pytest.mark.parametrize("workers", [0, 1])
def test_by_default_a_run_ends_with_the_name(name: str, workers: int) -> None:
    cfg = skipping(name)
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.RPANOPTIC.CLASSIFICATION.UNREADABLE = "raise"
    with pytest.raises(DatasetError, match=r"^/\S*apple/apple\.1\.JPEG: cannot be read[^\n]*$"):
        list(build_test_loader(cfg, name))
    with pytest.raises(DatasetError, match=r"^/\S*(apple\.1|cat\.0)\.JPEG: cannot be read[^\n]*$"):
        list(islice(build_train_loader(cfg, build_mapper(cfg, [name], is_train=True)), 9))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [1, 2])
def test_evaluations_leave_it_out(
    name: str, size: int, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = skipping(name)
    cfg.RPANOPTIC.TEST_BATCH = size
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, name)
    for _ in range(2):
        batches = list(loader)
        assert all(batches)
        found = [one["image_id"] for batch in batches for one in batch]
        assert found == [0, 2, 3, 4, 5, 7, 8]
    assert named(caplog.text) == dict.fromkeys(BAD, 1)
    assert caplog.text.count("Evaluated on 7 pictures; 2 more are left out") == 2


def test_each_process_leaves_out_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = skipping(name)
    seen = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        seen.append([one["image_id"] for batch in build_test_loader(cfg, name) for one in batch])
    assert seen == [[0, 2], [3, 4, 5], [7, 8]]


@pytest.mark.parametrize("workers", [0, 2])
def test_trainings_take_another_one_each_time_the_same(
    name: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = skipping(name)

    def pictures(passed: int, count: int) -> list[list[tuple[str, bytes]]]:
        loader = build_train_loader(cfg, build_mapper(cfg, [name], is_train=True))
        loader.load_state_dict({**loader.state_dict(), "batches": passed})
        return [
            [(one["file_name"], one["image"].numpy().tobytes()) for one in batch]
            for batch in islice(loader, count)
        ]

    expected = pictures(0, 9)
    caplog.clear()
    cfg.DATALOADER.NUM_WORKERS = workers
    with EventStorage() as storage:
        assert pictures(0, 9) == expected
    assert storage.latest()["data/unusable_pictures"][0] == 2
    assert named(caplog.text) == dict.fromkeys(BAD, 1)
    assert "Another picture takes its place. Unusable pictures so far: 2." in caplog.text
    assert [len(batch) for batch in expected] == [4] * 9
    assert pictures(5, 4) == expected[5:]


def test_a_set_without_a_readable_picture_is_an_error(name: str, tmp_path: Path) -> None:
    for path in tmp_path.rglob("*.*"):
        path.write_bytes(b"")
    cfg = skipping(name)
    with pytest.raises(DatasetError, match="can use none of the 9 pictures"):
        list(build_test_loader(cfg, name))
    with pytest.raises(DatasetError, match=r"none of the dataset's records\. The last one: /"):
        next(iter(build_train_loader(cfg, build_mapper(cfg, [name], is_train=True))))
