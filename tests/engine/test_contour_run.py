"""Runs on Pathfinder from end to end: trained, judged, the best kept, swept over test steps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset

from rpanoptic.engine import Trainer, setup_config
from rpanoptic.engine.run import run
from rpanoptic.evaluation.steps import evaluate_steps
from rpanoptic.pathfinder import register_pathfinder_on_the_fly
from rpanoptic.pathfinder.settings import small_32_settings
from rpanoptic.recurrent import steps_at_test
from tests.data.helpers import load_script
from tests.engine.records import metrics

SETS = {
    (form, split): f"pathfinder_of_test_contour_run_{form}_{split}"
    for form in ("segmentation", "classification")
    for split in ("train", "val")
}
OPTIONS: dict[str, Any] = {
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": (32,),
    "INPUT.MIN_SIZE_TEST": 32,
    "INPUT.RANDOM_FLIP": "both",
    "MODEL.DEVICE": "cpu",
    "MODEL.META_ARCHITECTURE": "ContourSegmentor",
    "MODEL.SEM_SEG_HEAD.NAME": "ContourHead",
    "MODEL.BACKBONE.NAME": "build_pathfinder_recurrent_backbone",
    "MODEL.PIXEL_MEAN": [0.0],
    "MODEL.PIXEL_STD": [255.0],
    "MODEL.PATHFINDER.CHANNELS": 32,
    # An untrained model must find something, and not all: no statistics, no small probability.
    "MODEL.PATHFINDER.OUTPUT_NORM": "GN",
    "MODEL.PATHFINDER.FOREGROUND_PRIOR": 0.5,
    "MODEL.RECURRENT.PATHFINDER.KERNEL_SIZE": 3,
    "MODEL.RECURRENT.PATHFINDER.STEPS": 2,
    "MODEL.RECURRENT.PATHFINDER.GRADIENT": "bptt",
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.STEPS": (),
    "SOLVER.WARMUP_ITERS": 0,
    "TEST.EVAL_PERIOD": 1,
    "RPANOPTIC.LOG_PERIOD": 1,
    "RPANOPTIC.OPTIMIZER": "adam",
    "RPANOPTIC.TEST_BATCH": 4,
    "RPANOPTIC.BEST_METRIC": "contour/F1",
    "SEED": 1,
}
NAMES = {"F1", "IoU", "precision", "recall", "balanced_accuracy"}


@pytest.fixture(scope="module", autouse=True)
def sets() -> Iterator[None]:
    for seed, ((form, _), name) in enumerate(SETS.items()):
        settings = small_32_settings(length=4, distractors=1, form=form)
        register_pathfinder_on_the_fly(name, settings, seed, 10)
    yield
    for name in SETS.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def options(form: str = "segmentation", **changes: Any) -> list[str]:
    named = {"DATASETS.TRAIN": (SETS[form, "train"],), "DATASETS.TEST": (SETS[form, "val"],)}
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return [str(word) for pair in (OPTIONS | named | changed).items() for word in pair]


def arguments(*, eval_only: bool = False) -> argparse.Namespace:
    return argparse.Namespace(config_file="", resume=False, eval_only=eval_only)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, sets: None) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("contour_run")
    results = run(setup_config(None, options(), output_dir=folder), arguments())
    assert results is not None
    return folder, results


def evaluated(folder: Path, weights: Path) -> tuple[CfgNode, Any]:
    cfg = setup_config(None, options(MODEL__WEIGHTS=weights), output_dir=folder)
    model = Trainer.build_model(cfg)
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    return cfg, model.eval()


def test_the_best_by_f1_is_kept_and_its_table_is_logged(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, results = trained
    assert results.keys() == {"contour"}
    assert results["contour"].keys() == NAMES | {f"batch_{name}" for name in NAMES}
    found = {i: line["contour/F1"] for i, line in metrics(folder).items() if "contour/F1" in line}
    assert len(found) == 3 and len(set(found.values())) > 1
    best = torch.load(folder / "model_best.pth", weights_only=True)["best"]
    assert best["metric"] == "contour/F1"
    assert best["value"] == max(value for value in found.values() if value is not None) > 0
    # The model in the file is the one that was judged.
    cfg = setup_config(None, options(MODEL__WEIGHTS=folder / "model_best.pth"), output_dir=tmp_path)
    again = run(cfg, arguments(eval_only=True))
    assert again is not None and again["contour"]["F1"] == pytest.approx(best["value"], rel=1e-6)
    assert "whole set" in (folder / "log.txt").read_text()
    assert (folder / "predictions.png").is_file()


def test_a_sweep_in_one_pass_equals_separate_evaluations(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    cfg, model = evaluated(tmp_path, trained[0] / "model_best.pth")
    name = cfg.DATASETS.TEST[0]
    swept = {one.steps: one.metrics for one in evaluate_steps(cfg, model, name, [1, 2, 5])}
    for steps, figures in swept.items():
        assert steps is not None
        with steps_at_test(model, steps):
            loader = Trainer.build_test_loader(cfg, name)
            plain = inference_on_dataset(model, loader, Trainer.build_evaluator(cfg, name))
        for key, value in figures.items():
            assert plain["contour"][key.removeprefix("contour/")] == value, (steps, key)
    assert swept[1]["contour/F1"] != swept[5]["contour/F1"]


def test_the_tool_takes_the_metric_of_the_config(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_script("tools/sweep_steps.py")
    config = tmp_path / "tiny.yaml"
    config.write_text("VERSION: 2\n")
    names = [SETS["segmentation", split] for split in ("val", "train")]
    flags = ["--config-file", str(config), "--weights", str(trained[0] / "model_best.pth")]
    flags += ["--steps", "1-8", "--timed-pictures", "1", "--output", str(tmp_path / "o")]
    assert tool.main([*flags, "--dataset", *names, "--label", "a", *options()]) == 0
    written = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert written == ["contour_F1.md", "contour_F1.png", "steps.csv"]
    line = (tmp_path / "o" / "contour_F1.md").read_text().splitlines()[-1]
    assert " @ 2 |" in line and " @ 4 |" in line and line.endswith(" @ 8 |")
    assert "contour/F1" in capsys.readouterr().out


def test_classification(tmp_path: Path) -> None:
    changes = {
        "MODEL__META_ARCHITECTURE": "ContourClassifier",
        "RPANOPTIC__BEST_METRIC": "classification/accuracy",
        "SOLVER__MAX_ITER": 1,
    }
    cfg = setup_config(None, options("classification", **changes), output_dir=tmp_path)
    results = run(cfg, arguments())
    assert results is not None and results.keys() == {"classification"}
    assert results["classification"]["accuracy"] in range(0, 101, 10)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)["best"]
    assert best["value"] == results["classification"]["accuracy"]
    assert "accuracy " in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "predictions.png").is_file()
