"""What stops the derivation of files, and what is left then."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpanoptic.data import coco_panoptic, panoptic_cache
from rpanoptic.data.panoptic_cache import PanopticCache
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError
from tests.data.foreign import WALKER, ForeignSet
from tests.data.helpers import derived_content, edit_json

# A forked process imports nothing anew; forking is only dependable on Linux.
FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.usefixtures("one_worker")


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read only"
    folder.mkdir()
    folder.chmod(0o500)
    yield folder
    folder.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_a_read_only_folder_is_named_with_the_remedy(
    cache: PanopticCache, unwritable: Path
) -> None:
    _check_remedy(cache, unwritable)


@pytest.mark.parametrize("module", [coco_panoptic, panoptic_cache])
def test_a_full_disk_is_told_with_the_remedy(
    cache: PanopticCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_atomically", full)
    _check_remedy(cache, tmp_path / "full", "No space left on device")
    monkeypatch.undo()
    assert not PanopticCache.of(cache.source, tmp_path / "full").build().errors


def test_a_file_system_without_locks_is_told_with_the_remedy(
    cache: PanopticCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise panoptic_cache.LockException(OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)))

    monkeypatch.setattr(panoptic_cache, "file_lock", refuse)
    _check_remedy(cache, tmp_path / "cluster", "no lock can be had: .*Function not implemented")


def test_a_place_that_takes_no_folder_is_named_with_the_remedy(
    cache: PanopticCache, tmp_path: Path
) -> None:
    place = tmp_path / "file"
    place.write_text("")
    _check_remedy(cache, place)
    assert place.read_text() == ""


def _check_remedy(cache: PanopticCache, place: Path, reason: str = "") -> None:
    with pytest.raises(
        DatasetError,
        match=rf"{place}/my set.rpanoptic: .*cannot be written there \({reason}.*--data-cache of a "
        r"training's command, CACHE of the "
        r"dataset's entry in DATASETS.PANOPTIC, or register_panoptic\(..., cache=...\)",
    ):
        PanopticCache.of(cache.source, place).build()


def test_derived_files_in_a_read_only_folder_are_read(
    cache: PanopticCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.build()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("mkdir", "unlink", "chmod", "replace"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(panoptic_cache, "file_lock", refuse)
    assert not cache.build().errors
    (cache.source.image_root / "south/frame.0.png").touch()
    with pytest.raises(DatasetError, match=r"my set.rpanoptic: .*\(Read-only file system\)"):
        cache.build()


def test_a_lock_that_is_never_given_back_is_told(
    cache: PanopticCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(path: str) -> None:
        raise panoptic_cache.AlreadyLocked

    monkeypatch.setattr(panoptic_cache, "file_lock", never)
    with pytest.raises(DatasetError, match=r"my set.rpanoptic: another process"):
        cache.build()


def test_a_folder_of_another_dataset_is_refused(
    cache: PanopticCache, files: ForeignSet, tmp_path: Path
) -> None:
    cache.build()
    before = derived_content(cache.folder)
    shutil.copytree(files.panoptic_root, tmp_path / "other masks")
    _edit_all_times(tmp_path / "other masks")
    other = PanopticCache.of(
        PanopticSource(files.image_root, files.panoptic_json, tmp_path / "other masks")
    )
    message = rf"my set.rpanoptic: holds .*{files.panoptic_root}.* in this order.*--data-cache"
    with pytest.raises(DatasetError, match=message):
        other.build()
    assert derived_content(cache.folder) == before
    files.panoptic_root.rename(tmp_path / "old masks")
    other.build()


def _edit_all_times(folder: Path) -> None:
    for path in folder.rglob("*.PNG"):
        path.touch()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: (files.panoptic_root / "0/label_998.PNG").unlink(), r"0/label_998.PNG"),
        (lambda files: (files.image_root / "south/frame.2.png").unlink(), r"south/frame.2.png"),
        (
            lambda files: (files.panoptic_root / "0/label_998.PNG").write_bytes(b"no PNG"),
            r"0/label_998.PNG",
        ),
        (
            lambda files: edit_json(
                files.panoptic_json,
                lambda content: content["annotations"][0]["segments_info"].append(
                    {"id": 5, "category_id": WALKER}
                ),
            ),
            r"0/label_996.PNG: .*5",
        ),
    ],
)
def test_a_fault_is_told_and_nothing_is_derived(
    cache: PanopticCache, files: ForeignSet, change: Callable[[ForeignSet], object], message: str
) -> None:
    change(files)
    with pytest.raises(DatasetError, match=rf"my set.json: 1 error in .*{message}") as error:
        cache.build()
    assert f"python tools/check_dataset.py '{files.image_root}' '" in str(error.value)
    assert derived_content(cache.folder) == {}


def test_a_fault_that_comes_later_is_told_and_what_was_derived_not_used(
    cache: PanopticCache, files: ForeignSet
) -> None:
    cache.build()
    path = files.panoptic_root / "0/label_998.PNG"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(DatasetError, match=r"0/label_998.PNG"):
        cache.build()
    path.write_bytes(whole)
    cache.build()


def test_another_dataset_of_the_same_sizes_and_times_is_not_taken_for_the_first(
    files: ForeignSet, tmp_path: Path
) -> None:
    """As those that are unpacked from archives without times."""
    twin = ForeignSet(*(tmp_path / "twin" / path.relative_to(tmp_path) for path in files))
    for path, copy in zip(files, twin, strict=True):
        (shutil.copytree if path.is_dir() else _copy)(path, copy)
    text = files.panoptic_json.read_text()
    twin.panoptic_json.write_text(text.replace('"walker"', '"sitter"'))
    shutil.copystat(files.panoptic_json, twin.panoptic_json)
    place = tmp_path / "cache"
    PanopticCache.of(PanopticSource.of(*files), place).build()
    other = PanopticCache.of(PanopticSource.of(*twin), place)
    assert [one.name for one in other.classes().things] == ["car", "sitter"]
    with pytest.raises(DatasetError, match=rf"{place}.*holds .*{files.panoptic_root}"):
        other.build()


def _copy(path: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True)
    shutil.copy2(path, copy)


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", "x" * 300])
@pytest.mark.parametrize("what", ["images", "annotations"])
def test_a_name_that_no_file_can_have_is_told(
    cache: PanopticCache, files: ForeignSet, what: str, name: str
) -> None:
    edit_json(files.panoptic_json, lambda content: content[what][0].update(file_name=name))
    with pytest.raises(DatasetError, match=r"my set.json: "):
        cache.build()


@pytest.mark.parametrize("index", range(3))
def test_a_source_that_is_gone_is_named(cache: PanopticCache, index: int) -> None:
    cache.build()
    path = list(vars(cache.source).values())[index]
    path.rename(path.with_name("gone"))
    with pytest.raises(DatasetError, match=rf"{path}: no such f"):
        cache.build()
