"""What every recurrent cell is: one step of a dynamical system, ``state' = cell(drive, state)``."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from rpanoptic.recurrent.registry import Registry
from rpanoptic.recurrent.state import State


class RecurrentCell(nn.Module, ABC):
    """One step of a recurrent convolutional circuit.

    A cell is pure in its inputs: it keeps no step counter, draws no random number and updates no
    buffer, so that ``state' = cell(drive, state)`` can have a fixed point. It knows nothing of the
    number of steps that it is run for, nor of how its gradients are found.

    Args:
        channels: channels of the drive and of the state.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.channels = channels

    @abstractmethod
    def forward(self, drive: Tensor, state: State) -> State:
        """Take one step.

        Args:
            drive: ``(N, C, H, W)``, the same at every step.
            state: as :meth:`initial_state` makes it.

        Returns:
            The next state, in the form of ``state``.
        """

    def initial_state(self, drive: Tensor) -> State:
        """The state before the first step: zeros of the drive's shape ``(N, C, H, W)``."""
        return drive.new_zeros(drive.shape)


CELLS: Registry[RecurrentCell] = Registry("cell")


def build_cell(name: str, channels: int, **options: object) -> RecurrentCell:
    """Build a cell by its name.

    Args:
        name: a name in :data:`CELLS`.
        channels: channels of the drive and of the state.
        options: keyword arguments of the cell's class.

    Raises:
        ValueError: the name is unknown (the message lists the known ones), or an option has an
            impossible value.
        TypeError: the cell has no such option.
    """
    return CELLS.get(name)(channels, **options)
