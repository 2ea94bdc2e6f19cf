"""Meta-architectures with recurrent parts: a training step, inference, penalties, steps."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils.events import EventStorage
from torch import nn

from rpanoptic.errors import DatasetError
from rpanoptic.modeling import RecurrentModel
from rpanoptic.modeling.penalty import PenaltySource
from rpanoptic.recurrent import recurrent_blocks

from .models import MODELS, SIDE, assert_same_outputs, model_cfg, picture, tiny_model


def losses_of(model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    with EventStorage():
        return model.train()(batch)


@pytest.mark.parametrize("name", MODELS)
def test_trains_a_step_and_infers(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, tmp_path)
    losses = losses_of(model, [picture(2), picture(0)])
    penalties = {key for key in losses if "lipschitz" in key}
    assert penalties == MODELS[name][1]
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
    for key, block in recurrent_blocks(model).items():
        assert any(p.grad is not None and p.grad.any() for p in block.parameters()), key
    assert set(model.diagnostics()) == set(recurrent_blocks(model))

    model.eval()
    with torch.no_grad():
        (result,) = model([picture()])
    if "sem_seg" in result:
        assert result["sem_seg"].shape[1:] == (SIDE, SIDE)
    if "instances" in result:
        assert len(result["instances"]) and result["instances"].image_size == (SIDE, SIDE)
    expected = {"instances", "sem_seg", "panoptic_seg"}
    expected = {"RecurrentSemanticSegmentor": {"sem_seg"}}.get(name, expected)
    if "RCNN" in name or "Retina" in name:
        expected = {"instances"}
    assert set(result) == expected


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_stock_architecture_but_for_penalties(name: str, tmp_path: Path) -> None:
    cfg = model_cfg(name, tmp_path)
    torch.manual_seed(0)
    ours = build_model(cfg)
    cfg.MODEL.META_ARCHITECTURE = name.removeprefix("Recurrent")
    stock = build_model(cfg)
    stock.load_state_dict(ours.state_dict())  # strict: module names are the same
    results = []
    for model in (ours, stock):
        torch.manual_seed(1)  # regions are drawn
        results.append(losses_of(model, [picture()]))
    lost = {key: loss for key, loss in results[0].items() if key not in results[1]}
    assert set(lost) == {"loss_lipschitz_fpn"}
    for key, loss in results[1].items():
        assert torch.equal(loss, results[0][key]), key
    ours.load_state_dict(stock.state_dict())  # batch norm has counted
    ours.eval(), stock.eval()
    with torch.no_grad():
        (one,), (other,) = ours([picture()]), stock([picture()])
    assert_same_outputs(one, other)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_steps_by_call(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, tmp_path).eval()
    blocks = recurrent_blocks(model)
    first, *others = blocks

    def taken() -> dict[str, int]:
        return {key: int(value.steps.max()) for key, value in model.diagnostics().items()}

    model([picture()], steps=5)
    assert taken() == dict.fromkeys(blocks, 5)
    model([picture()], steps={first: 2})
    assert taken() == {first: 2, **dict.fromkeys(others, 3)}
    model([picture()])
    assert taken() == dict.fromkeys(blocks, 3)
    with pytest.raises(ValueError, match="no recurrent block 'nowhere'"):
        model([picture()], steps={"nowhere": 2})
    with pytest.raises(ValueError, match="at least 1"):
        model([picture()], steps=0)
    with pytest.raises(ValueError, match="at inference only"):
        model.train()([picture()], steps=2)


@torch.no_grad()
@pytest.mark.parametrize("name", ["RecurrentPanopticFPN", "RecurrentGeneralizedRCNN"])
def test_steps_of_the_raw_outputs(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, tmp_path).eval()
    raw = model.inference([picture()], do_postprocess=False, steps=6)
    assert {int(done.steps.max()) for done in model.diagnostics().values()} == {6}
    instances = raw[0][0] if name == "RecurrentPanopticFPN" else raw[0]
    assert instances.pred_masks.dim() == 4
    (shown,), (called,) = model.inference([picture()], steps=6), model([picture()], steps=6)
    assert_same_outputs(shown, called)
    with pytest.raises(ValueError, match="at inference only"):
        model.train().inference([picture()], steps=6)


@torch.no_grad()
def test_diagnostics_before_any_run(tmp_path: Path) -> None:
    assert tiny_model("RecurrentSemanticSegmentor", tmp_path).diagnostics() == {}


@torch.no_grad()
def test_halting_in_a_whole_model(tmp_path: Path) -> None:
    places = ("FPN", "SEM_SEG_HEAD", "MASK_HEAD")
    changes: dict[str, Any] = {f"MODEL__RECURRENT__{place}__HALT_TOL": 0.3 for place in places}
    changes |= {f"MODEL__RECURRENT__{place}__STEPS_TEST": 30 for place in places}
    model = tiny_model("RecurrentPanopticFPN", tmp_path, **changes).eval()
    (result,) = model([picture()])
    for key, done in model.diagnostics().items():
        assert (done.steps < 30).all(), key
    steps = result["instances"].mask_steps
    assert steps.shape == (len(result["instances"]),) and (steps < 30).all()


@pytest.mark.parametrize("name", MODELS)
def test_pictures_without_things_and_very_narrow_ones(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, tmp_path)
    narrow = picture(1, height=1, width=600)
    for batch in ([picture(0)], [picture(0), picture(0)], [narrow]):
        losses = losses_of(model, batch)
        assert torch.isfinite(sum(losses.values())), losses
        sum(losses.values()).backward()
    model.eval()
    with torch.no_grad():
        (result,) = model([narrow])
    for key in set(result) & {"sem_seg"}:
        assert result[key].shape[1:] == (1, 600)


@pytest.mark.parametrize("head", ["RecurrentSemSegFPNHead", "SemSegFPNHead"])
@pytest.mark.parametrize("name", ["RecurrentPanopticFPN", "RecurrentSemanticSegmentor"])
def test_a_picture_on_which_no_pixel_counts(name: str, head: str, tmp_path: Path) -> None:
    # The mapper leaves no instance of a crowd, and its pixels are ignored.
    crowd = picture(0)
    crowd["sem_seg"] = torch.full_like(crowd["sem_seg"], 255)
    model = tiny_model(name, tmp_path, MODEL__SEM_SEG_HEAD__NAME=head)
    for one in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        losses = losses_of(one, [crowd])
        assert losses["loss_sem_seg"].item() == 0
        total = sum(losses.values())
        assert torch.isfinite(total)
        total.backward()
        # Each has a gradient, or other processes would wait for it; of the copy, its own.
        gradients = [parameter.grad for parameter in one.sem_seg_head.parameters()]
        assert all(grad is not None and grad.isfinite().all() for grad in gradients)
        assert not one.sem_seg_head.predictor.weight.grad.any()


@pytest.mark.parametrize("name", MODELS)
def test_missing_ground_truth_is_named(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, tmp_path)
    for key in META_ARCH_REGISTRY.get(name).ground_truth:
        lacking = picture()
        del lacking[key]
        with pytest.raises(DatasetError, match=rf"number 1 of the batch: no '{key}', .*{name}"):
            losses_of(model, [picture(), lacking])
        with pytest.raises(DatasetError, match=rf"picture street.jpg: no '{key}'"):
            losses_of(model, [lacking | {"file_name": "street.jpg"}])


@pytest.mark.parametrize("name", MODELS)
def test_empty_batches(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, tmp_path)
    with pytest.raises(DatasetError, match="at least one picture"):
        losses_of(model, [])
    assert model.eval()([]) == []
    if hasattr(model, "inference") and "Retina" not in name:
        assert model.inference([]) == []
        raw = model.inference([], do_postprocess=False)
        assert raw == (([], []) if "Panoptic" in name else [])


class _Stock(nn.Module):
    """A meta-architecture whose backbone has a penalty."""

    def __init__(self, loss: str, penalty: str) -> None:
        super().__init__()
        self.backbone = type("Source", (PenaltySource, nn.Module), {})()
        self.names = loss, penalty

    def forward(self, batched_inputs: list[Any]) -> dict[str, torch.Tensor]:
        loss, penalty = self.names
        self.backbone.put_penalty(penalty, torch.tensor(2.0))
        if batched_inputs[0] == "break off":
            raise RuntimeError("broken off")
        return {loss: torch.tensor(1.0)}


class _Ours(RecurrentModel, _Stock):
    pass


def test_penalties_are_added_once_and_not_after_a_pass_that_was_broken_off() -> None:
    model = _Ours("loss_box", "loss_lipschitz_fpn")
    with pytest.raises(RuntimeError, match="broken off"):
        model(["break off"])
    assert not model.backbone._penalties
    for _ in range(2):
        assert model(["picture"]) == {"loss_box": 1.0, "loss_lipschitz_fpn": 2.0}


@pytest.mark.parametrize("architecture", ["RecurrentRetinaNet", "RetinaNet"])
def test_a_model_can_be_copied_after_any_pass(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("RecurrentRetinaNet", tmp_path, MODEL__META_ARCHITECTURE=architecture)
    backbone = model.backbone

    def check_copies(*, kept: bool) -> None:
        assert bool(backbone._penalties) == kept
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert not copied.backbone._penalties
            assert copied.state_dict().keys() == model.state_dict().keys()
            losses_of(copied, [picture()])

    # Detectron2's own architecture takes no penalty.
    stock = architecture == "RetinaNet"
    losses_of(model, [picture()])
    check_copies(kept=stock)

    def broken_off(*args: Any) -> None:
        raise RuntimeError("broken off")

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward_training", broken_off)
        with pytest.raises(RuntimeError, match="broken off"):
            losses_of(model, [picture()])
    check_copies(kept=stock)


def test_a_penalty_hides_no_loss() -> None:
    with pytest.raises(ValueError, match="two parts of the model give a loss named 'loss_box'"):
        _Ours("loss_box", "loss_box")(["picture"])


def test_built_from_python(tmp_path: Path) -> None:
    parts = tiny_model("RecurrentSemanticSegmentor", tmp_path)
    model = META_ARCH_REGISTRY.get("RecurrentSemanticSegmentor")(
        backbone=parts.backbone,
        sem_seg_head=parts.sem_seg_head,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
    )
    assert "loss_lipschitz_sem_seg" in losses_of(model, [picture()])
