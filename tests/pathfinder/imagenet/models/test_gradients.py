"""Schedules and gradient methods agree on a classifier; its backbone serves a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from rpanoptic.engine import PanopticCheckpointer

from .tiny import CLASSIFIER, CONVRNN, TINY, config, picture, pictures, tiny_model

LAYERS = f"{CONVRNN}LAYERS"
TINY_LAYERS = TINY["MODEL.RECURRENT.CONVRNN.LAYERS"]
# A picture reaches conv5 in step 3 of the loop, and feedback from there conv5 again in step 6.
FIVE = {
    LAYERS: [
        {"name": "conv1", "channels": 4, "stride": 2},
        {"name": "conv2", "channels": 4, "residual": True},
        {"name": "conv3", "channels": 5, "cell": True},
        {"name": "conv4", "channels": 6, "residual": True, "pool": True, "cell": True},
        {"name": "conv5", "channels": 6, "cell": {"name": "conv_gru"}},
    ],
    f"{CONVRNN}FEEDBACK": [["conv5", "conv3"]],
    f"{CONVRNN}OUT_FEATURES": ["conv5"],
    f"{CONVRNN}STEPS": 7,
}


def pair(one: dict[str, Any], other: dict[str, Any], **changes: Any) -> tuple[nn.Module, nn.Module]:
    """Two classifiers of the same weights in double precision."""
    models = [tiny_model(**changes, **own).double() for own in (one, other)]
    models[1].load_state_dict(models[0].state_dict())
    return models[0], models[1]


def gradients(model: nn.Module, batch: list[dict[str, Any]]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a training pass, and its gradient by parameter."""
    model.train().zero_grad()
    loss = model(batch)["loss_classification"]
    loss.backward()
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_agree(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    """Losses, gradients and predictions are equal but for rounding."""
    batch = [{**x, "image": x["image"].double()} for x in pictures()]
    (loss, slopes), (same_loss, same_slopes) = (gradients(m, batch) for m in (one, other))
    torch.testing.assert_close(same_loss, loss)
    assert slopes.keys() == dict(one.named_parameters()).keys() == same_slopes.keys()
    for name, slope in slopes.items():
        assert slope.any(), name
        torch.testing.assert_close(same_slopes[name], slope, **tolerance, msg=name)
    with torch.no_grad():
        for wanted, given in zip(one.eval()(batch), other.eval()(batch), strict=True):
            assert given["readout_steps"] == wanted["readout_steps"]
            torch.testing.assert_close(
                given["classification_steps"], wanted["classification_steps"]
            )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {f"{CLASSIFIER}STEP_LOSS": True},
        {f"{CLASSIFIER}DECODER": "max_confidence", f"{CLASSIFIER}READOUT_STEPS": [4, 7]},
        {f"{CONVRNN}IMAGE_STEPS": 2, f"{CLASSIFIER}DECODER": "mean"},
        {f"{CONVRNN}DELAY": 0},
    ],
    ids=["last", "every step", "two steps", "image off", "no delay"],
)
def test_pruned_is_faithful(changes: dict[str, Any]) -> None:
    schedules = ({f"{CONVRNN}SCHEDULE": name} for name in ("faithful", "pruned"))
    # Logits are in float32, whose rounding the gradients carry.
    assert_agree(*pair(*schedules, **FIVE, **changes), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("schedule", ["faithful", "pruned"])
def test_checkpointed_is_bptt(schedule: str) -> None:
    methods = ({f"{CONVRNN}GRADIENT": name} for name in ("bptt", "checkpointed_bptt"))
    models = pair(*methods, **FIVE, **{f"{CONVRNN}SCHEDULE": schedule})
    assert_agree(*models, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("gradient", "delay"), [("rbp", 1), ("crbp", 0)])
def test_implicit_gradients_are_those_of_bptt_at_the_fixed_point(gradient: str, delay: int) -> None:
    """With a constant picture, where the state has settled."""
    steps = 60
    # States between -1 and 1 of which less than half is carried on: a step is a contraction.
    cell = {
        "name": "general_reciprocal_gated",
        "memory_nonlinearity": "tanh",
        "output_nonlinearity": "tanh",
        "tau_gain": 0.5,
    }
    changes = {
        LAYERS: [layer | {"cell": cell} if layer.get("cell") else layer for layer in TINY_LAYERS],
        f"{CONVRNN}DELAY": delay,
        f"{CONVRNN}STEPS": steps,
        f"{CONVRNN}ADJOINT__MAX_STEPS": steps,
        f"{CONVRNN}ADJOINT__TOL": 1e-12,
    }
    methods = ({f"{CONVRNN}GRADIENT": name} for name in ("bptt", gradient))
    through_time, implicit = pair(*methods, **changes)
    batch = [{**x, "image": x["image"].double()} for x in pictures()]
    (loss, slopes), (same_loss, same_slopes) = (
        gradients(m, batch) for m in (through_time, implicit)
    )
    (diagnostics,) = implicit.diagnostics().values()
    # What either method leaves out is of the order of what the last step changes.
    assert diagnostics.residual.max() < 1e-7
    torch.testing.assert_close(same_loss, loss)
    assert slopes.keys() == same_slopes.keys()
    for name, slope in slopes.items():
        # Logits are in float32, whose rounding the gradients carry.
        torch.testing.assert_close(same_slopes[name], slope, rtol=1e-5, atol=1e-7, msg=name)
    # It can fail: the gradient of one step alone is another.
    phantom = tiny_model(**changes | {f"{CONVRNN}GRADIENT": "phantom"}).double()
    phantom.load_state_dict(implicit.state_dict())
    _, other = gradients(phantom, batch)
    assert not all(torch.allclose(other[n], s, rtol=1e-2) for n, s in slopes.items())


def test_weights_of_a_classifier_fill_the_backbone_of_a_detector(tmp_path: Path) -> None:
    layers = [
        {"name": "conv1", "channels": 4, "kernel_size": 7, "stride": 2, "pool": True},
        {"name": "conv2", "channels": 6, "pool": True, "cell": True},
        {"name": "conv3", "channels": 8, "residual": True, "pool": True, "cell": True},
        {"name": "conv4", "channels": 8, "pool": True, "cell": True},
        {"name": "conv5", "channels": 10, "cell": True},
    ]
    feedback = {LAYERS: layers, f"{CONVRNN}FEEDBACK": [["conv5", "conv3"]]}
    classifier = tiny_model(**feedback, **{f"{CONVRNN}OUT_FEATURES": ["res5"]})
    PanopticCheckpointer(classifier, str(tmp_path)).save("classifier")

    stages = ["res2", "res3", "res4", "res5"]
    cfg = config(
        MODEL__BACKBONE__NAME="build_convrnn_fpn_backbone",
        MODEL__FPN__IN_FEATURES=stages,
        MODEL__FPN__OUT_CHANNELS=8,
        **feedback,
        **{f"{CONVRNN}OUT_FEATURES": stages},
    )
    torch.manual_seed(1)
    detector = nn.ModuleDict({"backbone": build_backbone(cfg)})
    PanopticCheckpointer(detector).load(str(tmp_path / "classifier.pth"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = classifier.eval().backbone(image)["res5"]
        given = detector.eval()["backbone"].bottom_up(image)["res5"]
    assert torch.equal(given, wanted)


def test_picture_of_another_size() -> None:
    model = tiny_model(**FIVE).eval()
    with torch.no_grad():
        (result,) = model([picture(0, side=23)])
    assert result["classification"].isfinite().all()
