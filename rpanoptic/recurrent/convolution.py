"""Convolutions of stride 1 with "same" padding, as the cells use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.recurrent.spectral import is_plain, shared_spectra, spectral_convolution

__all__ = [
    "Convolution",
    "SeparableConvolution",
    "convolutions_as_here",
    "direct_convolutions",
    "shared_spectra",
    "uses_spectral",
]

_forced: ContextVar[bool | None] = ContextVar("forced_convolutions", default=None)


class Convolution(nn.Conv2d):
    """A convolution of stride 1 that keeps the size of its input.

    Where it pays, see :func:`uses_spectral`, it goes by the Fourier transform: the same up to
    rounding. A caller that applies the same weights many times opens :func:`shared_spectra`.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size: side of the kernel in pixels, odd.
        bias: whether there is one.
        groups: groups of channels that are kept apart, as :class:`torch.nn.Conv2d` has them.
        even: whether the kernel may be even. It has no middle pixel then; the larger half of the
            padding stands right and below, as in TensorFlow.

    Raises:
        ValueError: an even kernel that is not asked for, or one of less than a pixel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        bias: bool = False,
        groups: int = 1,
        even: bool = False,
    ) -> None:
        whole = isinstance(kernel_size, int) and kernel_size >= 1
        odd = whole and kernel_size % 2 == 1
        if not whole or not (odd or even):
            wanted = "positive" if even else "odd and positive"
            raise ValueError(f"kernel_size must be {wanted}, got {kernel_size!r}")
        padding = kernel_size // 2 if odd else 0
        super().__init__(
            in_channels, out_channels, kernel_size, padding=padding, groups=groups, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x (N, C, H, W)``."""
        half, odd = divmod(self.kernel_size[0], 2)
        if not odd:
            return super().forward(F.pad(x, (half - 1, half, half - 1, half)))
        if not uses_spectral(x, self.weight):
            return super().forward(x)
        y = spectral_convolution(x, self.weight)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


class SeparableConvolution(nn.Module):
    """A depth-separable convolution: each channel by a kernel of its own, then a mixture of them.

    ``depthwise`` is the k x k convolution within the channels, without bias, ``pointwise`` the
    1 x 1 convolution between them. It has k^2 C_in + C_in C_out parameters, and C_out more with a
    bias.

    Args:
        in_channels, out_channels, kernel_size, bias, even: as :class:`Convolution` takes them; the
            bias stands after the mixture.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = False,
        even: bool = False,
    ) -> None:
        super().__init__()
        self.depthwise = Convolution(
            in_channels, in_channels, kernel_size, groups=in_channels, even=even
        )
        self.pointwise = Convolution(in_channels, out_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x (N, C_in, H, W)`` to ``(N, C_out, H, W)``."""
        return self.pointwise(self.depthwise(x))


def uses_spectral(x: Tensor, weight: Tensor) -> bool:
    """Whether :class:`Convolution` goes by the Fourier transform.

    It does for kernels from 9 x 9, maps from 32 x 32 pixels and 8 to 64 channels, in float32 or
    float64 on CPU. By what factor it was faster (processor time; forward pass, then the gradient
    of the input; float32, 4 samples, shared spectrum; 2 cores of a shared x86-64 machine,
    2026-11-21):

    ======  ==========  ==========  ==========  ===========  ==========
    kernel  8 ch, 32²   25 ch, 32²  25 ch, 75²  25 ch, 150²  64 ch, 75²
    ======  ==========  ==========  ==========  ===========  ==========
    5       0.5, 0.4    1.1, 0.9    1.0, 1.0    1.1, 1.0     1.3, 0.7
    7       1.0, 0.6    2.2, 2.0    2.1, 1.7    3.0, 2.7     2.7, 2.2
    9       2.9, 0.7    7.4, 3.3    5.2, 3.3    5.7, 3.6     6.6, 4.8
    11      2.2, 0.8    4.2, 2.6    6.2, 5.2    6.6, 5.8     8.5, 6.0
    13      3.9, 0.9    6.1, 6.4    7.8, 5.6    7.9, 14.2    12.2, 8.8
    15      4.6, 1.2    7.7, 6.5    8.0, 8.0    14.0, 15.8   12.1, 10.8
    ======  ==========  ==========  ==========  ===========  ==========

    Kernels of 7 x 7 gain little, and nothing with few channels or a single sample. Beyond 64
    channels the spectra, up to fifty times the size of the weight, take too much memory.
    """
    if not _is_possible(x, weight):
        return False
    forced = _forced.get()
    return _pays(x, weight) if forced is None else forced


def _pays(x: Tensor, weight: Tensor) -> bool:
    return (
        torch.backends.mkl.is_available()  # whose transforms were measured
        and min(weight.shape[2:]) >= 9
        and x.shape[2] * x.shape[3] >= 32 * 32
        and min(weight.shape[:2]) >= 8
        and max(weight.shape[:2]) <= 64
    )


def _is_possible(x: Tensor, weight: Tensor) -> bool:
    """Whether nothing is unusual; else PyTorch decides, and says what is wrong with bad input."""
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and x.dim() == 4
        and x.shape[1] == weight.shape[1]
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and is_plain(x)
        and is_plain(weight)
    )


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Within it no convolution goes by the Fourier transform, nor its gradients later."""
    with _force(spectral=False):
        yield


def convolutions_as_here() -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which convolutions later choose as they do here."""
    forced = _forced.get()
    return nullcontext if forced is None else partial(_force, spectral=forced)


@contextmanager
def _force(*, spectral: bool) -> Iterator[None]:
    token = _forced.set(spectral)
    try:
        yield
    finally:
        _forced.reset(token)
