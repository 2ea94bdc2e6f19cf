"""LocRNN: populations that excite and inhibit each other (Veerabadran et al., NeurIPS 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.parts import NONLINEARITIES, cell_norm, conv
from rpanoptic.recurrent.checks import check_choice
from rpanoptic.recurrent.convolution import Convolution


@CELLS.register("loc_rnn")
class LocRNN(RecurrentCell):
    """Excitation e and inhibition i, each driven by the picture and by both.

    One step, with drive x (``*`` 1 x 1 and ``#`` k x k convolution, ``.`` product, ``[;]``
    concatenation of channels); e and i alike, each with weights and norms of its own::

        g_e = sigmoid(N_ex(U_e * x + b_ue) + N_ee(V_e * e + b_ve))    gate
        e^  = nl(W_ex * x + b_ex + W_e # [e; i] + b_e)                candidate
        e'  = nl(N_e(g_e . e^ + (1 - g_e) . e))                       e' = e^ without gates

    Both take the old e and i; e is read out. No weight is held to a sign, so that the names say
    which population is read out, not what it does. The two biases of a candidate act as one; both
    are there in the published parameter count.

    Args:
        channels: C of e and i.
        drive_channels: C_x, channels of the drive; None for C.
        kernel_size: k for e, odd.
        inhibition_kernel_size: k for i, odd.
        gates: whether there are gates. Without them there is no N either.
        nonlinearity: nl, one of "softplus", "tanh", "relu", "sigmoid", "elu".
        norm: the N, as :func:`cell_norm` takes it.

    With 32 channels it has 158,336 parameters. Weights and biases start as in the released code,
    uniform within 1 / sqrt(fan-in).
    """

    state_tensors = 2

    def __init__(
        self,
        channels: int,
        drive_channels: int | None = None,
        *,
        kernel_size: int = 7,
        inhibition_kernel_size: int = 5,
        gates: bool = True,
        nonlinearity: str = "relu",
        norm: str = "LN",
    ) -> None:
        super().__init__(channels, drive_channels)
        check_choice("nonlinearity", nonlinearity, tuple(NONLINEARITIES))
        self.nonlinearity = NONLINEARITIES[nonlinearity]
        inputs = self.drive_channels
        self.excitation_drive = conv(inputs, channels, bias=True)
        self.excitation = conv(2 * channels, channels, kernel_size, bias=True)
        self.inhibition_drive = conv(inputs, channels, bias=True)
        self.inhibition = conv(2 * channels, channels, inhibition_kernel_size, bias=True)
        self.excitation_mix: GatedMix | None = None
        self.inhibition_mix: GatedMix | None = None
        if gates:
            self.excitation_mix = GatedMix(inputs, channels, norm)
            self.inhibition_mix = GatedMix(inputs, channels, norm)
        for module in self.modules():
            if isinstance(module, Convolution):
                module.reset_parameters()

    def forward(  # type: ignore[override]
        self, drive: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Take one step; drive is ``(N, C_x, H, W)``, state and result are (e, i)."""
        excited, inhibited = state
        both = torch.cat(state, dim=1)
        new_excited = self.nonlinearity(self.excitation_drive(drive) + self.excitation(both))
        new_inhibited = self.nonlinearity(self.inhibition_drive(drive) + self.inhibition(both))
        if self.excitation_mix is not None and self.inhibition_mix is not None:
            new_excited = self.nonlinearity(self.excitation_mix(drive, excited, new_excited))
            new_inhibited = self.nonlinearity(self.inhibition_mix(drive, inhibited, new_inhibited))
        return new_excited, new_inhibited


class GatedMix(nn.Module):
    """``N(g . candidate + (1 - g) . state)`` with ``g = sigmoid(N(U * drive) + N(V * state))``."""

    def __init__(self, drive_channels: int, channels: int, norm: str) -> None:
        super().__init__()
        self.gate_drive = conv(drive_channels, channels, bias=True)
        self.gate_state = conv(channels, channels, bias=True)
        self.gate_drive_norm = cell_norm(norm, channels, weight=1.0)
        self.gate_state_norm = cell_norm(norm, channels, weight=1.0)
        self.norm = cell_norm(norm, channels, weight=1.0)

    def forward(self, drive: Tensor, state: Tensor, candidate: Tensor) -> Tensor:
        """Return the mixture, ``(N, C, H, W)`` like the state."""
        gate = torch.sigmoid(
            self.gate_drive_norm(self.gate_drive(drive))
            + self.gate_state_norm(self.gate_state(state))
        )
        return self.norm(gate * candidate + (1 - gate) * state)
