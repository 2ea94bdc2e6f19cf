"""Recurrent blocks in training: memory, several processes, mixed precision, compilation."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from rpanoptic.recurrent import (
    GRADIENTS,
    AdjointConfig,
    LipschitzPenalty,
    RecurrentBlock,
    build_cell,
)
from rpanoptic.recurrent.convolution import direct_convolutions, uses_spectral

from .helpers import assert_gradients_close, contractive_hgru

METHODS = list(GRADIENTS)


def make(gradient: str, **options) -> RecurrentBlock:
    torch.manual_seed(0)
    cell = build_cell("hgru", 4, max_steps=5)
    return RecurrentBlock(
        cell,
        **{
            "steps": 5,
            "gradient": gradient,
            "adjoint": AdjointConfig(max_steps=3),
            "penalty": LipschitzPenalty(0.1, 1.0, "mean"),
            "on_failure": "record",
            **options,
        },
    )


def loss_of(block: nn.Module, drive: Tensor) -> Tensor:
    output = block(drive)
    loss = output.output.float().square().mean()
    return loss if output.penalty is None else loss + output.penalty


def tensors_alive() -> tuple[int, int]:
    tensors = [
        o
        for o in gc.get_objects()
        if type(o) in (Tensor, nn.Parameter)
        # Of other tests, and without a storage.
        and not torch._C._functorch.is_functorch_wrapped_tensor(o)
    ]
    return len(tensors), sum(t.untyped_storage().nbytes() for t in tensors)


@pytest.mark.parametrize("gradient", METHODS)
def test_nothing_piles_up_in_training(gradient: str) -> None:
    block = make(gradient)
    optimizer = torch.optim.SGD(block.parameters(), lr=1e-3, momentum=0.9)
    drive = torch.randn(2, 4, 5, 5)
    # 300 iterations; the cyclic collector must not be needed to free tensors.
    gc.collect()
    gc.disable()
    try:
        for iteration in range(300):
            optimizer.zero_grad()
            loss_of(block, drive).backward()
            optimizer.step()
            if iteration == 20:
                first = tensors_alive()
        assert tensors_alive() == first
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [{"backend": "functional"}, {"on_failure": "tbptt"}])
def test_nothing_piles_up_in_other_arrangements(options) -> None:
    block = make("crbp", **options)
    drive = torch.randn(2, 4, 5, 5)
    counts = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            block.zero_grad()
            loss_of(block, drive).backward()
            counts.append(tensors_alive())
    finally:
        gc.enable()
    assert len(set(counts[5:])) == 1


def bytes_on_tape(gradient: str, steps: int, **options) -> int:
    block = make(gradient, steps=steps, **options)
    saved = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # The loss keeps its graph, and the graph all that it saved, until the count is made.
        loss = loss_of(block, torch.zeros(2, 4, 16, 16))
    assert loss.requires_grad
    return sum({storage.data_ptr(): storage.nbytes() for storage in saved}.values())


@pytest.mark.parametrize("options", [{}, {"on_failure": "tbptt"}, {"backend": "functional"}])
@pytest.mark.parametrize("gradient", ["rbp", "crbp", "phantom", "tbptt"])
def test_the_tape_of_a_long_run_is_no_longer(gradient: str, options) -> None:
    options = {"truncation": 3, **options}
    assert bytes_on_tape(gradient, 80, **options) == bytes_on_tape(gradient, 5, **options)


@pytest.mark.parametrize("gradient", ["bptt", "cbptt", "checkpointed_bptt"])
def test_the_tape_through_time_grows_with_the_steps(gradient: str) -> None:
    state = 2 * 4 * 16 * 16 * 4
    few, more, most = (bytes_on_tape(gradient, steps) for steps in (5, 20, 80))
    a_step = (more - few) / 15
    assert most - more == 60 * a_step
    if gradient == "checkpointed_bptt":
        assert a_step == state
    else:
        assert a_step > 8 * state


@pytest.mark.parametrize("gradient", METHODS)
def test_no_samples_give_connected_zeros(gradient: str) -> None:
    block = make(gradient)
    output = block(torch.zeros(0, 4, 5, 5))
    loss = output.output.sum() + (0 if output.penalty is None else output.penalty)
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())


@pytest.mark.parametrize("gradient", METHODS)
def test_eval_mode_gives_gradients_and_no_penalty(gradient: str) -> None:
    block = make(gradient)
    drive = torch.randn(2, 4, 5, 5, requires_grad=True)
    output = block.eval()(drive)
    assert output.penalty is None
    output.output.sum().backward()
    assert drive.grad is not None


@pytest.mark.parametrize("gradient", METHODS)
def test_no_grad_and_inference_mode_have_no_graph(gradient: str) -> None:
    block = make(gradient)
    drive = torch.randn(2, 4, 5, 5)
    expected = block(drive).output.detach()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            output = block(drive)
        assert not output.output.requires_grad and output.penalty is None
        assert torch.equal(output.output, expected)


# -- mixed precision


@pytest.mark.parametrize("gradient", METHODS)
def test_bfloat16_autocast_is_close_and_leaves_no_gradient_out(gradient: str) -> None:
    gradients = {}
    for enabled in (False, True):
        block = make(gradient, adjoint=AdjointConfig(max_steps=5, tol=0))
        drive = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = loss_of(block, drive)
        loss.backward()
        assert all(p.grad is not None for p in block.parameters())
        gradients[enabled] = torch.cat([p.grad.flatten() for p in block.parameters()])
    assert gradients[True].dtype == torch.float32
    error = (gradients[True] - gradients[False]).norm() / gradients[False].norm()
    assert error < 0.02  # bfloat16 has 8 bits, 0.4 % a number


@pytest.mark.parametrize("gradient", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gradient_scaler_changes_nothing_but_overflow(gradient: str, dtype) -> None:
    def gradients(scale: float) -> list[Tensor]:
        block = make(gradient)
        drive = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.float16):
            loss = loss_of(block, drive)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale  # no overflow was found
        return [p.grad for p in block.parameters()]

    # A power of two moves no bit of float32. In float16 the smallest numbers of the backward pass
    # need a scale to keep their digits.
    smaller, tolerance = (1.0, 0.0) if dtype == torch.float32 else (4096.0, 0.01)
    assert_gradients_close(gradients(65536.0), gradients(smaller), tolerance)


@pytest.mark.parametrize("gradient", METHODS)
def test_a_gradient_scaler_sees_overflow_and_skips_the_step(gradient: str) -> None:
    block = make(gradient)
    before = [p.detach().clone() for p in block.parameters()]
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    loss = loss_of(block, torch.randn(2, 4, 5, 5)) * 3e38
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 32768.0
    assert all(torch.equal(a, b) for a, b in zip(before, block.parameters(), strict=True))


# -- compilation


@pytest.mark.parametrize("gradient", ["bptt", "rbp", "crbp", "cg_rbp"])
def test_a_compiled_cell_agrees(gradient: str) -> None:
    drive = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    gradients = []
    for compiled in (False, True):
        block = make(gradient)
        if compiled:
            # In place: names of parameters stay as they are.
            block.cell.compile(backend="aot_eager")
        loss_of(block, drive).backward()
        gradients.append([p.grad for p in block.parameters()])
    assert set(block.state_dict()) == set(make(gradient).state_dict())
    assert_gradients_close(*gradients, tolerance=1e-4)  # float32, other orders of sums


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("gradient", "options"), [("crbp", {}), ("crbp", {"backend": "functional"}), ("cbptt", {})]
)
def test_a_compiled_cell_with_a_penalty(gradient: str, options, wrapped: bool) -> None:
    drive = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    gradients = []
    for compiled in (False, True):
        block = make(gradient, **options)
        if compiled and wrapped:
            block.cell = torch.compile(block.cell, backend="aot_eager")
        elif compiled:
            block.cell.compile(backend="aot_eager")
        loss_of(block, drive).backward()
        gradients.append([p.grad for p in block.parameters()])
    assert_gradients_close(*gradients, tolerance=1e-4)


# -- checkpointing


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("options", [{}, {"on_failure": "tbptt"}, {"backend": "functional"}])
@pytest.mark.parametrize("gradient", ["rbp", "crbp", "phantom", "bptt"])
def test_a_checkpoint_around_the_block(gradient: str, options, reentrant: bool) -> None:
    block = make(gradient, **options)
    drive = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    parameters = list(block.parameters())
    loss_of(block, drive).backward()
    expected = [p.grad for p in (drive, *parameters)]
    for p in (drive, *parameters):
        p.grad = None

    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    block.cell.register_forward_pre_hook(count)

    def loss(x: Tensor) -> Tensor:
        return loss_of(block, x) * 1.0

    checkpoint(loss, drive, use_reentrant=reentrant).backward()
    assert_gradients_close([p.grad for p in (drive, *parameters)], expected, 1e-6)
    # Once in either pass, and not for every vector-Jacobian product.
    assert calls <= 2 * (block.steps + block.method.config.truncation + 3)


def test_checkpointed_bptt_computes_again_as_it_did() -> None:
    torch.manual_seed(0)
    cell = build_cell("hgru_pathfinder", 8, kernel_size=9)
    block = RecurrentBlock(cell, steps=3, gradient="checkpointed_bptt")
    drive = torch.randn(1, 8, 32, 32)
    assert uses_spectral(drive, cell.inhibition.weight)
    with direct_convolutions():
        loss = block(drive).output.sum()
    loss.backward()
    assert cell.inhibition.weight.grad.any()


# -- several processes


def train_one_of_two(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=(folder / "rendezvous").as_uri(), rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    drive = distributed_drive()[2 * rank : 2 * rank + 2]
    found = {}
    for gradient in METHODS:
        for search in (False, True):
            model = DistributedDataParallel(Shared(gradient), find_unused_parameters=search)
            model(drive).backward()
            found[f"{gradient} {search}"] = [p.grad for p in model.parameters()]
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def distributed_drive() -> Tensor:
    return torch.randn(4, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Shared(nn.Module):
    """A block that is used twice in a pass, as it is in a pyramid, and its loss."""

    def __init__(self, gradient: str) -> None:
        super().__init__()
        self.block = RecurrentBlock(
            contractive_hgru(0),
            steps=5,
            gradient=gradient,
            penalty=LipschitzPenalty(0.1, 1.0, "mean"),
            on_failure="record",
        )

    def forward(self, drive: Tensor) -> Tensor:
        return loss_of(self.block, drive) + loss_of(self.block, 0.5 * drive)


def test_two_processes_find_the_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(train_one_of_two, args=(tmp_path,), nprocs=2)
    for gradient in METHODS:
        model = Shared(gradient)
        model(distributed_drive()).backward()
        single = [p.grad for p in model.parameters()]
        for rank in range(2):
            found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
            for search in (False, True):
                # loss_of takes float32 of the output: 1e-7 a sum.
                assert_gradients_close(found[f"{gradient} {search}"], single, 1e-6)
