from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.helpers import load_script
from tests.engine.tiny import TINY_CONFIG, tiny_options

analyze = load_script("tools/analyze_dynamics.py")

NAME = "roi_heads.mask_head.recurrence"
FIGURES = [
    f"{NAME}_{what}.png" for what in ("components", "past_trained_steps", "residual", "spectrum")
]


def command(
    weights: Path, inputs: list[Path], output: Path, *options: str, **changes: object
) -> list[str]:
    argv = ["--config-file", str(TINY_CONFIG), "--weights", str(weights), "--iterations", "4"]
    if inputs:
        argv += ["--input", *map(str, inputs)]
    return [*argv, "--output", str(output), *options, "--opts", *tiny_options(**changes)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_table_numbers_and_figures(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "dynamics"
    argv = command(weights, [pictures], output, "--steps", "7", "--samples", "3")
    assert analyze.main(argv) == 0
    assert names(output) == sorted(["dynamics.json", *FIGURES])
    (block,) = json.loads((output / "dynamics.json").read_text())
    assert (block["block"], block["cell"], block["trained_steps"]) == (NAME, "HGRU", 3)
    assert block["samples"] == len(block["spectral_radius"]) == len(block["residual"]) == 3
    assert block["steps"] == len(block["residual"][0]) == len(block["distance"][0]) == 7
    assert block["distance"][0][2] == 0
    text = capsys.readouterr().out
    assert NAME in text and f"5 files written into {output}" in text
    for name in FIGURES:
        assert np.asarray(Image.open(output / name)).shape[1] > 600


def test_pictures_of_the_test_set_unless_others_are_given(
    weights: Path, tiny_data: Path, tmp_path: Path
) -> None:
    argv = command(weights, [], tmp_path / "o", "--pictures", "2", "--samples", "2")
    assert analyze.main(argv) == 0
    (block,) = json.loads((tmp_path / "o" / "dynamics.json").read_text())
    assert (block["samples"], block["steps"]) == (2, 6)


def test_unusable_pictures_are_named_and_the_others_used(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "bad.jpg").write_bytes((pictures / "two.jpg").read_bytes()[:200])
    Image.new("RGB", (5000, 1)).save(pictures / "line.png")
    assert analyze.main(command(weights, [pictures], tmp_path / "o", "--samples", "1")) == 1
    assert "dynamics.json" in names(tmp_path / "o")
    error = capsys.readouterr().err
    assert f"picture {pictures / 'bad.jpg'} cannot be read" in error
    assert f"picture {pictures / 'line.png'}: 5000 x 1 pixels are too narrow" in error
    unusable = [pictures / "bad.jpg", pictures / "line.png"]
    assert analyze.main(command(weights, unusable, tmp_path / "none")) == 2
    assert names(tmp_path / "none") == []


def test_bad_input_is_one_message_and_status_2(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("x")
    absent = tmp_path / "absent.pth"
    one, o = [pictures / "one.png"], tmp_path / "o"
    cases = [
        (command(weights, [tmp_path / "*.gif"], o), "*.gif"),
        (command(weights, one, taken), f"--output: cannot write to the folder {taken}"),
        (command(absent, one, o), f"{absent} does not exist"),
        (command(weights, one, o, MODEL__ROI_BOX_HEAD__FC_DIM=8), "another architecture"),
        (
            command(weights, one, o, MODEL__ROI_MASK_HEAD__NAME="MaskRCNNConvUpsampleHead"),
            "the model has no recurrent block",
        ),
        (command(weights, one, o, "--steps", "2"), "--steps 2"),
        (command(weights, one, o, MODEL__ROI_HEADS__SCORE_THRESH_TEST=1.0), "nothing was detected"),
        (command(weights, [], o, DATASETS__TEST=("absent_set",)), "absent_set"),
        (command(weights, [], o, DATASETS__TEST=()), "DATASETS.TEST is empty"),
    ]
    for argv, message in cases:
        assert analyze.main(argv) == 2
        error = capsys.readouterr().err
        assert "error: " in error
        assert message in error
    assert names(o) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("--steps", "0"), ("--samples", "0"), ("--pictures", "0"), ("--iterations", "1")],
)
def test_counts_that_are_too_small_are_refused(
    weights: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
) -> None:
    with pytest.raises(SystemExit) as status:
        analyze.main(command(weights, [pictures], tmp_path / "o", option, value))
    assert status.value.code == 2
    assert f"{value} is not at least" in capsys.readouterr().err
