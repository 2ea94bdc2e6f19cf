"""The paper's own config on two real COCO pictures: train, be killed, resume, evaluate.

Only device, weights, sizes (with the rate that goes with the batch's), iteration counts and dataset
names are overridden.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_backbone

from rpanoptic.engine import setup_config
from tests.paths import CONFIGS, ROOT, TOOLS

VAL = "('coco_2017_val_panoptic_separated',)"
ITERATIONS = 6
OVERRIDES = {
    "MODEL.DEVICE": "cpu",
    "DATASETS.TRAIN": VAL,
    "DATASETS.TEST": VAL,
    "DATALOADER.NUM_WORKERS": "0",
    "INPUT.MIN_SIZE_TRAIN": "(128,)",
    "INPUT.MIN_SIZE_TEST": "128",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.BASE_LR": "0.0025",  # 0.02 for 16 pictures, in proportion
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "16",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": "200",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "50",
    "SOLVER.MAX_ITER": str(ITERATIONS),
    "SOLVER.CHECKPOINT_PERIOD": "2",
    "SEED": "1",
}
PATIENCE = 600  # seconds; a guard against hanging, not a measure of speed


@pytest.fixture(scope="module")
def weights(coco_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbone weights in the place of ImageNet's, which cannot be fetched here.

    Random ones, whose normalisation statistics are those of the two pictures: under the config's
    frozen normalisation, statistics of 0 and 1 would let activations grow from block to block.
    """
    torch.manual_seed(0)
    cfg = setup_config(CONFIGS / "coco_panoptic_crbp.yaml", ["MODEL.RESNETS.NORM", "BN"])
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    backbone = build_backbone(cfg)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # average over all that was seen
    mean = torch.tensor(cfg.MODEL.PIXEL_MEAN).view(1, 3, 1, 1)
    with torch.no_grad():
        for file in sorted((coco_layout / "coco" / "val2017").glob("*.jpg")):
            picture = cv2.resize(read_image(str(file), format="BGR"), (192, 128))
            tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
            backbone(tensor - mean)
    file = tmp_path_factory.mktemp("weights") / "backbone.pth"
    model = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    torch.save({"model": model}, file)
    return file


def command(output: Path, weights: Path, *flags: str) -> list[str]:
    overrides = [word for pair in OVERRIDES.items() for word in pair]
    overrides += ["MODEL.WEIGHTS", str(weights)]
    config = str(CONFIGS / "coco_panoptic_crbp.yaml")
    script = [sys.executable, str(TOOLS / "train_net.py"), "--config-file", config]
    return [*script, *flags, "OUTPUT_DIR", str(output), *overrides]


def start(
    coco_layout: Path, weights: Path, output: Path, *flags: str, log: Path
) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "DETECTRON2_DATASETS": str(coco_layout)}
    with log.open("wb") as stream:
        return subprocess.Popen(
            command(output, weights, *flags),
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(scope="module")
def killed(coco_layout: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a run that was killed after its first checkpoint."""
    output = tmp_path_factory.mktemp("run")
    log = output / "console.txt"
    process = start(coco_layout, weights, output, log=log)
    deadline = time.monotonic() + PATIENCE
    while not (output / "last_checkpoint").exists():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    return output


def test_killed_run_resumes_and_evaluates(coco_layout: Path, weights: Path, killed: Path) -> None:
    last = killed / (killed / "last_checkpoint").read_text()
    checkpoint = torch.load(last, weights_only=True)
    done = checkpoint["iteration"] + 1
    assert 0 < done < ITERATIONS
    assert not (killed / "model_final.pth").exists()

    log = killed / "resumed.txt"
    process = start(coco_layout, weights, killed, "--resume", log=log)
    assert process.wait(timeout=PATIENCE) == 0, log.read_text()[-3000:]

    text = log.read_text()
    assert f"Starting training from iteration {done}" in text
    assert "eta:" in text
    final = torch.load(killed / "model_final.pth", weights_only=True)
    assert final["iteration"] == ITERATIONS - 1

    lines = [json.loads(line) for line in (killed / "metrics.json").read_text().splitlines()]
    metrics = lines[-1]
    # Training of this length finds nothing; that all evaluators ran is what is tested.
    for key in ("panoptic_seg/PQ", "panoptic_seg/PQ_th", "panoptic_seg/PQ_st", "sem_seg/mIoU"):
        assert 0 <= metrics[key] <= 100, key
    assert {"bbox/AP", "segm/AP"} <= set(metrics)
    losses = {key: value for line in lines for key, value in line.items() if "loss" in key}
    assert {"loss_mask", "loss_lipschitz_mask", "loss_sem_seg"} <= set(losses)
    assert all(math.isfinite(value) for value in losses.values())
    assert (killed / "predictions.png").stat().st_size > 0


def test_optimizer_goes_on_where_it_was(killed: Path) -> None:
    """The momentum buffers and the schedule are in the checkpoint, not only the weights."""
    checkpoints = sorted(killed.glob("model_0*.pth"))
    checkpoint = torch.load(checkpoints[0], weights_only=True)
    trainer = checkpoint["trainer"]
    assert trainer["_trainer"]["optimizer"]["state"], "no optimizer state"
    assert checkpoint["iteration"] + 1 == 2
