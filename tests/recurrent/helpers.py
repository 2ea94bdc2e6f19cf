"""Small contractive systems in float64, on which gradients can be checked against dense algebra."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rpanoptic.recurrent import RecurrentCell, build_cell
from rpanoptic.recurrent.state import State, like, to_tensors


class TwoTensorCell(RecurrentCell):
    """A contraction whose state is a tuple: what one half does reaches the other a step later."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mix = torch.nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        with torch.no_grad():
            self.mix.weight.mul_(0.8)

    def forward(self, drive: Tensor, state: State) -> State:
        mixed = torch.tanh(self.mix(torch.cat(to_tensors(state), dim=1)))
        first, second = mixed.chunk(2, dim=1)
        return first + drive, second

    def initial_state(self, drive: Tensor) -> State:
        return torch.zeros_like(drive), torch.zeros_like(drive)


def contractive_hgru(seed: int, channels: int = 4, **options: object) -> RecurrentCell:
    """A random hGRU in float64 that settles within about a hundred steps.

    Weaker kernels and a faster update gate than at initialisation make it so.
    """
    torch.manual_seed(seed)
    cell = build_cell("hgru", channels, max_steps=5, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            if parameter.dim() == 4:
                parameter.mul_(0.3)
        cell.update_gate.bias.fill_(1.0)
    return cell


def contractive(name: str, seed: int, channels: int = 4, **options: object) -> RecurrentCell:
    """A random cell in float64 that settles, by weak kernels on the state and biases off zero.

    Slow gates are opened, so that some hundred steps are enough; LocRNN needs a stronger drive too.
    """
    torch.manual_seed(seed)
    cell = build_cell(name, channels, **options).double()
    with torch.no_grad():
        for key, parameter in cell.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            if parameter.dim() == 4 and "drive" not in key:
                parameter.mul_(0.3)
            elif key.endswith("norm.weight") and "drive" not in key and name != "loc_rnn":
                parameter.mul_(0.2)
            elif key in ("excitation_drive.weight", "inhibition_drive.weight"):
                parameter.mul_(2.0)
            elif key.endswith(("gate_state.bias", "gate_state_norm.bias")):
                parameter.add_(1.5)
            elif key == "update_gate.bias":
                parameter.fill_(1.0)
    return cell


def two_tensor_cell(seed: int) -> RecurrentCell:
    torch.manual_seed(seed)
    return TwoTensorCell(3).double()


# The first ones go through every test; ALL_CELLS through those of exactness.
CELLS_UNDER_TEST = {
    "hgru": contractive_hgru,
    "hgru without GALA": lambda seed: contractive_hgru(seed, gala=False),
    "hgru with omega": lambda seed: contractive_hgru(seed, less_softplus=False),
    "hgru tanh, no norm": lambda seed: contractive_hgru(seed, nonlinearity="tanh", norm=""),
    "tuple state": two_tensor_cell,
}
ALL_CELLS = {
    **CELLS_UNDER_TEST,
    "hgru extra softplus": lambda seed: contractive_hgru(seed, extra_softplus=True),
    "hgru_pathfinder": lambda seed: contractive("hgru_pathfinder", seed, kernel_size=3),
    "hgru_low_dim": lambda seed: contractive("hgru_low_dim", seed, drive_channels=8),
    "top_down": lambda seed: contractive("top_down", seed, drive_channels=6),
    "conv_rnn": lambda seed: contractive("conv_rnn", seed, drive_channels=2),
    "time_decay": lambda seed: contractive("time_decay", seed, tau_init=0.5),
    "conv_gru": lambda seed: contractive("conv_gru", seed),
    "conv_gru, other drive": lambda seed: contractive("conv_gru", seed, drive_channels=2),
    "conv_lstm": lambda seed: contractive("conv_lstm", seed),
    "conv_lstm with norm": lambda seed: contractive("conv_lstm", seed, norm="LN"),
    "ugrnn": lambda seed: contractive("ugrnn", seed),
    "intersection_rnn": lambda seed: contractive("intersection_rnn", seed),
    "reciprocal_gated": lambda seed: contractive("reciprocal_gated", seed),
    "general_reciprocal_gated": lambda seed: contractive(
        "general_reciprocal_gated", seed, memory_channels=3, gate_kernel_size=2, tau_separable=True
    ),
    "loc_rnn": lambda seed: contractive("loc_rnn", seed, nonlinearity="softplus"),
}


def settle(cell: RecurrentCell, drive: Tensor, steps: int = 400) -> State:
    """The equilibrium of a contractive cell."""
    state = cell.initial_state(drive)
    with torch.no_grad():
        for _ in range(steps):
            state = cell(drive, state)
    return state


def flat(state: State) -> Tensor:
    """A state of one sample as a vector."""
    return torch.cat([t.reshape(-1) for t in to_tensors(state)])


def unflat(vector: Tensor, state: State) -> State:
    """The inverse of :func:`flat`, in the form of ``state``."""
    tensors = to_tensors(state)
    parts = vector.split([t.numel() for t in tensors])
    return like(tuple(v.view_as(t) for v, t in zip(parts, tensors, strict=True)), state)


def dense_jacobian(cell: RecurrentCell, drive: Tensor, state: State) -> Tensor:
    """dF/dh at ``state`` as a matrix; row i is the gradient of the new state's number i."""

    def step(vector: Tensor) -> Tensor:
        return flat(cell(drive, unflat(vector, state)))

    return torch.autograd.functional.jacobian(step, flat(state)).detach()


def assert_gradients_close(
    actual: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float
) -> None:
    """Each gradient to a relative ``tolerance``, or to rounding of the largest one.

    The second is for gradients that vanish: at an equilibrium h = h~, whatever the update gate,
    so that its parameters have none.
    """
    actual, expected = tuple(actual), tuple(expected)
    rounding = 1e-13 * max(float(e.norm()) for e in expected)
    for one, other in zip(actual, expected, strict=True):
        assert float((one - other).norm()) <= tolerance * float(other.norm()) + rounding
