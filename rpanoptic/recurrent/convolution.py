"""Convolutions of stride 1 with "same" padding, as the cells use them."""

from __future__ import annotations

from torch import nn


class Convolution(nn.Conv2d):
    """A convolution of stride 1 and odd kernel size that keeps the size of its input.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size: side of the kernel in pixels, odd.
        bias: whether there is one.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, bias: bool = False
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias
        )
