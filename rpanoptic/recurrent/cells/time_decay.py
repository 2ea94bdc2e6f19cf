"""Time decay: the leaky integrator without weights (Nayebi et al., NeurIPS 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell
from rpanoptic.recurrent.cells.parts import check_equal_channels


@CELLS.register("time_decay")
class TimeDecay(RecurrentCell):
    """A drive that is summed up and forgotten at one learnt rate.

    One step, with drive u and state h::

        h' = tau h + u

    The step is a contraction for abs(tau) < 1 alone; its equilibrium is then u / (1 - tau). As
    published, nothing keeps tau there.

    Args:
        channels: C of drive and state.
        drive_channels: None or C, since the drive is added to the state.
        tau_init: what tau starts at. The published 0 passes the drive through.

    It has one parameter.

    Raises:
        ValueError: ``drive_channels`` is not C.
    """

    def __init__(
        self, channels: int, drive_channels: int | None = None, *, tau_init: float = 0.0
    ) -> None:
        super().__init__(channels, drive_channels)
        check_equal_channels(self.channels, self.drive_channels)
        self.tau = nn.Parameter(torch.tensor(float(tau_init)))

    def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        """Take one step; drive, state and result are ``(N, C, H, W)``."""
        return self.tau * state + drive
