from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from rpanoptic.data import build_mapper, build_train_loader, check_dataset
from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.data import packing, register_image_shards
from rpanoptic.pathfinder.imagenet.data.folders import FolderSource
from rpanoptic.pathfinder.imagenet.data.imagenet import SearchSource, imagenet_source
from rpanoptic.pathfinder.imagenet.data.packing import PackReport, index_folder, pack_folder
from rpanoptic.pathfinder.imagenet.data.pictures import read_record
from rpanoptic.pathfinder.imagenet.data.shards import index_shard
from rpanoptic.pathfinder.imagenet.data.storage import (
    INDEX,
    METADATA,
    ShardSource,
    read_description,
)
from tests.pathfinder.imagenet.data.folder import CLASSES, config, forget, registered, write_folder

NAME = "rpanoptic_test_shards"


def pack(root: Path, folder: Path, **options: Any) -> PackReport:
    return pack_folder(root, folder, **{"pictures_per_shard": 4, "progress": False} | options)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Nine pictures of three classes."""
    return write_folder(tmp_path / "pictures")


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Iterator[Path]:
    """The same in three shards, registered."""
    folder = tmp_path / "shards"
    assert pack(root, folder) == (9, 3, 3)
    register_image_shards(NAME, folder)
    yield folder
    forget(NAME)


def test_shards_give_what_the_folder_gives(root: Path, folder: Path) -> None:
    check_dataset(NAME)
    assert MetadataCatalog.get(NAME).classes == list(CLASSES)
    with registered(root) as name:
        stored, expected = DatasetCatalog.get(NAME), DatasetCatalog.get(name)
        assert len(stored) == len(expected) == 9
        for one, other in zip(stored, expected, strict=True):
            assert one["label"] == other["label"] and one["index"] == other["index"]
            # The very bytes of the file, and so its pixels.
            data = Path(one["shard"]).read_bytes()[one["offset"] :][: one["size"]]
            assert data == Path(other["file_name"]).read_bytes()
            assert np.array_equal(read_record(one), read_record(other))
        batches = []
        for dataset, workers in ((name, 0), (NAME, 0), (NAME, 2)):
            cfg = config()
            cfg.DATASETS.TRAIN = (dataset,)
            cfg.DATALOADER.NUM_WORKERS = workers
            loader = build_train_loader(cfg, build_mapper(cfg, [dataset], is_train=True))
            batches.append([one["image"] for batch in islice(loader, 4) for one in batch])
        for first, second, third in zip(*batches, strict=True):
            assert torch.equal(first, second) and torch.equal(first, third)


def test_the_format_is_webdatasets(folder: Path) -> None:
    order = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard, "r:") as archive:
            members = archive.getmembers()
            names = [member.name for member in members]
            for picture, label in zip(names[::2], names[1::2], strict=True):
                key, _, extension = picture.partition(".")
                assert label == f"{key}.cls" and extension in ("jpg", "png")
                content = archive.extractfile(label).read()  # type: ignore[union-attr]
                assert CLASSES[int(content)] in key
                order.append(int(key.partition("-")[0]))
            assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
    # Streamed, they are not in the order of their classes.
    assert sorted(order) == list(range(9)) != order


def test_files_depend_on_nothing_but_the_pictures(root: Path, folder: Path, tmp_path: Path) -> None:
    pack(root, tmp_path / "again", workers=2)
    assert files(tmp_path / "again") == files(folder)


def test_a_killed_run_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "shards"
    original = packing.pack
    made = []

    def stop_after_the_first(pictures: Any) -> bytes:
        if made:
            raise KeyboardInterrupt
        made.append(original(pictures))
        return made[0]

    with monkeypatch.context() as patch:
        patch.setattr(packing, "pack", stop_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            pack(root, folder)
    assert sorted(files(folder)) == [METADATA, "shard-00000.tar"]
    with pytest.raises(DatasetError, match=r"shards: the set of shards there is not complete"):
        ShardSource(folder)
    (folder / ".shard-00001.tar.abc.tmp").write_bytes(b"half")
    before = (folder / "shard-00000.tar").stat().st_mtime_ns
    assert pack(root, folder) == (9, 3, 2)
    assert (folder / "shard-00000.tar").stat().st_mtime_ns == before
    assert "written again" not in caplog.text
    pack(root, tmp_path / "whole")
    assert files(folder) == files(tmp_path / "whole")
    assert pack(root, folder) == (9, 3, 0)


def test_a_damaged_shard_is_named_and_mended(
    root: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = files(folder)
    record = DatasetCatalog.get(NAME)[5]
    shard = Path(record["shard"])
    data = bytearray(expected[shard.name])
    data[record["offset"] + record["size"] // 2] ^= 1
    shard.write_bytes(data)
    match = rf"{shard}:0*5-\w+: the shard is damaged there"
    with pytest.raises(DatasetError, match=match):
        read_record(record)
    with pytest.raises(DatasetError, match=match):
        check_dataset(NAME, max_pngs=None)
    assert pack(root, folder) == (9, 3, 1)
    assert f"{shard}: has changed since it was written. It is written again." in caplog.text
    assert files(folder) == expected

    shard.write_bytes(data[:-600])
    with pytest.raises(DatasetError, match=rf"{shard}: has \d+ bytes, but has \d+ bytes by .*mend"):
        check_dataset(NAME)
    shard.unlink()
    with pytest.raises(DatasetError, match=rf"{shard}: is missing, but .* To mend it"):
        check_dataset(NAME)
    assert pack(root, folder) == (9, 3, 1)
    assert files(folder) == expected


@pytest.mark.parametrize("content", [None, b"", b"no archive", "pickle"])
def test_a_damaged_index_is_named_and_made_again(
    root: Path, folder: Path, content: bytes | str | None
) -> None:
    expected = files(folder)
    (folder / INDEX).unlink()
    if content == "pickle":
        with (folder / INDEX).open("wb") as file:
            np.savez(file, keys=np.array([{}], dtype=object))
    elif isinstance(content, bytes):
        (folder / INDEX).write_bytes(content)
    with pytest.raises(DatasetError, match=r"index\.npz: (is missing|cannot be read)"):
        check_dataset(NAME)
    assert pack(root, folder) == (9, 3, 0)
    assert files(folder) == expected


def test_an_index_of_other_shards_is_refused(root: Path, folder: Path, tmp_path: Path) -> None:
    pack(root, tmp_path / "other", pictures_per_shard=5)
    (folder / INDEX).write_bytes((tmp_path / "other" / INDEX).read_bytes())
    with pytest.raises(DatasetError, match=r"index\.npz: is not the index of the shards"):
        check_dataset(NAME)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no description"), ("{}", "KeyError: 'classes'"), ("null", "is no description")],
)
def test_a_damaged_description_is_named(root: Path, folder: Path, text: str, message: str) -> None:
    (folder / METADATA).write_text(text)
    for use in (lambda: check_dataset(NAME), lambda: pack(root, folder)):
        with pytest.raises(DatasetError, match=rf"metadata\.json: .*{message}"):
            use()
    (folder / METADATA).unlink()
    assert pack(root, folder).written == 0


def test_a_description_names_no_file_outside_its_folder(folder: Path) -> None:
    values = json.loads((folder / METADATA).read_text())
    values["shards"][0]["file"] = f"../{folder.name}/shard-00000.tar"
    (folder / METADATA).write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=r"shard-00000\.tar is no name of a file in the folder"):
        check_dataset(NAME)


def test_shards_do_not_become_a_class(root: Path) -> None:
    before = sorted(root.iterdir())
    with pytest.raises(DatasetError, match=r"/shards: is in .*, where it would count as a class"):
        pack(root, root / "shards")
    assert sorted(root.iterdir()) == before


def test_sets_are_not_mixed(root: Path, folder: Path, tmp_path: Path) -> None:
    before = files(folder)
    for options, message in (
        ({"pictures_per_shard": 3}, "pictures_per_shard 4, not 3"),
        ({"shorter_side": 8}, "shorter_side 0, not 8"),
    ):
        with pytest.raises(DatasetError, match=rf"holds another set of shards: {message}\. Choose"):
            pack(root, folder, **options)
    (root / "cat" / "cat.0.JPEG").rename(root / "cat" / "cat.9.JPEG")
    with pytest.raises(DatasetError, match="another set of shards: other pictures"):
        pack(root, folder)
    assert files(folder) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="full: something else is there"):
        pack(root, tmp_path / "full")
    assert list(files(tmp_path / "full")) == ["thesis.txt"]


def test_pictures_are_reduced_to_a_shorter_side(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    pack(root, folder, shorter_side=14)
    for one, other in zip(ShardSource(folder).records(), FolderSource(root).records(), strict=True):
        reduced, image = read_record(one), read_record(other)
        if min(image.size) <= 14:
            assert np.array_equal(reduced, image)
        else:
            assert min(reduced.size) == 14
            # Sides are rounded to whole pixels.
            assert max(reduced.size) / 14 == pytest.approx(
                max(image.size) / min(image.size), rel=0.05
            )


def test_an_unreadable_picture_is_named(root: Path, tmp_path: Path) -> None:
    (root / "bee" / "bee.1.JPEG").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"bee/bee\.1\.JPEG: cannot be read as a picture"):
        pack(root, tmp_path / "small", shorter_side=14)


def test_the_search_subset_is_that_of_the_folder(root: Path, folder: Path) -> None:
    for part in ("train", "val"):
        found, expected = (
            SearchSource(source, part, every=2, held_out=1)
            for source in (ShardSource(folder), FolderSource(root))
        )
        assert found.classes == expected.classes == ["apple", "cat"]
        pairs = list(zip(found.records(), expected.records(), strict=True))
        assert len(pairs) == (4 if part == "train" else 2)
        for one, other in pairs:
            assert one["label"] == other["label"]
            assert np.array_equal(read_record(one), read_record(other))


def test_imagenets_shards_are_read_where_its_folder_is_gone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr("rpanoptic.pathfinder.imagenet.data.imagenet._CLASSES", 3)
    folder = tmp_path / "imagenet" / "shards" / "train"
    pack(root, folder)
    assert isinstance(imagenet_source("train"), ShardSource)
    check_dataset("imagenet_train")
    root.rename(tmp_path / "imagenet" / "train")
    assert isinstance(imagenet_source("train"), FolderSource)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def picture(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_shards_of_others_can_be_indexed_and_read(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        {"./x/one.cls": b"2\n", "./x/one.png": picture(7), "./x/one.json": b"{}"},
    )
    write_tar(
        tmp_path / "b.tar",
        {"two.JPEG": picture(9), "two.seg.png": b"", "two.cls": b"0", "notes": b"any"},
    )
    before = files(tmp_path)
    assert index_folder(tmp_path, progress=False) == (2, 2, 0)
    assert before.items() <= files(tmp_path).items()
    source = ShardSource(tmp_path)
    assert source.classes == ("0", "1", "2")
    found = {(one["label"], np.asarray(read_record(one))[0, 0, 0]) for one in source.records()}
    assert found == {(2, 7), (0, 9)}
    index_folder(tmp_path, classes=["ant", "bat", "cow", "dog"], progress=False)
    assert ShardSource(tmp_path).classes == ("ant", "bat", "cow", "dog")
    with pytest.raises(DatasetError, match="a label is 2, but there are 2 classes"):
        index_folder(tmp_path, classes=["ant", "bat"], progress=False)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"one.png": picture(1)}, r"one has no label \(\.cls\)"),
        ({"one.cls": b"1"}, "one has no picture"),
        ({"one.cls": b"cat", "one.png": b""}, r"one\.cls holds b'cat', expected a label"),
        ({"one.cls": b"-1", "one.png": b""}, r"one\.cls holds b'-1'"),
        ({"one.cls": b"2000000000", "one.png": b""}, "expected a label, 0 to 999999"),
        ({"one.cls": b"1_0", "one.png": b""}, r"one\.cls holds b'1_0'"),
        ({"a.jpg": b"", "a.png": b"", "a.cls": b"1"}, r"a is there twice with \.png"),
        ({"notes.txt": b""}, "no picture with a label"),
    ],
)
def test_faults_of_a_shard_are_named(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    path = tmp_path / "bad.tar"
    write_tar(path, members)
    with pytest.raises(DatasetError, match=rf"{path}: .*{message}"):
        index_shard(path)


def test_no_damage_of_a_tar_file_loses_pictures_silently(folder: Path) -> None:
    path = folder / "shard-00000.tar"
    data = path.read_bytes()
    end = len(data.rstrip(b"\0"))
    for size in range(0, end, 512):
        path.write_bytes(data[:size])
        with pytest.raises(DatasetError, match=rf"{path}: "):
            index_shard(path)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        headers = [member.offset for member in archive]
    for offset in headers:
        path.write_bytes(data[:offset] + b"x" * 100 + data[offset + 100 :])
        with pytest.raises(DatasetError, match=rf"{path}: "):
            index_shard(path)


def test_faults_of_a_folder_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="made here"):
        index_folder(folder, progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty: there is no tar file"):
        index_folder(tmp_path / "empty", progress=False)
    with pytest.raises(DatasetError, match="empty: there is no set of shards"):
        ShardSource(tmp_path / "empty")
    description = read_description(folder)
    assert description is not None and description.complete
