from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from rpanoptic.data import check_dataset
from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.pathfinder import (
    register_pathfinder,
    register_pathfinder_on_the_fly,
    register_prepared_sets,
    source_of,
)
from rpanoptic.pathfinder.builtin import (
    GENERATED_SETS,
    STORED_SETS,
    checked_name,
    prepare_command,
)
from rpanoptic.pathfinder.mapper import PathfinderMapper
from rpanoptic.pathfinder.sources import GeneratedSource, StoredSource
from tests.data.helpers import load_script
from tests.pathfinder.sets import NUMBER, assert_equal, forget, small_set, store

NAME = "pathfinder_test_builtin"
STORED = "pathfinder_9_val"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Pathfinder sets, empty."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path / "pathfinder"


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What the test registers as ``NAME`` is forgotten."""
    yield
    if NAME in DatasetCatalog:
        forget(NAME)


def test_the_names() -> None:
    parts = [
        f"pathfinder_{length}{form}_{split}"
        for length in (9, 14, 20, 25, "mixed")
        for form in ("", "_classification")
        for split in ("train", "val", "test")
    ]
    assert sorted(STORED_SETS) == sorted(parts)
    for name in parts:
        for registered in (name, f"{name}_on_the_fly"):
            form = "classification" if "classification" in name else "segmentation"
            metadata = MetadataCatalog.get(registered)
            assert metadata.evaluator_type == f"pathfinder_{form}"
            assert metadata.mapper is PathfinderMapper
            assert registered in DatasetCatalog
    for kind in ("tiny", "tiny_long"):
        for split in ("train", "val", "test"):
            assert f"pathfinder_{kind}_{split}_on_the_fly" in DatasetCatalog


def test_what_the_names_stand_for() -> None:
    mixed, one = STORED_SETS["pathfinder_mixed_test"], STORED_SETS["pathfinder_14_train"]
    assert mixed.settings.lengths == tuple(range(10, 26)) and mixed.number == 16_000
    assert one.settings.lengths == (14,) and one.number == 200_000
    assert one.settings.size == 300
    assert STORED_SETS["pathfinder_9_classification_val"].settings.form == "classification"
    assert STORED_SETS["pathfinder_9_classification_val"].number == 10_000
    assert len({content.split_seed for content in GENERATED_SETS.values()}) == len(GENERATED_SETS)


def test_records_on_the_fly() -> None:
    name = "pathfinder_tiny_val_on_the_fly"
    records = DatasetCatalog.get(name)
    source = source_of(name)
    size = source.settings.size
    assert len(records) == len(source) and isinstance(source, GeneratedSource)
    assert records[7] == {
        "file_name": source.name_of(7),
        "image_id": 7,
        "dataset": name,
        "index": 7,
        "height": size,
        "width": size,
    }
    check_dataset(name)


def test_a_stored_set_has_the_pictures_of_the_one_on_the_fly(root: Path) -> None:
    """A smaller number is no other set."""
    store(root / STORED, replace(STORED_SETS[STORED], number=5))
    check_dataset(STORED)
    records = DatasetCatalog.get(STORED)
    assert len(records) == 5
    assert records[4]["file_name"] == str(root / STORED / "shard-00001.zip:000000004")
    on_the_fly = source_of(f"{STORED}_on_the_fly")
    for index in range(5):
        assert (source_of(STORED)[index].image == on_the_fly[index].image).all()


def test_a_set_that_is_drawn_anew_is_read_anew(root: Path) -> None:
    content = replace(STORED_SETS[STORED], number=2)
    store(root / STORED, content)
    assert len(DatasetCatalog.get(STORED)) == 2
    store(root / STORED, replace(content, number=3), overwrite=True)
    assert len(DatasetCatalog.get(STORED)) == 3 == len(source_of(STORED))


def test_a_set_that_is_not_there_is_named_with_both_ways_out(root: Path) -> None:
    for use in (check_dataset, DatasetCatalog.get, source_of):
        with pytest.raises(
            DatasetError,
            match=rf"{root}/{STORED}: no set is there.*DETECTRON2_DATASETS.*python datasets/"
            rf"prepare_pathfinder\.py --length 9 --num 10000 --split val\. .*{STORED}_on_the_fly",
        ):
            use(STORED)


def test_a_set_that_is_not_complete_is_named_with_both_ways_out(root: Path) -> None:
    store(root / STORED, replace(STORED_SETS[STORED], number=2))
    text = (root / STORED / "metadata.json").read_text()
    assert '"complete": true' in text
    cut = text[: text.index('"shards"')].replace("true", "false") + '"shards": []}'
    (root / STORED / "metadata.json").write_text(cut)
    match = rf"no complete set is there.*--folder {root}/{STORED}\. .*{STORED}_on_the_fly"
    with pytest.raises(DatasetError, match=match):
        check_dataset(STORED)


def test_a_name_does_not_stand_for_other_pictures(root: Path) -> None:
    store(root / STORED, small_set())
    with pytest.raises(DatasetError, match=rf"holds another set than {STORED}: .*size 32, not 300"):
        check_dataset(STORED)


@pytest.mark.parametrize("name", ["pathfinder_mixed_test", "pathfinder_20_classification_train"])
def test_the_command_draws_the_set(root: Path, name: str) -> None:
    command = prepare_command(STORED_SETS[name]).split()
    assert command[0] == "python"
    script = load_script(command[1])
    folder, wanted = script._wanted(script._parser().parse_args(command[2:]))
    assert (folder, wanted.content) == (root / name, STORED_SETS[name])


def test_a_set_of_ones_own(root: Path, forgotten: None) -> None:
    folder = root.parent / "elsewhere"
    with pytest.raises(DatasetError, match="elsewhere: there is no Pathfinder set to be regist"):
        register_pathfinder(NAME, folder)
    store(folder, small_set(form="classification"))
    register_pathfinder(NAME, folder)
    assert MetadataCatalog.get(NAME).evaluator_type == "pathfinder_classification"
    check_dataset(NAME)
    assert isinstance(source_of(NAME), StoredSource) and len(DatasetCatalog.get(NAME)) == NUMBER
    (folder / "shard-00001.zip").unlink()
    with pytest.raises(DatasetError, match=r"shard-00001\.zip: is missing"):
        check_dataset(NAME)


def test_a_set_of_ones_own_on_the_fly(forgotten: None) -> None:
    content = small_set()
    register_pathfinder_on_the_fly(NAME, content.settings, 17, NUMBER)
    assert MetadataCatalog.get(NAME).evaluator_type == "pathfinder_segmentation"
    assert_equal(source_of(NAME), GeneratedSource(content.settings, 17, NUMBER))


def test_prepared_sets_have_the_names_of_their_folders(
    root: Path, forgotten: None, caplog: pytest.LogCaptureFixture
) -> None:
    register_prepared_sets()  # There is no folder yet.
    store(root / NAME)
    (root / "notes").mkdir()
    (root / "notes" / "thesis.tex").touch()
    # Of a registered name nothing is read.
    (root / STORED).mkdir()
    (root / STORED / "metadata.json").write_text("damaged")
    register_prepared_sets()
    assert source_of(NAME)[0].image.shape == (32, 32)
    (record,) = caplog.records
    assert "notes holds no Pathfinder set" in record.getMessage()
    register_prepared_sets()


def test_a_name_belongs_to_its_set() -> None:
    content = STORED_SETS["pathfinder_14_train"]
    assert checked_name(content) == "pathfinder_14_train"
    assert checked_name(replace(content, number=3), "pathfinder_14_train") == "pathfinder_14_train"
    assert checked_name(content, "mine") == "mine"
    with pytest.raises(ConfigError, match=r"--name pathfinder_14_val .* split train, not"):
        checked_name(content, "pathfinder_14_val")
    for other in (small_set(), replace(content, seed=1)):
        with pytest.raises(ConfigError, match="--name: no registered set has these settings"):
            checked_name(other)
    for name in ("", "a/b", "..", ".", "mine_on_the_fly"):
        with pytest.raises(ConfigError, match="expected letters, digits"):
            checked_name(content, name)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        DatasetError,
        match=r"'pathfinder_15_train'.* Close names: .*pathfinder_25_train.* Known: pathfinder_14_"
        r"classification_\{test,train,val\}, pathfinder_14_classification_\{test,train,val\}_on_th",
    ) as caught:
        check_dataset("pathfinder_15_train")
    assert "coco" not in str(caught.value)
