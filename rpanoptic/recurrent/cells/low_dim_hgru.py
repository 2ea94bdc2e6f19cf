"""hGRU with a state of fewer channels than its drive, for the laterals of a feature pyramid."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.gala import GALA
from rpanoptic.recurrent.cells.parts import (
    cell_norm,
    channel_parameter,
    conv,
    init_gate_biases_,
)


@CELLS.register("hgru_low_dim")
class LowDimHGRU(RecurrentCell):
    """hGRU that keeps C_l channels from step to step and inhibits a drive of C_i channels.

    One step, with drive x (C_i) and state h (C_l); ``*`` 1 x 1 and ``#`` k x k convolution, ``.``
    product, ``[;]`` concatenation of channels, phi the softplus::

        f  = K_fo # h + b_fo                        fan-out of the state, C_l -> C_i
        g1 = sigmoid(GALA(f))                       inhibition gate;  sigmoid(U0 * f + b0) without
        c0 = N0(W_inh # (f . g1))                   inhibition, C_i -> C_i
        z  = phi(x - phi(c0 . (alpha . f + mu)))    inhibited drive
        g2 = sigmoid(U1 * [z; h] + b1)              update gate, C_i + C_l -> C_l
        h~ = phi(N1(W_exc # z))                     candidate, C_i -> C_l
        h' = (1 - g2) . h + g2 . h~

    It is the cell by which the released code of Linsley et al., NeurIPS 2020 replaces the lateral
    convolutions of a feature pyramid. Both branches of its GALA squeeze C_i to a quarter.

    Args:
        channels: C_l of the state.
        drive_channels: C_i of the drive; None for as many.
        kernel_size: k, side of the spatial kernels; odd.
        gala: gate the inhibition by :class:`GALA`, which needs at least four drive channels.
        norm: N0 and N1, as :func:`cell_norm` takes it.
        bias_init: "chrono" or "legacy", see :func:`init_gate_biases_`. The two gates differ in
            channels, so each has a draw of its own. The released code leaves the logarithm out of
            the inhibition gate only, and so does "legacy".
        max_steps: the steps that the cell will be trained with; spreads the gate biases.

    Kernels start orthogonal. With C_l = 256, C_i = 1024, k = 3 and GALA it has 17,376,768
    parameters, 15,538,944 without.
    """

    def __init__(
        self,
        channels: int,
        drive_channels: int | None = None,
        *,
        kernel_size: int = 3,
        gala: bool = True,
        norm: str = "GN",
        bias_init: str = "chrono",
        max_steps: int = 20,
    ) -> None:
        super().__init__(channels, drive_channels)
        wide, init = self.drive_channels, "orthogonal"
        self.fan_out = conv(channels, wide, kernel_size, bias=True, init=init)
        self.inhibition_gate: GALA | nn.Conv2d
        if gala:
            self.inhibition_gate = GALA(
                wide, kernel_size, F.softplus, spatial_reduction=4, init=init
            )
        else:
            self.inhibition_gate = conv(wide, wide, bias=True, init=init)
        self.inhibition = conv(wide, wide, kernel_size, init=init)
        self.inhibition_norm = cell_norm(norm, wide, weight=0.1)
        self.update_gate = conv(wide + channels, channels, bias=True, init=init)
        self.excitation = conv(wide, channels, kernel_size, init=init)
        self.excitation_norm = cell_norm(norm, channels, weight=0.1)
        self.alpha = channel_parameter(wide, 0.1)
        self.mu = channel_parameter(wide, 0.0)
        opening, update = self.inhibition_gate.bias, self.update_gate.bias
        assert opening is not None and update is not None
        # One of each pair is thrown away: see bias_init above.
        init_gate_biases_(opening, torch.empty_like(opening), max_steps, bias_init)
        init_gate_biases_(torch.empty_like(update), update, max_steps, "chrono")

    def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        """Take one step; drive ``(N, C_i, H, W)``, state and result ``(N, C_l, H, W)``."""
        wide_state = self.fan_out(state)
        inhibition_gate = torch.sigmoid(self.inhibition_gate(wide_state))
        inhibition = self.inhibition_norm(self.inhibition(wide_state * inhibition_gate))
        inhibited = F.softplus(drive - F.softplus(inhibition * (self.alpha * wide_state + self.mu)))
        update_gate = torch.sigmoid(self.update_gate(torch.cat((inhibited, state), dim=1)))
        candidate = F.softplus(self.excitation_norm(self.excitation(inhibited)))
        return (1 - update_gate) * state + update_gate * candidate
