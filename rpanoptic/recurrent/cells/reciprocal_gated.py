"""Reciprocal Gated Cell (Nayebi et al., NeurIPS 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.parts import NONLINEARITIES, check_equal_channels, conv
from rpanoptic.recurrent.checks import check_choice


@CELLS.register("reciprocal_gated")
class ReciprocalGated(RecurrentCell):
    """Two states that each gate what the other takes up of the drive.

    One step of the paper's cell, with drive u, hidden state h and memory c (``#`` k x k
    convolution, ``.`` product)::

        h' = nl((1 - sigmoid(T_h # h + t_h)) . h + (1 - sigmoid(G_h # c + g_h)) . u)
        c' = nl((1 - sigmoid(T_c # c + t_c)) . c + (1 - sigmoid(G_c # h + g_c)) . u)

    Both take the old h and c. T sets the time constant of a state and G gates its drive. From
    zero states the first step gives nl(u / 2): the drive bypasses the cell. A gate that closes
    carries its state on whole, so that the step is then no contraction.

    Args:
        channels: C of drive, h and c.
        drive_channels: None or C, since the drive is blended with the states.
        kernel_size: k, odd.
        nonlinearity: nl, one of "softplus", "tanh", "relu", "sigmoid", "elu". The paper leaves it
            open; "elu" is what its released networks use throughout.

    It has 4 k^2 C^2 + 4 C parameters. Weights start as Xavier uniform, biases at 0.

    Raises:
        ValueError: ``drive_channels`` is not C.
    """

    state_tensors = 2

    def __init__(
        self,
        channels: int,
        drive_channels: int | None = None,
        *,
        kernel_size: int = 3,
        nonlinearity: str = "elu",
    ) -> None:
        super().__init__(channels, drive_channels)
        check_equal_channels(self.channels, self.drive_channels)
        check_choice("nonlinearity", nonlinearity, tuple(NONLINEARITIES))
        self.nonlinearity = NONLINEARITIES[nonlinearity]
        self.hidden_tau = conv(channels, channels, kernel_size, bias=True, init="xavier")
        self.hidden_gate = conv(channels, channels, kernel_size, bias=True, init="xavier")
        self.memory_tau = conv(channels, channels, kernel_size, bias=True, init="xavier")
        self.memory_gate = conv(channels, channels, kernel_size, bias=True, init="xavier")

    def forward(  # type: ignore[override]
        self, drive: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Take one step; drive is ``(N, C, H, W)``, state and result are (h, c)."""
        hidden, memory = state
        new_hidden = self.nonlinearity(
            (1 - torch.sigmoid(self.hidden_tau(hidden))) * hidden
            + (1 - torch.sigmoid(self.hidden_gate(memory))) * drive
        )
        new_memory = self.nonlinearity(
            (1 - torch.sigmoid(self.memory_tau(memory))) * memory
            + (1 - torch.sigmoid(self.memory_gate(hidden))) * drive
        )
        return new_hidden, new_memory
