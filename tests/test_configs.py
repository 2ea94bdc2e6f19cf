"""Every config file: it loads, its model builds, takes a training step, and infers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from rpanoptic.engine import setup_config
from tests.paths import CONFIGS

FILES = sorted(CONFIGS.glob("*.yaml"))
SIDE = 64


def small_input(cfg: CfgNode) -> dict[str, object]:
    """One picture with one thing, as the dataset mapper makes it."""
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, 8:40, 8:48] = True
    instances = Instances((SIDE, SIDE))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 48.0, 40.0]]))
    instances.gt_classes = torch.tensor([cfg.MODEL.ROI_HEADS.NUM_CLASSES - 1])
    instances.gt_masks = BitMasks(mask)
    picture = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    semantic = torch.where(mask[0], 0, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1)
    return {
        "image": picture,
        "instances": instances,
        "sem_seg": semantic,
        "height": SIDE,
        "width": SIDE,
    }


def test_there_are_configs() -> None:
    assert {"coco_panoptic_crbp.yaml", "synthetic_panoptic_crbp.yaml"} <= {f.name for f in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_trains_and_infers(file: Path) -> None:
    torch.manual_seed(0)
    # The device of this machine; fewer regions, so that a CPU does it in seconds.
    cfg = setup_config(file, ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8"])
    model = build_model(cfg)
    batch = [small_input(cfg)]
    with EventStorage():
        losses = model(batch)
    assert ("loss_lipschitz_mask" in losses) == ("crbp" in file.stem)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    for name, parameter in model.roi_heads.mask_head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    model.eval()
    with torch.no_grad():
        (result,) = model([{k: v for k, v in batch[0].items() if k != "instances"}])
    assert result["panoptic_seg"][0].shape == (SIDE, SIDE)
    assert result["sem_seg"].shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, SIDE, SIDE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_has_an_output_folder_of_its_own(file: Path) -> None:
    cfg = setup_config(file)
    assert Path(cfg.OUTPUT_DIR) == Path("output") / file.stem
