"""ConvLSTM: long short-term memory with convolutions (Shi et al., NeurIPS 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.parts import cell_norm, conv


@CELLS.register("conv_lstm")
class ConvLSTM(RecurrentCell):
    """Long short-term memory, in the form of Nayebi et al. (NeurIPS 2018).

    One step, with drive u, hidden state h and memory c (``#`` k x k convolution, ``.`` product,
    ``[;]`` concatenation of channels)::

        [i; j; f; o] = W # [u; h] + b
        c' = N_c(sigmoid(N_f(f)) . c + sigmoid(N_i(i)) . tanh(N_j(j)))
        h' = sigmoid(N_o(o)) . tanh(c')

    Both h and c are state, so that an adjoint sees the memory too. The peepholes of Shi et al. are
    left out: they are a weight for each place, which would tie the cell to one size of map. With
    ``forget_bias=0.0`` it is the Pathfinder baseline of Linsley et al. (NeurIPS 2020).

    Args:
        channels: C of h and c.
        drive_channels: C_u, channels of the drive; None for C.
        kernel_size: k, odd.
        norm: the N, as :func:`cell_norm` takes it; "LN" in the paper's shallow network.
        forget_bias: what the forget gate's bias starts at (with a norm, its shift); the others
            start at 0.

    It has 4 k^2 C (C_u + C) + 4 C parameters, and 10 C more with a norm. Weights start as Xavier
    uniform.
    """

    state_tensors = 2

    def __init__(
        self,
        channels: int,
        drive_channels: int | None = None,
        *,
        kernel_size: int = 3,
        norm: str = "",
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__(channels, drive_channels)
        inputs = self.drive_channels + channels
        self.gates = conv(inputs, 4 * channels, kernel_size, bias=True, init="xavier")
        self.input_norm = cell_norm(norm, channels, weight=1.0)
        self.candidate_norm = cell_norm(norm, channels, weight=1.0)
        # A norm would take off, or rescale, a bias that stands before it.
        self.forget_norm = cell_norm(norm, channels, weight=1.0, bias=forget_bias)
        self.output_norm = cell_norm(norm, channels, weight=1.0)
        self.memory_norm = cell_norm(norm, channels, weight=1.0)
        if not norm:
            assert self.gates.bias is not None
            nn.init.constant_(self.gates.bias.chunk(4)[2], forget_bias)

    def forward(  # type: ignore[override]
        self, drive: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Take one step; drive is ``(N, C_u, H, W)``, state and result are (h, c)."""
        hidden, memory = state
        gates = self.gates(torch.cat([drive, hidden], dim=1))
        input_gate, candidate, forget_gate, output_gate = gates.chunk(4, dim=1)
        kept = torch.sigmoid(self.forget_norm(forget_gate)) * memory
        written = torch.sigmoid(self.input_norm(input_gate)) * torch.tanh(
            self.candidate_norm(candidate)
        )
        memory = self.memory_norm(kept + written)
        hidden = torch.sigmoid(self.output_norm(output_gate)) * torch.tanh(memory)
        return hidden, memory
