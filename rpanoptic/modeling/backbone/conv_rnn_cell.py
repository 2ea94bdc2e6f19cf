"""The loop of a task-driven ConvRNN as one recurrent cell: wiring of layers, cells and feedback."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.modeling.backbone.conv_rnn_graph import ConvRNNGraph, Layer
from rpanoptic.modeling.build import check_keeps_size
from rpanoptic.recurrent import RecurrentCell
from rpanoptic.recurrent.state import State, to_tensors

DELAYS = (0, 1)
# Standard deviation of a standard normal distribution that is cut off at 2.
_TRUNCATED_STD = 0.87962566


class SameConv2d(nn.Conv2d):
    """A convolution that rounds ``size / stride`` up, as TensorFlow's "SAME" padding does.

    Where the padding is odd, its larger half stands right and below. Weights start as a truncated
    normal distribution of variance 1 / fan-in, the bias at 0.

    Args:
        in_channels, out_channels: of input and output.
        kernel_size: side of the kernel in pixels.
        stride: in pixels.
        bias: whether there is one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        padding = "same" if stride == 1 else 0
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias
        )
        variance_scaling_(self.weight, in_channels * kernel_size**2)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x (N, C, H, W)``."""
        if self.stride[0] > 1:
            height, width = (self._padding(size) for size in x.shape[-2:])
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)

    def _padding(self, size: int) -> int:
        stride, kernel_size = self.stride[0], self.kernel_size[0]
        return max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)


def variance_scaling_(weight: Tensor, fan_in: int) -> None:
    """Fill with a normal distribution of variance ``1 / fan_in``, cut off at two deviations."""
    std = fan_in**-0.5 / _TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


class ConvLayer(nn.Module):
    """The convolutions of a layer, before and after its cell.

    With input x and the cell's output h (``#`` convolution, k x k before and 3 x 3 after; S the
    identity, or a 1 x 1 convolution without bias where the channels differ)::

        u = ELU(W # x + b)                   drives the cell; h = u where there is none
        y = ELU(V # h + d + S(x))            of a residual layer
        y = h                                of any other

    Args:
        layer: what it is.
        in_channels: channels of x.
    """

    def __init__(self, layer: Layer, in_channels: int) -> None:
        super().__init__()
        self.conv = SameConv2d(in_channels, layer.channels, layer.kernel_size, stride=layer.stride)
        self.pool = layer.pool
        self.conv_out: nn.Module | None = None
        self.shortcut: nn.Module | None = None
        if layer.residual:
            self.conv_out = SameConv2d(layer.channels, layer.channels, 3)
            if in_channels != layer.channels:
                self.shortcut = SameConv2d(in_channels, layer.channels, 1, bias=False)

    def drive(self, x: Tensor) -> Tensor:
        """u ``(N, C, H / stride, W / stride)``, rounded up, of x ``(N, C_in, H, W)``."""
        return F.elu(self.conv(x))

    def finish(self, h: Tensor, x: Tensor) -> Tensor:
        """y, of the shape of h ``(N, C, H, W)``."""
        if self.conv_out is None:
            return h
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.elu(self.conv_out(h) + shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """y of a layer without a cell."""
        return self.finish(self.drive(x), x)

    def pooled(self, y: Tensor) -> Tensor:
        """What other layers read: y after 2 x 2 max-pooling, odd sizes rounded up, or y itself."""
        return F.max_pool2d(y, kernel_size=2, stride=2, ceil_mode=True) if self.pool else y


class Feedback(nn.Module):
    """What later layers add to the drive of a layer.

    They are brought to its size by bilinear interpolation that keeps the corners, and mixed by a
    1 x 1 convolution with a bias. The two commute; here the convolution comes first, at the
    sources' smaller sizes.

    Args:
        sources: channels of the later layers by their names.
        channels: of the drive.
    """

    def __init__(self, sources: Mapping[str, int], channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleDict()
        for name, width in sources.items():
            conv = nn.Conv2d(width, channels, 1, bias=False)
            variance_scaling_(conv.weight, sum(sources.values()))
            self.convs[name] = conv
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, outputs: Mapping[str, Tensor], size: torch.Size) -> Tensor:
        """The sum over the sources, ``(N, C, *size)``."""
        mixed = sum(
            F.interpolate(conv(outputs[name]), size, mode="bilinear", align_corners=True)
            for name, conv in self.convs.items()
        )
        assert isinstance(mixed, Tensor)
        # As a convolution does it: a bias in float32 would make the rest of a layer so too.
        return mixed + self.bias.to(mixed.dtype)


class ConvRNNCell(RecurrentCell):
    """One step of all layers of the loop.

    With x the output of the layer before, as read after its pooling, A and U what
    :class:`ConvLayer` does after and before the cell, and B the feedback::

        h_l <- cell_l(U_l(x_{l-1}) + B_l(later layers' outputs, of the step before), h_l)
        y_l <- A_l(output(h_l), x_{l-1})

    With delay 1 x too is of the step before, so that each connection takes a step; with delay 0 it
    is of this one. The equilibria are the same.

    A run takes at least as many steps as the image needs to arrive at every output: with delay 1,
    as there are layers from the first of the loop to the last output.

    The state holds the outputs y that the next step or the caller reads, then the states h. All
    start at zero; the drive, constant, reaches the first layer in the first step. The paper counts
    its steps from the image instead, and before the drive arrives its layers see their biases.

    Args:
        graph: the network; its loop is what this cell runs. The drive is the output of the layer
            before the loop, after its pooling, or the image.
        cells: the local cells by the names of their layers, with drive and output of the layer's
            channels and of equal size.
        delay: 1 or 0.
        outputs: names of layers of the loop that :meth:`features` gives.

    Raises:
        ValueError: there is no loop, another delay, an output outside the loop, or cells for other
            layers, or of other shapes, than the graph's.
    """

    def __init__(
        self,
        graph: ConvRNNGraph,
        cells: Mapping[str, RecurrentCell],
        *,
        delay: int = 1,
        outputs: Collection[str],
    ) -> None:
        if not graph.loop:
            raise ValueError("the network has neither cells nor feedback: nothing is recurrent")
        if delay not in DELAYS:
            raise ValueError(f"delay must be 1 or 0, got {delay!r}")
        wanted = {layer.name: layer.channels for layer in graph.loop if layer.cell}
        if set(wanted) != set(cells):
            raise ValueError(f"cells are needed for {sorted(wanted)}, got some for {sorted(cells)}")
        for name, channels in wanted.items():
            _check_cell(cells[name], name, channels)
        loop = {layer.name: layer for layer in graph.loop}
        names = list(loop)
        if not outputs or not set(outputs) <= set(names):
            raise ValueError(f"outputs must be among the layers {names}, got {list(outputs)}")
        self.outputs = [name for name in names if name in outputs]
        super().__init__(loop[self.outputs[-1]].channels, graph.in_channels(names[0]))
        self.least_steps = max(graph.arrival(name, delay) for name in self.outputs)
        self.graph = graph
        self.delay = delay
        self.layers = nn.ModuleDict(
            {name: ConvLayer(layer, graph.in_channels(name)) for name, layer in loop.items()}
        )
        self.cells = nn.ModuleDict({name: cells[name] for name in wanted})
        self.feedback = nn.ModuleDict()
        for name, layer in loop.items():
            if widths := {source.name: source.channels for source in graph.sources(name)}:
                self.feedback[name] = Feedback(widths, layer.channels)
        sources = {source for source, _ in graph.feedback}
        # What is read a step later, and with the outputs what a state holds.
        self._last = names[-1]
        self._delayed = [n for n in names if n in sources or (delay == 1 and n != self._last)]
        read = [name for name in names if name in self._delayed or name in outputs]
        # Some layers put out what their cell reads out of its own state.
        self._read_out = [n for n in read if loop[n].cell and not loop[n].residual]
        self._kept = [name for name in read if name not in self._read_out]
        self.state_tensors = len(self._kept) + sum(cell.state_tensors for cell in cells.values())

    def forward(self, drive: Tensor, state: State) -> tuple[Tensor, ...]:
        """Take one step; drive is ``(N, C_drive, H, W)``, state as :meth:`initial_state` has it."""
        before, hidden = self._taken_apart(state)
        read = {name: self._layer(name).pooled(before[name]) for name in self._delayed}
        outputs: dict[str, Tensor] = {}
        x = drive
        for name in self.layers:
            layer = self._layer(name)
            h = layer.drive(x)
            if name in self.feedback:
                h = h + self.feedback[name](read, h.shape[-2:])
            if name in self.cells:
                hidden[name] = self._cell(name)(h, hidden[name])
                h = self._cell(name).output(hidden[name])
            outputs[name] = layer.finish(h, x)
            if name != self._last:
                x = read[name] if self.delay else layer.pooled(outputs[name])
        return self._put_together(outputs, hidden)

    def initial_state(self, drive: Tensor) -> tuple[Tensor, ...]:
        """Zeros, of the sizes that the layers have for this drive ``(N, C_drive, H, W)``."""
        size = drive.shape[-2:]
        outputs: dict[str, Tensor] = {}
        hidden: dict[str, State] = {}
        for layer in self.graph.loop:
            size = _divided(size, layer.stride)
            zeros = drive.new_zeros(drive.shape[0], layer.channels, *size)
            outputs[layer.name] = zeros
            if layer.cell:
                hidden[layer.name] = self._cell(layer.name).initial_state(zeros)
            size = _divided(size, 2 if layer.pool else 1)
        return self._put_together(outputs, hidden)

    def features(self, state: State) -> dict[str, Tensor]:
        """The chosen layers' outputs ``(N, C, H, W)``, before pooling, by their names."""
        before, _ = self._taken_apart(state)
        return {name: before[name] for name in self.outputs}

    def output(self, state: State) -> Tensor:
        """The output of the last of the chosen layers."""
        return list(self.features(state).values())[-1]

    def _layer(self, name: str) -> ConvLayer:
        return cast(ConvLayer, self.layers[name])

    def _cell(self, name: str) -> RecurrentCell:
        return cast(RecurrentCell, self.cells[name])

    def _put_together(
        self, outputs: Mapping[str, Tensor], hidden: Mapping[str, State]
    ) -> tuple[Tensor, ...]:
        """A state of the layers' outputs and of their cells' states."""
        kept = [outputs[name] for name in self._kept]
        return (*kept, *(t for name in self.cells for t in to_tensors(hidden[name])))

    def _taken_apart(self, state: State) -> tuple[dict[str, Tensor], dict[str, State]]:
        """The inverse of :meth:`_put_together`."""
        tensors = iter(to_tensors(state))
        outputs = {name: next(tensors) for name in self._kept}
        hidden: dict[str, State] = {}
        for name in self.cells:
            part = tuple(next(tensors) for _ in range(self._cell(name).state_tensors))
            hidden[name] = part if len(part) > 1 else part[0]
        for name in self._read_out:
            outputs[name] = self._cell(name).output(hidden[name])
        return outputs, hidden


def _divided(size: torch.Size, by: int) -> torch.Size:
    return torch.Size(math.ceil(side / by) for side in size)


def _check_cell(cell: RecurrentCell, name: str, channels: int) -> None:
    if (cell.channels, cell.drive_channels) != (channels, channels):
        raise ValueError(
            f"the cell of layer {name!r} must have drive and output of the layer's {channels} "
            f"channels; it takes {cell.drive_channels} and gives {cell.channels}"
        )
    check_keeps_size(f"level {name}", cell)
