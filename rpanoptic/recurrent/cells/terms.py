"""Sums of convolutions of several tensors, for cells whose wiring is a matter of options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rpanoptic.recurrent.cells.parts import conv, variance_scaling_
from rpanoptic.recurrent.convolution import SeparableConvolution


@dataclass(frozen=True)
class Kernel:
    """How a tensor enters a sum: a convolution with a bias, whose kernel may be even.

    Attributes:
        size: side of the kernel in pixels.
        separable: whether it is depth-separable, see :class:`SeparableConvolution`.
        bias: what the bias starts at.
    """

    size: int
    separable: bool = False
    bias: float = 0.0


@dataclass(frozen=True)
class AsItIs:
    """A tensor enters a sum as it is, by a 1 x 1 convolution without bias if channels differ."""


class Terms(nn.Module):
    """The sum of what is made of some tensors, by their names; 0 if there are none.

    Args:
        out_channels: C_out, of the sum.
        terms: how each tensor enters it; None: it does not.
        channels: channels of the tensors.
        init: of the weights, "xavier" (uniform) or "variance_scaling" (truncated normal, of
            variance ``scale`` / fan-in). The fan-in of a kernel within the channels counts all of
            them, as in TensorFlow.
        scale: see ``init``; "xavier" does not read it.
    """

    def __init__(
        self,
        out_channels: int,
        terms: Mapping[str, Kernel | AsItIs | None],
        *,
        channels: Mapping[str, int],
        init: str,
        scale: float,
    ) -> None:
        super().__init__()
        self.terms = nn.ModuleDict()
        for name, kind in terms.items():
            if kind is not None:
                self.terms[name] = _term(channels[name], out_channels, kind)
        for module in self.terms.modules():
            if init == "variance_scaling" and isinstance(module, nn.Conv2d):
                fan_in = module.in_channels * module.weight[0, 0].numel()
                variance_scaling_(module.weight, fan_in, scale)

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The sum, ``(N, C_out, H, W)``, or a 0 without axes."""
        values = [term(tensors[name]) for name, term in self.terms.items()]
        if not values:
            return next(iter(tensors.values())).new_zeros(())
        return sum(values[1:], values[0])


def _term(inputs: int, outputs: int, kind: Kernel | AsItIs) -> nn.Module:
    if isinstance(kind, AsItIs):
        return nn.Identity() if inputs == outputs else conv(inputs, outputs, init="xavier")
    if not kind.separable:
        dense = conv(inputs, outputs, kind.size, bias=True, init="xavier", even=True)
        return _with_bias(dense, dense.bias, kind.bias)
    layer = SeparableConvolution(inputs, outputs, kind.size, bias=True, even=True)
    nn.init.xavier_uniform_(layer.depthwise.weight)
    nn.init.xavier_uniform_(layer.pointwise.weight)
    return _with_bias(layer, layer.pointwise.bias, kind.bias)


def _with_bias(layer: nn.Module, bias: Tensor | None, value: float) -> nn.Module:
    assert bias is not None
    nn.init.constant_(bias, value)
    return layer
