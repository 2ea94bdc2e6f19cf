from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import load_script
from tests.pathfinder.imagenet.models.tiny import RESNET, TINY

graph = load_script("tools/draw_graph.py")


@pytest.fixture()
def config(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text("VERSION: 2\n")
    return file


def command(config: Path, output: Path, *options: str, **changes: object) -> list[str]:
    settings = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    words = [str(word) for pair in settings.items() for word in pair]
    return ["--config-file", str(config), "--output", str(output), *options, *words]


def test_a_picture_is_drawn_into_a_new_folder(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "graph.png"
    assert graph.main(command(config, file, "--size", "24", "32")) == 0
    assert f"written: {file}" in capsys.readouterr().out
    with Image.open(file) as picture:
        assert picture.format == "PNG" and min(picture.size) > 300


def test_bad_input_is_one_message_and_status_2(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("x")
    file = tmp_path / "new" / "graph.png"
    cases = [
        (command(config, file, **RESNET), "MODEL.BACKBONE.NAME"),
        (command(config, tmp_path), f"--output: {tmp_path} is a folder, not a picture"),
        (command(config, taken / "graph.png"), f"--output: cannot write to the folder {taken}"),
        (command(tmp_path / "none.yaml", file), "none.yaml"),
        (command(config, file, MODEL__RECURRENT__CONVRNN__DEPTH=1), "CONVRNN.DEPTH"),
    ]
    for argv, message in cases:
        assert graph.main(argv) == 2, message
        error = capsys.readouterr().err
        assert "error: " in error and message in error
    assert not file.parent.exists()


def test_a_size_without_pixels_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        graph.main(command(config, tmp_path / "graph.png", "--size", "0", "32"))
    assert status.value.code == 2
    assert "0 is not at least 1" in capsys.readouterr().err
