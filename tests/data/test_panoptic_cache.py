from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rpanoptic.data import coco_panoptic, panoptic_cache
from rpanoptic.data.inspection import KINDS
from rpanoptic.data.panoptic_cache import PanopticCache
from rpanoptic.data.panoptic_source import PanopticSource
from tests.data.foreign import WALKER, ForeignSet
from tests.data.helpers import derived_content, edit_json

# A forked process imports nothing anew; forking is only dependable on Linux.
FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.usefixtures("one_worker")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], int]:
    """Counts how often something was derived, in all processes."""
    log = tmp_path / "builds"
    prepare = panoptic_cache.prepare_coco_panoptic

    def logged(*args: Any, **kwargs: Any) -> Any:
        with log.open("a") as file:
            file.write("built\n")
        return prepare(*args, **kwargs)

    monkeypatch.setattr(panoptic_cache, "prepare_coco_panoptic", logged)
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.PNG")}


def _fresh(files: ForeignSet, folder: Path) -> dict[str, bytes]:
    """What is derived from the files as they are, in a new folder."""
    cache = PanopticCache.of(PanopticSource.of(*files), folder)
    cache.build()
    return derived_content(cache.folder)


def test_it_lies_beside_the_json_or_where_it_is_told(
    cache: PanopticCache, files: ForeignSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.folder == files.panoptic_json.parent / "my set.rpanoptic"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "there")
    told = PanopticCache.of(cache.source, "~/$PLACE")
    assert told.folder == tmp_path / "there/my set.rpanoptic"
    told.build()
    assert not cache.folder.exists() and told.instances_json.is_file()


def test_a_second_call_does_nothing(cache: PanopticCache, builds: Callable[[], int]) -> None:
    found = cache.build()
    before = _times(cache.folder)
    assert cache.build() == found and not found.errors
    assert builds() == 1 and _times(cache.folder) == before


def test_classes_are_read_without_opening_an_unchanged_json(
    cache: PanopticCache, files: ForeignSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = cache.classes()
    assert not cache.folder.exists()
    cache.build()
    monkeypatch.setattr(panoptic_cache, "load_panoptic_json", None)
    assert cache.classes() == read
    monkeypatch.undo()
    edit_json(files.panoptic_json, lambda content: content["categories"][0].update(name="runner"))
    assert cache.classes() != read


def _change_png(files: ForeignSet) -> None:
    """Give a pixel of the road to the walkers."""
    path = files.panoptic_root / "0/label_1000.PNG"
    pixels = np.array(Image.open(path))
    rows, columns = np.nonzero((pixels == 255).all(axis=2))
    pixels[rows[0], columns[0]] = 0, 1, 0
    Image.fromarray(pixels).save(path, format="PNG")


def _change_picture(files: ForeignSet) -> None:
    path = files.image_root / "south/frame.0.png"
    Image.new("RGB", Image.open(path).size).save(path)


def _change_segment(files: ForeignSet) -> None:
    """The crowd of one picture becomes a single walker."""

    def change(content: dict[str, Any]) -> None:
        (segment,) = (
            one
            for one in content["annotations"][-1]["segments_info"]
            if one["category_id"] == WALKER
        )
        segment["iscrowd"] = False

    edit_json(files.panoptic_json, change)


@pytest.mark.parametrize("change", [_change_png, _change_picture, _change_segment])
def test_a_change_of_a_file_is_seen_and_only_its_picture_made_again(
    cache: PanopticCache, files: ForeignSet, tmp_path: Path, change: Callable[[ForeignSet], None]
) -> None:
    cache.build()
    before, times = derived_content(cache.folder), _times(cache.folder)
    change(files)
    cache.build()
    assert derived_content(cache.folder) == _fresh(files, tmp_path / "fresh")
    assert (derived_content(cache.folder) == before) == (change is _change_picture)
    redone = {name for name, time in _times(cache.folder).items() if time != times[name]}
    assert redone == {"label_1000.PNG"}


def test_stuff_that_is_numbered_otherwise_is_made_again(
    cache: PanopticCache, files: ForeignSet, tmp_path: Path
) -> None:
    cache.build()
    before = derived_content(cache.folder)
    edit_json(
        files.panoptic_json,
        lambda content: content["categories"].append({"id": 2, "isthing": False}),
    )
    cache.build()
    after = derived_content(cache.folder)
    assert after == _fresh(files, tmp_path / "fresh")
    # All is void in one of the five.
    assert sum(after[name] != before[name] for name in after if "PNG" in name) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "semantic/0/label_998.PNG").unlink(),
        lambda folder: (folder / "semantic/0/label_998.PNG").write_bytes(b""),
        lambda folder: (folder / "instances.json").unlink(),
        lambda folder: (folder / "instances.json").write_text("{"),
        lambda folder: (folder / "pictures.json").write_text("{}"),
        lambda folder: (folder / "pictures.json").write_text("["),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: edit_json(folder / "manifest.json", lambda old: old.pop("classes")),
        lambda folder: edit_json(
            folder / "manifest.json", lambda content: content.update(source=3)
        ),
        lambda folder: edit_json(
            folder / "manifest.json", lambda content: content.update(version=0)
        ),
    ],
)
def test_damage_is_repaired(cache: PanopticCache, damage: Callable[[Path], object]) -> None:
    cache.build()
    known = cache.folder / "pictures.json"
    before, pictures = derived_content(cache.folder), known.read_text()
    damage(cache.folder)
    assert len(cache.classes().classes) == 4
    cache.build()
    assert (derived_content(cache.folder), known.read_text()) == (before, pictures)


def test_a_set_that_is_moved_with_its_derived_files_needs_no_new_ones(
    cache: PanopticCache, tmp_path: Path, builds: Callable[[], int]
) -> None:
    cache.build()
    files = [path.relative_to(tmp_path) for path in vars(cache.source).values()]
    for path in ("Photos 1", "labels", "masks"):
        shutil.move(tmp_path / path, tmp_path / "moved" / path)
    moved = PanopticCache.of(PanopticSource.of(*(tmp_path / "moved" / path for path in files)))
    assert moved.build().source == moved.source
    assert builds() == 1


def _run(function: Callable[[], object]) -> Any:
    process = FORK.Process(target=function)
    process.start()
    return process


@pytest.mark.parametrize("written", [0, 2, 5, 6])
def test_a_killed_run_is_taken_up_where_it_ended(
    cache: PanopticCache, files: ForeignSet, tmp_path: Path, written: int
) -> None:
    """The file after ``written`` others: pictures.json is the first."""

    def build_and_die() -> None:
        count = 0
        write = coco_panoptic.write_atomically

        def dying(*args: Any, **kwargs: Any) -> None:
            nonlocal count
            if count == written:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            write(*args, **kwargs)

        for module in (coco_panoptic, panoptic_cache):
            module.write_atomically = dying
        cache.build()

    process = _run(build_and_die)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    times = _times(cache.folder)
    assert len(times) == max(0, written - 1)
    # What was finished before the change is outdated now.
    _change_png(files)
    cache.build()
    assert derived_content(cache.folder) == _fresh(files, tmp_path / "fresh")
    after = _times(cache.folder)
    redone = {name for name, time in times.items() if after[name] != time}
    assert redone == {"label_1000.PNG"} & times.keys()


def test_processes_that_come_at_once_build_once(
    cache: PanopticCache, builds: Callable[[], int]
) -> None:
    barrier = FORK.Barrier(2)

    def build() -> None:
        barrier.wait()
        cache.build()

    processes = [_run(build) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert builds() == 1 and cache.instances_json.is_file()


def test_a_data_loaders_worker_can_build(cache: PanopticCache, monkeypatch: Any) -> None:
    monkeypatch.undo()
    process = FORK.Process(target=cache.build, daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_the_version_stands_for_what_is_derived(cache: PanopticCache) -> None:
    """What is derived, or judged, otherwise needs another VERSION.

    Else a training would go on with what an older version of this package left.
    """
    cache.build()
    digest = hashlib.sha256()
    for path in sorted(cache.sem_seg_root.rglob("*.PNG")):
        digest.update(np.array(Image.open(path)).tobytes())
    instances = json.loads(cache.instances_json.read_bytes())
    severities = {name: kind.severity for name, kind in KINDS.items()}
    digest.update(json.dumps([instances, severities], sort_keys=True).encode())
    assert (panoptic_cache.VERSION, digest.hexdigest()[:12]) == (2, "89651e6d7d77")
