"""A panoptic model and a dataset small enough to train for two iterations in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode

from rpanoptic.data.synthetic_panoptic import SyntheticParameters, build_synthetic_panoptic
from rpanoptic.engine import setup_config
from tests.paths import CONFIGS

TINY_CONFIG = CONFIGS / "_base_" / "synthetic_panoptic_fpn.yaml"

# A ResNet-50 of a few channels is far smaller than a ResNet-18, whose widths are fixed.
TINY_MODEL: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.NUM_CLASSES": 4,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    # An untrained model must find something.
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.NAME": "RecurrentMaskRCNNHead",
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.RECURRENT.MASK_HEAD.STEPS": 3,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": 16,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.WARMUP_ITERS": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.DETECTIONS_PER_IMAGE": 5,
    "RPANOPTIC.PICTURES": 1,
    "SEED": 1,
}

# Changes of it: a backbone whose block needs seven steps.
CONV_RNN: dict[str, Any] = {
    "MODEL__BACKBONE__NAME": "build_convrnn_fpn_backbone",
    "MODEL__RECURRENT__CONVRNN__LAYERS": [
        {"name": "conv1", "channels": 4, "kernel_size": 7, "stride": 2, "pool": True},
        {"name": "conv2", "channels": 4},
        {"name": "conv3", "channels": 4},
        {"name": "conv4", "channels": 6, "pool": True, "cell": True},
        {"name": "conv5", "channels": 6},
        {"name": "conv6", "channels": 8, "pool": True},
        {"name": "conv7", "channels": 8, "pool": True},
        {"name": "conv8", "channels": 10},
        {"name": "conv9", "channels": 10},
        {"name": "conv10", "channels": 10, "pool": True},
    ],
    "MODEL__RECURRENT__CONVRNN__FEEDBACK": [],
    "MODEL__RECURRENT__CONVRNN__STEPS": 8,
    "MODEL__RECURRENT__CONVRNN__GRADIENT": "bptt",
}


def tiny_options(**changes: Any) -> list[str]:
    """Overrides for a command line; keys of ``changes`` are written with __ for a dot."""
    options = TINY_MODEL | {key.replace("__", "."): value for key, value in changes.items()}
    return [str(word) for pair in options.items() for word in pair]


def tiny_cfg(output: Path, **changes: Any) -> CfgNode:
    """The config of the tiny model, writing to ``output``."""
    return setup_config(TINY_CONFIG, tiny_options(**changes), output_dir=output)


@pytest.fixture(scope="session")
def tiny_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DETECTRON2_DATASETS folder with a synthetic set of 4 + 2 pictures of 64 x 64."""
    root = tmp_path_factory.mktemp("tiny_datasets")
    parameters = SyntheticParameters(train=4, val=2, size=64, seed=0)
    build_synthetic_panoptic(root / "synthetic_panoptic", parameters, progress=False)
    return root


@pytest.fixture()
def tiny_data(tiny_datasets: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes :func:`tiny_datasets` what ``synthetic_panoptic_train/val`` read."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_datasets))
    return tiny_datasets
