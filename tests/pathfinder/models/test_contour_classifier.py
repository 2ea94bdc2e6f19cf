"""The classification form: are the two markers on one contour?"""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import EventStorage
from torch import nn

from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.modeling.outputs import OUTPUTS, outputs_of
from rpanoptic.recurrent import GRADIENTS

from .tiny import BACKBONES, TINY, config, picture, pictures, tiny_model

CLASSIFIER = "ContourClassifier"
BLOCK = "MODEL__RECURRENT__PATHFINDER__"


def classifier(**changes: object) -> nn.Module:
    return tiny_model(MODEL__META_ARCHITECTURE=CLASSIFIER, **changes)


def losses_of(model: nn.Module, batch: list[dict[str, object]]) -> dict[str, torch.Tensor]:
    with EventStorage():
        return model.train()(batch)


@pytest.mark.parametrize("gradient", list(GRADIENTS))
def test_trains_under_every_method(gradient: str) -> None:
    model = classifier(**{f"{BLOCK}GRADIENT": gradient})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, pictures())
    penalties = {"loss_lipschitz_pathfinder"} if GRADIENTS.get(gradient).penalised else set()
    assert set(losses) == {"loss_classification"} | penalties
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", BACKBONES)
def test_infers_each_picture_by_itself(name: str) -> None:
    model = classifier(MODEL__BACKBONE__NAME=name).eval()
    batch = [{k: v for k, v in x.items() if k != "label"} for x in pictures(3, height=17)]
    outputs = model(batch)
    assert model([]) == []
    for one, picture_ in zip(outputs, batch, strict=True):
        assert list(one) == ["classification"] and one["classification"].shape == (2,)
        (alone,) = model([picture_])
        # Batched convolutions may round otherwise.
        torch.testing.assert_close(
            alone["classification"], one["classification"], rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def test_by_hand_and_after_other_steps() -> None:
    model = classifier().eval()
    batch = [picture(0)]
    states = list(islice(model.backbone.states(batch[0]["image"][None] / 255), 6))
    results = []
    for state in (states[3], states[5]):
        strongest = model.maps(model.output_norm(state)).flatten(2).max(dim=2).values
        results.append(model.predictor(strongest)[0])
    assert not torch.equal(*results)
    torch.testing.assert_close(model(batch)[0]["classification"], results[0])
    torch.testing.assert_close(model(batch, steps=6)[0]["classification"], results[1])
    assert model.diagnostics()["backbone.recurrence"].steps.tolist() == [6]


def test_learns_two_pictures() -> None:
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    # Seeds 0 to 2 are below 0.04 after 20.
    for _ in range(25):
        optimizer.zero_grad()
        sum(losses_of(model, pictures()).values()).backward()
        optimizer.step()
    assert losses_of(model, pictures())["loss_classification"] < 0.1


def test_errors() -> None:
    batch = pictures()
    del batch[1]["label"]
    with pytest.raises(DatasetError, match=r"picture 1: no 'label', which ContourClassifier"):
        losses_of(classifier(), batch)
    with pytest.raises(DatasetError, match=r"one size; got \[\(16, 16\), \(20, 16\)\]"):
        losses_of(classifier(), [picture(0), picture(1, height=20)])
    with pytest.raises(ConfigError, match=r"MODEL\.PATHFINDER\.STEP_LOSS"):
        classifier(STEP_LOSS=True, **{f"{BLOCK}GRADIENT": "bptt"})
    with pytest.raises(ConfigError, match="ContourClassifier reads one feature of stride 1"):
        classifier(MODEL__BACKBONE__NAME="build_resnet_backbone", MODEL__PIXEL_MEAN=[0.0] * 3)


def test_outputs_are_known_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg: CfgNode = config(TINY, MODEL__META_ARCHITECTURE=CLASSIFIER)
    assert outputs_of(cfg) == {"classification"} < set(OUTPUTS)

    class Foreign(nn.Module):
        """It says nothing that counts: an attribute of the name may be something else."""

        outputs = 3

    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "Foreign", Foreign)
    cfg.MODEL.META_ARCHITECTURE = "Foreign"
    assert outputs_of(cfg) == set(OUTPUTS)
