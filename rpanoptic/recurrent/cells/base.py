"""What every recurrent cell is: one step of a dynamical system, ``state' = cell(drive, state)``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.registry import Registry
from rpanoptic.recurrent.state import State, to_tensors

#: What a cell is driven by: one tensor, or a tuple of them, each with the samples first.
Drive: TypeAlias = "Tensor | tuple[Tensor, ...]"


class RecurrentCell(nn.Module, ABC):
    """One step of a recurrent convolutional circuit.

    A cell is pure in its inputs: it keeps no step counter, draws no random number and updates no
    buffer, so that ``state' = cell(drive, state)`` can have a fixed point. It knows nothing of the
    number of steps that it is run for, nor of how its gradients are found.

    Args:
        channels: channels of the output, and of the state unless the cell says otherwise.
        drive_channels: channels of the drive; None for as many as the output has.

    Raises:
        ValueError: a number of channels below 1.
    """

    #: Tensors of the state; several make it a tuple.
    state_tensors = 1
    #: What drives the cell, in order: "drive", the convolved drive of its layer, and where the cell
    #: asks for more, "input", what entered the layer, and "feedback" from later layers. Several
    #: make the drive a tuple. A cell may settle it by its options.
    drive_parts: tuple[str, ...] = ("drive",)
    #: Steps from the first state until the drive has reached every output; a run takes no fewer.
    least_steps = 1

    def __init__(self, channels: int, drive_channels: int | None = None) -> None:
        super().__init__()
        drive_channels = channels if drive_channels is None else drive_channels
        for name, value in (("channels", channels), ("drive_channels", drive_channels)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.channels = channels
        self.drive_channels = drive_channels

    @abstractmethod
    def forward(self, drive: Any, state: State) -> State:
        """Take one step.

        Args:
            drive: ``(N, C_drive, H, W)``, the same at every step; a cell that joins several
                others may take a tuple of tensors.
            state: as :meth:`initial_state` makes it.

        Returns:
            The next state, in the form of ``state``.
        """

    def part_channels(self) -> tuple[int, ...]:
        """Channels of each of the :attr:`drive_parts`."""
        return (self.drive_channels,)

    def check_drive(self, drive: Drive) -> None:
        """Check the shape of a drive before the first step.

        Raises:
            ValueError: it is not ``(N, C_drive, H, W)``, or for a cell of several
                :attr:`drive_parts` not a tuple of such tensors of equal N, H and W.
        """
        channels = self.part_channels()
        given = [tuple(part.shape) for part in to_tensors(drive)]
        single = isinstance(drive, Tensor)
        first = given[0] if given else ()
        fits = len(first) == 4 and given == [(first[0], c, *first[2:]) for c in channels]
        if not fits or single != (len(channels) == 1):
            shapes = [f"(N, {c}, H, W)" for c in channels]
            parts = zip(self.drive_parts, shapes, strict=True)
            named = ", ".join(f"{part} {shape}" for part, shape in parts)
            raise ValueError(
                f"drive must be {shapes[0] if len(shapes) == 1 else f'a tuple ({named})'} "
                f"for this cell; got {first if single else given}"
            )

    def initial_state(self, drive: Any) -> State:
        """The state before the first step: zeros ``(N, C, H, W)``, laid out as the drive is.

        A tuple of them for a cell with several :attr:`state_tensors`. Of a drive of several
        tensors the first one counts.
        """
        first = to_tensors(drive)[0]
        zeros = tuple(zero_state(first, self.channels) for _ in range(self.state_tensors))
        return zeros if self.state_tensors > 1 else zeros[0]

    def output(self, state: State) -> Tensor:
        """What is read out of a state, ``(N, C, H, W)``: its only, or its first, tensor."""
        return to_tensors(state)[0]


def zero_state(drive: Tensor, channels: int) -> Tensor:
    """Zeros ``(N, channels, H, W)`` of the drive's batch, size, type and memory format."""
    if channels == drive.shape[1]:
        return torch.zeros_like(drive)
    shape = (drive.shape[0], channels, *drive.shape[2:])
    if drive.is_contiguous(memory_format=torch.channels_last) and not drive.is_contiguous():
        return drive.new_zeros(shape).contiguous(memory_format=torch.channels_last)
    return drive.new_zeros(shape)


CELLS: Registry[RecurrentCell] = Registry("cell")


def build_cell(name: str, channels: int, **options: Any) -> RecurrentCell:
    """Build a cell by its name.

    Args:
        name: a name in :data:`CELLS`.
        channels: channels of the cell's output; of its drive too unless ``drive_channels`` is
            among the options.
        options: keyword arguments of the cell's class.

    Raises:
        ValueError: the name is unknown (the message lists the known ones), or an option has an
            impossible value.
        TypeError: the cell has no such option.
    """
    return CELLS.get(name)(channels, **options)
