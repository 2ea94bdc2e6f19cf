"""What every registered cell owes its users, whatever its equations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import CELLS, RecurrentCell, build_cell
from rpanoptic.recurrent.cells import MEDIAN_RECIPROCAL_GATED
from rpanoptic.recurrent.cells.base import Drive
from rpanoptic.recurrent.state import State, like, to_tensors

CHANNELS = 8
BATCH, HEIGHT, WIDTH = 3, 5, 6

# Options of each cell, small ones; a cell stands once for every form that runs other code.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "conv_gru": [{"drive_channels": 5}, {"norm": "LN", "kernel_size": 5}],
    "conv_lstm": [
        {"drive_channels": 5},
        {"norm": "LN"},
        {"kernel_size": 2, "peephole_size": (HEIGHT, WIDTH)},
    ],
    "conv_rnn": [{"drive_channels": 5}, {"norm": "LN"}],
    "general_reciprocal_gated": [
        {"memory_channels": 5, "memory_kernel_size": 2, "gate_kernel_size": 4},
        {
            **MEDIAN_RECIPROCAL_GATED,
            "memory_channels": 5,
            "input_channels": 3,
            "feedback": True,
            "tau_kernel_size": 3,
            "gate_kernel_size": 3,
        },
        {"input_channels": 3, "residual_to_output_gate": True, "norm": "LN"},
        {"memory_channels": 0, "residual_to_output_tau": True, "input_channels": 8},
    ],
    "hgru": [
        {},
        {"gala": False, "less_softplus": False},
        {"extra_softplus": True},
        {"extra_softplus": True, "less_softplus": False},
    ],
    "hgru_low_dim": [{"drive_channels": 12}, {"drive_channels": 4, "gala": False}],
    "hgru_pathfinder": [{"kernel_size": 5}],
    "intersection_rnn": [{}],
    # Not its relu: a difference across the kink tells nothing of the slope.
    "loc_rnn": [
        {"drive_channels": 5, "nonlinearity": "softplus"},
        {"gates": False, "nonlinearity": "softplus"},
    ],
    "reciprocal_gated": [{}],
    # At its start, 0, the decay is at a minimum of every product with the Jacobian.
    "time_decay": [{"tau_init": 0.5}],
    "top_down": [{"drive_channels": 13}, {"drive_channels": 3, "kernel_size": 1}],
    "ugrnn": [{"drive_channels": 5}],
}
CASES = [(name, options) for name, variants in OPTIONS.items() for options in variants]


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    name, options = case
    return ",".join([name, *(f"{key}={value}" for key, value in options.items())])


@pytest.fixture(params=CASES, ids=case_id)
def cell(request: pytest.FixtureRequest) -> RecurrentCell:
    torch.manual_seed(0)
    name, options = request.param
    return build_cell(name, CHANNELS, **options)


def random_drive(cell: RecurrentCell, **options: Any) -> Drive:
    """One tensor, or for a cell that is driven by several a tuple of them."""
    parts = [torch.randn(BATCH, c, HEIGHT, WIDTH, **options) for c in cell.part_channels()]
    return tuple(parts) if len(parts) > 1 else parts[0]


def random_state(cell: RecurrentCell, drive: Drive) -> State:
    """A state of the cell's own form, away from its start, where some terms vanish."""
    start = cell.initial_state(drive)
    return each(torch.randn_like, start)


def each(change: Callable[[Tensor], Tensor], value: State | Drive) -> Any:
    """All tensors of a state or a drive, changed, in its form."""
    return like(tuple(map(change, to_tensors(value))), value)


def select(value: State | Drive, samples: slice) -> Any:
    return each(lambda tensor: tensor[samples], value)


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def assert_states_close(actual: State, expected: State, rtol: float, atol: float) -> None:
    for one, other in zip(to_tensors(actual), to_tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def test_the_table_covers_every_cell() -> None:
    assert set(OPTIONS) == set(CELLS)


def test_shapes_and_types(cell) -> None:
    drive = random_drive(cell)
    start = cell.initial_state(drive)
    state = cell(drive, start)
    assert isinstance(state, Tensor) == isinstance(start, Tensor)
    for before, after in zip(to_tensors(start), to_tensors(state), strict=True):
        assert before.shape == after.shape and before.dtype == after.dtype == torch.float32
        assert before.shape[0] == BATCH
        assert after.isfinite().all()
    output = cell.output(state)
    assert output.shape[:2] == (BATCH, CHANNELS)
    assert output.shape[2:] == to_tensors(start)[0].shape[2:]


def test_a_step_is_a_pure_function(cell) -> None:
    """No random number, buffer or argument changes in a step, not even in training mode."""
    drive = random_drive(cell)
    state = random_state(cell, drive)
    arguments = copy.deepcopy((*to_tensors(drive), *to_tensors(state)))
    tensors, random_numbers = copy.deepcopy(cell.state_dict()), torch.get_rng_state()
    cell.train()
    first, second = cell(drive, state), cell(drive, state)
    assert_states_close(first, second, rtol=0, atol=0)
    assert_states_close(cell.eval()(drive, state), first, rtol=0, atol=0)
    assert torch.equal(random_numbers, torch.get_rng_state())
    assert all(map(torch.equal, arguments, (*to_tensors(drive), *to_tensors(state))))
    assert all(torch.equal(tensors[name], now) for name, now in cell.state_dict().items())


def test_state_dict_round_trip(cell) -> None:
    other = copy.deepcopy(cell)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    drive = random_drive(cell)
    state = random_state(cell, drive)
    expected = cell(drive, state)
    assert not torch.equal(cell.output(other(drive, state)), cell.output(expected))
    other.load_state_dict(cell.state_dict())
    assert_states_close(other(drive, state), expected, rtol=0, atol=0)


def test_a_deep_copy_computes_the_same_on_parameters_of_its_own(cell) -> None:
    drive = random_drive(cell)
    state = random_state(cell, drive)
    expected = cell(drive, state)
    twin = copy.deepcopy(cell)
    assert_states_close(twin(drive, state), expected, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.fill_(0.5)
    assert_states_close(cell(drive, state), expected, rtol=0, atol=0)


def test_float64(cell) -> None:
    drive = random_drive(cell)
    state = random_state(cell, drive)
    single = cell(drive, state)
    double = cell.double()(each(Tensor.double, drive), each(Tensor.double, state))
    assert all(t.dtype == torch.float64 for t in to_tensors(double))
    # Sums of up to a few hundred products of order one, each rounded to 6e-8.
    assert_states_close(single, each(Tensor.float, double), rtol=1e-4, atol=1e-5)


def test_channels_last_changes_the_layout_alone(cell) -> None:
    cell.double()
    drive = random_drive(cell, dtype=torch.float64)
    state = random_state(cell, drive)
    expected = cell(drive, state)
    laid_out = each(channels_last, drive)
    for tensor in to_tensors(cell.initial_state(laid_out)):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    actual = cell(laid_out, each(channels_last, state))
    # Other kernels add in another order.
    assert_states_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_every_parameter_has_a_gradient(cell) -> None:
    """A parameter without one would stop distributed training."""
    drive = random_drive(cell)
    state = cell(drive, cell(drive, random_state(cell, drive)))
    sum((t * torch.randn_like(t)).sum() for t in to_tensors(state)).backward()
    for name, parameter in cell.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_bfloat16_autocast(cell) -> None:
    drive = random_drive(cell)
    state = random_state(cell, drive)
    expected = cell.output(cell(drive, state)).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = cell.output(cell(drive, state)).float()
    # bfloat16 rounds by at most 2^-9 = 0.2 %. A step rounds some ten times in series; the errors
    # are of random sign, and much of the state never passes a convolution: five roundings at most.
    assert float((output.detach() - expected).norm()) < 0.01 * float(expected.norm())
    output.sum().backward()
    for name, parameter in cell.named_parameters():
        # What feeds a second state tensor alone is not in the output of a single step.
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_a_sample_does_not_depend_on_its_batch(cell) -> None:
    cell.double()
    drive = random_drive(cell, dtype=torch.float64)
    state = random_state(cell, drive)
    together = cell(drive, cell(drive, state))
    for i in range(BATCH):
        one = slice(i, i + 1)
        alone = cell(select(drive, one), cell(select(drive, one), select(state, one)))
        # A convolution may be computed by another algorithm for another batch size.
        assert_states_close(alone, select(together, one), rtol=1e-10, atol=1e-12)


def test_double_backward(cell) -> None:
    """The slope of ``|J^T v|^2`` in the parameters, as the contraction penalty needs it."""
    cell.double()
    drive = random_drive(cell, dtype=torch.float64)
    state = random_state(cell, drive)
    inputs = tuple(t.requires_grad_() for t in to_tensors(state))
    parameters = list(cell.parameters())
    probes = [torch.randn_like(t) for t in inputs]
    direction = [torch.randn_like(p) for p in parameters]

    def squared_product(*, create_graph: bool) -> Tensor:
        outputs = to_tensors(cell(drive, like(inputs, state)))
        # A tensor of the state that the step does not read has a product of zero.
        products = torch.autograd.grad(
            outputs, inputs, probes, create_graph=create_graph, materialize_grads=True
        )
        return sum((p.square().sum() for p in products), torch.zeros(()))

    @torch.no_grad()
    def moved(by: float) -> float:
        for parameter, change in zip(parameters, direction, strict=True):
            parameter.add_(change, alpha=by)
        with torch.enable_grad():
            value = float(squared_product(create_graph=False))
        for parameter, change in zip(parameters, direction, strict=True):
            parameter.sub_(change, alpha=by)
        return value

    # A parameter in which the step is linear with slope one (a bias) is in no Jacobian.
    slopes = torch.autograd.grad(squared_product(create_graph=True), parameters, allow_unused=True)
    expected = sum(
        float((s * d).sum()) for s, d in zip(slopes, direction, strict=True) if s is not None
    )
    # A central difference errs by its step squared plus rounding / step: about 1e-9 of the slope.
    step = 1e-5
    assert expected != 0
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(expected, rel=1e-5)
