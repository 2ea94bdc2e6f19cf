"""The hGRU of the contour-tracing experiments (Linsley et al., NeurIPS 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.parts import (
    cell_norm,
    channel_parameter,
    conv,
    init_gate_biases_,
)


@CELLS.register("hgru_pathfinder")
class PathfinderHGRU(RecurrentCell):
    """Horizontal gated recurrent unit with kernels as wide as the gaps in a dashed contour.

    One step, with drive x and state h (``*`` 1 x 1 and ``#`` k x k convolution, ``.`` product, phi
    the softplus)::

        g1 = sigmoid(U1 * h + b1)              inhibition gate
        c1 = N1(W_inh # (h . g1))              inhibition
        z  = phi(x - phi(c1 . (alpha . h + mu)))    inhibited drive
        g2 = sigmoid(U2 * z + b2)              update gate
        c2 = N2(W_exc # z)                     excitation
        h~ = phi(kappa . z + gamma . c2 + omega . z . c2)
        h' = phi((1 - g2) . h + g2 . h~)

    The outer softplus has a slope below one, which is contractive by itself.

    The paper's form is ``norm="BN"``: batch statistics in training and in evaluation. With them the
    samples of a batch have one equilibrium together, the state Jacobian is not block-diagonal, and
    what is computed for a picture depends on the other pictures of its batch.

    Args:
        channels: C of drive and state; 25 in the paper. GroupNorm then has a single group.
        kernel_size: k, side of the spatial kernels; odd.
        norm: N1 and N2, as :func:`cell_norm` takes it.
        bias_init: "chrono" or "legacy", see :func:`init_gate_biases_`.
        max_steps: the steps that the cell will be trained with; spreads the gate biases. The
            released code draws from U(1, 7) whatever the number of steps, which is
            ``bias_init="legacy", max_steps=8``.

    Kernels start orthogonal. With 25 channels and k = 15 it has 282,775 parameters.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 15,
        norm: str = "GN",
        bias_init: str = "chrono",
        max_steps: int = 20,
    ) -> None:
        super().__init__(channels)
        self.inhibition_gate = conv(channels, channels, bias=True, init="orthogonal")
        self.inhibition = conv(channels, channels, kernel_size, init="orthogonal")
        self.inhibition_norm = cell_norm(norm, channels, weight=0.1)
        self.update_gate = conv(channels, channels, bias=True, init="orthogonal")
        self.excitation = conv(channels, channels, kernel_size, init="orthogonal")
        self.excitation_norm = cell_norm(norm, channels, weight=0.1)
        self.alpha = channel_parameter(channels, 0.1)
        self.mu = channel_parameter(channels, 1.0)
        self.gamma = channel_parameter(channels, 1.0)
        self.kappa = channel_parameter(channels, 0.5)
        self.omega = channel_parameter(channels, 0.5)
        assert self.inhibition_gate.bias is not None and self.update_gate.bias is not None
        init_gate_biases_(self.inhibition_gate.bias, self.update_gate.bias, max_steps, bias_init)

    def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        """Take one step; drive, state and result are ``(N, C, H, W)``."""
        inhibition_gate = torch.sigmoid(self.inhibition_gate(state))
        inhibition = self.inhibition_norm(self.inhibition(state * inhibition_gate))
        inhibited = F.softplus(drive - F.softplus(inhibition * (self.alpha * state + self.mu)))
        update_gate = torch.sigmoid(self.update_gate(inhibited))
        excitation = self.excitation_norm(self.excitation(inhibited))
        candidate = F.softplus(
            self.kappa * inhibited + self.gamma * excitation + self.omega * inhibited * excitation
        )
        return F.softplus((1 - update_gate) * state + update_gate * candidate)
