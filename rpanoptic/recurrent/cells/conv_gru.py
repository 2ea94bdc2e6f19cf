"""ConvGRU: the gated recurrent unit with convolutions (Cho et al., EMNLP 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.parts import NONLINEARITIES, cell_norm, conv
from rpanoptic.recurrent.checks import check_choice


@CELLS.register("conv_gru")
class ConvGRU(RecurrentCell):
    """Gated recurrent unit, in the form of Nayebi et al. (NeurIPS 2018).

    One step, with drive u and state h (``#`` k x k convolution, ``.`` product, ``[;]``
    concatenation of channels)::

        [r; z] = W_g # [u; h] + b_g
        r  = sigmoid(N_r(r))                             reset gate
        z  = sigmoid(N_z(z))                             update gate, which keeps the state
        c  = nl(N_u(W_u # u + b_c) + N_h(W_h # (r . h))) candidate
        h' = z . h + (1 - z) . c

    The default is the paper's, with no norm. ``kernel_size=7, nonlinearity="relu", norm="IN",
    gate_bias=0.0`` is that of Veerabadran et al. (NeurIPS 2023); 1 - z is their update gate. With
    a norm the second term of the candidate has a bias too. "IN" takes every bias before it off
    again; they are there for the published parameter count.

    Args:
        channels: C of the state.
        drive_channels: C_u, channels of the drive; None for C.
        kernel_size: k, odd.
        nonlinearity: nl, one of "softplus", "tanh", "relu", "sigmoid", "elu".
        norm: the N, as :func:`cell_norm` takes it.
        gate_bias: what the biases of both gates start at (with a norm, its shifts).
        reset_bias: what the reset gate's starts at; None for ``gate_bias``. The released code of
            2018 adds a constant 1 to it: 2.0.
        init: of the weights, as :func:`conv` takes it. "xavier" is Nayebi's, "orthogonal" the
            other's; here the two halves of the candidate are initialised apart.

    It has 3 k^2 C (C_u + C) + 3 C parameters, and 9 C more with a norm.
    """

    def __init__(
        self,
        channels: int,
        drive_channels: int | None = None,
        *,
        kernel_size: int = 3,
        nonlinearity: str = "tanh",
        norm: str = "",
        gate_bias: float = 1.0,
        reset_bias: float | None = None,
        init: str = "xavier",
    ) -> None:
        super().__init__(channels, drive_channels)
        check_choice("nonlinearity", nonlinearity, tuple(NONLINEARITIES))
        self.nonlinearity = NONLINEARITIES[nonlinearity]
        inputs = self.drive_channels + channels
        self.gates = conv(inputs, 2 * channels, kernel_size, bias=True, init=init)
        self.candidate_drive = conv(
            self.drive_channels, channels, kernel_size, bias=True, init=init
        )
        # Without a norm between them one bias serves both terms.
        self.candidate_state = conv(channels, channels, kernel_size, bias=bool(norm), init=init)
        # A norm would take off, or rescale, a bias that stands before it.
        reset_bias = gate_bias if reset_bias is None else reset_bias
        self.reset_norm = cell_norm(norm, channels, weight=1.0, bias=reset_bias)
        self.update_norm = cell_norm(norm, channels, weight=1.0, bias=gate_bias)
        self.candidate_drive_norm = cell_norm(norm, channels, weight=1.0)
        self.candidate_state_norm = cell_norm(norm, channels, weight=1.0)
        if not norm:
            assert self.gates.bias is not None
            for bias, start in zip(self.gates.bias.chunk(2), (reset_bias, gate_bias), strict=True):
                nn.init.constant_(bias, start)

    def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        """Take one step; drive is ``(N, C_u, H, W)``, state and result ``(N, C, H, W)``."""
        reset, update = self.gates(torch.cat([drive, state], dim=1)).chunk(2, dim=1)
        reset = torch.sigmoid(self.reset_norm(reset))
        update = torch.sigmoid(self.update_norm(update))
        candidate = self.nonlinearity(
            self.candidate_drive_norm(self.candidate_drive(drive))
            + self.candidate_state_norm(self.candidate_state(reset * state))
        )
        return update * state + (1 - update) * candidate
