from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from tests.conftest import load_script
from tests.engine.tiny import TINY_CONFIG, tiny_cfg, tiny_options

demo = load_script("tools/demo.py")


def command(weights: Path, inputs: list[Path], output: Path, **changes: object) -> list[str]:
    argv = ["--config-file", str(TINY_CONFIG), "--weights", str(weights), "--input"]
    argv += [str(path) for path in inputs]
    argv += [
        "--output",
        str(output),
        "--confidence-threshold",
        "0.0",
        "--steps",
        "1",
        "2",
        "--opts",
    ]
    return argv + tiny_options(**changes)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_overlay_and_strip_for_each_picture(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "drawn"
    assert demo.main(command(weights, [pictures], output)) == 0
    assert names(output) == [
        "one_panoptic.png",
        "one_steps.png",
        "two_panoptic.png",
        "two_steps.png",
    ]
    panoptic = np.asarray(Image.open(output / "one_panoptic.png"))
    strip = np.asarray(Image.open(output / "one_steps.png"))
    assert panoptic.shape[1] / panoptic.shape[0] == pytest.approx(1.5, rel=0.01)
    # Two pictures of 440 pixels' width and three gaps.
    assert strip.shape[1] == 2 * 440 + 3 * 8
    assert "2 of 2 pictures" in capsys.readouterr().out


def test_plain_head_draws_no_strip(pictures: Path, tmp_path: Path) -> None:
    plain = {"MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead"}
    model = build_model(tiny_cfg(tmp_path, **plain))
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    argv = command(tmp_path / "plain.pth", [pictures / "one.png"], tmp_path / "drawn", **plain)
    assert demo.main(argv) == 0
    assert names(tmp_path / "drawn") == ["one_panoptic.png"]


def test_unreadable_picture_is_named_and_the_others_drawn(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "bad.jpg").write_bytes((pictures / "two.jpg").read_bytes()[:200])
    output = tmp_path / "drawn"
    assert demo.main(command(weights, [pictures], output)) == 1
    assert "one_panoptic.png" in names(output)
    assert "bad_panoptic.png" not in names(output)
    assert str(pictures / "bad.jpg") in capsys.readouterr().err


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000)])
def test_too_narrow_picture_is_named_and_the_others_drawn(
    weights: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    size: tuple[int, int],
) -> None:
    Image.new("RGB", size).save(pictures / "line.png")
    output = tmp_path / "drawn"
    assert demo.main(command(weights, [pictures], output)) == 1
    assert {"one_panoptic.png", "two_panoptic.png"} <= set(names(output))
    error = capsys.readouterr().err
    assert f"picture {pictures / 'line.png'}: {size[0]} x {size[1]} pixels are too narrow" in error


def test_narrow_picture_is_drawn(weights: Path, pictures: Path, tmp_path: Path) -> None:
    Image.new("RGB", (4, 400)).save(pictures / "line.png")
    assert demo.main(command(weights, [pictures / "line.png"], tmp_path / "drawn")) == 0


def test_pictures_of_the_same_name_do_not_overwrite_each_other(
    weights: Path, pictures: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (64, 64)).save(other / "one.jpg")
    inputs = [pictures / "one.png", other / "one.jpg"]
    assert demo.main(command(weights, inputs, tmp_path / "drawn")) == 0
    assert {"one_panoptic.png", "one_2_panoptic.png"} <= set(names(tmp_path / "drawn"))


def test_bad_input_is_one_message_and_status_2(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("x")
    absent = tmp_path / "absent.pth"
    one = [pictures / "one.png"]
    cases = [
        (command(weights, [tmp_path / "*.gif"], tmp_path / "o"), "*.gif"),
        (command(weights, one, taken), f"--output: cannot write to the folder {taken}"),
        (command(absent, one, tmp_path / "o"), f"{absent} does not exist"),
        (
            command(
                weights,
                one,
                tmp_path / "o",
                MODEL__FPN__OUT_CHANNELS=64,
                MODEL__ROI_MASK_HEAD__CONV_DIM=64,
            ),
            "another architecture",
        ),
        (command(weights, one, tmp_path / "o", DATASETS__TEST=("absent_set",)), "absent_set"),
    ]
    for argv, message in cases:
        assert demo.main(argv) == 2
        error = capsys.readouterr().err
        assert "error: " in error
        assert message in error


def test_threshold_out_of_range(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = command(weights, [pictures], tmp_path / "o")
    argv[argv.index("--confidence-threshold") + 1] = "1.5"
    assert demo.main(argv) == 2
    assert "between 0 and 1" in capsys.readouterr().err


def test_steps_below_one_are_refused(weights: Path, pictures: Path, tmp_path: Path) -> None:
    argv = command(weights, [pictures], tmp_path / "o")
    argv[argv.index("--steps") + 1] = "0"
    with pytest.raises(SystemExit) as status:
        demo.main(argv)
    assert status.value.code == 2
