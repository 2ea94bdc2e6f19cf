"""The readout of contours and its focal loss."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder.models import ContourHead, focal_loss

SHAPE = {"contour": ShapeSpec(channels=4, stride=1)}


def some_logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 2, 5, 6, generator=generator)
    return logits.requires_grad_(), torch.randint(0, 2, (2, 5, 6), generator=generator)


def test_by_hand() -> None:
    # Logits (0, log 3): class 1 has probability 3/4. One pixel of it, one of the other class.
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1).repeat(1, 1, 1, 2)
    targets = torch.tensor([[[1, 0]]])
    each = [(1 / 4) ** 2 * -math.log(3 / 4), (3 / 4) ** 2 * -math.log(1 / 4)]
    assert focal_loss(logits, targets).item() == pytest.approx(sum(each) / 2, rel=1e-6)
    ignoring = focal_loss(logits, targets, ignore_value=1)
    assert ignoring.item() == pytest.approx(each[1], rel=1e-6)


def test_it_has_the_values_of_fvcore_and_no_gradient_through_the_weight() -> None:
    logits, targets = some_logits()
    ours = focal_loss(logits, targets)
    # The softmax of two logits is the sigmoid of their difference.
    theirs = sigmoid_focal_loss(
        logits[:, 1] - logits[:, 0], targets.float(), alpha=-1, gamma=2, reduction="mean"
    )
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(ours, logits)
    (other,) = torch.autograd.grad(theirs, logits)
    assert not torch.allclose(gradient, other, rtol=0.05)
    # Of the cross-entropy it is softmax - target, here times the weight of the pixel.
    hot = F.one_hot(targets, 2).permute(0, 3, 1, 2)
    probability = logits.detach().softmax(dim=1)
    weight = (1 - (probability * hot).sum(dim=1, keepdim=True)) ** 2
    torch.testing.assert_close(gradient, weight * (probability - hot) / targets.numel())


def test_without_gamma_it_is_the_cross_entropy() -> None:
    logits, targets = some_logits()
    torch.testing.assert_close(
        focal_loss(logits, targets, gamma=0), F.cross_entropy(logits, targets)
    )


@pytest.mark.parametrize("value", [1e4, -1e4, 80.0, -80.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_extreme_logits(value: float, gamma: float) -> None:
    logits = torch.zeros(1, 2, 1, 2)
    logits[:, 1] = value
    logits.requires_grad_()
    # Both right and wrong by so much.
    loss = focal_loss(logits, torch.tensor([[[0, 1]]]), gamma=gamma)
    loss.backward()
    assert loss.item() == pytest.approx(abs(value) / 2, rel=1e-5)
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_half_precision_is_taken_to_float32() -> None:
    logits, targets = some_logits()
    half = logits.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = focal_loss(half, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, focal_loss(half.float(), targets))


@pytest.mark.parametrize("value", [0, 255])
def test_no_foreground_and_no_pixel_at_all(value: int) -> None:
    head = ContourHead(SHAPE, output_norm="")
    _, losses = head({"contour": torch.randn(2, 4, 5, 6)}, torch.full((2, 5, 6), value))
    losses["loss_contour"].backward()
    assert losses["loss_contour"].isfinite() and (losses["loss_contour"] > 0) == (value == 0)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("prior", [0.01, 0.5])
def test_the_prior_is_what_an_untrained_head_predicts(prior: float) -> None:
    head = ContourHead(SHAPE, output_norm="", foreground_prior=prior).eval()
    # The paper's is 4.595 on both logits, where the softmax does not see it.
    expected = torch.tensor([0.0, -math.log((1 - prior) / prior)])
    torch.testing.assert_close(head.predictor.bias.detach(), expected)
    logits, losses = head({"contour": torch.zeros(1, 4, 3, 3)})
    assert losses == {}
    probability = logits.softmax(dim=1)[:, 1]
    torch.testing.assert_close(probability, torch.full_like(probability, prior))


def test_the_norm_has_running_statistics() -> None:
    head = ContourHead(SHAPE)
    assert isinstance(head.output_norm, nn.BatchNorm2d) and head.output_norm.eps == 1e-3
    features = torch.randn(3, 4, 5, 6) * 5
    targets = torch.zeros(3, 5, 6, dtype=torch.int64)
    for _ in range(100):
        head({"contour": features}, targets)
    head.eval()
    with torch.no_grad():
        together, _ = head({"contour": features})
        alone, _ = head({"contour": features[:1]})
        torch.testing.assert_close(together[:1], alone)
        normalised = head.output_norm(features)
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)


def test_the_readouts_of_several_steps_are_added() -> None:
    head = ContourHead(SHAPE, output_norm="")
    steps = [torch.randn(2, 4, 5, 6) for _ in range(3)]
    targets = torch.randint(0, 2, (2, 5, 6))
    targets[0, :2] = head.ignore_value
    each = [head({"contour": step}, targets)[1]["loss_contour"] for step in steps]
    _, losses = head({"contour": torch.cat(steps)}, targets)
    torch.testing.assert_close(losses["loss_contour"], sum(each))


def test_errors() -> None:
    with pytest.raises(ValueError, match="needs the classes of the pixels"):
        ContourHead(SHAPE)({"contour": torch.zeros(1, 4, 3, 3)})
    for shapes in (
        {"p2": ShapeSpec(channels=4, stride=4)},
        SHAPE | {"other": ShapeSpec(channels=4, stride=1)},
    ):
        with pytest.raises(ConfigError, match=r"ContourHead reads one feature of stride 1"):
            ContourHead(shapes)
