"""UGRNN: the update gate recurrent network (Collins et al., ICLR 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.parts import conv


@CELLS.register("ugrnn")
class UGRNN(RecurrentCell):
    """A vanilla recurrent network with one gate, which keeps the state.

    One step, with drive u and state h (``#`` k x k convolution, ``.`` product, ``[;]``
    concatenation of channels), with convolutions as in Nayebi et al. (NeurIPS 2018)::

        [g; c] = W # [u; h] + b
        h' = sigmoid(g) . h + (1 - sigmoid(g)) . tanh(c)

    Args:
        channels: C of the state.
        drive_channels: C_u, channels of the drive; None for C.
        kernel_size: k, odd.
        gate_bias: what the gate's bias starts at; the candidate's starts at 0.

    It has 2 k^2 C (C_u + C) + 2 C parameters. Weights start as Xavier uniform.
    """

    def __init__(
        self,
        channels: int,
        drive_channels: int | None = None,
        *,
        kernel_size: int = 3,
        gate_bias: float = 1.0,
    ) -> None:
        super().__init__(channels, drive_channels)
        inputs = self.drive_channels + channels
        self.gate_and_candidate = conv(inputs, 2 * channels, kernel_size, bias=True, init="xavier")
        assert self.gate_and_candidate.bias is not None
        nn.init.constant_(self.gate_and_candidate.bias[:channels], gate_bias)

    def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        """Take one step; drive is ``(N, C_u, H, W)``, state and result ``(N, C, H, W)``."""
        gate, candidate = self.gate_and_candidate(torch.cat([drive, state], dim=1)).chunk(2, dim=1)
        gate = torch.sigmoid(gate)
        return gate * state + (1 - gate) * torch.tanh(candidate)
