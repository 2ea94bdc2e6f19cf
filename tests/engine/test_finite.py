from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import create_ddp_model, launch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils import comm
from torch import Tensor, nn

from rpanoptic.engine.finite import check_gradients, check_losses, explained_forward
from rpanoptic.engine.finite_search import _is_finite, first_nonfinite_output
from rpanoptic.engine.run import run
from rpanoptic.engine.trainer import Trainer
from rpanoptic.errors import NonFiniteError, UserError
from tests.engine.tiny import tiny_cfg

CELL = "roi_heads.mask_head.recurrence.cell"


class Root(nn.Module):
    """The root of what it gets: finite at 0, with an infinite gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Toy(nn.Module):
    """Two layers and two losses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.root = Root()
        self.second = nn.Linear(2, 1, bias=False)

    def forward(self, data: list[dict[str, Any]]) -> dict[str, Tensor]:
        hidden = self.root(self.first(torch.stack([sample["image"] for sample in data])))
        return {"loss_a": self.second(hidden).sum(), "loss_b": hidden.sum() * 0 + 1}


@pytest.fixture
def toy() -> Toy:
    model = Toy()
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(1.0)
    return model


def batch(value: float) -> list[dict[str, Any]]:
    return [
        {"file_name": f"{name}.png", "image": torch.full((2,), value)} for name in ("one", "two")
    ]


def losses_of(model: nn.Module, data: list[dict[str, Any]]) -> dict[str, Tensor]:
    losses = model(data)
    sum(losses.values()).backward()
    return losses


def test_finite_numbers_pass(toy: Toy) -> None:
    data = batch(1.0)
    check_losses(losses_of(toy, data), model=toy, data=data, iteration=3)
    check_gradients(toy, data=data, iteration=3)


def test_loss_module_pictures_and_iteration_are_named(toy: Toy) -> None:
    data = batch(-1.0)
    losses = losses_of(toy, data)
    assert all(loss.isnan() for loss in losses.values())
    losses["loss_b"] = torch.ones(())
    with pytest.raises(NonFiniteError) as caught:
        check_losses(losses, model=toy, data=data, iteration=3)
    message = str(caught.value)
    assert message.startswith("iteration 3: loss_a is nan. ")
    assert "The model's first module with an output that is not finite is root (Root)." in message
    assert "Pictures: one.png, two.png." in message
    assert isinstance(caught.value, UserError)


def test_loss_alone_may_be_at_fault(toy: Toy) -> None:
    data = batch(1.0)
    with pytest.raises(NonFiniteError, match=r"loss_a is inf\. A second pass .* stayed finite"):
        check_losses({"loss_a": torch.tensor(torch.inf)}, model=toy, data=data, iteration=0)


def test_spoilt_weights_are_named(toy: Toy) -> None:
    with torch.no_grad():
        toy.second.weight[0, 0] = torch.nan
    found = first_nonfinite_output(toy, batch(1.0))
    assert found.module == "second"
    assert "1 of its weights are not finite, the first second.weight" in found.text


def test_spoilt_picture_is_named(toy: Toy) -> None:
    data = batch(1.0)
    data[1]["image"][0] = torch.inf
    assert first_nonfinite_output(toy, data).text == "The input itself is not finite: two.png."


def test_gradient_without_an_end_is_found_under_finite_losses(toy: Toy) -> None:
    data = batch(0.0)
    check_losses(losses_of(toy, data), model=toy, data=data, iteration=3)
    before = [param.grad.clone() for param in toy.parameters()]
    with pytest.raises(NonFiniteError) as caught:
        check_gradients(toy, data=data, iteration=3)
    message = str(caught.value)
    assert "the gradients of 1 of 2 parameters are not finite, though the losses are" in message
    assert "first.weight. In the backward pass" in message
    # What comes back through the root is infinite.
    assert "first arrives at the output of first (Linear)" in message
    for param, gradient in zip(toy.parameters(), before, strict=True):
        torch.testing.assert_close(param.grad, gradient, rtol=0, atol=0, equal_nan=True)


def test_error_of_the_forward_pass_is_explained(toy: Toy) -> None:
    data = batch(-1.0)
    with (
        pytest.raises(NonFiniteError, match=r"iteration 5: Training has diverged\. .* root "),
        explained_forward(model=toy, data=data, iteration=5),
    ):
        raise FloatingPointError("Training has diverged.")


def test_what_modules_of_detectron2_return_is_looked_into() -> None:
    bad = torch.tensor([[1.0, torch.nan, 1.0, 1.0]])
    for value in (
        bad,
        [{"x": (bad,)}],
        Boxes(bad),
        ImageList(bad, [(1, 4)]),
        Instances((4, 4), gt_boxes=Boxes(bad)),
    ):
        assert not _is_finite(value)
    assert _is_finite([torch.ones(1), torch.ones(1, dtype=torch.int64), None, "text"])


def stop_one_of_two(folder: str) -> None:
    """In each of two processes: take a pass that fails in the second alone, and note the error."""
    torch.set_num_threads(1)
    rank = comm.get_rank()
    toy = Toy()
    with torch.no_grad():
        for param in toy.parameters():
            param.fill_(1.0)
    # A layer in which the processes wait for each other.
    norm = nn.Sequential(nn.Unflatten(1, (2, 1, 1)), NaiveSyncBatchNorm(2), nn.Flatten())
    toy.first = nn.Sequential(toy.first, norm, *([nn.ReLU()] if rank == 0 else []))
    model = create_ddp_model(toy, broadcast_buffers=False)
    data = batch(-1.0 if rank == 1 else 1.0)
    losses = losses_of(model, data)
    assert bool(losses["loss_a"].isfinite()) == (rank == 0)
    try:
        check_losses(losses, model=model, data=data, iteration=3)
    except NonFiniteError as error:
        Path(folder, f"{rank}.txt").write_text(str(error))
    # Averaged over processes, the gradient of the second's batch is infinite in both.
    check_averaged(f"{folder}/gradient_{rank}.txt", 0.0 if rank == 1 else 1.0)
    # Neither batch gives such a gradient again.
    check_averaged(f"{folder}/none_{rank}.txt", 1.0, spoilt=True)
    # A process that leaves early may take the connection from one that still reads.
    comm.synchronize()
    # All is written. Torn down in order, threads that two wrapped models have left behind can abort
    # the interpreter ("terminate called without an active exception").
    os._exit(0)


def check_averaged(file: str, value: float, *, spoilt: bool = False) -> None:
    """Exchange the gradients of a batch of ``value``, check them, and note the error."""
    toy = Toy()
    with torch.no_grad():
        for param in toy.parameters():
            param.fill_(1.0)
    model = create_ddp_model(toy, broadcast_buffers=False)
    data = batch(value)
    for sample in data:
        sample["file_name"] = f"{comm.get_rank()}_{sample['file_name']}"
    losses_of(model, data)
    gradient = toy.first.weight.grad
    assert gradient is not None
    if spoilt:
        gradient.fill_(torch.inf)
    assert not gradient.isfinite().any()
    try:
        check_gradients(model, data=data, iteration=4)
    except NonFiniteError as error:
        Path(file).write_text(str(error))


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, launch would use it")
def test_all_processes_stop_with_the_message_of_the_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch(stop_one_of_two, 2, dist_url=f"file://{tmp_path}/meeting", args=(str(tmp_path),))
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert first.startswith("process 1 of 2, iteration 3: loss_a is nan")
    assert "not finite is root (Root)" in first

    first, second = ((tmp_path / f"gradient_{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert first.startswith("process 1 of 2, iteration 4: the gradients of 1 of 2 parameters")
    assert "first arrives at the output of first (Linear)" in first
    assert "Pictures: 1_one.png, 1_two.png." in first

    first, second = ((tmp_path / f"none_{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert "the gradients of all modules' outputs were finite" in first
    assert "Pictures of processes 0, 1: 0_one.png, 0_two.png, 1_one.png, 1_two.png." in first


def spoil(trainer: Trainer, iteration: int, act: Any) -> None:
    """Call ``act(model)`` before an iteration."""
    step = trainer.run_step

    def run_step() -> None:
        if trainer.iter == iteration:
            act(trainer.model)
        step()

    trainer.run_step = run_step


def test_training_stops_in_the_cell_and_leaves_weights_and_checkpoint(
    tiny_data: Path, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_cfg(tmp_path, SOLVER__MAX_ITER=3))

    def act(model: nn.Module) -> None:
        # A step of the cell that overflows.
        model.get_submodule(CELL).register_forward_hook(lambda *args: args[2] * torch.inf)

    spoil(trainer, 1, act)
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    message = str(caught.value)
    assert message.startswith("iteration 1: ")
    assert "loss_mask is nan" in message
    assert "loss_rpn_cls" not in message
    assert f"not finite is {CELL} " in message
    assert "synthetic_panoptic" in message.split("Pictures: ")[1]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"
    saved = torch.load(tmp_path / "model_0000000.pth", weights_only=True)["model"]
    for name, param in trainer.model.named_parameters():
        assert torch.equal(param, saved[name])


def test_diverged_proposals_are_one_message(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_cfg(tmp_path)
    original = Trainer.build_model

    def spoilt(cfg: Any) -> nn.Module:
        model = original(cfg)
        with torch.no_grad():
            model.proposal_generator.rpn_head.conv.weight[0] = torch.nan
        return model

    monkeypatch.setattr(Trainer, "build_model", staticmethod(spoilt))
    arguments = argparse.Namespace(config_file="", resume=False, eval_only=False)
    with pytest.raises(NonFiniteError) as caught:
        run(cfg, arguments)
    message = str(caught.value)
    assert "iteration 0: Predicted boxes or scores contain Inf/NaN" in message
    assert "not finite is proposal_generator.rpn_head.conv" in message
    # The failed pass has spoilt running statistics as well, which tell nothing.
    assert "1 of its weights are not finite" in message
    assert "the first proposal_generator.rpn_head.conv.weight" in message
