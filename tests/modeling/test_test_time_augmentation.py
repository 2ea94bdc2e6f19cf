"""Test-time augmentation: what several views of a picture come to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from torch import Tensor
from torch.nn import functional as F

from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.modeling.test_time_augmentation import with_test_time_augmentation
from rpanoptic.modeling.test_time_views import Views
from rpanoptic.recurrent import recurrent_blocks
from tests.engine.tiny import CONV_RNN
from tests.modeling.meta_arch.models import MODELS, assert_same_outputs, model_cfg
from tests.modeling.pixel_models import pixel_panoptic, pixel_retinanet, pixel_segmentor

SIDE = 64  # INPUT.MIN_SIZE_TEST of the tiny models
PLAIN_PARTS = {
    "MODEL__BACKBONE__NAME": "build_resnet_fpn_backbone",
    "MODEL__SEM_SEG_HEAD__NAME": "SemSegFPNHead",
    "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead",
}


def augmenting(cfg: CfgNode, sizes: Sequence[int] = (SIDE,), *, flip: bool = False) -> CfgNode:
    cfg.TEST.AUG.ENABLED = True
    cfg.TEST.AUG.MIN_SIZES = tuple(sizes)
    cfg.TEST.AUG.MAX_SIZE = cfg.INPUT.MAX_SIZE_TEST
    cfg.TEST.AUG.FLIP = flip
    return cfg


def made(cfg: CfgNode) -> Any:
    """The model, whose answers differ: an untrained mask head says one half everywhere."""
    torch.manual_seed(0)
    model = build_model(cfg)
    if hasattr(model, "roi_heads"):
        torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight)
    if hasattr(model, "sem_seg_head"):
        # Untrained, it says the same class of all pixels.
        model.sem_seg_head.register_forward_hook(_centre)
    if hasattr(model, "head"):
        # Untrained features are so large that boxes would leave the picture.
        model.head.register_forward_pre_hook(lambda _, given: ([f / 1e3 for f in given[0]],))
    return model.eval()


def _centre(_: Any, given: Any, output: tuple[Tensor, dict[str, Any]]) -> Any:
    logits, losses = output
    return logits - logits.mean(dim=(2, 3), keepdim=True), losses


def noise(height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": pixels, "height": height, "width": width}


def resized(picture: dict[str, Any], cfg: CfgNode) -> dict[str, Any]:
    """The picture as an evaluation without augmentation reads it."""
    pixels = picture["image"].permute(1, 2, 0).numpy()
    side = cfg.INPUT.MIN_SIZE_TEST
    resize = ResizeShortestEdge([side, side], cfg.INPUT.MAX_SIZE_TEST).get_transform(pixels)
    image = torch.tensor(resize.apply_image(pixels)).permute(2, 0, 1)
    return {**picture, "image": image}


def assert_telling(outputs: dict[str, Any]) -> None:
    if "instances" in outputs:
        found = outputs["instances"]
        assert len(found) > 1
        if found.has("pred_masks"):
            assert 0 < found.pred_masks.float().mean() < 1
    if "panoptic_seg" in outputs:
        assert len(outputs["panoptic_seg"][1]) > 1
    if "sem_seg" in outputs:
        assert len(outputs["sem_seg"].argmax(dim=0).unique()) > 1


# Sizes of which the model's own are no multiples: boxes, scaled there and back, would be rounded.
@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 80), (50, 71), (101, 77)])
@pytest.mark.parametrize("name", [*MODELS, *(name.removeprefix("Recurrent") for name in MODELS)])
def test_the_view_that_the_model_has_anyway_changes_nothing(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    if name in MODELS:
        cfg = model_cfg(name, tmp_path)
    else:
        parts = dict(PLAIN_PARTS)
        if name == "RetinaNet":
            parts["MODEL__BACKBONE__NAME"] = "build_retinanet_resnet_fpn_backbone"
        steps = {
            f"MODEL__RECURRENT__{part}__STEPS": 20 for part in ("FPN", "MASK_HEAD", "SEM_SEG_HEAD")
        }
        changes = {"MODEL__META_ARCHITECTURE": name} | parts | steps
        cfg = model_cfg(f"Recurrent{name}", tmp_path, **changes)
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = 0.1
    model = made(cfg)
    picture = noise(*size)
    (plain,) = model([resized(picture, cfg)])
    assert_telling(plain)
    (augmented,) = with_test_time_augmentation(augmenting(cfg), model)([picture])
    # To the last bit: one view's scores are averaged over one view, its boxes are not suppressed
    # again, and its masks are of the boxes as they were found.
    assert_same_outputs(augmented, plain)


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {
            "MODEL__BACKBONE__NAME": "build_recurrent_resnet_fpn_backbone",
            "MODEL__RECURRENT__RESNET__STEPS": 3,
            "MODEL__RECURRENT__RESNET__OUTPUT_NORM": "",
        },
        {"MODEL__RECURRENT__FPN__PLACE": "topdown"},
        CONV_RNN,
    ],
    ids=["resnet", "top-down", "convrnn"],
)
def test_recurrent_backbones_of_other_kinds(changes: dict[str, Any], tmp_path: Path) -> None:
    cfg = model_cfg("RecurrentPanopticFPN", tmp_path, **changes)
    model = made(cfg)
    picture = noise(50, 71)
    (plain,) = model([resized(picture, cfg)])
    (augmented,) = with_test_time_augmentation(augmenting(cfg), model)([picture])
    assert_same_outputs(augmented, plain)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in MODELS if name != "RecurrentRetinaNet"])
def test_the_same_view_twice_changes_nothing(name: str, tmp_path: Path) -> None:
    cfg = model_cfg(name, tmp_path)
    model = made(cfg)
    picture = noise(64, 80)
    (plain,) = model([picture])
    (augmented,) = with_test_time_augmentation(augmenting(cfg, (SIDE, SIDE)), model)([picture])
    # Boxes are not scaled, and half of a number twice is the number: to the last bit, too.
    assert_same_outputs(augmented, plain)


@torch.no_grad()
def test_halting_masks_and_other_steps(tmp_path: Path) -> None:
    node = "MODEL__RECURRENT__MASK_HEAD"
    changes = {f"{node}__HALT_TOL": 0.3, f"{node}__STEPS_TEST": 20}
    cfg = model_cfg("RecurrentPanopticFPN", tmp_path, **changes)
    model = made(cfg)
    picture = noise(50, 71)
    augmented = with_test_time_augmentation(augmenting(cfg), model)
    taken = []
    for steps in (None, 2, {"sem_seg_head.recurrence": 9}):
        (plain,) = model([resized(picture, cfg)], steps=steps)
        # Of several views a mask would have several numbers of steps.
        plain["instances"].remove("mask_steps")
        (ours,) = augmented([picture], steps=steps)
        assert_same_outputs(ours, plain)
        taken.append(ours["sem_seg"])
    assert not torch.equal(taken[0], taken[1]) and not torch.equal(taken[0], taken[2])
    with pytest.raises(ValueError, match=r"no recurrent block 'heads'.*sem_seg_head\.recurrence"):
        augmented([picture], steps={"heads": 2})
    assert [block.steps_test for block in recurrent_blocks(model).values()].count(20) == 1


@torch.no_grad()
def test_a_box_meets_the_view_that_found_it_as_it_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled to 50 x 71 pixels and back to 64 x 91, some would differ in their last bit."""
    cfg = model_cfg("RecurrentGeneralizedRCNN", tmp_path)
    model = made(cfg)
    seen: list[Tensor] = []
    plain = model.roi_heads.forward_with_given_boxes

    def recording(features: Any, found: Any) -> Any:
        if model.roi_heads.mask_on:
            seen.append(found[0].pred_boxes.tensor.clone())
        return plain(features, found)

    monkeypatch.setattr(model.roi_heads, "forward_with_given_boxes", recording)
    picture = noise(50, 71)
    model([resized(picture, cfg)])
    with_test_time_augmentation(augmenting(cfg), model)([picture])
    found, given = seen
    assert torch.equal(given, found) and len(found) > 1


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_sizes_and_mirrors(name: str, tmp_path: Path) -> None:
    cfg = model_cfg(name, tmp_path)
    model = made(cfg)
    seen: list[tuple[int, ...]] = []
    model.backbone.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    augmented = with_test_time_augmentation(augmenting(cfg, (64, 32), flip=True), model)
    batch = [noise(64, 96), noise(60, 50)]
    outputs = augmented(batch)
    # One view at a time, in the model's multiples of 32 pixels. Masks need a second look.
    once = [(1, 3, 64, 96)] * 2 + [(1, 3, 32, 64)] * 2
    other = [(1, 3, 96, 64)] * 2 + [(1, 3, 64, 32)] * 2
    looks = 2 if "RCNN" in name or "Panoptic" in name else 1
    assert seen == once * looks + other * looks
    for picture, output in zip(batch, outputs, strict=True):
        height, width = picture["image"].shape[1:]
        assert_same_outputs(augmented([picture])[0], output)
        if "sem_seg" in output:
            assert output["sem_seg"].shape == (5, height, width)
        if "panoptic_seg" in output:
            assert output["panoptic_seg"][0].shape == (height, width)
        if "instances" in output:
            found = output["instances"]
            assert found.image_size == (height, width)
            assert 0 < len(found) <= cfg.TEST.DETECTIONS_PER_IMAGE
            assert (found.scores.diff() <= 0).all()


def test_semantic_scores_are_averaged_at_the_size_of_the_picture(tmp_path: Path) -> None:
    cfg = model_cfg("RecurrentSemanticSegmentor", tmp_path)
    augmented = with_test_time_augmentation(augmenting(cfg, (30, 45, 60)), pixel_segmentor())
    picture = noise(40, 70)
    (output,) = augmented([picture])
    expected = torch.zeros(3, 40, 70)
    for side in (30, 45, 60):
        cfg.INPUT.MIN_SIZE_TEST = side
        pixels = resized(picture, cfg)["image"][None].float()
        expected += F.interpolate(pixels, (40, 70), mode="bilinear")[0] / 3
    # Sums in another order, of numbers up to 255.
    torch.testing.assert_close(output["sem_seg"], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(64, 96), (50, 71)])
def test_mirrored_views_are_turned_back(size: tuple[int, int], tmp_path: Path) -> None:
    """Models that see no difference between left and right say of both views the same."""
    cfg = model_cfg("RecurrentPanopticFPN", tmp_path)
    # The view has the picture's size, so that it is padded, but not resized.
    cfg = augmenting(cfg, (min(size),), flip=True)
    picture = noise(*size)
    picture["image"] //= 2
    # A triangle, far from what its mirror image covers.
    below = torch.ones(30, 30, dtype=torch.bool).tril()
    picture["image"][0, 10:40, 5:35][below] = 255
    for model in (pixel_panoptic(), pixel_retinanet(), pixel_segmentor()):
        (plain,) = model([picture])
        (augmented,) = with_test_time_augmentation(cfg, model)([picture])
        assert plain.keys() == augmented.keys()
        if "sem_seg" in plain:
            assert torch.equal(augmented["sem_seg"], plain["sem_seg"])
        if "instances" in plain:
            found, own = augmented["instances"], plain["instances"]
            assert own.pred_boxes.tensor.tolist() == [[5, 10, 35, 40]]
            assert torch.equal(found.pred_boxes.tensor, own.pred_boxes.tensor)
        if "panoptic_seg" in plain:
            assert own.pred_masks[0].sum() == pytest.approx(int(below.sum()), abs=30)
            # A mirrored mask is sampled at mirrored points, so rounding may move its edge.
            assert (found.pred_masks != own.pred_masks).sum() <= 2
            segments, infos = augmented["panoptic_seg"]
            assert infos[0]["isthing"] and (segments != plain["panoptic_seg"][0]).sum() <= 2


def test_the_best_of_all_views_is_kept(tmp_path: Path) -> None:
    """A model that is surer of things on the right, and finds none that is far on the left."""
    cfg = augmenting(model_cfg("RecurrentPanopticFPN", tmp_path), (64,), flip=True)
    picture = noise(64, 96)
    picture["image"] //= 2
    picture["image"][0, 10:40, 5:35] = 255
    for model in (pixel_panoptic(side="right"), pixel_retinanet(side="right")):
        (plain,) = model([picture])
        (augmented,) = with_test_time_augmentation(cfg, model)([picture])
        assert len(plain["instances"]) == 0
        found = augmented["instances"]
        assert found.pred_boxes.tensor.tolist() == [[5, 10, 35, 40]]
        # The middle of the mirrored box is at 76 of 96 pixels.
        assert found.scores.item() == pytest.approx(76 / 96)
        if found.has("pred_masks"):
            assert found.pred_masks[0, 10:40, 5:35].all() and found.pred_masks.sum() == 900
        # Both views find what stands in the middle, the mirrored one by a hair less.
        middle = noise(64, 96)
        middle["image"] //= 2
        middle["image"][0, 10:40, 34:64] = 255
        (both,) = with_test_time_augmentation(cfg, model)([middle])
        assert both["instances"].pred_boxes.tensor.tolist() == [[34, 10, 64, 40]]
        assert both["instances"].scores.item() == pytest.approx(49 / 96)


def test_masks_are_looked_for_again_after_an_error(tmp_path: Path) -> None:
    model = pixel_panoptic()
    augmented = with_test_time_augmentation(
        augmenting(model_cfg("RecurrentPanopticFPN", tmp_path)), model
    )
    with pytest.raises(DatasetError, match=r"long\.png: 2000 x 1 pixels are too narrow"):
        augmented([{**noise(1, 2000), "file_name": "long.png"}])
    assert model.roi_heads.mask_on
    model.sem_seg_head = torch.nn.Identity()
    with pytest.raises(TypeError):
        augmented([noise(64, 64)])
    assert model.roi_heads.mask_on


def test_views() -> None:
    picture = noise(40, 80)
    views = list(Views((20, 40, 60), 100, flip=True).of({"image": picture["image"]}))
    assert [view.size for view in views] == [(20, 40)] * 2 + [(40, 80)] * 2 + [(50, 100)] * 2
    assert [view.mirrored for view in views] == [False, True] * 3
    assert all(view.output_size == (40, 80) for view in views)
    assert torch.equal(views[2].inputs["image"], picture["image"])
    assert torch.equal(views[3].inputs["image"], picture["image"].flip(-1))
    views = list(Views((20,), 100, flip=False).of({**picture, "height": 10, "width": 30}))
    assert [(view.size, view.output_size) for view in views] == [((20, 40), (10, 30))]


def test_modes_and_what_is_refused(tmp_path: Path) -> None:
    cfg = model_cfg("RecurrentSemanticSegmentor", tmp_path)
    model = pixel_segmentor()
    assert with_test_time_augmentation(cfg, model) is model
    augmenting(cfg)
    augmented = with_test_time_augmentation(cfg, model)
    assert augmented([]) == [] and not augmented.training
    augmented.train()
    with pytest.raises(ValueError, match="training mode"):
        augmented([noise(64, 64)])
    assert with_test_time_augmentation(cfg, model).training
    with pytest.raises(ConfigError, match=r"MODEL\.META_ARCHITECTURE Linear has no .*RetinaNet"):
        with_test_time_augmentation(cfg, torch.nn.Linear(1, 1))
    cfg.TEST.AUG.MIN_SIZES = (2000,)
    with pytest.raises(ConfigError, match=r"TEST\.AUG\.MAX_SIZE is .*2000"):
        with_test_time_augmentation(cfg, model)
