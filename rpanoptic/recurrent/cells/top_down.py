"""Gated feedback from a coarser level of a feature hierarchy (Linsley et al., NeurIPS 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell, zero_state
from rpanoptic.recurrent.cells.parts import (
    cell_norm,
    channel_parameter,
    conv,
    init_gate_biases_,
)


@CELLS.register("top_down")
class TopDown(RecurrentCell):
    """Inhibits and excites a lower level by the activity of the level above it.

    The drive is the higher activity q (C_td channels) at half the resolution of the state, the
    lower level's l (C_l channels). One step, with C_m midway between C_td and C_l (``*`` 1 x 1 and
    ``#`` k x k convolution, ``.`` product, up the nearest-neighbour upsampling, phi the softplus)::

        p  = phi(R1 * phi(R0 * up(q) + r0) + r1)    feedback, C_td -> C_m -> C_l
        g1 = sigmoid(U1 * p + b1)                   inhibition gate
        c1 = N1(W_inh # (p . g1))                   inhibition
        z  = phi(l - phi(c1 . (alpha . p + mu)))    inhibited state
        g2 = sigmoid(U2 * z + b2)                   update gate
        c2 = N2(W_exc # z)                          excitation
        h~ = phi(kappa . (z + c2) + omega . z . c2)
        l' = (1 - g2) . l + g2 . h~

    Args:
        channels: C_l of the state.
        drive_channels: C_td of the drive; None for as many.
        kernel_size: k, side of the spatial kernels; odd.
        norm: N1 and N2, as :func:`cell_norm` takes it. The released code has a batch norm.
        bias_init: "chrono" or "legacy", see :func:`init_gate_biases_`.
        max_steps: the steps that the cell will be trained with; spreads the gate biases.

    Kernels start orthogonal. With C_l = 256, C_td = 512 and k = 3 it has 1,608,832 parameters.
    """

    def __init__(
        self,
        channels: int,
        drive_channels: int | None = None,
        *,
        kernel_size: int = 3,
        norm: str = "GN",
        bias_init: str = "chrono",
        max_steps: int = 20,
    ) -> None:
        super().__init__(channels, drive_channels)
        between, init = (channels + self.drive_channels) // 2, "orthogonal"
        self.remap_in = conv(self.drive_channels, between, bias=True, init=init)
        self.remap_out = conv(between, channels, bias=True, init=init)
        self.inhibition_gate = conv(channels, channels, bias=True, init=init)
        self.inhibition = conv(channels, channels, kernel_size, init=init)
        self.inhibition_norm = cell_norm(norm, channels, weight=0.1)
        self.update_gate = conv(channels, channels, bias=True, init=init)
        self.excitation = conv(channels, channels, kernel_size, init=init)
        self.excitation_norm = cell_norm(norm, channels, weight=0.1)
        self.alpha = channel_parameter(channels, 0.1)
        self.mu = channel_parameter(channels, 1.0)
        self.kappa = channel_parameter(channels, 0.5)
        self.omega = channel_parameter(channels, 0.5)
        assert self.inhibition_gate.bias is not None and self.update_gate.bias is not None
        init_gate_biases_(self.inhibition_gate.bias, self.update_gate.bias, max_steps, bias_init)

    def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        """Take one step.

        Args:
            drive: ``(N, C_td, h, w)``.
            state: ``(N, C_l, H, W)``, H one of 2h - 1, 2h, 2h + 1, and W likewise: the size that a
                stride of two halves to h x w, rounding up or down.

        Returns:
            ``(N, C_l, H, W)``.

        Raises:
            ValueError: the state's size is none of these.
        """
        size = state.shape[-2:]
        if any(abs(s - 2 * d) > 1 for s, d in zip(size, drive.shape[-2:], strict=True)):
            raise ValueError(
                "the state must be twice the height and width of the drive, give or take a pixel;"
                f" got state {tuple(state.shape)} and drive {tuple(drive.shape)}"
            )
        # What works pixel by pixel gives the same before the upsampling, for a quarter of the work.
        feedback = F.softplus(self.remap_out(F.softplus(self.remap_in(drive))))
        gated = feedback * torch.sigmoid(self.inhibition_gate(feedback))
        scale = self.alpha * feedback + self.mu
        inhibition = self.inhibition_norm(self.inhibition(F.interpolate(gated, size)))
        inhibited = F.softplus(state - F.softplus(inhibition * F.interpolate(scale, size)))
        update_gate = torch.sigmoid(self.update_gate(inhibited))
        excitation = self.excitation_norm(self.excitation(inhibited))
        candidate = F.softplus(
            self.kappa * (inhibited + excitation) + self.omega * inhibited * excitation
        )
        return (1 - update_gate) * state + update_gate * candidate

    def initial_state(self, drive: Tensor) -> Tensor:
        """Zeros ``(N, C_l, 2h, 2w)``, laid out as the drive is."""
        return F.interpolate(zero_state(drive, self.channels), scale_factor=2.0)
