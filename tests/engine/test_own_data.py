from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.engine import check_run, setup_config
from rpanoptic.engine.launch import run_config, run_parser, start_run
from rpanoptic.engine.own_data import (
    dataset_classes,
    first_classes,
    own_datasets,
    register_own_data,
)
from rpanoptic.engine.run import run
from rpanoptic.engine.setup import said_where
from rpanoptic.errors import CheckpointError, ConfigError, DatasetError
from tests.data.foreign import ForeignSet, write_foreign_set
from tests.engine.tiny import TINY_CONFIG, tiny_options
from tests.paths import ROOT

COUNTS = ("ROI_HEADS", "RETINANET", "SEM_SEG_HEAD")
OPEN = {f"MODEL__{node}__NUM_CLASSES": 0 for node in COUNTS}

pytestmark = pytest.mark.usefixtures("unregistered")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> ForeignSet:
    """Two things and two kinds of stuff."""
    return write_foreign_set(tmp_path_factory.mktemp("foreign"), pictures=2, side=64)


@pytest.fixture(scope="module")
def stuff_alone(tmp_path_factory: pytest.TempPathFactory) -> ForeignSet:
    """The classes of the other set, none of them a thing."""
    files = write_foreign_set(tmp_path_factory.mktemp("stuff"), pictures=2, side=64)
    text = files.panoptic_json.read_text().replace('"isthing": true', '"isthing": false')
    files.panoptic_json.write_text(text)
    return files


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> ForeignSet:
    """The other set with another name for one class."""
    files = write_foreign_set(tmp_path_factory.mktemp("renamed"), pictures=2, side=64)
    files.panoptic_json.write_text(files.panoptic_json.read_text().replace("walker", "person"))
    return files


def entry(name: str, files: ForeignSet, **changes: Any) -> dict[str, Any]:
    paths = dict(zip(("IMAGES", "JSON", "PNGS"), map(str, files), strict=True))
    return {"NAME": name, **paths, **changes}


def options(*entries: Any, **changes: Any) -> list[str]:
    """Overrides of the tiny model that leave the numbers of classes to the data."""
    return tiny_options(**{**OPEN, "DATASETS__PANOPTIC": list(entries), **changes})


def config(*entries: Any, output: Path | None = None, **changes: Any) -> CfgNode:
    changes = {"DATASETS__TRAIN": ("own",), "DATASETS__TEST": ("own",), **changes}
    return setup_config(TINY_CONFIG, options(*entries, **changes), output_dir=output)


def counts(cfg: CfgNode) -> tuple[int, ...]:
    return tuple(cfg.MODEL[node].NUM_CLASSES for node in COUNTS)


def test_numbers_of_classes_follow_from_a_config_s_data(foreign: ForeignSet) -> None:
    cfg = config(entry("own", foreign))
    assert counts(cfg) == (2, 2, 3)
    assert MetadataCatalog.get("own").thing_classes == ["car", "walker"]
    assert own_datasets(cfg)[0].source == PanopticSource.of(*foreign)


def test_without_panoptic_data_they_are_detectron2s() -> None:
    assert counts(setup_config(None)) == (80, 80, 54)
    cfg = setup_config(None, ["DATASETS.TRAIN", "('no_such_set', 'coco_2017_train')"])
    assert counts(cfg) == (80, 80, 54)
    assert cfg.INPUT.MASK_FORMAT == "polygon"


def test_they_follow_from_registered_sets_too() -> None:
    assert counts(setup_config(TINY_CONFIG)) == (4, 4, 5)
    names = ["coco_2017_train_panoptic_separated", "synthetic_panoptic_train"]
    assert [len(first_classes([name]).classes) for name in names] == [133, 8]
    # Detectron2's other form numbers things and stuff in one.
    assert dataset_classes("coco_2017_val_panoptic") is None


def test_a_table_whose_labels_are_in_another_order_is_not_believed() -> None:
    DatasetCatalog.register("own", list)
    MetadataCatalog.get("own").set(
        evaluator_type="coco_panoptic_seg",
        thing_classes=["b", "a"],
        thing_dataset_id_to_contiguous_id={2: 0, 1: 1},
        stuff_classes=["things"],
        stuff_dataset_id_to_contiguous_id={0: 0},
    )
    assert dataset_classes("own") is None
    MetadataCatalog.get("own").stuff_dataset_id_to_contiguous_id[9] = 9
    assert dataset_classes("own") is None


def test_what_is_said_is_kept_and_0_takes_it_back(foreign: ForeignSet, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    own = [entry("own", foreign)]
    text = {"DATASETS": {"PANOPTIC": own, "TRAIN": ["own"]}, "VERSION": 2}
    file.write_text(yaml.safe_dump({**text, "MODEL": {"ROI_HEADS": {"NUM_CLASSES": 7}}}))
    assert counts(setup_config(file)) == (7, 2, 3)
    assert counts(setup_config(file, ["MODEL.ROI_HEADS.NUM_CLASSES", "0"])) == (2, 2, 3)
    key = "MODEL.ROI_HEADS.NUM_CLASSES"
    assert said_where(key, file) == f" in {file}"
    assert said_where(key, file, [key, "7"]) == " on the command line"
    assert said_where("MODEL.RETINANET.NUM_CLASSES", file) == ""
    assert said_where(key, None) == ""


def test_masks_of_own_data_are_bitmasks(foreign: ForeignSet, tmp_path: Path) -> None:
    own = {"DATASETS.PANOPTIC": [entry("own", foreign)], "DATASETS.TRAIN": ("own",)}
    words = [str(word) for pair in own.items() for word in pair]
    cfg = setup_config("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", words)
    assert cfg.INPUT.MASK_FORMAT == "bitmask"
    cfg = config(entry("own", foreign), output=tmp_path, INPUT__MASK_FORMAT="polygon")
    with pytest.raises(ConfigError, match=r"INPUT\.MASK_FORMAT is 'polygon', but .* own are no"):
        check_run(cfg)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"IMAGE": "a"}, r"DATASETS\.PANOPTIC\[1\]\.IMAGE is unknown. Did you mean IMAGES\?"),
        ({"COLOURS": "a"}, r"PANOPTIC\[1\]\.COLOURS is unknown. Known: NAME, IMAGES, .*CACHE\."),
        ({"JSON": None}, r"PANOPTIC\[1\]\.JSON is missing: COCO panoptic JSON"),
        ({"PNGS": 3}, r"PANOPTIC\[1\]\.PNGS must be text, got 3"),
        ({"NAME": " "}, r"PANOPTIC\[1\]\.NAME must be text, got ' '"),
        ({"NAME": "own"}, r"PANOPTIC\[1\]\.NAME is 'own', as that of other files"),
    ],
)
def test_faults_of_an_entry_name_their_place(
    foreign: ForeignSet, fault: dict[str, Any], message: str
) -> None:
    second = {**entry("second", foreign, CACHE="/tmp"), **fault}
    second = {key: value for key, value in second.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        config(entry("own", foreign), second)
    assert "own" not in DatasetCatalog


def test_an_entry_that_is_none(foreign: ForeignSet) -> None:
    with pytest.raises(ConfigError, match=r"DATASETS\.PANOPTIC\[0\] is 'own'; expected keys"):
        config("own")


def test_missing_files_are_an_error_only_where_data_are_needed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    absent = ForeignSet(tmp_path / "a", tmp_path / "a.json", tmp_path / "b")
    words = options(entry("own", absent), DATASETS__TRAIN=("own",))
    with pytest.raises(DatasetError, match=f"{tmp_path / 'a'}: no such folder of the pictures"):
        setup_config(TINY_CONFIG, words)
    setup_config(TINY_CONFIG, words, splits=())
    assert f"Dataset own is left out: {tmp_path / 'a'}" in caplog.text
    setup_config(TINY_CONFIG, words, splits=("TEST",))
    with pytest.raises(DatasetError, match="no such folder"):
        setup_config(TINY_CONFIG, [*words, "DATASETS.TEST", "('own',)"], splits=("TEST",))
    table = ClassTable.from_categories([{"id": 3, "isthing": 1}, {"id": 4, "isthing": 0}])
    assert counts(setup_config(TINY_CONFIG, words, classes=table)) == (1, 1, 2)


def arguments(*words: str | Path) -> argparse.Namespace:
    words = ("--config-file", str(TINY_CONFIG), *map(str, words))
    return run_parser().parse_args([*words, "MODEL.DEVICE", "cpu"])


def test_command_line_writes_what_a_config_would_say(
    foreign: ForeignSet, renamed: ForeignSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(foreign.panoptic_json.parent)
    relative = ("../Photos 1", "my set.json", "../masks")
    words = ["--train-data", *relative, "--train-data", *renamed, "--data-cache", tmp_path / "d"]
    cfg = run_config(arguments(*words, "--test-data", *relative))
    first, second = own_datasets(cfg)
    assert (first.name, second.name) == cfg.DATASETS.TRAIN
    assert (first.name,) == cfg.DATASETS.TEST
    # Its folder and file are told apart by more than a name that many sets have.
    assert re.fullmatch(r"my_set_[0-9a-f]{6}", first.name)
    assert second.name != first.name
    assert first.source.image_root.is_absolute() and first.source.image_root.is_dir()
    assert first.cache == tmp_path / "d" / first.name
    assert counts(cfg) == (2, 2, 3)
    file = tmp_path / "config.yaml"
    file.write_text(cfg.dump())
    monkeypatch.chdir(tmp_path)
    again = setup_config(file)
    assert again.DATASETS == cfg.DATASETS
    assert counts(again) == counts(cfg)


def test_without_test_data_nothing_is_evaluated(foreign: ForeignSet) -> None:
    assert run_config(arguments("--train-data", *foreign)).DATASETS.TEST == ()


def test_an_evaluation_without_test_data_tells_the_flag(
    foreign: ForeignSet, tmp_path: Path
) -> None:
    cfg = run_config(arguments("--train-data", *foreign), "OUTPUT_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST is empty.*by --test-data"):
        check_run(cfg, eval_only=True)


def test_an_evaluation_takes_the_classes_of_its_data(foreign: ForeignSet) -> None:
    cfg = run_config(arguments("--eval-only", "--test-data", *foreign))
    assert cfg.DATASETS.TRAIN == ()
    assert counts(cfg) == (2, 2, 3)
    assert len(run_config(arguments("--test-data", *foreign)).DATASETS.TRAIN) == 1


@pytest.mark.parametrize(
    ("flags", "override", "message"),
    [
        (["--train-data"], "DATASETS.TRAIN", r"DATASETS\.TRAIN is on the command line"),
        (["--test-data"], "DATASETS.TEST", r"DATASETS\.TEST is on the command line"),
        ([], "", "--data-cache is for --train-data and --test-data"),
    ],
)
def test_flags_that_contradict_each_other(
    foreign: ForeignSet, flags: list[str], override: str, message: str
) -> None:
    words = [str(word) for flag in flags for word in (flag, *foreign)]
    words += [override, "('synthetic_panoptic_val',)"] if flags else ["--data-cache", "x"]
    with pytest.raises(ConfigError, match=message):
        run_config(run_parser().parse_args(["--config-file", str(TINY_CONFIG), *words]))


@pytest.mark.parametrize("key", ["OUTPUT_DIR", "SOLVER.MAX_ITER"])
def test_a_path_that_is_missing_in_the_command(foreign: ForeignSet, key: str) -> None:
    words = ["--test-data", *map(str, foreign[:2]), key, "5"]
    with pytest.raises(ConfigError, match=f"--test-data takes three paths.*{key!r} among them"):
        run_config(run_parser().parse_args(["--config-file", str(TINY_CONFIG), *words]))


def test_a_contradiction_is_found_before_the_files_are_looked_at(
    foreign: ForeignSet, tmp_path: Path
) -> None:
    cfg = config(entry("own", foreign, CACHE=str(tmp_path / "d")), output=tmp_path / "out")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    message = (
        r"MODEL\.ROI_HEADS\.NUM_CLASSES is 3 in c\.yaml, but dataset own "
        rf"\({re.escape(str(foreign.panoptic_json))}\) has 2 classes of things\."
    )
    with pytest.raises(ConfigError, match=message):
        check_run(cfg, said_where=lambda key: " in c.yaml")
    assert not (tmp_path / "d").exists()


def test_training_and_test_sets_of_other_classes(
    foreign: ForeignSet, renamed: ForeignSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = [entry("own", foreign), entry("other", renamed)]
    cfg = config(*both, output=tmp_path, DATASETS__TEST=("other",))
    both_named = rf"own \({foreign.panoptic_json}\) and other \({renamed.panoptic_json}\)"
    message = rf"{both_named} have different classes: thing 1 is 'walker' in the one and 'person'"
    with pytest.raises(ConfigError, match=message):
        check_run(cfg)
    cfg.DATASETS.TEST = ("own", "other")
    check_run(cfg, eval_only=True)
    assert re.search(f"atasets {both_named} have different classes", caplog.text)


def test_a_set_without_things(stuff_alone: ForeignSet, tmp_path: Path) -> None:
    cfg = config(entry("own", stuff_alone), output=tmp_path)
    with pytest.raises(ConfigError, match=r"dataset own .* has no classes of things .*Semantic"):
        check_run(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 5
    check_run(cfg)


def test_each_process_registers_and_a_resume_needs_the_same_classes(
    foreign: ForeignSet, renamed: ForeignSet, tmp_path: Path
) -> None:
    """``run`` is what a spawned process calls, with a catalogue of its own."""
    short = {"SOLVER__MAX_ITER": 1, "RPANOPTIC__PICTURES": 0, "DATASETS__TEST": ()}
    cfg = config(entry("own", foreign), output=tmp_path, **short)
    DatasetCatalog.remove("own")
    MetadataCatalog.remove("own")
    run(cfg, argparse.Namespace(resume=False, eval_only=False, config_file=""))
    changed = {**short, "SOLVER__MAX_ITER": 2, "DATASETS__TRAIN": ("other",)}
    cfg = config(entry("other", renamed), output=tmp_path, **changed)
    with pytest.raises(CheckpointError, match=r"thing 1 is 'walker' in the one and 'person'"):
        run(cfg, argparse.Namespace(resume=True, eval_only=False, config_file=""))


def test_what_takes_long_before_a_run_is_told(
    foreign: ForeignSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("rpanoptic")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr("rpanoptic.engine.launch.launch_run", lambda cfg, args: None)
    flags = ["--data-cache", str(tmp_path / "cache"), "--train-data", *map(str, foreign)]
    changes = {**OPEN, "OUTPUT_DIR": tmp_path / "output"}
    words = ["--config-file", str(TINY_CONFIG), *flags, *tiny_options(**changes)]
    start_run(run_parser().parse_args(words))
    assert f"Looking through {foreign.panoptic_json}" in capsys.readouterr().out
    # The run sets up its own.
    assert log.handlers == []


def test_registering_again_is_harmless_and_other_files_are_refused(
    foreign: ForeignSet, renamed: ForeignSet
) -> None:
    cfg = config(entry("own", foreign))
    before = MetadataCatalog.get("own")
    register_own_data(cfg)
    assert MetadataCatalog.get("own") is before
    with pytest.raises(DatasetError, match="'own'"):
        config(entry("own", renamed))


def test_the_guide_s_config_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    file = tmp_path / "kitchen.yaml"
    file.write_text(block)
    cfg = setup_config(file, splits=())
    assert [one.name for one in own_datasets(cfg)] == ["kitchen_train", "kitchen_val"]
    assert own_datasets(cfg)[1].cache == Path("~/derived").expanduser()
