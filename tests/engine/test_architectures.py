"""Whole runs of the meta-architectures beside Panoptic FPN: trained, evaluated, drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rpanoptic.engine.check import check_run
from rpanoptic.engine.run import run
from tests.engine.test_trainer import arguments
from tests.modeling.meta_arch.models import MODELS, model_cfg

RESULTS = {
    "RecurrentPanopticFPN": {"sem_seg", "bbox", "segm", "panoptic_seg"},
    "RecurrentGeneralizedRCNN": {"bbox", "segm"},
    "RecurrentRetinaNet": {"bbox"},
    "RecurrentSemanticSegmentor": {"sem_seg"},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_run(name: str, tiny_data: Path, tmp_path: Path) -> None:
    cfg = model_cfg(name, tmp_path, SOLVER__MAX_ITER=1)
    check_run(cfg)
    results = run(cfg, arguments())
    assert results is not None and set(results) == RESULTS[name]
    assert (tmp_path / "predictions.png").is_file()
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    logged = {key for line in lines for key in json.loads(line)}
    assert MODELS[name][1] <= logged
