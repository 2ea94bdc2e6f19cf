from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg

from rpanoptic.engine.setup import closest, setup_config
from rpanoptic.errors import ConfigError


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


@pytest.mark.parametrize("text", ["a: [", "just words", "- 1\n- 2\n", "3", "_BASE_: 4\n"])
def test_file_that_is_no_config(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError, match=str(file)):
        setup_config(file)


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "# nothing yet\n")
    assert setup_config(file) == setup_config(None)


def test_base_files_that_are_of_no_use(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", "")
    file = write(tmp_path / "c.yaml", "_BASE_: base.yaml\n")
    with pytest.raises(ConfigError, match=rf"{file} builds on {base}, which is empty"):
        setup_config(file)
    write(base, "- 1\n")
    with pytest.raises(ConfigError, match=rf"{base} holds a list"):
        setup_config(file)


@pytest.mark.parametrize("last", ["a.yaml", "b.yaml"])
def test_base_files_in_a_circle(tmp_path: Path, last: str) -> None:
    first = write(tmp_path / "a.yaml", "_BASE_: b.yaml\n")
    second = write(tmp_path / "b.yaml", f"_BASE_: [{last}]\n")
    with pytest.raises(ConfigError, match="in a circle") as error:
        setup_config(first)
    start = first if last == "a.yaml" else second
    assert f"{start} -> " in str(error.value)
    assert str(error.value).endswith(f" -> {start}.")


def test_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"\xff\xfe\x00")
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


def test_closest_prefers_siblings() -> None:
    known = ["A.B.STEPS", "A.B.STEPS_TEST", "A.B.CELL", "SOLVER.STEPS"]
    assert closest("A.B.STEP", known)[0] == "A.B.STEPS"
    assert "A.B.CELL" not in closest("A.B.STEP", known)
    assert closest("A.STEPS_TEST", known) == ["A.B.STEPS_TEST"]


DETECTRON2S = "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"


def test_a_base_of_detectron2s_zoo_is_read_from_the_installed_package(tmp_path: Path) -> None:
    text = f'_BASE_: "detectron2://{DETECTRON2S}"\nSOLVER:\n  BASE_LR: 0.5\n'
    cfg = setup_config(write(tmp_path / "c.yaml", text))
    expected = get_cfg()
    expected.merge_from_file(model_zoo.get_config_file(DETECTRON2S))
    expected.SOLVER.BASE_LR, expected.MODEL.DEVICE = 0.5, cfg.MODEL.DEVICE
    for node in ("RECURRENT", "PATHFINDER", "CLASSIFIER"):
        del cfg.MODEL[node]
    del cfg["RPANOPTIC"], cfg.DATASETS["PANOPTIC"]
    assert cfg == expected
    assert type(cfg) is CfgNode is type(cfg.MODEL)


def test_bases_of_zoos_stand_in_lists_and_chains(tmp_path: Path) -> None:
    ours = '_BASE_: ["rpanoptic://coco_panoptic/R50/bptt3.yaml"]\nSEED: 5\n'
    write(tmp_path / "ours.yaml", ours)
    schedule = write(tmp_path / "s.yaml", "SOLVER:\n  MAX_ITER: 9\n")
    both = write(tmp_path / "both.yaml", f'_BASE_: ["ours.yaml", "{schedule}"]\n')
    cfg = setup_config(both)
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.MODEL.RECURRENT.MASK_HEAD.STEPS) == (5, 9, 3)


def test_an_unknown_base_of_a_zoo_names_file_and_closest(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", '_BASE_: "detectron2://panoptic_fpn_R_50_1x.yaml"\n')
    with pytest.raises(ConfigError, match=rf"{file}: _BASE_ 'detectron2://.*{DETECTRON2S}"):
        setup_config(file)


def test_an_unknown_key_over_a_zoos_base_names_the_file(tmp_path: Path) -> None:
    text = f'_BASE_: "detectron2://{DETECTRON2S}"\nSOLVER:\n  BASE_RL: 0.5\n'
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError, match=rf"SOLVER.BASE_RL in {file}"):
        setup_config(file)


def test_names_of_zoos_where_there_is_no_such_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert setup_config("coco_panoptic/R50/bptt3.yaml").MODEL.RECURRENT.MASK_HEAD.STEPS == 3
    assert setup_config(DETECTRON2S).SOLVER.MAX_ITER == 90000
    assert setup_config(f"detectron2://{DETECTRON2S}") == setup_config(DETECTRON2S)
    folder = tmp_path / "COCO-PanopticSegmentation"
    folder.mkdir()
    write(folder / "panoptic_fpn_R_50_1x.yaml", "SOLVER:\n  MAX_ITER: 4\nVERSION: 2\n")
    assert setup_config(DETECTRON2S).SOLVER.MAX_ITER == 4
    with pytest.raises(ConfigError, match=r"bptt4.yaml does not exist, and neither.*R50/bptt3"):
        setup_config("coco_panoptic/R50/bptt4.yaml")


def test_detectron2s_own_files_may_have_tags_that_run_code(tmp_path: Path) -> None:
    """Those of RetinaNet compute their anchors; a file that builds on them still may not."""
    zoo = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    assert setup_config(zoo).MODEL.ANCHOR_GENERATOR.SIZES[0][0] == 32
    tag = f'!!python/object/apply:os.mkdir ["{tmp_path / "ran"}"]'
    file = write(tmp_path / "c.yaml", f'_BASE_: "detectron2://{zoo}"\nOUTPUT_DIR: {tag}\n')
    with pytest.raises(ConfigError, match="not plain YAML"):
        setup_config(file)
    assert not (tmp_path / "ran").exists()
