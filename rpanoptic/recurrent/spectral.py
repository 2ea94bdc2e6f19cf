"""Convolution by the Fourier transform, for kernels so large that the direct one is slow on CPU.

Overlap-save: the map is cut into tiles that overlap by a kernel less a pixel, the spectra of the
tiles are multiplied by the kernels' spectrum, a small matrix product over channels at each
frequency, and what wrapped around is cut off. Tiles rather than whole maps, since the spectrum of
all kernels is then small enough for the cache and cheap to compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.utils.weak import WeakTensorKeyDictionary

MAX_TILE = 64

Pair = tuple[int, int]

_shared: ContextVar[WeakTensorKeyDictionary | None] = ContextVar("shared_spectra", default=None)


@contextmanager
def shared_spectra() -> Iterator[None]:
    """Within it the spectrum of a weight is computed once, at first use, and then reused.

    For many convolutions with the same weights, as a recurrence makes them; compare
    :func:`torch.nn.utils.parametrize.cached`. A weight that an optimiser changed within the scope
    has its spectrum computed anew (a change through ``weight.data``, or by a fused optimiser, goes
    unnoticed). Scopes nest; each thread has its own. At the end of the outermost one all spectra
    are dropped, but for those that an autograd graph needs for its backward pass.
    """
    # A compiler cannot see through this, and is_plain sends its convolutions another way.
    if torch.compiler.is_compiling() or _shared.get() is not None:
        yield
        return
    token = _shared.set(WeakTensorKeyDictionary())
    try:
        yield
    finally:
        _shared.reset(token)


def spectral_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """``F.conv2d(x, weight, padding="same")`` by the Fourier transform, equal up to rounding.

    It can be differentiated any number of times. Rounding is relative to the largest value of a
    tile, and a value that is not finite spoils the tiles that it lies in; samples stay apart. For
    the time of the call it takes about eight times the memory of ``x``. What :func:`is_plain`
    leaves out goes by PyTorch's own convolution.

    Args:
        x: ``(N, C, H, W)``, real, not empty.
        weight: ``(O, C, k, k)`` with odd k, of the same type.

    Returns:
        ``(N, O, H, W)``, contiguous.
    """
    return _convolve(x, weight)


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary tensor, seen by ordinary autograd alone.

    Compilers, tracers, the transforms of :mod:`torch.func`, batched backward passes and
    forward-mode differentiation cannot see into a :class:`torch.autograd.Function`.
    """
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch._C._dispatch_tls_is_dispatch_key_included("VmapMode")  # is_grads_batched
        and torch.autograd.forward_ad._current_level < 0
    )


class _Tiling:
    """How a map is cut; pairs are (vertical, horizontal), in pixels.

    Attributes:
        size: of the map.
        kernel: of the kernels.
        tile: side of a tile, the length of the Fourier transform.
        step: from tile to tile: the pixels of a result that a tile yields.
        count: of tiles.
    """

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self.size: Pair = (x.shape[2], x.shape[3])
        self.kernel: Pair = (weight.shape[2], weight.shape[3])
        self.tile: Pair = (
            _tile_side(self.size[0], self.kernel[0]),
            _tile_side(self.size[1], self.kernel[1]),
        )
        self.step: Pair = (
            self.tile[0] - self.kernel[0] + 1,
            self.tile[1] - self.kernel[1] + 1,
        )
        self.count: Pair = (-(-self.size[0] // self.step[0]), -(-self.size[1] // self.step[1]))

    def spectra(self, x: Tensor, *, overlap: bool) -> Tensor:
        """Spectra of the tiles of ``x (N, C, H, W)`` as ``(frequencies, tiles, C)``.

        With ``overlap`` a tile begins half a kernel before its pixels and ends as much behind
        them; without, it is its own pixels followed by zeros.
        """
        window, padding = self.step, (0, 0)
        if overlap:
            window, padding = self.tile, (self.kernel[0] // 2, self.kernel[1] // 2)
        bottom, right = (
            (n - 1) * step + side - before - length
            for n, step, side, before, length in zip(
                self.count, self.step, window, padding, self.size, strict=True
            )
        )
        x = F.pad(x, (padding[1], right, padding[0], bottom))
        tiles = x.unfold(2, window[0], self.step[0]).unfold(3, window[1], self.step[1])
        spectra = torch.fft.rfft2(tiles.permute(0, 2, 3, 1, 4, 5), s=self.tile)
        # Frequencies first and in one piece: only then is bmm one call of MKL.
        return spectra.permute(4, 5, 0, 1, 2, 3).contiguous().flatten(0, 1).flatten(1, 3)

    def assemble(self, spectra: Tensor, first: Pair) -> Tensor:
        """The map of which ``spectra (frequencies, tiles, C)`` are the tiles', as ``(N, C, H, W)``.

        Args:
            first: the first pixel of a tile that counts; as many as :attr:`step` do.
        """
        (height, width), (rows, columns), channels = self.step, self.count, spectra.shape[2]
        tiles = spectra.view(self.tile[0], -1, *spectra.shape[1:])
        # Rows that do not count need no second transform.
        tiles = torch.fft.ifft(tiles, dim=0)[first[0] : first[0] + height].permute(2, 3, 0, 1)
        tiles = torch.fft.irfft(tiles, n=self.tile[1])[..., first[1] : first[1] + width]
        tiles = tiles.reshape(-1, rows, columns, channels, height, width)
        maps = tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, rows * height, columns * width)
        return maps[..., : self.size[0], : self.size[1]].contiguous()


def _tile_side(length: int, kernel_size: int) -> int:
    """The least length that a transform is fast for and that spans the map by the fewest tiles."""
    count = -(-length // (max(MAX_TILE, 4 * kernel_size) - kernel_size + 1))
    side = -(-length // count) + kernel_size - 1
    while side % 2 or 2**20 * 3**12 * 5**8 % side:  # even, of the factors 2, 3 and 5
        side += 1
    return side


def _spectrum(weight: Tensor, tile: Pair) -> Tensor:
    """Spectrum of a weight ``(O, C, k, k)``, from the open scope if there is one.

    It is ``(frequencies, O, C)`` and conjugate, so that a product with it correlates, as a
    convolutional layer does.
    """
    scope = _shared.get()
    if scope is None or weight.is_inference():  # which keeps no version
        return _compute_spectrum(weight, tile)
    stamp = (weight._version, weight.data_ptr(), weight.dtype)
    spectra = scope.setdefault(weight, {})
    if tile not in spectra or spectra[tile][0] != stamp:
        spectra[tile] = stamp, _compute_spectrum(weight, tile)
    return spectra[tile][1]


def _compute_spectrum(weight: Tensor, tile: Pair) -> Tensor:
    # Never an inference tensor: one that is shared may be used under autograd later.
    with torch.inference_mode(False), torch.no_grad():
        spectrum = torch.fft.rfft2(weight.detach(), s=tile).conj()
        return spectrum.permute(2, 3, 0, 1).resolve_conj().contiguous().flatten(0, 1)


def _convolve(
    x: Tensor, weight: Tensor, spectrum: Tensor | None = None, *, transposed: bool = False
) -> Tensor:
    """The convolution, or with ``transposed`` its transpose: the gradient of its input."""
    if not (is_plain(x) and is_plain(weight)):  # such as a batched backward pass
        convolution = F.conv_transpose2d if transposed else F.conv2d
        return convolution(x, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2))
    if spectrum is None:
        spectrum = _spectrum(weight, _Tiling(x, weight).tile)
    hook = None
    if torch.is_grad_enabled() and weight.requires_grad:
        hook = _WeightPath.apply(weight, (x,), transposed)
    return _InputPath.apply(x, hook, (weight, spectrum), transposed)


# A Function's backward is not told which gradients are asked for: one Function of input and weight
# would compute the weight's for each of the many vector-Jacobian products of an adjoint solve. So
# there are two nodes, and autograd leaves out the weight's where it is not wanted. Tensors that
# come in a tuple are saved, but make no edge of the graph.


class _InputPath(torch.autograd.Function):
    """The convolution as a function of its input; ``hook``, all zeros, leads on to the weight."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, hook: Tensor | None, weight: tuple[Tensor, Tensor], transposed: bool
    ) -> Tensor:
        ctx.save_for_backward(*weight)
        ctx.transposed = transposed
        tiling = _Tiling(x, weight[0])
        tiles = tiling.spectra(x, overlap=True)
        if transposed:
            first = (tiling.kernel[0] - 1, tiling.kernel[1] - 1)
            return tiling.assemble(torch.bmm(tiles, weight[1].conj()), first)
        return tiling.assemble(torch.bmm(tiles, weight[1].transpose(1, 2)), (0, 0))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_grad = None
        if ctx.needs_input_grad[0]:
            weight, spectrum = ctx.saved_tensors
            x_grad = _convolve(grad, weight, spectrum, transposed=not ctx.transposed)
        return x_grad, grad if ctx.needs_input_grad[1] else None, None, None


class _WeightPath(torch.autograd.Function):
    """The convolution's dependence on its weight: zeros with the gradient of the convolution."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: tuple[Tensor], transposed: bool) -> Tensor:
        ctx.save_for_backward(*x)
        ctx.transposed = transposed
        ctx.kernel = weight.shape[2:]
        channels = weight.shape[1 if transposed else 0]
        return weight.new_zeros(()).expand(x[0].shape[0], channels, *x[0].shape[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        x, grad = (grad, x) if ctx.transposed else (x, grad)
        return _weight_gradient(x, grad, ctx.kernel), None, None


def _weight_gradient(x: Tensor, grad: Tensor, kernel: torch.Size) -> Tensor:
    if not is_plain(x) or not is_plain(grad):
        shape = (grad.shape[1], x.shape[1], *kernel)
        return conv2d_weight(x, shape, grad, padding=(kernel[0] // 2, kernel[1] // 2))
    return _WeightGradient.apply(x, grad, kernel)


class _WeightGradient(torch.autograd.Function):
    """Gradient of the weight, ``sum_p grad[o, p] x[c, p + u]``: bilinear in ``x`` and ``grad``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, kernel: torch.Size) -> Tensor:
        ctx.save_for_backward(x, grad)
        weight = x.new_empty(grad.shape[1], x.shape[1], *kernel)
        tiling = _Tiling(x, weight)
        x_tiles = tiling.spectra(x, overlap=True)
        grad_tiles = tiling.spectra(grad, overlap=False)
        spectrum = torch.bmm(grad_tiles.mH, x_tiles).view(tiling.tile[0], -1, *weight.shape[:2])
        weight = torch.fft.irfft2(spectrum.permute(2, 3, 0, 1), s=tiling.tile)
        return weight[..., : kernel[0], : kernel[1]].contiguous()

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        x, grad = ctx.saved_tensors
        x_grad = grad_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = _convolve(grad, weight, transposed=True)
        if ctx.needs_input_grad[1]:
            grad_grad = _convolve(x, weight)
        return x_grad, grad_grad, None
