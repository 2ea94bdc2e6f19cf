from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import load_script
from tests.pathfinder.models.tiny import FEEDFORWARD, PAPER, TINY, tiny_model

trace = load_script("tools/trace_contour.py")

DATASET = "pathfinder_tiny_test_on_the_fly"
OPTIONS = PAPER | TINY | {"DATASETS.TEST": (DATASET,), "INPUT.MIN_SIZE_TEST": 32}


@pytest.fixture(scope="module")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained tiny model: config.yaml and model.pth."""
    folder = tmp_path_factory.mktemp("tracer")
    torch.save({"model": tiny_model().state_dict()}, folder / "model.pth")
    (folder / "config.yaml").write_text("VERSION: 2\n")
    return folder


def command(folder: Path, output: Path, *options: str, **changes: object) -> list[str]:
    argv = ["--config-file", str(folder / "config.yaml"), "--weights", str(folder / "model.pth")]
    settings = OPTIONS | {key.replace("__", "."): value for key, value in changes.items()}
    words = [str(word) for pair in settings.items() for word in pair]
    return [*argv, "--width", "40", "--output", str(output), *options, "--opts", *words]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_strip_and_a_gif_of_each_picture_and_their_trajectories(
    tracer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "traced"
    assert trace.main(command(tracer, output, "--first", "7", "--samples", "2")) == 0
    stems = [f"{DATASET}_000007", f"{DATASET}_000008"]
    files = [f"{stem}.{suffix}" for stem in stems for suffix in ("gif", "png")]
    assert names(output) == sorted([*files, "trajectories.png"])
    with Image.open(output / f"{stems[0]}.gif") as gif:
        assert gif.n_frames == 8  # twice the trained steps
        assert gif.width == 3 * 48 + 8  # picture, truth, readout
    assert f"5 files written into {output}" in capsys.readouterr().out


def test_all_pictures_in_one_grid(tracer: Path, tmp_path: Path) -> None:
    options = ["--samples", "3", "--columns", "2", "--steps", "3"]
    assert trace.main(command(tracer, tmp_path, *options)) == 0
    assert names(tmp_path) == ["contours.gif", "contours.png"]
    with Image.open(tmp_path / "contours.gif") as gif:
        assert gif.n_frames == 3 and gif.width == 6 * 48 + 8


def test_own_pictures_and_those_that_cannot_be_used(
    tracer: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = pictures / "bad.png"
    bad.write_bytes(b"no picture")
    output = tmp_path / "traced"
    assert trace.main(command(tracer, output, "--input", str(pictures), "--steps", "2")) == 1
    assert names(output) == ["one.gif", "one.png", "two.gif", "two.png"]
    with Image.open(output / "one.gif") as gif:
        assert gif.width == 2 * 48 + 8  # the truth is not known
    assert f"picture {bad} cannot be read" in capsys.readouterr().err
    none = tmp_path / "none"
    assert trace.main(command(tracer, none, "--input", str(bad))) == 2
    assert names(none) == []


def test_too_few_steps_for_a_trajectory(
    tracer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = command(tracer, tmp_path, "--steps", "1", "--samples", "1")
    assert trace.main(argv) == 0
    assert names(tmp_path) == [f"{DATASET}_000000.gif", f"{DATASET}_000000.png"]
    assert "no trajectories.png: it needs 4 steps, not 1" in capsys.readouterr().out


def test_bad_input_is_one_message_and_status_2(
    tracer: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken, o = tmp_path / "taken", tmp_path / "o"
    taken.write_text("x")
    without = tmp_path / "without"
    without.mkdir()
    (without / "config.yaml").write_text("VERSION: 2\n")
    cases = [
        (command(tracer, o, "--input", str(tmp_path / "*.gif")), "*.gif"),
        (command(tracer, taken), f"--output: cannot write to the folder {taken}"),
        (command(without, o), f"{without / 'model.pth'} does not exist"),
        (command(tracer, o, MODEL__PATHFINDER__CHANNELS=4), "another architecture"),
        (command(tracer, o, MODEL__BACKBONE__NAME=FEEDFORWARD), "the model has no recurrence"),
        (
            command(tracer, o, MODEL__META_ARCHITECTURE="ContourClassifier"),
            "MODEL.META_ARCHITECTURE ContourClassifier",
        ),
        (command(tracer, o, "--dataset", "pathfinder_99_test"), "pathfinder_99_test"),
        (command(tracer, o, DATASETS__TEST=()), "DATASETS.TEST is empty"),
        (command(tracer, o, "--first", "999", "--samples", "2"), "--first 999"),
        (command(tracer, o, "--input", str(pictures), "--samples", "2"), "--input"),
        (command(tracer, o, "--input", str(pictures), "--first", "0"), "--input"),
    ]
    for argv, message in cases:
        assert trace.main(argv) == 2, message
        error = capsys.readouterr().err
        assert "error: " in error and message in error
    assert names(o) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("--steps", "0"), ("--samples", "0"), ("--columns", "0"), ("--first", "-1")],
)
def test_counts_that_are_too_small_are_refused(
    tracer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as status:
        trace.main(command(tracer, tmp_path, option, value))
    assert status.value.code == 2
    assert f"{value} is not at least" in capsys.readouterr().err
