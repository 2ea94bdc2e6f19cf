"""hGRU with GALA: the cell of the recurrent mask head (Linsley et al., NeurIPS 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.gala import GALA
from rpanoptic.recurrent.cells.parts import (
    NONLINEARITIES,
    cell_norm,
    channel_parameter,
    conv,
    init_gate_biases_,
)
from rpanoptic.recurrent.checks import check_choice


@CELLS.register("hgru")
class HGRU(RecurrentCell):
    """Horizontal gated recurrent unit: divisive-subtractive inhibition, then gated excitation.

    One step, with drive x and state h (``*`` 1 x 1 and ``#`` k x k convolution, ``.`` product)::

        g1 = sigmoid(GALA(h))              inhibition gate;  sigmoid(U0 * h + b0) without GALA
        c0 = N0(W_inh # (h . g1))          inhibition
        z  = nl(x - c0 . (alpha . h + mu)) inhibited drive
        g2 = sigmoid(U1 * z + b1)          update gate
        e  = nl(N1(W_exc # z))             excitation
        h~ = e                             candidate;  z + nl(omega . z . e) if not less_softplus
        h' = (1 - g2) . h + g2 . h~

    With ``extra_softplus`` the new state passes a softplus, whose slope below one is contractive by
    itself::

        h' = softplus((1 - g2) . h + g2 . h~)

    and z and h~, if not ``less_softplus`` (else they are as above), have nl inside too::

        z  = nl(nl(x) - nl(c0 . (alpha . h + mu)))
        h~ = nl(kappa . (z + e) + omega . z . e)

    Args:
        channels: C of drive and state.
        kernel_size: k, side of the spatial kernels; odd.
        gala: gate the inhibition by :class:`GALA`.
        nonlinearity: nl, one of "softplus", "tanh", "relu", "sigmoid", "elu".
        norm: N0 and N1, as :func:`cell_norm` takes it.
        less_softplus: which candidate, see above; True is the paper's.
        extra_softplus: whether the new state passes a softplus, see above; False is the paper's.
        bias_init: "chrono" or "legacy", see :func:`init_gate_biases_`.
        max_steps: the steps that the cell will be trained with; spreads the gate biases.

    With 256 channels and k = 3 it has 1,576,256 parameters, 1,312,768 without GALA.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 3,
        gala: bool = True,
        nonlinearity: str = "softplus",
        norm: str = "GN",
        less_softplus: bool = True,
        extra_softplus: bool = False,
        bias_init: str = "chrono",
        max_steps: int = 20,
    ) -> None:
        super().__init__(channels)
        check_choice("nonlinearity", nonlinearity, tuple(NONLINEARITIES))
        self.nonlinearity = NONLINEARITIES[nonlinearity]
        self.inhibition_gate: GALA | nn.Conv2d
        if gala:
            self.inhibition_gate = GALA(channels, kernel_size, self.nonlinearity)
        else:
            self.inhibition_gate = conv(channels, channels, bias=True, init="xavier")
        self.inhibition = conv(channels, channels, kernel_size)
        self.inhibition_norm = cell_norm(norm, channels, weight=0.1)
        self.update_gate = conv(channels, channels, bias=True)
        self.excitation = conv(channels, channels, kernel_size)
        self.excitation_norm = cell_norm(norm, channels, weight=0.1)
        self.extra_softplus = extra_softplus
        self.alpha = channel_parameter(channels, 0.1)
        self.mu = channel_parameter(channels, 1.0)
        # Without a use for them there are no parameters either: DDP would miss their gradients.
        self.omega = None if less_softplus else channel_parameter(channels, 0.5)
        has_kappa = extra_softplus and not less_softplus
        self.kappa = channel_parameter(channels, 0.5) if has_kappa else None
        assert self.inhibition_gate.bias is not None and self.update_gate.bias is not None
        init_gate_biases_(self.inhibition_gate.bias, self.update_gate.bias, max_steps, bias_init)

    def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        """Take one step; drive, state and result are ``(N, C, H, W)``."""
        inhibition_gate = torch.sigmoid(self.inhibition_gate(state))
        inhibition = self.inhibition_norm(self.inhibition(state * inhibition_gate))
        suppression = inhibition * (self.alpha * state + self.mu)
        if self.kappa is None:
            inhibited = self.nonlinearity(drive - suppression)
        else:
            inhibited = self.nonlinearity(self.nonlinearity(drive) - self.nonlinearity(suppression))
        update_gate = torch.sigmoid(self.update_gate(inhibited))
        excitation = self.nonlinearity(self.excitation_norm(self.excitation(inhibited)))
        candidate = self._candidate(inhibited, excitation)
        mixed = (1 - update_gate) * state + update_gate * candidate
        return F.softplus(mixed) if self.extra_softplus else mixed

    def _candidate(self, inhibited: Tensor, excitation: Tensor) -> Tensor:
        """The state that the update gate moves towards, h~."""
        if self.omega is None:
            return excitation
        product = self.omega * inhibited * excitation
        if self.kappa is None:
            return inhibited + self.nonlinearity(product)
        return self.nonlinearity(self.kappa * (inhibited + excitation) + product)
