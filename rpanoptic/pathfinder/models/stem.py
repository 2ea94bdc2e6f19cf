"""The first layer of the recurrent model: a convolution that starts as a bank of Gabor filters."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.recurrent.checks import check_choice, check_count
from rpanoptic.recurrent.convolution import Convolution

KERNELS = ("gabor", "random")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": torch.square,
    "relu": F.relu,
    "none": lambda x: x,
}

# Of the published filters, in pixels of their 7 x 7.
PUBLISHED_SIZE = 7
WAVELENGTH = 3.5
SPREAD = 2.8
# Of the envelope: how much slower it falls along the stripes than across them.
ASPECT = 0.3
PHASES = (0.0, math.radians(-116.5))
# Below, the stripes would be less than two pixels wide, which no grid can show.
LEAST_GABOR_SIZE = 5


def gabor_bank(channels: int = 25, size: int = PUBLISHED_SIZE) -> Tensor:
    """Gabor filters in all orientations and two phases, and a disc.

    The first layer of Linsley et al. (NeurIPS 2020) starts so. With x to the right and y down, in
    pixels from the middle, filter k of n orientations has ``theta = 90 + 180 k / n`` degrees and::

        X = x cos(theta) - y sin(theta),   Y = x sin(theta) + y cos(theta)
        exp(-(X^2 + 0.3^2 Y^2) / (2 * 2.8^2)) * cos(2 pi X / 3.5 + phase)   where x^2 + y^2 <= 9

    and 0 elsewhere; then its mean over the square is taken off, so that an even picture gives
    nothing, and it is scaled to norm 1. First come the n filters of phase 0, then those of -116.5
    degrees; last the disc itself, constant, of mean 1 over the square.

    The published bank has 25 channels of 7 x 7, which are 12 orientations. Another number of
    channels has as many orientations as half of it, without the disc, rounded up; if that is odd,
    the last orientation has phase 0 alone. Another size scales wavelength, spread and disc with it.

    Args:
        channels: number of filters, at least 1.
        size: side of a filter in pixels, odd, at least 5.

    Returns:
        ``(channels, size, size)`` float32.

    Raises:
        ValueError: an impossible number or size.
    """
    check_count("channels", channels, least=1)
    if check_count("size", size, least=LEAST_GABOR_SIZE) % 2 == 0:
        raise ValueError(f"size must be odd, got {size}")
    scale = size / PUBLISHED_SIZE
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    disc = (x.square() + y.square() <= (size // 2) ** 2).double()
    orientations = channels // 2
    bank = []
    for place in range(channels - 1):
        theta = math.pi / 2 + math.pi * (place % orientations) / orientations
        across = x * math.cos(theta) - y * math.sin(theta)
        along = x * math.sin(theta) + y * math.cos(theta)
        envelope = across.square() + (ASPECT * along).square()
        phase = PHASES[place // orientations]
        wave = torch.cos(2 * math.pi * across / (WAVELENGTH * scale) + phase)
        gabor = disc * torch.exp(-envelope / (2 * (SPREAD * scale) ** 2)) * wave
        gabor = gabor - gabor.mean()
        bank.append(gabor / gabor.norm())
    return torch.stack([*bank, disc / disc.mean()]).float()


class Stem(nn.Module):
    """Convolution and activation that make a picture the drive of a recurrence.

    All of it is trained. The bias starts at 0, so that an empty picture drives nothing.

    Args:
        in_channels: channels of the picture. A bank of filters is spread evenly over several, so
            that a grey picture in three channels gives what it gives in one.
        channels: C, channels of the drive.
        size: side of the kernels in pixels, odd.
        kernels: what they start as: "gabor", :func:`gabor_bank`, or "random", as PyTorch has it.
        activation: "square" (the paper's), "relu" or "none".

    Raises:
        ValueError: a value is unknown or impossible.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        size: int = PUBLISHED_SIZE,
        kernels: str = "gabor",
        activation: str = "square",
    ) -> None:
        super().__init__()
        check_choice("kernels", kernels, KERNELS)
        check_choice("activation", activation, tuple(ACTIVATIONS))
        self.conv = Convolution(in_channels, channels, size, bias=True)
        self.activation = activation
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)
        if kernels == "gabor":
            bank = gabor_bank(channels, size)[:, None] / in_channels
            with torch.no_grad():
                self.conv.weight.copy_(bank.expand_as(self.conv.weight))

    @property
    def channels(self) -> int:
        """Channels of the drive."""
        return self.conv.out_channels

    def forward(self, image: Tensor) -> Tensor:
        """The drive ``(N, C, H, W)`` of pictures ``(N, C_in, H, W)``."""
        return ACTIVATIONS[self.activation](self.conv(image))

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"
