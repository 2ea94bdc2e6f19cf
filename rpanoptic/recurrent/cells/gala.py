"""GALA: gates from global and local attention (Linsley et al., ICLR 2019)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.cells.parts import conv

REDUCTION = 4


class GALA(nn.Module):
    """Attention over channels times attention over places, as the logit of a gate::

        a = W_c1 * nl(W_c0 * h + b_c)      C -> C/4 -> C, 1 x 1
        s = W_s1 # nl(W_s0 # h + b_s)      C -> C/r -> 1, k x k
        logit = a . s + b

    (``*`` 1 x 1 and ``#`` k x k convolution, ``.`` product). The branch over channels is called
    global in the papers, yet it pools over no place: it sees one pixel at a time.

    Args:
        channels: C, at least 4.
        kernel_size: k, odd.
        nonlinearity: nl.
        spatial_reduction: r, at most 4.
        init: of the kernels, as :func:`conv` takes it.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        nonlinearity: Callable[[Tensor], Tensor],
        *,
        spatial_reduction: int = 2,
        init: str = "kaiming",
    ) -> None:
        super().__init__()
        if channels < REDUCTION:
            raise ValueError(f"GALA needs at least {REDUCTION} channels, got {channels}")
        self.nonlinearity = nonlinearity
        squeezed, reduced = channels // REDUCTION, channels // spatial_reduction
        self.channel_squeeze = conv(channels, squeezed, bias=True, init=init)
        self.channel_expand = conv(squeezed, channels, init=init)
        self.spatial_squeeze = conv(channels, reduced, kernel_size, bias=True, init=init)
        self.spatial_map = conv(reduced, 1, kernel_size, init=init)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, state: Tensor) -> Tensor:
        """Return the gate's logit, ``(N, C, H, W)`` like the state."""
        channel = self.channel_expand(self.nonlinearity(self.channel_squeeze(state)))
        spatial = self.spatial_map(self.nonlinearity(self.spatial_squeeze(state)))
        return channel * spatial + self.bias.view(1, -1, 1, 1)
