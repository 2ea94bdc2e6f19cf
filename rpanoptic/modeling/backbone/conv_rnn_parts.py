"""What the layers of a task-driven ConvRNN are made of: convolutions, feedback, pooling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.modeling.backbone.conv_rnn_graph import ACTIVATIONS, Layer
from rpanoptic.recurrent.cells.parts import NONLINEARITIES, variance_scaling_
from rpanoptic.recurrent.checks import check_choice, check_count, check_flag

COMBINATIONS = ("add", "multiply", "gate")


class SameConv2d(nn.Conv2d):
    """A convolution that rounds ``size / stride`` up, as TensorFlow's "SAME" padding does.

    Where the padding is odd, its larger half stands right and below. Weights start as a truncated
    normal distribution of variance 1 / fan-in, the bias at 0.

    Args:
        in_channels, out_channels: of input and output.
        kernel_size: side of the kernel in pixels.
        stride: in pixels.
        groups: into which the channels are divided.
        bias: whether there is one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        # PyTorch pads as well, but warns of a copy where the kernel is even.
        itself = stride == 1 and kernel_size % 2 == 1
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding="same" if itself else 0,
            groups=groups,
            bias=bias,
        )
        variance_scaling_(self.weight, self.weight[0].numel())
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x (N, C, H, W)``."""
        if self.padding != "same":
            height, width = (self._padding(size) for size in x.shape[-2:])
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)

    def _padding(self, size: int) -> int:
        stride, kernel_size = self.stride[0], self.kernel_size[0]
        return max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)


class ConvLayer(nn.Module):
    """The convolutions of a layer, before and after its cell.

    With input x and the cell's output h (``#`` convolution, k x k before and 3 x 3 after; A the
    activation, "elu" as published; S the identity, or a 1 x 1 convolution without bias where the
    channels differ)::

        u = A(W # x + b)                     drives the cell; h = u where there is none
        y = A(V # h + d + S(x))              of a residual layer
        y = h                                of any other

    Args:
        layer: what it is.
        in_channels: channels of x.
    """

    def __init__(self, layer: Layer, in_channels: int) -> None:
        super().__init__()
        self.conv = SameConv2d(in_channels, layer.channels, layer.kernel_size, stride=layer.stride)
        self.pool = layer.pool
        self.activation = layer.activation
        self.conv_out: nn.Module | None = None
        self.shortcut: nn.Module | None = None
        if layer.residual:
            self.conv_out = SameConv2d(layer.cell_channels, layer.channels, 3)
            if in_channels != layer.channels:
                self.shortcut = SameConv2d(in_channels, layer.channels, 1, bias=False)

    def drive(self, x: Tensor) -> Tensor:
        """u ``(N, C, H / stride, W / stride)``, rounded up, of x ``(N, C_in, H, W)``."""
        return activated(self.conv(x), self.activation)

    def finish(self, h: Tensor, x: Tensor) -> Tensor:
        """y, of the height and width of h ``(N, C_h, H, W)``."""
        if self.conv_out is None:
            return h
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return activated(self.conv_out(h) + shortcut, self.activation)

    def forward(self, x: Tensor) -> Tensor:
        """y of a layer without a cell."""
        return self.finish(self.drive(x), x)

    def pooled(self, y: Tensor) -> Tensor:
        """What other layers read: y after 2 x 2 max-pooling, odd sizes rounded up, or y itself."""
        return F.max_pool2d(y, kernel_size=2, stride=2, ceil_mode=True) if self.pool else y


def activated(x: Tensor, activation: str) -> Tensor:
    """x after one of ``NONLINEARITIES``; x itself for ""."""
    return NONLINEARITIES[activation](x) if activation else x


@dataclass(frozen=True)
class Connection:
    """How feedback reaches a layer.

    Args:
        kernel_size: side of the convolution's kernel, in pixels of the layer.
        separable: whether it is one of each channel and a 1 x 1 convolution of these.
        nonlinearity: what follows it: one of ``NONLINEARITIES``, or "" for nothing.
        combination: what becomes of drive u and feedback f: "add", u + f; "multiply", u f; or
            "gate", u sigmoid(f). A cell that takes the feedback itself has a way of its own.

    The defaults are as published.

    Raises:
        ValueError: a value is unknown or out of its range.
    """

    kernel_size: int = 1
    separable: bool = False
    nonlinearity: str = ""
    combination: str = "add"

    def __post_init__(self) -> None:
        check_count("kernel_size of the connections", self.kernel_size, least=1)
        check_flag("separable of the connections", self.separable)
        check_choice("nonlinearity of the connections", self.nonlinearity, ACTIVATIONS)
        check_choice("combination of the connections", self.combination, COMBINATIONS)


class Feedback(nn.Module):
    """What later layers tell a layer.

    They are brought to its size by bilinear interpolation that keeps the corners, and mixed by a
    convolution with a bias. A 1 x 1 convolution commutes with the resizing; it comes first, at the
    sources' smaller sizes.

    The bias starts at 0, and at 1 where the drive is multiplied by what comes out: the layer would
    see nothing otherwise until the sources are active, which may depend on itself.

    Args:
        sources: channels of the later layers by their names.
        channels: of the drive.
        connection: of what form it is.
    """

    def __init__(
        self, sources: Mapping[str, int], channels: int, connection: Connection | None = None
    ) -> None:
        super().__init__()
        self.connection = connection or Connection()
        kernel_size, separable = self.connection.kernel_size, self.connection.separable
        inputs = sum(sources.values())
        self.convs = nn.ModuleDict()
        for name, width in sources.items():
            mixing = SameConv2d(width, channels, 1 if separable else kernel_size, bias=False)
            # Of a sum over all sources.
            variance_scaling_(mixing.weight, inputs * mixing.kernel_size[0] ** 2)
            self.convs[name] = mixing
            if separable:
                each = SameConv2d(width, width, kernel_size, groups=width, bias=False)
                self.convs[name] = nn.Sequential(each, mixing)
        at_first = 1.0 if self.connection.combination == "multiply" else 0.0
        self.bias = nn.Parameter(torch.full((channels, 1, 1), at_first))

    def forward(self, outputs: Mapping[str, Tensor], size: torch.Size) -> Tensor:
        """Of the sources' outputs by their names, the sum over them, ``(N, C, *size)``.

        Some may be of a batch of one: they then serve all samples.
        """
        mixed = sum(self._mixed(conv, outputs[name], size) for name, conv in self.convs.items())
        assert isinstance(mixed, Tensor)
        # As a convolution does it: a bias in float32 would make the rest of a layer so too.
        return activated(mixed + self.bias.to(mixed.dtype), self.connection.nonlinearity)

    def combined(self, drive: Tensor, feedback: Tensor) -> Tensor:
        """What drives the layer, of the shape of the drive ``(N, C, H, W)``."""
        if self.connection.combination == "add":
            return drive + feedback
        gated = self.connection.combination == "gate"
        return drive * (torch.sigmoid(feedback) if gated else feedback)

    def _mixed(self, conv: nn.Module, source: Tensor, size: torch.Size) -> Tensor:
        if self.connection.kernel_size == 1:
            return _resized(conv(source), size)
        return conv(_resized(source, size))


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)
