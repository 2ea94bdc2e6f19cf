"""ConvRNN: the vanilla recurrent network, with convolutions (Nayebi et al., NeurIPS 2018)."""

from __future__ import annotations

from torch import Tensor

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.parts import NONLINEARITIES, cell_norm, conv
from rpanoptic.recurrent.checks import check_choice


@CELLS.register("conv_rnn")
class ConvRNN(RecurrentCell):
    """A recurrent network without gates; SimpleRNN in the paper.

    One step, with drive u and state h (``#`` k x k convolution)::

        h' = nl(N(W_u # u + b_u + W_h # h + b_h))

    The two biases act as one; both are there in the published parameter counts.

    Args:
        channels: C of the state.
        drive_channels: channels of the drive; None for C.
        kernel_size: k, odd.
        nonlinearity: nl, one of "softplus", "tanh", "relu", "sigmoid", "elu".
        norm: N, as :func:`cell_norm` takes it. The paper's shallow networks have "LN", its deeper
            ones none.

    With C channels of drive and state it has 2 k^2 C^2 + 2 C parameters, and 2 C more with a norm.
    Weights start as Xavier uniform, biases at 0.
    """

    def __init__(
        self,
        channels: int,
        drive_channels: int | None = None,
        *,
        kernel_size: int = 3,
        nonlinearity: str = "elu",
        norm: str = "",
    ) -> None:
        super().__init__(channels, drive_channels)
        check_choice("nonlinearity", nonlinearity, tuple(NONLINEARITIES))
        self.nonlinearity = NONLINEARITIES[nonlinearity]
        self.feedforward = conv(
            self.drive_channels, channels, kernel_size, bias=True, init="xavier"
        )
        self.recurrent = conv(channels, channels, kernel_size, bias=True, init="xavier")
        self.norm = cell_norm(norm, channels, weight=1.0)

    def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        """Take one step; drive is ``(N, C_drive, H, W)``, state and result ``(N, C, H, W)``."""
        return self.nonlinearity(self.norm(self.feedforward(drive) + self.recurrent(state)))
