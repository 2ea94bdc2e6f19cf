"""Every config file: it loads, its model builds, takes a training step, and infers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from rpanoptic.engine import setup_config
from rpanoptic.modeling.backbone.conv_rnn import build_convrnn_backbone
from rpanoptic.recurrent import RecurrentBlock, recurrent_blocks, steps_at_test
from tests.paths import CONFIGS

FILES = sorted(f for f in CONFIGS.rglob("*.yaml") if f.parent.name != "_base_")
NAMES = [file.relative_to(CONFIGS).with_suffix("").as_posix() for file in FILES]
SIDE = 64

# What makes a step of any model a matter of a second on a CPU. Nothing by which two files differ
# is among it.
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    # An untrained model must find something.
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.RECURRENT.CONVRNN.WIDTHS": [8] * 10,
    "TEST.DETECTIONS_PER_IMAGE": 5,
}
# Not for R-18, whose widths are fixed, and small.
TINY_RESNET = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
}

# The published sizes, trainable parameters with the stem and res2 frozen.
R50, R50_RECURRENT = 45_751_590, 44_968_038
R101, R101_RECURRENT = 64_691_494, 63_907_942
# Without GALA the cell has 1,312,768 parameters instead of 1,576,256. Kernels of 5 x 5 have 16
# weights more than those of 3 x 3, for each of 2 * 256 * 256 + 256 * 128 + 128 pairs of channels.
WITHOUT_GALA = 1_312_768 - 1_576_256
WITH_5X5 = 16 * (2 * 256 * 256 + 256 * 128 + 128)
# What stands in README.md: each config with its number of parameters.
ROW = re.compile(r"^\| `([\w/]+)\.yaml` \|.*?\| ([\d,]+) \|", re.MULTILINE)
LISTED = [
    (name, int(count.replace(",", "")))
    for name, count in ROW.findall((CONFIGS / "README.md").read_text(encoding="utf-8"))
]


def published_parameters(name: str) -> int | None:
    """Trainable parameters of a model with a recurrent mask head, or of a baseline.

    They follow from the published ones; None for other models.
    """
    place = re.search("fpn_|resnet|sem_seg", name)
    if place or not name.startswith(("coco_panoptic_", "coco_panoptic/R")):
        return None
    recurrent = "baseline" not in name
    if "/R101" in name:
        count = R101_RECURRENT if recurrent else R101
    else:
        count = R50_RECURRENT if recurrent else R50
    return count + ("no_gala" in name) * WITHOUT_GALA + ("5x5" in name) * WITH_5X5


def tiny_config(file: Path) -> CfgNode:
    """The config of a file, of few channels and regions."""
    options = TINY if file.stem.startswith("synthetic") else TINY | TINY_RESNET
    return setup_config(file, [str(word) for pair in options.items() for word in pair])


# What models predict, by the folder of their files; the others are panoptic.
OUTPUTS = {
    "coco_instance": {"instances"},
    "coco_detection": {"instances"},
    "coco_semantic": {"sem_seg"},
}


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
    assert {
        "coco_panoptic_crbp",
        "synthetic_panoptic_crbp",
        "coco_panoptic/R50/crbp20",
        "coco_panoptic/R101/baseline",
        "coco_panoptic/R50_reduced/crbp20_1",
    } <= set(NAMES)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_trains_and_infers(file: Path) -> None:
    torch.manual_seed(0)
    cfg = tiny_config(file)
    model = build_model(cfg)
    batch = [small_input(cfg)]
    with EventStorage():
        losses = model(batch)
    penalised = re.search(r"crbp|cbptt", file.stem) is not None
    assert any(name.startswith("loss_lipschitz") for name in losses) == penalised
    recurrent = any(isinstance(module, RecurrentBlock) for module in model.modules())
    assert recurrent == ("baseline" not in file.stem)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    model.eval()
    with torch.no_grad():
        (result,) = model([{k: v for k, v in batch[0].items() if k != "instances"}])
    task = file.relative_to(CONFIGS).parts[0]
    assert result.keys() == OUTPUTS.get(task, {"panoptic_seg", "sem_seg", "instances"})
    if "panoptic_seg" in result:
        assert result["panoptic_seg"][0].shape == (SIDE, SIDE)
    if "sem_seg" in result:
        assert result["sem_seg"].shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, SIDE, SIDE)
    if task == "coco_instance":
        assert result["instances"].pred_masks.shape[1:] == (SIDE, SIDE)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_says_what_it_is_and_writes_to_a_folder_of_its_own(file: Path) -> None:
    assert file.read_text().startswith("# ")
    cfg = setup_config(file)
    assert Path(cfg.OUTPUT_DIR) == Path("output") / file.relative_to(CONFIGS).with_suffix("")


def test_the_readme_lists_every_config_once() -> None:
    assert sorted(name for name, _ in LISTED) == NAMES
    assert sum(published_parameters(name) is not None for name in NAMES) > 40


@pytest.mark.parametrize(("name", "listed"), LISTED)
def test_trainable_parameters(name: str, listed: int) -> None:
    cfg = setup_config(CONFIGS / f"{name}.yaml", ["MODEL.DEVICE", "cpu"])
    # On the meta device nothing is initialised: only shapes are wanted.
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == listed
    assert published_parameters(name) in (None, listed)


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES} - {CONFIGS}), ids=str)
def test_what_is_compared_shares_a_schedule(folder: Path) -> None:
    """But for the files that say in their names that theirs is another one."""
    other = ("_schedule", "_as_published")
    schedules = {
        str(setup_config(file).SOLVER)
        for file in folder.glob("*.yaml")
        if not file.stem.endswith(other)
    }
    assert len(schedules) == 1


def test_the_papers_schedule_and_the_matched_baseline_are_one() -> None:
    names = ("crbp20_paper_schedule", "baseline_matched_schedule", "crbp20_as_published")
    solvers = [setup_config(CONFIGS / f"coco_panoptic/R50/{name}.yaml").SOLVER for name in names]
    assert solvers[0] == solvers[1] == solvers[2]
    wanted = {"IMS_PER_BATCH": 40, "BASE_LR": 0.05, "MAX_ITER": 90000, "STEPS": (60000, 80000)}
    assert {key: solvers[0][key] for key in wanted} == wanted


def test_the_convrnn_of_crbp_settles() -> None:
    """At its own widths, where the published nonlinearity would let activity grow for ever."""
    cfg = setup_config(CONFIGS / "coco_panoptic/ConvRNN/crbp10.yaml", ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    network = build_convrnn_backbone(cfg, ShapeSpec(channels=3)).eval()
    picture = torch.randn(1, 3, 64, 64)
    residuals = []
    for steps in (10, 20):
        with torch.no_grad(), steps_at_test(network, steps):
            network(picture)
        (block,) = recurrent_blocks(network).values()
        residuals.append(float(block.last.residual))
    # With "elu" it grows: seed 0 gave 0.09 and 0.2, and 0.02 and 0.009 with "tanh".
    assert residuals[0] < 0.05
    assert residuals[1] < 0.75 * residuals[0]
