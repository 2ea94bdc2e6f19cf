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
        s = W_s1 # nl(W_s0 # h + b_s)      C -> C/2 -> 1, k x k
        logit = a . s + b

    (``*`` 1 x 1 and ``#`` k x k convolution, ``.`` product). The branch over channels is called
    global in the papers, yet it pools over no place: it sees one pixel at a time.

    Args:
        channels: C, at least 4.
        kernel_size: k, odd.
        nonlinearity: nl.
    """

    def __init__(
        self, channels: int, kernel_size: int, nonlinearity: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        if channels < REDUCTION:
            raise ValueError(f"GALA needs at least {REDUCTION} channels, got {channels}")
        self.nonlinearity = nonlinearity
        squeezed, halved = channels // REDUCTION, channels // 2
        self.channel_squeeze = conv(channels, squeezed, bias=True)
        self.channel_expand = conv(squeezed, channels)
        self.spatial_squeeze = conv(channels, halved, kernel_size, bias=True)
        self.spatial_map = conv(halved, 1, kernel_size)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, state: Tensor) -> Tensor:
        """Return the gate's logit, ``(N, C, H, W)`` like the state."""
        channel = self.channel_expand(self.nonlinearity(self.channel_squeeze(state)))
        spatial = self.spatial_map(self.nonlinearity(self.spatial_squeeze(state)))
        return channel * spatial + self.bias.view(1, -1, 1, 1)
