from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from rpanoptic.engine import neural_fit
from rpanoptic.pathfinder.imagenet.neural_fit import read_assembly
from tests.data.helpers import load_script
from tests.pathfinder.imagenet.models.tiny import CONVRNN, TINY, config
from tests.pathfinder.imagenet.neural_fit.helpers import measured, neurons, write_assembly
from tests.paths import CONFIGS

tool = load_script("tools/fit_neurons.py")

STIMULI = 60
# conv3 answers from 20 to 90 ms; the image goes off, for the loop, after 40 ms.
CHANGES: dict[str, Any] = {
    f"{CONVRNN}STEPS": 8,
    f"{CONVRNN}IMAGE_STEPS": 3,
    # Features are those of each step, whatever the model reads out.
    f"{CONVRNN}READOUT": "mean",
    "RPANOPTIC__CLASSIFICATION__SIZE": 16,
    "RPANOPTIC__CLASSIFICATION__RESIZE": 16,
    "INPUT__FORMAT": "RGB",
}
# The same layers without time.
FORWARD = CHANGES | {
    f"{CONVRNN}LAYERS": [
        {**layer, "cell": False} for layer in TINY["MODEL.RECURRENT.CONVRNN.LAYERS"]
    ],
    f"{CONVRNN}FEEDBACK": [],
}


class Scene(NamedTuple):
    """Pictures, a network, and neurons that are linear maps of its conv3 over time."""

    folder: Path
    stimuli: Path
    weights: Path
    forward: Path
    assembly: Path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    stimuli = folder / "stimuli"
    stimuli.mkdir()
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (STIMULI, 16, 16, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(stimuli / f"s{number:03d}.png")
    models = {}
    for name, changes in (("convrnn", CHANGES), ("forward", FORWARD)):
        torch.manual_seed(0)
        models[name] = build_model(config(**changes)).eval()
        torch.save({"model": models[name].state_dict()}, folder / f"{name}.pth")
    images = (torch.as_tensor(pixels).permute(0, 3, 1, 2) - 127.5) / 60
    with torch.no_grad():
        by_step = models["convrnn"].backbone.unrolled(images, range(2, 9))
    # Mean over the map: few dimensions, so that a map can be learnt from 30 pictures.
    features = torch.stack([found["conv3"].mean((2, 3)) for found in by_step.values()], dim=-1)
    given = measured(neurons(features.numpy(), 12), 0.8, repetitions=4)
    shifted = given.bins.start + 20
    given = given.__class__(
        **{**given.__dict__, "bins": given.bins.__class__(shifted, shifted + 10)}
    )
    file = write_assembly(folder / "IT.nc", given)
    return Scene(folder, stimuli, folder / "convrnn.pth", folder / "forward.pth", file)


def options(changes: dict[str, Any]) -> list[str]:
    every = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    return [word for key, value in every.items() for word in (key, str(value))]


def command(
    scene: Scene, output: Path, *flags: object, changes: dict[str, Any] = CHANGES, **replaced: Any
) -> list[str]:
    given: dict[str, Any] = {
        "config-file": CONFIGS / "_base_" / "imagenet.yaml",
        "weights": scene.weights,
        "stimuli": scene.stimuli,
        "assembly": scene.assembly,
        "layers": "conv3",
        "splits": 3,
        "output": output,
    } | {key.replace("_", "-"): value for key, value in replaced.items()}
    pairs = [word for key, value in given.items() if value for word in (f"--{key}", value)]
    return [*map(str, pairs), *map(str, flags), *options(changes)]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_network_with_time_is_told_from_that_without(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student, compared = (tmp_path / name for name in ("teacher", "student", "compared"))
    assert tool.main(command(scene, teacher, "--label", "ConvRNN")) == 0
    assert "ConvRNN conv3" in capsys.readouterr().out
    names = ["features", "neural_fit.csv", "neural_fit.json", "neural_fit.png"]
    assert sorted(path.name for path in teacher.iterdir()) == names
    argv = command(
        scene, student, "--label", "feed-forward", changes=FORWARD, weights=scene.forward
    )
    assert tool.main(argv) == 0
    taught, untaught = (
        np.array([float(row["predictivity"]) for row in rows_of(folder / "neural_fit.csv")])
        for folder in (teacher, student)
    )
    assert len(taught) == 7
    # 96 features of 30 pictures for what averages of 16 of them make: not all of it is learnt.
    assert np.median(taught) > 0.6 and np.median(taught - untaught) > 0.15, (taught, untaught)

    content = json.loads((teacher / "neural_fit.json").read_text())
    (layer,) = content["layers"]
    assert (layer["label"], layer["layer"], layer["stimuli"]) == ("ConvRNN", "conv3", STIMULI)
    assert [row["time_bin_start"] for row in content["bins"]] == [20, 30, 40, 50, 60, 70, 80]
    assert content["settings"]["fit"]["map"]["components"] == 25

    tables = [folder / "neural_fit.csv" for folder in (teacher, student)]
    argv = ["--from-csv", *map(str, tables), "--output", str(compared)]
    assert tool.main(argv) == 0
    with Image.open(compared / "neural_fit.png") as picture:
        assert min(picture.size) > 400
    assert tool.main(["--from-csv", str(tables[0]), str(tables[0]), "--output", str(compared)]) == 2
    assert "the bin from 20 ms stands twice; give models labels" in capsys.readouterr().err


def test_features_are_kept_and_told_apart(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    plain = neural_fit.extract_features

    def recording(network: Any, batches: Any, stimuli: Any, files: Any, **options: Any) -> None:
        asked.append(sorted(files))
        plain(network, batches, stimuli, files, **options)

    monkeypatch.setattr(neural_fit, "extract_features", recording)
    store = tmp_path / "features"
    command_line = command(scene, tmp_path, "--batch-size", "7")
    assert tool.main(command_line) == 0 and asked == [["conv3"]]
    first = (tmp_path / "neural_fit.csv").read_text()
    assert tool.main(command_line) == 0 and len(asked) == 1
    assert (tmp_path / "neural_fit.csv").read_text() == first
    # A file that a full disk cut off is written again.
    (kept,) = store.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert tool.main(command_line) == 0 and asked.pop() == ["conv3"] and len(asked) == 1
    assert (tmp_path / "neural_fit.csv").read_text() == first
    pictures = {path.stem: path for path in sorted(scene.stimuli.iterdir())[:9]}

    def taken(layer: str, weights: Path = scene.weights, size: int = 0, **changes: Any) -> Any:
        cfg = config(**CHANGES | changes)
        settings = neural_fit.FeatureSettings(projection=size)
        return neural_fit.model_features(cfg, str(weights), [layer], pictures, store, settings)

    # Another layer: it alone. conv2 answers from 10 ms on, to the same time.
    header = taken("conv2")["conv2"].header
    assert asked[1:] == [["conv2"]] and header.stimuli == tuple(pictures)
    assert header.bins.start[0] == 10 and header.bins.end[-1] == 90
    # Whichever way its gradients were found.
    taken("conv2", MODEL__RECURRENT__CONVRNN__GRADIENT="crbp")
    assert len(asked) == 2
    other = tmp_path / "other.pth"
    state = torch.load(scene.weights, weights_only=True)["model"]
    torch.save({"model": {key: value * 0.5 for key, value in state.items()}}, other)
    # Other weights, steps, mixtures or pictures, and then the same again.
    for _ in range(2):
        taken("conv2", other)
        taken("conv2", MODEL__RECURRENT__CONVRNN__IMAGE_STEPS=0)
        taken("conv2", size=20)
    del pictures["s000"]
    taken("conv2")
    assert asked[2:] == [["conv2"]] * 4 and len(list(store.glob("conv2-*.nc"))) == 5


def test_bins_outside_the_models_times(
    scene: Scene,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    short = {**CHANGES, f"{CONVRNN}STEPS": 5}
    assert tool.main(command(scene, tmp_path, changes=short)) == 2
    error = capsys.readouterr().err
    assert "IT.nc: 3 of its 7 time_bin lie outside the model's times, 60-70 ms, 70-80 ms" in error
    assert "layer conv3 answers from 20 to 60 ms. --window chooses bins" in error
    assert not list(tmp_path.glob("neural_fit.*"))
    with caplog.at_level(logging.WARNING, "rpanoptic"):
        logging.getLogger("rpanoptic").propagate = True
        assert tool.main(command(scene, tmp_path, "--drop-bins", changes=short)) == 0
    assert "left out: 60-70 ms, 70-80 ms, 80-90 ms" in caplog.text
    assert len(rows_of(tmp_path / "neural_fit.csv")) == 4
    late = command(scene, tmp_path, "--window", "70", "90", "--drop-bins", changes=short)
    assert tool.main(late) == 2
    # Of the bins that --window left.
    assert "no time_bin is left; layer conv3 answers from 20 to 60" in capsys.readouterr().err


def test_what_cannot_be_fitted_is_told_before_features_are_taken(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = read_assembly(scene.assembly)
    _, first = np.unique(given.shown, return_index=True)
    for name, places, message in (
        ("once.nc", first, "60 of 60 were shown once: s000, s001, s002, s003 and 56 more"),
        ("few.nc", given.shown < 7, "a fit needs at least 8 stimuli; it has 7"),
    ):
        fewer = replace(given, responses=given.responses[places], shown=given.shown[places])
        file = write_assembly(tmp_path / name, fewer)
        assert tool.main(command(scene, tmp_path / "o", assembly=file)) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_where_no_neuroid_counts_there_is_no_figure(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = read_assembly(scene.assembly)
    file = write_assembly(tmp_path / "IT.nc", replace(given, responses=0 * given.responses))
    output, figure = tmp_path / "o", tmp_path / "o" / "neural_fit.png"
    output.mkdir()
    figure.write_bytes(b"of an earlier fit")
    assert tool.main(command(scene, output, assembly=file)) == 0
    assert not figure.exists() and "neural_fit.png" not in capsys.readouterr().out
    table = str(output / "neural_fit.csv")
    assert tool.main(["--from-csv", table, "--output", str(tmp_path / "compared")]) == 2
    assert "no neuroid counts in any bin" in capsys.readouterr().err


def test_bad_input_is_one_message_and_status_2(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    o, empty, table = tmp_path / "o", tmp_path / "empty", tmp_path / "table.csv"
    empty.mkdir()
    table.write_text("a,b\n1,2\n")
    one, damaged = tmp_path / "one", tmp_path / "damaged"
    for folder in (one, damaged):
        folder.mkdir()
    for path in scene.stimuli.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (one / "s000.png").write_bytes((scene.stimuli / "s000.png").read_bytes())
    (damaged / "s003.png").write_bytes(b"no picture")
    cases = [
        (["--output", str(o)], "--config-file is missing (or give --from-csv)"),
        (command(scene, o, stimuli=None), "--stimuli is missing"),
        (command(scene, o, stimuli=empty), "a folder without pictures"),
        (command(scene, o, stimuli=one), "59 of its 60 stimuli are not among the 1 pictures: s001"),
        (command(scene, o, stimuli=damaged), "s003.png"),
        (command(scene, o, assembly=tmp_path / "absent.nc"), "absent.nc does not exist"),
        (command(scene, o, variable="V4"), "expected one variable named 'V4'"),
        (command(scene, o, layers="conv9"), "conv9"),
        (command(scene, o, "--layers", "conv3"), "--layers: MODEL."),
        (command(scene, o, assembly=tmp_path), "is a folder, not a NetCDF-4 file"),
        (command(scene, o, weights=tmp_path / "absent.pth"), "absent.pth does not exist"),
        (command(scene, o, weights=None), "MODEL.WEIGHTS is empty"),
        (command(scene, o, changes=FORWARD), "another architecture"),
        (command(scene, o, least_reliability="1.5"), "--least-reliability"),
        (command(scene, o, "--window", "500", "600"), "no time_bin lies between 500 and 600 ms"),
        (command(scene, o, "--from-csv", table), "give --config-file or --from-csv, not both"),
        (["--from-csv", str(table), "--output", str(o)], "no table of neural fits: it lacks label"),
    ]
    for argv, message in cases:
        assert tool.main(argv) == 2, message
        error = capsys.readouterr().err
        assert "error: " in error and message in error, (message, error)
    assert not [path for path in o.rglob("*") if path.is_file()]
