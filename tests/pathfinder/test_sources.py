from __future__ import annotations

import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rpanoptic.data.parallel import map_in_processes
from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.sets import PathfinderSet
from rpanoptic.pathfinder.settings import small_32_settings
from rpanoptic.pathfinder.sources import GeneratedSource, StoredSource, source_of
from tests.pathfinder.sets import NUMBER, assert_equal, small_set, store

MEND = r"python datasets/prepare_pathfinder\.py --folder .*set"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store(tmp_path / "set")
    return tmp_path / "set"


def generated() -> GeneratedSource:
    content = small_set()
    return GeneratedSource(content.settings, content.split_seed, NUMBER)


def test_an_example_is_picture_contour_and_label() -> None:
    source = generated()
    example = source[3]
    for array in (example.image, example.target):
        assert array.shape == (32, 32) and array.dtype == np.uint8
    assert set(np.unique(example.target)) == {0, 1} and example.label == 1
    assert (example.image[example.target == 1] > 0).all()
    assert not np.array_equal(example.image, source[4].image)


@pytest.mark.parametrize("index", [-1, NUMBER])
def test_there_are_no_other_examples(folder: Path, index: int) -> None:
    for source in (generated(), StoredSource(folder)):
        with pytest.raises(IndexError, match=f"example {index} of a set of {NUMBER}"):
            source[index]


def test_a_copy_in_another_process_reads_the_same(folder: Path) -> None:
    source = StoredSource(folder)
    source[0]
    assert_equal(pickle.loads(pickle.dumps(source)), generated())


_SHARED: list[StoredSource] = []


def _read(index: int) -> tuple[int, bytes]:
    return os.getpid(), _SHARED[0][index].image.tobytes()


def test_forked_processes_share_a_source_that_was_read_from(folder: Path) -> None:
    """With a shared file position, processes would read from each other's places."""
    _SHARED[:] = [StoredSource(folder)]
    _SHARED[0][0]
    indices = [*range(NUMBER)] * 40
    read = map_in_processes(_read, indices, workers=3, chunk=1, progress=False)
    expected = [generated()[index].image.tobytes() for index in range(NUMBER)] * 40
    assert [image for _, image in read] == expected
    assert len({process for process, _ in read}) > 1


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_damaged_example_is_named_with_the_command(folder: Path) -> None:
    shard = folder / "shard-00001.zip"
    with zipfile.ZipFile(shard) as archive:
        start = archive.getinfo("000000005_image.png").header_offset
    # Beyond the header of 30 bytes and the name.
    _flip(shard, start + 100)
    source = StoredSource(folder)
    source[4], source[6]
    with pytest.raises(
        DatasetError, match=rf"shard-00001\.zip: 000000005_image\.png in it is damaged\..*{MEND}"
    ):
        source[5]
    with pytest.raises(DatasetError, match="000000005_image"):
        source.check(None)
    # The first and the last alone.
    source.check(2)


def test_a_shard_without_an_example_is_named(folder: Path) -> None:
    shard = folder / "shard-00001.zip"
    shard.write_bytes((folder / "shard-00000.zip").read_bytes())
    match = rf"shard-00001\.zip: is no sound shard .*000000004_image\.png.*{MEND}"
    with pytest.raises(DatasetError, match=match):
        StoredSource(folder)[5]


def test_no_archive_is_named(folder: Path) -> None:
    (folder / "shard-00001.zip").write_bytes(b"something")
    with pytest.raises(DatasetError, match=rf"shard-00001\.zip: is no sound shard.*{MEND}"):
        StoredSource(folder)[5]


def test_a_shard_that_vanishes_is_named(folder: Path) -> None:
    source = StoredSource(folder)
    source[5]
    for path in (folder / "shard-00000.zip", folder / "shard-00001.zip"):
        path.unlink()
    for index, name in ((0, "shard-00000"), (5, "shard-00001")):
        with pytest.raises(DatasetError, match=rf"{name}\.zip: cannot be read.*{MEND}"):
            source[index]


@pytest.mark.parametrize(
    ("data", "found"), [(None, "is missing"), (b"half", "has 4 bytes")], ids=["missing", "half"]
)
def test_a_check_compares_the_sizes_of_all_shards(
    folder: Path, data: bytes | None, found: str
) -> None:
    source = StoredSource(folder)
    source.check(None)
    shard = folder / "shard-00001.zip"
    shard.unlink() if data is None else shard.write_bytes(data)
    with pytest.raises(DatasetError, match=rf"shard-00001\.zip: {found}, but \d+ bytes.*{MEND}"):
        source.check(0)


def test_no_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no Pathfinder set"):
        StoredSource(tmp_path / "nowhere")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"'pathfinder_15_train'; known: .*pathfinder_14_train"):
        source_of("pathfinder_15_train")


@pytest.mark.parametrize(("seed", "number"), [(-1, 5), (0, 0)])
def test_impossible_numbers_are_refused(seed: int, number: int) -> None:
    with pytest.raises(DatasetError, match=f"got {seed} and {number}"):
        GeneratedSource(small_32_settings(), seed, number)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"split": "trian"}, "split 'trian' is unknown; known: train, val, test"),
        ({"number": 0}, "number of at least 1, got 0"),
        ({"seed": -1}, "seed of at least 0, got -1"),
    ],
)
def test_impossible_sets_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        replace(small_set(), **changed)  # type: ignore[arg-type]


def test_splits_forms_lengths_and_seeds_have_seeds_of_their_own() -> None:
    seeds = {
        PathfinderSet(
            settings=small_32_settings(length=length, form=form),
            split=split,
            number=number,
            seed=seed,
        ).split_seed
        for length in (4, 5)
        for form in ("segmentation", "classification")
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for number in (10, 20)
    }
    # All but the number count.
    assert len(seeds) == 2 * 2 * 3 * 2
