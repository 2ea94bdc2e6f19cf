"""ConvLSTM: long short-term memory with convolutions (Shi et al., NeurIPS 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.cells.base import CELLS, Drive, RecurrentCell
from rpanoptic.recurrent.cells.parts import cell_norm, conv
from rpanoptic.recurrent.checks import check_count
from rpanoptic.recurrent.state import to_tensors


@CELLS.register("conv_lstm")
class ConvLSTM(RecurrentCell):
    """Long short-term memory, in the form of Nayebi et al. (NeurIPS 2018).

    One step, with drive u, hidden state h and memory c (``#`` k x k convolution, ``.`` product,
    ``[;]`` concatenation of channels; what stands in brackets is optional)::

        [i; j; f; o] = W # [u; h] + b
        c' = N_c(sigmoid(N_f(f) [+ p_f . c]) . c + sigmoid(N_i(i) [+ p_i . c]) . tanh(N_j(j)))
        h' = sigmoid(N_o(o) [+ p_o . c]) . tanh(c')

    Both h and c are state, so that an adjoint sees the memory too. The peepholes p of Shi et al.
    are a weight for each place, which ties the cell to one size of map; the output gate looks at
    the old c, as in the released code. With ``forget_bias=0.0`` it is the Pathfinder baseline of
    Linsley et al. (NeurIPS 2020).

    Args:
        channels: C of h and c.
        drive_channels: C_u, channels of the drive; None for C.
        kernel_size: k. Of an even kernel the larger half of the padding stands right and below.
        norm: the N, as :func:`cell_norm` takes it; "LN" in the paper's shallow network.
        forget_bias: what the forget gate's bias starts at (with a norm, its shift); the others
            start at 0.
        peephole_size: height and width of the map that the peepholes are made for, or one number
            for both, in pixels; None for none. They start at 0.

    It has 4 k^2 C (C_u + C) + 4 C parameters, 10 C more with a norm and 3 H W C more with
    peepholes. Weights start as Xavier uniform.

    Raises:
        ValueError: an impossible option; in a run, a drive of another size than the peepholes'.
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
        peephole_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__(channels, drive_channels)
        inputs = self.drive_channels + channels
        self.gates = conv(inputs, 4 * channels, kernel_size, bias=True, init="xavier", even=True)
        self.input_norm = cell_norm(norm, channels, weight=1.0)
        self.candidate_norm = cell_norm(norm, channels, weight=1.0)
        # A norm would take off, or rescale, a bias that stands before it.
        self.forget_norm = cell_norm(norm, channels, weight=1.0, bias=forget_bias)
        self.output_norm = cell_norm(norm, channels, weight=1.0)
        self.memory_norm = cell_norm(norm, channels, weight=1.0)
        if not norm:
            assert self.gates.bias is not None
            nn.init.constant_(self.gates.bias.chunk(4)[2], forget_bias)
        self.peephole_size = _size("peephole_size", peephole_size)
        if self.peephole_size is not None:
            shape = channels, *self.peephole_size
            self.input_peephole = nn.Parameter(torch.zeros(shape))
            self.forget_peephole = nn.Parameter(torch.zeros(shape))
            self.output_peephole = nn.Parameter(torch.zeros(shape))

    def forward(  # type: ignore[override]
        self, drive: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Take one step; drive is ``(N, C_u, H, W)``, state and result are (h, c)."""
        hidden, memory = state
        gates = self.gates(torch.cat([drive, hidden], dim=1)).chunk(4, dim=1)
        input_gate, candidate = self.input_norm(gates[0]), self.candidate_norm(gates[1])
        forget_gate, output_gate = self.forget_norm(gates[2]), self.output_norm(gates[3])
        if self.peephole_size is not None:
            self._check_size(drive)
            input_gate = input_gate + self.input_peephole * memory
            forget_gate = forget_gate + self.forget_peephole * memory
            output_gate = output_gate + self.output_peephole * memory
        kept = torch.sigmoid(forget_gate) * memory
        written = torch.sigmoid(input_gate) * torch.tanh(candidate)
        memory = self.memory_norm(kept + written)
        hidden = torch.sigmoid(output_gate) * torch.tanh(memory)
        return hidden, memory

    def check_drive(self, drive: Drive) -> None:
        """Check the shape of a drive before the first step.

        Raises:
            ValueError: it is not ``(N, C_u, H, W)``, of the peepholes' H and W if there are some.
        """
        super().check_drive(drive)
        self._check_size(to_tensors(drive)[0])

    def _check_size(self, drive: Tensor) -> None:
        size = tuple(drive.shape[-2:])
        if self.peephole_size not in (None, size):
            raise ValueError(
                f"the peepholes are made for maps of {self.peephole_size} pixels (peephole_size); "
                f"the drive has {size}"
            )


def _size(option: str, value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(sides) != 2:
        raise ValueError(f"{option} must be a number or a height and a width, got {value!r}")
    height, width = (check_count(option, side, least=1) for side in sides)
    return height, width
