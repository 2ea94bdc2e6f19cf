"""IntersectionRNN: gates over depth and over time (Collins et al., ICLR 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.parts import check_equal_channels, conv


@CELLS.register("intersection_rnn")
class IntersectionRNN(RecurrentCell):
    """A gate that keeps the state from step to step, and one that passes the drive by.

    One step, with drive u and hidden state h (``#`` k x k convolution, ``.`` product, ``[;]``
    concatenation of channels), with convolutions as in Nayebi et al. (NeurIPS 2018)::

        [g_h; c_h; g_y; c_y] = W # [u; h] + b
        h' = sigmoid(g_h) . h + (1 - sigmoid(g_h)) . tanh(c_h)
        y' = sigmoid(g_y) . u + (1 - sigmoid(g_y)) . relu(c_y)

    The output y feeds nothing, but it is what is read out: it stands in the state (h, y), so that
    a gradient which arrives at the equilibrium has a place in it.

    Args:
        channels: C of drive, h and y.
        drive_channels: None or C, since the output blends the drive in.
        kernel_size: k, odd.
        gate_bias: what the biases of both gates start at; the candidates' start at 0.

    It has 8 k^2 C^2 + 4 C parameters. Weights start as Xavier uniform.

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
        gate_bias: float = 1.0,
    ) -> None:
        super().__init__(channels, drive_channels)
        check_equal_channels(self.channels, self.drive_channels)
        self.gates_and_candidates = conv(
            2 * channels, 4 * channels, kernel_size, bias=True, init="xavier"
        )
        assert self.gates_and_candidates.bias is not None
        hidden_gate, _, output_gate, _ = self.gates_and_candidates.bias.chunk(4)
        nn.init.constant_(hidden_gate, gate_bias)
        nn.init.constant_(output_gate, gate_bias)

    def forward(  # type: ignore[override]
        self, drive: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Take one step; drive is ``(N, C, H, W)``, state and result are (h, y)."""
        hidden, _ = state
        parts = self.gates_and_candidates(torch.cat([drive, hidden], dim=1)).chunk(4, dim=1)
        hidden_gate, hidden_candidate, output_gate, output_candidate = parts
        hidden_gate, output_gate = torch.sigmoid(hidden_gate), torch.sigmoid(output_gate)
        hidden = hidden_gate * hidden + (1 - hidden_gate) * torch.tanh(hidden_candidate)
        output = output_gate * drive + (1 - output_gate) * torch.relu(output_candidate)
        return hidden, output

    def output(self, state: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """y, ``(N, C, H, W)``."""
        return state[1]
