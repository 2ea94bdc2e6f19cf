from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from torchvision.datasets import ImageFolder

from rpanoptic.data import check_dataset
from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.data import folders, register_image_folder
from rpanoptic.pathfinder.imagenet.data.folders import FolderSource
from rpanoptic.pathfinder.imagenet.data.imagenet import SearchSource, imagenet_source
from rpanoptic.pathfinder.imagenet.data.pictures import read_record
from tests.pathfinder.imagenet.data.folder import (
    CLASSES,
    forget,
    registered,
    truncate,
    write_folder,
)

WNIDS = [f"n{number:08d}" for number in range(1000)]


def pairs(source: FolderSource | SearchSource) -> list[tuple[str, int]]:
    return [(record["file_name"], record["label"]) for record in source.records()]


def test_a_folder_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "bee" / "more").mkdir()
    shutil.copy(tmp_path / "bee" / "bee.0.JPEG", tmp_path / "bee" / "more" / "again.JPEG")
    (tmp_path / "bee" / "notes.txt").write_text("no picture")
    expected = ImageFolder(str(tmp_path))
    with registered(tmp_path) as name:
        records = DatasetCatalog.get(name)
        assert MetadataCatalog.get(name).classes == expected.classes == list(CLASSES)
        assert [(one["file_name"], one["label"]) for one in records] == expected.samples
        assert [one["index"] for one in records] == list(range(10))
        for record, (image, _) in zip(records, expected, strict=True):
            assert np.array_equal(read_record(record), image)
        check_dataset(name)


def test_registering_reads_nothing(tmp_path: Path) -> None:
    with registered(tmp_path / "later") as name:
        for use in (
            DatasetCatalog.get,
            check_dataset,
            lambda name: MetadataCatalog.get(name).classes,
        ):
            with pytest.raises(DatasetError, match="later: no such folder"):
                use(name)
        write_folder(tmp_path / "later")
        assert len(DatasetCatalog.get(name)) == 9


def test_the_listing_is_kept_while_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path)
    listed = []
    original = folders.torchvision_folder.make_dataset

    def make_dataset(*args: object, **options: object) -> object:
        listed.append(args)
        return original(*args, **options)

    monkeypatch.setattr(folders.torchvision_folder, "make_dataset", make_dataset)
    for _ in range(2):
        assert len(FolderSource(tmp_path).records()) == 9
    assert len(listed) == 1
    (tmp_path / "cat" / "cat.0.JPEG").unlink()
    os.utime(tmp_path / "cat", (1, 1))  # clocks of file systems may be too coarse
    assert len(FolderSource(tmp_path).records()) == 8


def test_chosen_classes_have_the_labels_of_their_places(tmp_path: Path) -> None:
    write_folder(tmp_path)
    name = "rpanoptic_test_chosen"
    register_image_folder(name, tmp_path, classes=["cat", "apple"])
    try:
        assert MetadataCatalog.get(name).classes == ["cat", "apple"]
        found = {(Path(r["file_name"]).parent.name, r["label"]) for r in DatasetCatalog.get(name)}
        assert found == {("cat", 0), ("apple", 1)}
    finally:
        forget(name)
    with pytest.raises(DatasetError, match=r"dog: no such class folder, but it is among"):
        FolderSource(tmp_path, classes=["cat", "dog"]).records()
    for classes, fault in (([], "there is none"), (["cat", "cat"], "'cat' is there twice")):
        with pytest.raises(DatasetError, match=rf"classes: .*{fault}; expected the names"):
            FolderSource(tmp_path, classes=classes)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "bat").mkdir()
    (tmp_path / "bat" / "notes.txt").write_text("no picture")
    with (
        registered(tmp_path) as name,
        pytest.raises(DatasetError, match=r"/bat: there is no picture in this class folder; .*jpg"),
    ):
        check_dataset(name)


def test_pictures_without_class_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "picture.JPEG").write_bytes(b"")
    with pytest.raises(DatasetError, match="there is no class folder; pictures are expected in"):
        FolderSource(tmp_path).records()


@pytest.mark.parametrize("lacking", ["train", "val"])
@pytest.mark.parametrize("used", ["train", "val"])
def test_a_class_folder_of_one_split_alone_is_named(
    tmp_path: Path, used: str, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split in ("train", "val"):
        write_folder(tmp_path / "imagenet" / split, pictures=1)
    shutil.rmtree(tmp_path / "imagenet" / lacking / "bee")
    with pytest.raises(DatasetError, match=rf"/{lacking}/bee: no such class folder, but .* has it"):
        check_dataset(f"imagenet_{used}")


def test_imagenet_has_1000_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_folder(tmp_path / "imagenet" / "val")
    with pytest.raises(DatasetError, match=r"imagenet/val: 3 classes, but ImageNet has 1000"):
        check_dataset("imagenet_val")


@pytest.mark.parametrize("name", ["imagenet_train", "imagenet_search_val"])
def test_missing_imagenet_names_the_variable(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    match = rf"{tmp_path}/imagenet/train: .* nor shards in .* variable DETECTRON2_DATASETS"
    with pytest.raises(DatasetError, match=match):
        check_dataset(name)


def test_the_names_of_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    train = tmp_path / "imagenet" / "train"
    for wnid in WNIDS:
        (train / wnid).mkdir(parents=True)
        for number in range(52 if wnid.endswith("0") else 1):
            (train / wnid / f"{wnid}_{number:02d}.JPEG").write_bytes(b"")
    for split, numbers in (("train", range(2)), ("val", range(2, 52))):
        name = f"imagenet_search_{split}"
        assert MetadataCatalog.get(name).classes == WNIDS[::10]
        found = [(Path(r["file_name"]).name, r["label"]) for r in DatasetCatalog.get(name)]
        assert found == [
            (f"{WNIDS[10 * label]}_{number:02d}.JPEG", label)
            for label in range(100)
            for number in numbers
        ]
    records = DatasetCatalog.get("imagenet_train")
    assert len(records) == 900 + 100 * 52 and records[-1]["label"] == 999
    assert imagenet_source("train").classes == tuple(WNIDS)


def test_a_class_with_too_few_pictures_for_the_search_is_named(tmp_path: Path) -> None:
    source = FolderSource(write_folder(tmp_path, pictures=4))
    parts = [pairs(SearchSource(source, part, every=2, held_out=3)) for part in ("train", "val")]
    assert [len(part) for part in parts] == [2, 6]
    assert {label for _, label in parts[0]} == {0, 1}
    assert not set(parts[0]) & set(parts[1])
    with pytest.raises(DatasetError, match=r"/apple: class apple has 4 pictures, but 4 of each"):
        SearchSource(source, "val", held_out=4).records()


def test_the_check_names_unreadable_pictures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path)
    bad = tmp_path / "bee" / "bee.1.JPEG"
    truncate(bad)
    with registered(tmp_path) as name:
        # A run may be told to skip it.
        check_dataset(name)
        assert f"{bad}: cannot be read" in caplog.text and "UNREADABLE is skip" in caplog.text
        with pytest.raises(DatasetError, match=rf"1 of 9 pictures .* cannot be read: {bad}"):
            check_dataset(name, max_pngs=None)
        for path in tmp_path.rglob("*.*"):
            truncate(path)
        with pytest.raises(DatasetError, match=r"9 of 9 pictures .* and 6 more"):
            check_dataset(name)
