"""What is measured: a cell, a drive and a loss, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rpanoptic.errors import ConfigError
from rpanoptic.recurrent import RecurrentCell, build_cell


@dataclass(frozen=True)
class Problem:
    """A cell with a random drive.

    Args:
        cell: a name in :data:`rpanoptic.recurrent.CELLS`.
        channels: C.
        kernel_size: side of the spatial kernels, odd.
        size: height and width of the map in pixels.
        batch: N.
        device: "cpu", "cuda" or "cuda:1".
        channels_last: whether the drive, and with it the state, is laid out so.
        seed: of weights and drive.
    """

    cell: str = "hgru"
    channels: int = 32
    kernel_size: int = 3
    size: int = 64
    batch: int = 4
    device: str = "cpu"
    channels_last: bool = False
    seed: int = 0

    def build(self) -> Instance:
        """The cell and its tensors, the same at every call.

        Raises:
            ConfigError: no such cell, an impossible size, or a device that is not there.
        """
        device = _device(self.device)
        if min(self.size, self.batch) < 1:
            raise ConfigError(f"size and batch must be at least 1, got {self.size}, {self.batch}")
        # Drawn on the CPU, so that every device gets the same numbers.
        torch.manual_seed(self.seed)
        try:
            cell = build_cell(self.cell, self.channels, kernel_size=self.kernel_size)
        except (ValueError, TypeError) as error:
            raise ConfigError(str(error)) from error
        shape = (self.batch, cell.drive_channels, self.size, self.size)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        drive = torch.randn(shape).to(device, memory_format=layout).requires_grad_()
        weight = torch.randn(self.batch, self.channels, self.size, self.size).to(device)
        return Instance(cell.to(device), drive, weight / weight.numel() ** 0.5)


@dataclass
class Instance:
    """A problem's tensors.

    Attributes:
        cell: in training mode.
        drive: ``(N, C_drive, H, W)``, wants a gradient.
        weight: ``(N, C, H, W)``; the loss is its inner product with the cell's output.
    """

    cell: RecurrentCell
    drive: Tensor
    weight: Tensor

    def train(self, loss: Callable[[], Tensor]) -> float:
        """Forward and backward pass of ``loss``, to drive and parameters. Returns the loss."""
        self.clear()
        value = loss()
        value.backward()
        return value.item()

    def clear(self) -> None:
        """Drop all gradients."""
        self.drive.grad = None
        self.cell.zero_grad(set_to_none=True)

    def drive_gradient(self) -> Tensor:
        """Gradient of the drive as one vector, a copy."""
        assert self.drive.grad is not None
        return self.drive.grad.detach().flatten().clone()

    def parameter_gradient(self) -> Tensor:
        """Gradients of all parameters as one vector, a copy."""
        grads = [p.grad.flatten() for p in self.cell.parameters() if p.grad is not None]
        return torch.cat(grads).detach().clone()


def seconds(function: Callable[[], object], device: str) -> float:
    """Time that a call takes, to the end of all work that it gives the device."""
    _synchronise(device)
    start = time.perf_counter()
    function()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be 'cpu' or 'cuda', got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: PyTorch finds no CUDA device here")
    return device
