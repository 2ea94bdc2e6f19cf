from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.sets import PathfinderSet
from rpanoptic.pathfinder.settings import PathfinderError, small_32_settings
from rpanoptic.pathfinder.sources import GeneratedSource, StoredSource
from rpanoptic.pathfinder.storage import (
    METADATA,
    WriteReport,
    find_faults,
    read_description,
    shard_name,
)
from tests.pathfinder.sets import NUMBER, assert_equal, files, small_set, store


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the small set."""
    folder = tmp_path_factory.mktemp("reference") / "set"
    store(folder)
    return files(folder)


@pytest.fixture
def folder(tmp_path: Path, reference: dict[str, bytes]) -> Path:
    """The small set, complete."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, data in reference.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("form", ["segmentation", "classification"])
def test_what_is_stored_is_what_the_generator_draws(tmp_path: Path, form: str) -> None:
    content = small_set(form=form)
    assert store(tmp_path / "set", content) == WriteReport(shards=3, drawn=3)
    stored = StoredSource(tmp_path / "set")
    assert stored.settings == content.settings
    assert_equal(stored, GeneratedSource(content.settings, content.split_seed, NUMBER))
    if form == "classification":
        assert {stored[index].label for index in range(NUMBER)} == {0, 1}


def test_files_are_pngs_checksums_and_a_description(reference: dict[str, bytes]) -> None:
    shards = [shard_name(number) for number in range(3)]
    assert sorted(reference) == sorted([METADATA, *shards, *(f"{one}.sha256" for one in shards)])
    described = json.loads(reference[METADATA])
    assert described["complete"] is True and described["generator_version"] >= 1
    assert (described["number"], described["shard_size"]) == (NUMBER, 4)
    assert described["settings"] == small_set().settings.as_dict()
    for shard in described["shards"]:
        data = reference[shard["file"]]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])
        # As sha256sum writes and checks it.
        line = f"{shard['sha256']}  {shard['file']}\n"
        assert reference[f"{shard['file']}.sha256"].decode() == line


def test_a_shard_is_a_plain_zip_archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / shard_name(2)) as archive:
        assert archive.testzip() is None
        pictures = [f"{i:09d}_{kind}.png" for i in (8, 9, 10) for kind in ("image", "target")]
        assert archive.namelist() == [*pictures, "labels.json"]


def test_files_do_not_depend_on_the_processes(tmp_path: Path, reference: dict[str, bytes]) -> None:
    store(tmp_path / "set", workers=3)
    assert files(tmp_path / "set") == reference
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_a_picture_does_not_depend_on_how_many_there_are(
    tmp_path: Path, reference: dict[str, bytes]
) -> None:
    store(tmp_path / "set", small_set(number=8))
    for number in range(2):
        assert files(tmp_path / "set")[shard_name(number)] == reference[shard_name(number)]


def test_a_complete_set_is_left_alone(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert store(folder) == WriteReport(shards=3, drawn=0)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("shard-00001.zip", _halve, "shard-00001.zip: its SHA-256 is not that of"),
        ("shard-00001.zip", _flip_a_bit, "shard-00001.zip: its SHA-256 is not that of"),
        ("shard-00001.zip", Path.unlink, "shard-00001.zip: is missing"),
        ("shard-00001.zip.sha256", Path.unlink, "shard-00001.zip.sha256: is missing"),
        ("shard-00001.zip.sha256", _halve, "not that of shard-00001.zip.sha256"),
    ],
    ids=["half-written", "damaged", "missing", "without checksum", "half a checksum"],
)
@pytest.mark.parametrize("complete", [True, False])
def test_what_is_damaged_is_found_and_drawn_again(
    folder: Path,
    reference: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
    file: str,
    damage: object,
    said: str,
    complete: bool,
) -> None:
    if not complete:
        described = json.loads((folder / METADATA).read_text())
        unfinished = described | {"complete": False, "shards": []}
        (folder / METADATA).write_text(json.dumps(unfinished))
    damage(folder / file)  # type: ignore[operator]
    (fault,) = find_faults(folder, progress=False)
    assert said in fault
    kept = (folder / "shard-00000.zip").stat().st_mtime_ns
    with caplog.at_level("INFO", logger="rpanoptic"):
        assert store(folder) == WriteReport(shards=3, drawn=1)
    assert files(folder) == reference
    assert (folder / "shard-00000.zip").stat().st_mtime_ns == kept
    assert "2 of 3 shards are there" in caplog.text
    # A shard that is missing needs no warning.
    assert (said in caplog.text) == (said != "shard-00001.zip: is missing")
    assert find_faults(folder, progress=False) == []


def test_a_shard_of_another_set_with_its_checksum_is_found(folder: Path, tmp_path: Path) -> None:
    store(tmp_path / "other", small_set(seed=4))
    for name in ("shard-00001.zip", "shard-00001.zip.sha256"):
        (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    (fault,) = find_faults(folder, progress=False)
    assert "shard-00001.zip: its SHA-256 is not that of metadata.json" in fault


@pytest.mark.parametrize(
    ("other", "options", "said"),
    [
        (small_set(size=40), {}, "size 32, not 40"),
        (small_set(seed=4), {}, "seed 3, not 4"),
        (small_set(form="classification"), {}, "form segmentation, not classification"),
        (small_set(number=12), {}, "number 11, not 12"),
        (small_set(), {"shard_size": 5}, "shard_size 4, not 5"),
    ],
)
def test_another_set_is_refused_by_what_differs(
    folder: Path,
    reference: dict[str, bytes],
    other: PathfinderSet,
    options: dict[str, int],
    said: str,
) -> None:
    with pytest.raises(DatasetError, match=rf"set holds another set: {said}\. .*--overwrite"):
        store(folder, other, **options)
    assert files(folder) == reference


def test_another_version_of_the_generator_is_another_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = json.loads((folder / METADATA).read_text())
    (folder / METADATA).write_text(json.dumps(described | {"generator_version": 0}))
    with pytest.raises(DatasetError, match=r"another set: generator_version 0, not \d"):
        store(folder)


def test_another_set_is_replaced_when_asked(folder: Path, tmp_path: Path) -> None:
    other = small_set(number=5, seed=4)
    assert store(folder, other, overwrite=True) == WriteReport(shards=2, drawn=2)
    store(tmp_path / "fresh", other)
    assert files(folder) == files(tmp_path / "fresh")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DatasetError, match=r"holds no Pathfinder set: metadata\.json is"):
        store(tmp_path, overwrite=overwrite)
    assert files(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    "change",
    [{"shard_size": 0}, {"shard_size": 2}, {"number": 10**12}, {"number": 13}, {"shards": [{}]}],
)
def test_a_description_that_contradicts_itself_is_named(
    folder: Path, reference: dict[str, bytes], change: dict[str, Any]
) -> None:
    (folder / METADATA).write_text(json.dumps(json.loads(reference[METADATA]) | change))
    for read in (StoredSource, find_faults, store):
        with pytest.raises(DatasetError, match=r"metadata\.json: no description of a Pathfinder"):
            read(folder)
    assert store(folder, overwrite=True) == WriteReport(shards=3, drawn=3)


@pytest.mark.parametrize("place", [6, 8, 10])
def test_an_archive_that_looks_encrypted_or_packed_otherwise_is_damaged(
    folder: Path, place: int
) -> None:
    path = folder / shard_name(1)
    data = bytearray(path.read_bytes())
    # The last entry of the directory at the end, which is that of the labels.
    data[data.rindex(b"PK\x01\x02") + place] ^= 0x41
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"shard-00001\.zip: is no sound shard .*--folder"):
        StoredSource(folder)[5]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": {"sizes": 1}}'])
def test_a_damaged_description_is_named_and_can_be_replaced(
    folder: Path, reference: dict[str, bytes], text: str
) -> None:
    (folder / METADATA).write_text(text)
    with pytest.raises(DatasetError, match=r"metadata\.json: no description of a Pathfinder set"):
        store(folder)
    # Nothing says that the shards are of the wanted set.
    assert store(folder, overwrite=True) == WriteReport(shards=3, drawn=3)
    assert files(folder) == reference


def test_impossible_settings_leave_what_is_there(
    folder: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    impossible = small_set(lengths=(60,))
    for place in (folder, tmp_path / "new"):
        with pytest.raises(PathfinderError, match=r"^lengths: no room"):
            store(place, impossible, overwrite=True)
    assert files(folder) == reference
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file/set"):
        store(tmp_path / "file" / "set")


def test_faults_of_no_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no Pathfinder set"):
        find_faults(tmp_path)


def test_shards_of_no_sample_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard_size must be at least 1, got 0"):
        store(tmp_path / "set", shard_size=0)


def _store(folder: Path, drawn: multiprocessing.Queue[int]) -> None:
    drawn.put(store(folder).drawn)


def test_of_several_processes_one_draws(tmp_path: Path, reference: dict[str, bytes]) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_store, args=(tmp_path / "set", queue)) for _ in range(3)]
    for process in processes:
        process.start()
    drawn = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert sorted(drawn) == [0, 0, 3]
    assert files(tmp_path / "set") == reference


def test_a_killed_run_is_continued_to_the_same_files(tmp_path: Path) -> None:
    """The process is killed while it draws, by a signal that it cannot see."""
    content = PathfinderSet(
        settings=small_32_settings(length=4, distractors=1), split="train", number=150
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    context = multiprocessing.get_context("fork")
    process = context.Process(
        target=store, args=(broken, content), kwargs={"shard_size": 5, "workers": 2}
    )
    process.start()
    try:
        end = time.monotonic() + 60
        while not (broken / f"{shard_name(1)}.sha256").exists():
            assert process.is_alive() and time.monotonic() < end
            time.sleep(0.001)
    finally:
        process.kill()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    description = read_description(broken)
    assert description is not None and not description.complete
    with pytest.raises(DatasetError, match=r"not complete.*prepare_pathfinder\.py --folder"):
        StoredSource(broken)
    # What a kill in the middle of writing a file leaves.
    (broken / f".{shard_name(29)}.abc.tmp").write_bytes(b"half")
    report = store(broken, content, shard_size=5)
    assert 0 < report.drawn < report.shards == 30
    store(whole, content, shard_size=5)
    assert files(broken) == files(whole)
