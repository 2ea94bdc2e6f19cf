"""Whole runs of a tiny ConvRNN on digits: training, evaluation, averages, resume, sweeps."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from PIL import Image

from rpanoptic.engine import pictures, setup_config
from rpanoptic.engine.run import run
from rpanoptic.pathfinder.imagenet.pictures import answer_grid
from tests.data.helpers import load_script
from tests.engine.records import metrics

ITERATIONS = 4
# The image arrives at the last layer in step 3.
READOUTS = (3, 4, 5)
SETTINGS: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.META_ARCHITECTURE": "ImageClassifier",
    "MODEL.BACKBONE.NAME": "build_convrnn_backbone",
    "MODEL.PIXEL_MEAN": [77.8] * 3,
    "MODEL.PIXEL_STD": [95.9] * 3,
    "MODEL.CLASSIFIER.NUM_CLASSES": 10,
    "MODEL.RECURRENT.CONVRNN.LAYERS": [
        {"name": "conv1", "channels": 4},
        {"name": "conv2", "channels": 6, "pool": True, "cell": True},
        {"name": "conv3", "channels": 8, "pool": True, "cell": True},
        {"name": "conv4", "channels": 12, "cell": True},
    ],
    "MODEL.RECURRENT.CONVRNN.FEEDBACK": [["conv4", "conv2"]],
    "MODEL.RECURRENT.CONVRNN.OUT_FEATURES": ["conv4"],
    "MODEL.RECURRENT.CONVRNN.GRADIENT": "bptt",
    "MODEL.RECURRENT.CONVRNN.STEPS": READOUTS[-1],
    "DATASETS.TRAIN": ("digits_train",),
    "DATASETS.TEST": ("digits_test",),
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.RANDOM_FLIP": "none",
    "RPANOPTIC.CLASSIFICATION.SIZE": 8,
    "RPANOPTIC.CLASSIFICATION.RESIZE": 8,
    "RPANOPTIC.CLASSIFICATION.SCALE": [1.0, 1.0],
    "RPANOPTIC.TEST_BATCH": 125,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    "SOLVER.BASE_LR": 0.05,
    "SOLVER.NESTEROV": True,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.3,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.AMP.ENABLED": True,
    "RPANOPTIC.AMP_DTYPE": "bfloat16",
    "RPANOPTIC.ACCUMULATION": 2,
    "RPANOPTIC.EMA_DECAY": 0.5,
    "RPANOPTIC.BEST_METRIC": "classification/top1",
    "RPANOPTIC.LOG_PERIOD": 1,
    "RPANOPTIC.PICTURES": 2,
    "TEST.EVAL_PERIOD": 2,
    "SEED": 3,
}


def options(**changes: Any) -> list[str]:
    given = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return [str(word) for pair in given.items() for word in pair]


def make_cfg(output: Path, **changes: Any) -> CfgNode:
    return setup_config(None, options(**changes), output_dir=output)


def arguments(*, resume: bool = False, eval_only: bool = False) -> argparse.Namespace:
    return argparse.Namespace(config_file="", resume=resume, eval_only=eval_only)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("digits")
    results = run(make_cfg(folder), arguments())
    assert results is not None
    return folder, results["classification"]


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["model"]


def test_results_files_and_rates(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, results = trained
    steps = {f"top1_step_{step}" for step in READOUTS}
    assert results.keys() == {"top1", "top5", "loss", "calibration_error"} | steps
    # The decoder takes the last readout.
    assert results["top1"] == results[f"top1_step_{READOUTS[-1]}"]
    records = metrics(folder)
    assert records[ITERATIONS]["classification/top1"] == pytest.approx(results["top1"])
    # Warmed up linearly, from a thousandth to where the cosine then is, which ends at nearly 0.
    cosine = [0.05 * (1 + np.cos(np.pi * i / ITERATIONS)) / 2 for i in range(ITERATIONS)]
    rates = [records[i]["lr"] for i in range(ITERATIONS)]
    expected = [0.05 * 0.001, (0.05 * 0.001 + cosine[2]) / 2, *cosine[2:]]
    assert rates == pytest.approx(expected, rel=1e-3)
    text = json.loads((folder / "inference" / "digits_test_classification.json").read_text())
    assert text["samples"] == 500 and text["readout_steps"] == list(READOUTS)
    assert (folder / "inference" / "digits_test_accuracy_over_steps.png").is_file()
    width, height = Image.open(folder / "predictions.png").size
    assert 800 < width < 1000 and 500 < height < 700  # two pictures side by side


def test_best_and_last_hold_the_average(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, results = trained
    final = torch.load(folder / "model_final.pth", weights_only=True)
    both = final["trainer"]["hooks"]["WeightAverage"]
    name = "head.predictor.weight"
    assert torch.equal(final["model"][name], both["average"][name])
    assert not torch.equal(final["model"][name], both["training"][name])
    best = torch.load(folder / "model_best.pth", weights_only=True)["best"]
    scores = [record.get("classification/top1") for record in metrics(folder).values()]
    assert best["value"] == pytest.approx(max(score for score in scores if score is not None))
    # An evaluation of the file gives what the training gave.
    evaluated = folder / "evaluated"
    again = run(
        make_cfg(evaluated, MODEL__WEIGHTS=folder / "model_final.pth", RPANOPTIC__PICTURES=0),
        arguments(eval_only=True),
    )
    assert again is not None and again["classification"] == results


def test_resume_is_exact(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, results = trained
    first = f"model_{ITERATIONS // 2 - 1:07d}.pth"
    (tmp_path / first).write_bytes((folder / first).read_bytes())
    (tmp_path / "last_checkpoint").write_text(first)
    again = run(make_cfg(tmp_path, RPANOPTIC__PICTURES=0), arguments(resume=True))
    # One thread computes the same sums in the same order: equal to the last bit.
    assert again is not None and again["classification"] == results
    whole, resumed = (weights(path / "model_final.pth") for path in (folder, tmp_path))
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    expected = metrics(folder)
    assert metrics(tmp_path) == {i: expected[i] for i in range(ITERATIONS // 2, ITERATIONS + 1)}


def test_sweep_over_test_steps(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, results = trained
    tool = load_script("tools/sweep_steps.py")
    flags = [
        "--config-file",
        folder / "config.yaml",
        "--weights",
        folder / "model_final.pth",
        "--steps",
        "3-6",
    ]
    flags += ["--timed-pictures", "0", "--output", tmp_path]
    assert tool.main([*map(str, flags)]) == 0
    with (tmp_path / "steps.csv").open(newline="") as stream:
        rows = {int(row["test_steps"]): row for row in csv.DictReader(stream)}
    assert [*rows] == [3, 4, 5, 6]
    for step in READOUTS:
        # Features after a number of steps do not depend on how many follow.
        assert float(rows[step]["classification/top1"]) == results[f"top1_step_{step}"]
    assert (tmp_path / "classification_top1.png").is_file()
    assert "classification/top1" in capsys.readouterr().out
    fixed = [str(flag) for flag in flags] + ["MODEL.CLASSIFIER.READOUT_STEPS", "[5]"]
    assert tool.main(fixed) == 2
    assert "config: readout_steps must be among 3 to 3" in capsys.readouterr().err


class Sure(torch.nn.Module):
    """Is ever surer of the class 3."""

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        logits = torch.zeros(2, 10)
        logits[:, 3] = torch.tensor([1.0, 9.0])
        answer = {"classification": logits[1], "classification_steps": logits}
        return [answer | {"readout_steps": (4, 5)} for _ in inputs]


def test_picture_shows_what_the_model_sees(tmp_path: Path, monkeypatch: Any) -> None:
    drawn: list[tuple[Any, ...]] = []

    def note(image: Any, probabilities: Any, classes: Any, label: Any, **others: Any) -> Any:
        drawn.append((image, probabilities, classes, label, others["steps"]))
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr("rpanoptic.pathfinder.imagenet.pictures.draw_answer", note)
    model = Sure().train()
    cfg = make_cfg(tmp_path, INPUT__FORMAT="BGR")
    grid = pictures.dataset_grid(cfg, model, "digits_test", limit=4)
    assert pictures._GRIDS["image_classification"] is answer_grid
    assert grid.ndim == 3 and model.training and len(drawn) == 4
    image, probabilities, classes, label, steps = drawn[0]
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8 and steps == (4, 5)
    assert classes == [str(number) for number in range(10)] and 0 <= label < 10
    assert probabilities.sum(axis=1) == pytest.approx([1, 1])
    assert probabilities[0, 3] < probabilities[1, 3]
