"""Every config file: it loads, its model builds, takes a training step, and infers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from rpanoptic.data import check_dataset
from rpanoptic.engine import setup_config
from rpanoptic.engine.check import check_settings
from rpanoptic.engine.optimizers import build_optimizer
from rpanoptic.engine.unused import check_unused_nodes
from rpanoptic.evaluation import check_evaluators, check_learnable
from rpanoptic.modeling.backbone.conv_rnn import build_convrnn_backbone
from rpanoptic.pathfinder import source_of
from rpanoptic.recurrent import RecurrentBlock, recurrent_blocks, steps_at_test
from tests.paths import CONFIGS

FILES = sorted(f for f in CONFIGS.rglob("*.yaml") if f.parent.name != "_base_")
NAMES = [file.relative_to(CONFIGS).with_suffix("").as_posix() for file in FILES]
PATHFINDER = [file for file in FILES if file.is_relative_to(CONFIGS / "pathfinder")]
IMAGENET = [file for file in FILES if file.is_relative_to(CONFIGS / "imagenet")]
SIDE = 64
CONTOUR_SIDE = 32
# The least that leaves the shallow networks of ImageNet a map of 2 x 2 to predict from.
LABELLED_SIDE = 65

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
    "TEST.DETECTIONS_PER_IMAGE": 5,
}
# Not for R-18, whose widths are fixed, and small.
TINY_RESNET = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
}

# The channels of a ConvRNN, as a part of what they are.
TINY_WIDTH = 1 / 32

# Channels of a contour model, which then has one group of normalisation, as 25 have; and the most
# steps that are run.
TINY_PATHFINDER = {"MODEL.PATHFINDER.CHANNELS": 5}
PATHFINDER_STEPS = 20

# The published sizes, trainable parameters with the stem and res2 frozen.
R50, R50_RECURRENT = 45_751_590, 44_968_038
R101, R101_RECURRENT = 64_691_494, 63_907_942
# Without GALA the cell has 1,312,768 parameters instead of 1,576,256. Kernels of 5 x 5 have 16
# weights more than those of 3 x 3, for each of 2 * 256 * 256 + 256 * 128 + 128 pairs of channels.
WITHOUT_GALA = 1_312_768 - 1_576_256
WITH_5X5 = 16 * (2 * 256 * 256 + 256 * 128 + 128)
# Contour models: the hGRU by the side of its kernels. Of the published parameters, 100 are those of
# two norms that the released code builds and never uses.
CONTOUR_HGRU = {3: 14_227 - 100, 5: 34_227 - 100, 9: 104_227 - 100, 15: 284_227 - 100}
CONTOUR_LSTM, CONTOUR_FEEDFORWARD = 1_126_452, 845_527
# Classifiers of pictures, whose weights fit one size of them.
OF_ONE_SIZE = ("conv_lstm_searched",)
# What stands in README.md: each config with its number of parameters.
ROW = re.compile(r"^\| `([\w/]+)\.yaml` \|.*?\| ([\d,]+) \|", re.MULTILINE)
LISTED = [
    (name, int(count.replace(",", "")))
    for name, count in ROW.findall((CONFIGS / "README.md").read_text(encoding="utf-8"))
]


def published_parameters(name: str) -> int | None:
    """Trainable parameters of a model of which, or of one much like it, they are published.

    None for other models.
    """
    if name.startswith("pathfinder/"):
        return published_contour_parameters(name)
    place = re.search("fpn_|resnet|sem_seg", name)
    if place or not name.startswith(("coco_panoptic_", "coco_panoptic/R")):
        return None
    recurrent = "baseline" not in name
    if "/R101" in name:
        count = R101_RECURRENT if recurrent else R101
    else:
        count = R50_RECURRENT if recurrent else R50
    return count + ("no_gala" in name) * WITHOUT_GALA + ("5x5" in name) * WITH_5X5


def published_contour_parameters(name: str) -> int | None:
    """As :func:`published_parameters`, of a model of Pathfinder."""
    if "classification" in name or "unet" in name or "tiny" in name:
        return None
    if "baseline" in name:
        return CONTOUR_FEEDFORWARD
    if "conv_lstm" in name:
        return CONTOUR_LSTM
    side = re.search(r"_(\d+)x\1", name)
    return CONTOUR_HGRU[int(side[1]) if side else 15]


def tiny_config(file: Path) -> CfgNode:
    """The config of a file, of few channels, regions and steps."""
    if file in PATHFINDER:
        options = TINY | TINY_PATHFINDER
    else:
        options = TINY if file.stem.startswith("synthetic") else TINY | TINY_RESNET
    cfg = setup_config(file, [str(word) for pair in options.items() for word in pair])
    node = cfg.MODEL.RECURRENT.PATHFINDER
    node.STEPS = min(node.STEPS, PATHFINDER_STEPS)
    cfg.MODEL.RECURRENT.CONVRNN.WIDTH *= TINY_WIDTH
    return cfg


# What models predict, by the nearest folder of their files; the others are panoptic.
OUTPUTS = {
    "pathfinder": {"sem_seg"},
    "pathfinder/PF14_classification": {"classification"},
    "imagenet": {"classification", "classification_steps", "readout_steps", "readout_step"},
    "coco_instance": {"instances"},
    "coco_detection": {"instances"},
    "coco_semantic": {"sem_seg"},
}


def outputs_of_file(file: Path) -> set[str]:
    """The keys of what the model of a file predicts."""
    for folder in file.relative_to(CONFIGS).parents:
        if folder.as_posix() in OUTPUTS:
            return OUTPUTS[folder.as_posix()]
    return {"panoptic_seg", "sem_seg", "instances"}


def small_contour() -> dict[str, object]:
    """One picture with one contour among noise, as the mapper of Pathfinder makes it."""
    side = CONTOUR_SIDE
    target = torch.zeros(side, side, dtype=torch.int64)
    target[14:16, 4:20] = 1
    picture = 255.0 * torch.maximum(target, torch.rand(side, side) > 0.9)
    return {"image": picture[None], "sem_seg": target, "label": 1, "height": side, "width": side}


def small_labelled(cfg: CfgNode, file: Path) -> dict[str, object]:
    """One picture of noise with a label, as the mapper of labelled pictures makes it."""
    side = min(cfg.RPANOPTIC.CLASSIFICATION.SIZE, LABELLED_SIDE)
    if file.stem in OF_ONE_SIZE:
        side = cfg.RPANOPTIC.CLASSIFICATION.SIZE
    picture = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    label = cfg.MODEL.CLASSIFIER.NUM_CLASSES - 1
    return {"image": picture, "label": label, "height": side, "width": side}


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
        "pathfinder/PF14/crbp20",
        "imagenet/intermediate/reciprocal_gated",
    } <= set(NAMES)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_trains_and_infers(file: Path) -> None:
    torch.manual_seed(0)
    cfg = tiny_config(file)
    model = build_model(cfg)
    if file in IMAGENET:
        picture = small_labelled(cfg, file)
    else:
        picture = small_contour() if file in PATHFINDER else small_input(cfg)
    with EventStorage():
        losses = model([picture])
    penalised = re.search(r"crbp|cbptt", file.stem) is not None
    assert any(name.startswith("loss_lipschitz") for name in losses) == penalised
    recurrent = any(isinstance(module, RecurrentBlock) for module in model.modules())
    assert recurrent == (re.search(r"baseline|feedforward|resnet\d", file.stem) is None)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    model.eval()
    with torch.no_grad():
        (result,) = model([{key: picture[key] for key in ("image", "height", "width")}])
    assert result.keys() == outputs_of_file(file)
    size = (picture["height"], picture["width"])
    if "panoptic_seg" in result:
        assert result["panoptic_seg"][0].shape == size
    if "sem_seg" in result:
        assert result["sem_seg"].shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, *size)
    if "classification" in result:
        classes = cfg.MODEL.CLASSIFIER.NUM_CLASSES if file in IMAGENET else 2
        assert result["classification"].shape == (classes,)
    if file.is_relative_to(CONFIGS / "coco_instance"):
        assert result["instances"].pred_masks.shape[1:] == size


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_says_what_it_is_and_writes_to_a_folder_of_its_own(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert file.read_text().startswith("# ")
    cfg = setup_config(file)
    check_unused_nodes(cfg)
    assert "is set, but" not in caplog.text
    assert Path(cfg.OUTPUT_DIR) == Path("output") / file.relative_to(CONFIGS).with_suffix("")


def test_the_readme_lists_every_config_once() -> None:
    assert sorted(name for name, _ in LISTED) == NAMES
    assert sum(published_parameters(name) is not None for name in NAMES) > 70


@pytest.mark.parametrize(("name", "listed"), LISTED)
def test_trainable_parameters(name: str, listed: int) -> None:
    model = _meta_model(setup_config(CONFIGS / f"{name}.yaml", ["MODEL.DEVICE", "cpu"]))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == listed
    assert published_parameters(name) in (None, listed)


def _meta_model(cfg: CfgNode) -> torch.nn.Module:
    """A model on the meta device, where nothing is initialised: only shapes are wanted."""
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


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


@pytest.mark.parametrize("name", ["coco_panoptic/ConvRNN/crbp10", "imagenet/small/crbp20"])
def test_the_convrnns_of_crbp_settle(name: str) -> None:
    """At their own widths, where the published nonlinearity would let activity grow for ever."""
    cfg = setup_config(CONFIGS / f"{name}.yaml", ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    network = build_convrnn_backbone(cfg, ShapeSpec(channels=3)).eval()
    picture = torch.randn(1, 3, 64, 64)
    residuals = []
    for steps in (10, 20):
        with torch.no_grad(), steps_at_test(network, steps):
            network(picture)
        (block,) = recurrent_blocks(network).values()
        residuals.append(float(block.last.residual))
    # With "elu" the first grows: seed 0 gave 0.09 and 0.2, and 0.02 and 0.009 with "tanh".
    assert residuals[0] < 0.05
    assert residuals[1] < 0.75 * residuals[0]


@pytest.mark.parametrize("file", PATHFINDER, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_contour_model_can_train_on_its_sets_and_be_judged_by_them(file: Path) -> None:
    cfg = setup_config(file, ["MODEL.DEVICE", "cpu"])
    check_settings(cfg)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        check_dataset(name)
        # A training set too would be judged: it is of the form that the model is for.
        check_evaluators(cfg, name)
    assert cfg.DATASETS.TRAIN[0].replace("_train", "_val") == cfg.DATASETS.TEST[0]


@pytest.mark.parametrize("file", IMAGENET, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_classifier_fits_its_sets(file: Path) -> None:
    """As far as can be said without ImageNet's files."""
    cfg = setup_config(file, ["MODEL.DEVICE", "cpu"])
    check_settings(cfg)
    assert len(cfg.DATASETS.TRAIN) == len(cfg.DATASETS.TEST) == 1
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        check_learnable(cfg, name)
        check_evaluators(cfg, name)
    # ImageNet's classes are read from its folders.
    classes = {"imagenet_train": 1000, "imagenet_search_train": 100}
    (name,) = cfg.DATASETS.TRAIN
    count = classes[name] if name in classes else len(MetadataCatalog.get(name).classes)
    assert count == cfg.MODEL.CLASSIFIER.NUM_CLASSES


def test_the_recipe_of_imagenet() -> None:
    cfg = setup_config(CONFIGS / "imagenet/intermediate/reciprocal_gated.yaml")
    solver = cfg.SOLVER
    batches = solver.IMS_PER_BATCH / 64
    assert batches * 0.01 == pytest.approx(solver.BASE_LR)
    pictures = 1_281_167
    ends = (*solver.STEPS, solver.MAX_ITER)
    epochs = [end * solver.IMS_PER_BATCH / pictures for end in ends]
    assert epochs == pytest.approx([30, 60, 80, 90], abs=1e-3)
    optimizer = build_optimizer(cfg, torch.nn.Linear(2, 2))
    wanted = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
    assert {key: optimizer.defaults[key] for key in wanted} == wanted
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in _meta_model(cfg).modules())


@pytest.mark.parametrize(("length", "steps"), [(20, 30), (25, 80)])
def test_longer_contours_change_the_data_and_the_steps_alone(length: int, steps: int) -> None:
    files = sorted((CONFIGS / f"pathfinder/PF{length}").glob("*.yaml"))
    assert len(files) == 7
    for file in files:
        stem = re.sub(r"(rbp)\d+", r"\g<1>20", file.stem)
        longer, cfg = setup_config(file), setup_config(CONFIGS / f"pathfinder/PF14/{stem}.yaml")
        if "rbp" in stem:
            node = longer.MODEL.RECURRENT.PATHFINDER
            assert steps == node.STEPS
            node.STEPS = 20
        for split in ("TRAIN", "TEST"):
            (name,) = cfg.DATASETS[split]
            assert longer.DATASETS[split] == (name.replace("_14_", f"_{length}_"),)
            longer.DATASETS[split] = cfg.DATASETS[split]
        longer.OUTPUT_DIR = cfg.OUTPUT_DIR
        assert longer == cfg


def test_the_papers_setting_of_pathfinder() -> None:
    cfg = setup_config(CONFIGS / "pathfinder/PF14/crbp20.yaml")
    pictures = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
    assert pictures == 20 * len(source_of(cfg.DATASETS.TRAIN[0]))
    # An evaluation an epoch, the last after the last iteration.
    assert -(-cfg.SOLVER.MAX_ITER // cfg.TEST.EVAL_PERIOD) == 20
    node = cfg.MODEL.RECURRENT.PATHFINDER
    assert (node.GRADIENT, node.STEPS, node.ADJOINT.MAX_STEPS) == ("crbp", 20, 15)
    assert node.LIPSCHITZ == {"TAU": 0.9, "WEIGHT": 10.0, "REDUCTION": "mean", "TWO_SIDED": False}


@pytest.mark.parametrize(
    ("name", "last"), [("PF14/crbp20", 1e-3), ("PF14_kernel/crbp100_5x5_cosine_schedule", 0.0)]
)
def test_the_rate_is_the_papers_from_the_start_and_falls_only_along_the_cosine(
    name: str, last: float
) -> None:
    cfg = setup_config(CONFIGS / f"pathfinder/{name}.yaml", ["SOLVER.MAX_ITER", "10"])
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = build_optimizer(cfg, torch.nn.ParameterList([parameter]))
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["weight_decay"] == 0
    schedule = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == 1e-3
    assert schedule.get_last_lr() == pytest.approx([last])
    assert rates == sorted(rates, reverse=True)
