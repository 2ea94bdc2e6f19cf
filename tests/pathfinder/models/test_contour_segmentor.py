"""The contour tracer: training, inference, its trace step by step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.evaluation.computed_once import outputs_by_step
from rpanoptic.modeling.outputs import outputs_of
from rpanoptic.pathfinder.models import focal_loss
from rpanoptic.recurrent import GRADIENTS

from .tiny import BACKBONES, FEEDFORWARD, TINY, config, picture, pictures, tiny_model

BLOCK = "MODEL__RECURRENT__PATHFINDER__"


def losses_of(model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    with EventStorage():
        return model.train()(batch)


def without_truth(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in x.items() if k not in ("sem_seg", "label")} for x in batch]


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("gradient", list(GRADIENTS))
def test_trains_under_every_method(gradient: str, amp: bool) -> None:
    model = tiny_model(**{f"{BLOCK}GRADIENT": gradient})
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        losses = losses_of(model, pictures())
    penalties = {"loss_lipschitz_pathfinder"} if GRADIENTS.get(gradient).penalised else set()
    assert set(losses) == {"loss_contour"} | penalties
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_traces(name: str) -> None:
    model = tiny_model(MODEL__BACKBONE__NAME=name)
    losses = losses_of(model, pictures())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    batch = pictures(3, height=17, width=20)
    with torch.no_grad():
        together = model(without_truth(batch))
        for one, picture_ in zip(together, batch, strict=True):
            assert list(one) == ["sem_seg"] and one["sem_seg"].shape == (2, 17, 20)
            (alone,) = model([picture_])
            # Batched convolutions may round otherwise.
            torch.testing.assert_close(alone["sem_seg"], one["sem_seg"], rtol=1e-4, atol=1e-5)
    assert model([]) == []
    assert outputs_of(config(TINY)) == {"sem_seg"}


@torch.no_grad()
def test_a_trace_ends_in_what_the_model_says() -> None:
    model = tiny_model().eval()
    batch = pictures()
    trace = list(model.trace(without_truth(batch), 6))
    states = list(model.states(batch, 6))
    assert len(trace) == len(states) == 6
    assert states[0].shape == (2, 6, 16, 16) and trace[0].shape == (2, 2, 16, 16)
    assert len({logits.sum().item() for logits in trace}) == 6
    for steps in (1, 3, 6):
        for place, output in enumerate(model(batch, steps=steps)):
            torch.testing.assert_close(trace[steps - 1][place], output["sem_seg"])
        torch.testing.assert_close(model.sem_seg_head.read_out(states[steps - 1]), trace[steps - 1])


def test_a_trace_has_no_gradient_and_leaves_no_mark() -> None:
    model = tiny_model().eval()
    before = copy.deepcopy(model.state_dict())
    for logits in model.trace(pictures(), 3):
        assert not logits.requires_grad
        logits.add_(1)
    assert torch.is_grad_enabled()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_cannot_be_traced() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="evaluation mode"):
        model.trace(pictures(), 3)
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        model.eval().trace(pictures(), 0)
    for call in ("trace", "states"):
        plain = tiny_model(MODEL__BACKBONE__NAME=FEEDFORWARD).eval()
        with pytest.raises(ValueError, match="no recurrence in FeedForwardContourBackbone"):
            getattr(plain, call)(pictures(), 3)


def test_another_head_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"SEM_SEG_HEAD\.NAME SemSegFPNHead: .* ContourHead"):
        tiny_model(MODEL__SEM_SEG_HEAD__NAME="SemSegFPNHead")


@torch.no_grad()
def test_evaluations_after_many_steps_are_computed_once() -> None:
    model = tiny_model().eval()
    batch = pictures()
    found = dict(outputs_by_step(model, batch, (2, 5)))
    assert list(found) == [2, 5]
    for steps, outputs in found.items():
        for one, other in zip(outputs, model(batch, steps=steps), strict=True):
            # The same operations on the same numbers: nothing is left to rounding.
            assert torch.equal(one["sem_seg"], other["sem_seg"])


def test_the_loss_of_all_steps() -> None:
    """Without a norm at the readout it is the sum of the losses of shorter runs."""
    changes: dict[str, Any] = {f"{BLOCK}GRADIENT": "bptt", "OUTPUT_NORM": ""}
    model, plain = tiny_model(STEP_LOSS=True, **changes), tiny_model(**changes)
    batch = pictures()
    total = losses_of(model, batch)["loss_contour"]
    each = []
    for steps in range(1, 5):
        plain.backbone.recurrence.steps = steps
        each.append(losses_of(plain, batch)["loss_contour"])
    torch.testing.assert_close(total, sum(each))
    parameters = [list(m.parameters()) for m in (model, plain)]
    found = torch.autograd.grad(total, parameters[0])
    expected = torch.autograd.grad(sum(each), parameters[1])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_pictures_of_unequal_sizes_count_as_far_as_they_go() -> None:
    model = tiny_model(OUTPUT_NORM="")
    batch = [picture(0), picture(1, height=20)]
    loss = losses_of(model, batch)["loss_contour"]
    logits = model.eval()([{**x, "image": x["image"]} for x in batch])
    wanted = [x["sem_seg"].flatten() for x in batch]
    given = torch.cat([x["sem_seg"].flatten(1) for x in logits], dim=1)
    expected = focal_loss(given[None, :, None], torch.cat(wanted)[None, None])
    torch.testing.assert_close(loss, expected)


def test_a_picture_without_truth_cannot_be_trained_on() -> None:
    with pytest.raises(DatasetError, match=r"picture 0: no 'sem_seg', which ContourSegmentor"):
        losses_of(tiny_model(), without_truth(pictures()))


def test_learns_a_picture_by_crbp() -> None:
    model = tiny_model(**{f"{BLOCK}STEPS": 6, f"{BLOCK}KERNEL_SIZE": 5})
    batch = [picture(0)]
    truth = batch[0]["sem_seg"].bool()
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    # Seeds 0 to 2 have an F1 of 1 after 30.
    for _ in range(40):
        optimizer.zero_grad()
        sum(losses_of(model, batch).values()).backward()
        optimizer.step()
    with torch.no_grad():
        (output,) = model.eval()(batch)
    found = output["sem_seg"].argmax(dim=0).bool()
    f1 = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert f1 > 0.9
