from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog

from rpanoptic.engine.setup import (
    check_output_dir,
    check_process_count,
    check_run,
    closest,
    setup_config,
)
from rpanoptic.errors import ConfigError, DatasetError
from tests.engine.tiny import tiny_cfg


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_file_then_overrides_then_output_dir(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "SOLVER:\n  MAX_ITER: 7\n  BASE_LR: 0.5\nVERSION: 2\n")
    cfg = setup_config(file, ["SOLVER.BASE_LR", "0.25"], output_dir=tmp_path / "out")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (7, 0.25)
    assert str(tmp_path / "out") == cfg.OUTPUT_DIR


def test_unknown_key_in_file_names_key_file_and_closest(tmp_path: Path) -> None:
    text = "MODEL:\n  RECURRENT:\n    MASK_HEAD:\n      STEP: 3\nVERSION: 2\n"
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError) as error:
        setup_config(file)
    message = str(error.value)
    assert "MODEL.RECURRENT.MASK_HEAD.STEP " in message
    assert str(file) in message
    assert "MODEL.RECURRENT.MASK_HEAD.STEPS" in message


def test_unknown_key_in_base_file_names_the_base(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", "SOLVER:\n  MAX_ITERS: 3\nVERSION: 2\n")
    file = write(tmp_path / "c.yaml", "_BASE_: base.yaml\nSOLVER:\n  BASE_LR: 1.0\n")
    with pytest.raises(ConfigError) as error:
        setup_config(file)
    assert str(base) in str(error.value)
    assert "Did you mean SOLVER.MAX_ITER" in str(error.value)


def test_unknown_key_on_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_RL on the command line.*SOLVER\.BASE_LR"):
        setup_config(None, ["SOLVER.BASE_RL", "0.1"])


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.BASE_LR"], "pairs"),
        (["SOLVER.MAX_ITER", "many"], r"SOLVER\.MAX_ITER"),
    ],
)
def test_bad_overrides(opts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        setup_config(None, opts)


def test_value_of_wrong_type_in_a_file_names_both(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "SOLVER:\n  MAX_ITER: [1, 2]\nVERSION: 2\n")
    with pytest.raises(ConfigError, match="MAX_ITER") as error:
        setup_config(file)
    assert str(file) in str(error.value)


def test_missing_file_names_similar_ones(tmp_path: Path) -> None:
    write(tmp_path / "crbp.yaml", "VERSION: 2\n")
    with pytest.raises(ConfigError, match=r"crpb\.yaml does not exist.*crbp\.yaml"):
        setup_config(tmp_path / "crpb.yaml")


def test_missing_base_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "_BASE_: absent.yaml\n")
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        setup_config(file)


@pytest.mark.parametrize("text", ["a: [", "just words", ""])
def test_file_that_is_no_config(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError, match=str(file)):
        setup_config(file)


def test_yaml_tags_that_run_code_are_refused(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    tag = f'!!python/object/apply:os.mkdir ["{trace}"]'
    file = write(tmp_path / "c.yaml", f"OUTPUT_DIR: {tag}\nVERSION: 2\n")
    with pytest.raises(ConfigError, match="not plain YAML"):
        setup_config(file)
    assert not trace.exists()


def test_device_falls_back_to_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert setup_config(None).MODEL.DEVICE == "cpu"
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE is cuda"):
        setup_config(None, ["MODEL.DEVICE", "cuda"])


def test_device_stays_where_a_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert setup_config(None).MODEL.DEVICE == "cuda"


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_process_count(2)
    with pytest.raises(ConfigError, match="--num-gpus 3: PyTorch finds 2"):
        check_process_count(3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_process_count(3)


def test_closest_prefers_siblings() -> None:
    known = ["A.B.STEPS", "A.B.STEPS_TEST", "A.B.CELL", "SOLVER.STEPS"]
    assert closest("A.B.STEP", known)[0] == "A.B.STEPS"
    assert "A.B.CELL" not in closest("A.B.STEP", known)
    assert closest("A.STEPS_TEST", known) == ["A.B.STEPS_TEST"]


def test_output_folder_is_created(tmp_path: Path) -> None:
    folder = check_output_dir(tmp_path / "a" / "b", key="OUTPUT_DIR")
    assert folder.is_dir()
    assert not any(folder.iterdir())


def test_file_in_the_way_of_the_output_folder(tmp_path: Path) -> None:
    file = write(tmp_path / "taken", "x")
    for path in (file, file / "below"):
        with pytest.raises(ConfigError, match=rf"OUTPUT_DIR.*{path}"):
            check_output_dir(path, key="OUTPUT_DIR")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_read_only_output_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR.*Permission denied"):
        check_output_dir(tmp_path, key="OUTPUT_DIR")


def test_sound_run_passes(tmp_path: Path, tiny_data: Path) -> None:
    check_run(tiny_cfg(tmp_path / "out"))
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.RECURRENT.MASK_HEAD.STEPS", 0, r"MASK_HEAD\.STEPS must be at least 1"),
        ("MODEL.RECURRENT.MASK_HEAD.CELL", "hgrru", r"MASK_HEAD\.CELL.*known: .*hgru"),
        ("MODEL.RECURRENT.MASK_HEAD.GRADIENT", "crpb", r"MASK_HEAD\.GRADIENT.*known: .*crbp"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 80, r"ROI_HEADS\.NUM_CLASSES is 80.*has 4"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54, r"SEM_SEG_HEAD\.NUM_CLASSES is 54.*has 5"),
        ("DATASETS.TRAIN", (), r"DATASETS\.TRAIN is empty"),
    ],
)
def test_faults_found_before_anything_is_built(
    tmp_path: Path, tiny_data: Path, key: str, value: object, message: str
) -> None:
    cfg = tiny_cfg(tmp_path, **{key.replace(".", "__"): value})
    with pytest.raises(ConfigError, match=message):
        check_run(cfg)


def test_unknown_dataset_names_close_ones(tmp_path: Path, tiny_data: Path) -> None:
    cfg = tiny_cfg(tmp_path, DATASETS__TEST=("synthetic_panoptic_vall",))
    with pytest.raises(DatasetError, match="synthetic_panoptic_val"):
        check_run(cfg)


def test_evaluation_needs_no_training_set(tmp_path: Path, tiny_data: Path) -> None:
    cfg = tiny_cfg(tmp_path, DATASETS__TRAIN=("no_such_dataset",))
    assert "no_such_dataset" not in DatasetCatalog
    check_run(cfg, eval_only=True)
    with pytest.raises(DatasetError, match="no_such_dataset"):
        check_run(cfg)
