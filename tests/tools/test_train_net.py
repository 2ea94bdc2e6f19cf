from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import load_script
from tests.engine.tiny import TINY_CONFIG, tiny_options

train_net = load_script("tools/train_net.py")


def command(output: Path, *flags: str, **changes: object) -> list[str]:
    options = tiny_options(OUTPUT_DIR=output, **changes)
    return ["--config-file", str(TINY_CONFIG), "--num-gpus", "1", *flags, *options]


def test_trains_evaluates_and_evaluates_again(
    tiny_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train_net.main(command(tmp_path)) == 0
    lines = [json.loads(x) for x in (tmp_path / "metrics.json").read_text().splitlines()]
    assert "panoptic_seg/PQ" in lines[-1]
    assert (tmp_path / "model_final.pth").is_file()
    assert (tmp_path / "predictions.png").is_file()
    assert train_net.main(command(tmp_path, "--eval-only", "--resume")) == 0
    again = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert again["panoptic_seg/PQ"] == pytest.approx(lines[-1]["panoptic_seg/PQ"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL__RECURRENT__MASK_HEAD__STEP": 3}, "MASK_HEAD.STEPS"),
        ({"MODEL__RECURRENT__MASK_HEAD__STEPS": 0}, "at least 1"),
        ({"MODEL__RECURRENT__MASK_HEAD__CELL": "hgur"}, "known: "),
        ({"MODEL__RECURRENT__MASK_HEAD__GRADIENT": "none"}, "known: "),
        ({"DATASETS__TEST": ("synthetic_panoptic_test",)}, "synthetic_panoptic_test"),
        ({"MODEL__WEIGHTS": "/nowhere/model.pth"}, "/nowhere/model.pth does not exist"),
    ],
)
def test_bad_input_is_one_message_and_status_2(
    tiny_data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    changes: dict[str, object],
    message: str,
) -> None:
    assert train_net.main(command(tmp_path, **changes)) == 2
    error = capfd.readouterr().err
    last = error[error.index("error: ") :]
    assert message in last
    assert "Traceback" not in last


def test_output_folder_that_is_a_file(
    tiny_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "taken"
    file.write_text("x")
    assert train_net.main(command(file)) == 2
    assert f"OUTPUT_DIR: cannot write to the folder {file}" in capfd.readouterr().err
    assert file.read_text() == "x"


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, launch would use it")
def test_two_processes_train_on_a_cpu(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # With the normalisation that the configs ship.
    argv = command(tmp_path, "--dist-url", "auto", RPANOPTIC__PICTURES=0)
    argv[argv.index("--num-gpus") + 1] = "2"
    assert train_net.main(argv) == 0
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert last["iteration"] == 2
    assert "panoptic_seg/PQ" in last
    assert (
        "naiveSyncBN_N takes its place in roi_heads.mask_head.output_norm"
        in (tmp_path / "log.txt").read_text()
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, launch would use it")
def test_bad_input_of_two_processes_is_one_message_and_status_2(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    weights = tmp_path / "other.pth"
    torch.save({"model": {"another.weight": torch.zeros(2)}}, weights)
    argv = command(tmp_path / "out", "--dist-url", "auto", MODEL__WEIGHTS=weights)
    argv[argv.index("--num-gpus") + 1] = "2"
    assert train_net.main(argv) == 2
    error = capfd.readouterr().err
    assert error.count("error: ") == 1
    last = error[error.index("error: ") :]
    assert last.startswith(f"error: nothing in checkpoint {weights} fits the model")
    assert "Traceback" not in last
    # Logging of earlier tests may have complained of its closed stream; the processes must not.
    assert "ProcessRaisedException" not in error


def test_a_config_of_a_model_zoo_by_name(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(tmp_path / "out", SOLVER__MAX_ITER=1, RPANOPTIC__PICTURES=0, DATASETS__TEST=())
    words[words.index(str(TINY_CONFIG))] = "synthetic_panoptic_crbp.yaml"
    assert train_net.main(words) == 0
    assert (tmp_path / "out" / "model_final.pth").is_file()
