"""Convolution by the Fourier transform against F.conv2d, and the choice between the two."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.recurrent import convolution, spectral
from rpanoptic.recurrent.convolution import (
    Convolution,
    SeparableConvolution,
    direct_convolutions,
    shared_spectra,
    uses_spectral,
)
from rpanoptic.recurrent.spectral import spectral_convolution

# Rounding grows with the log of the transform's length and is relative to the largest values: some
# units in the last place of the norm. A wrong pixel or tap is off by more than 1e-3.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture
def forced() -> Iterator[None]:
    """Small maps go by the Fourier transform too."""
    with convolution._force(spectral=True):
        yield


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights whose spectrum was computed, in order."""
    calls: list[Tensor] = []
    compute = spectral._compute_spectrum

    def counting(weight: Tensor, tile: tuple[int, int]) -> Tensor:
        calls.append(weight)
        return compute(weight, tile)

    monkeypatch.setattr(spectral, "_compute_spectrum", counting)
    return calls


def direct(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=weight.shape[2] // 2)


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    difference = (actual - expected).detach().norm()
    assert difference <= TOLERANCE[actual.dtype] * expected.detach().norm()


def layer(channels: int = 3, kernel_size: int = 5, **options: Any) -> Convolution:
    torch.manual_seed(0)
    return Convolution(channels, channels, kernel_size, **options).double()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "size",
    [(1, 1), (3, 5), (16, 16), (33, 14), (50, 51), (70, 9), (131, 64)],
    ids=lambda size: "x".join(map(str, size)),
)
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9, 11, 13, 15, 31])
def test_equals_the_direct_convolution(
    kernel_size: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(kernel_size)
    x, weight = (
        random(2, 3, *size, dtype=dtype),
        random(4, 3, kernel_size, kernel_size, dtype=dtype),
    )
    y, expected = spectral_convolution(x, weight), direct(x, weight)
    assert_close(y, expected)
    cotangent = torch.randn_like(expected)
    actual = torch.autograd.grad(y, (x, weight), cotangent)
    for one, other in zip(
        actual, torch.autograd.grad(expected, (x, weight), cotangent), strict=True
    ):
        assert_close(one, other)


def test_kernel_that_is_not_square() -> None:
    torch.manual_seed(0)
    x, weight = random(1, 2, 40, 70), random(3, 2, 3, 21)
    assert_close(spectral_convolution(x, weight), F.conv2d(x, weight, padding=(1, 10)))


@pytest.mark.parametrize("size", [(4, 5), (66, 1)], ids=["one tile", "two tiles"])
def test_first_and_second_derivatives(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, weight = random(2, 1, *size), random(2, 1, 3, 3)
    assert torch.autograd.gradcheck(spectral_convolution, (x, weight), fast_mode=size[0] > 9)
    assert torch.autograd.gradgradcheck(spectral_convolution, (x, weight), fast_mode=size[0] > 9)


def test_third_derivative_equals_the_direct_one() -> None:
    """Of the weight's gradient as well: every Function's backward is differentiated."""
    torch.manual_seed(0)
    x, weight = random(2, 2, 6, 7), random(3, 2, 3, 3)

    def third(convolve: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        value = convolve(x, weight).tanh().sum()
        for _ in range(2):
            grads = torch.autograd.grad(value, (x, weight), create_graph=True)
            value = sum(g.tanh().sum() for g in grads)
        return torch.autograd.grad(value, (x, weight))

    for one, other in zip(third(spectral_convolution), third(direct), strict=True):
        assert_close(one, other)


def test_penalty_like_double_backward(forced: None) -> None:
    conv = layer(bias=True)
    x = random(2, 3, 20, 18)

    def penalty_gradients() -> tuple[Tensor, ...]:
        y = torch.tanh(conv(x))
        (sums,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
        return torch.autograd.grad(F.relu(sums - 0.1).square().sum(), (x, *conv.parameters()))

    actual = penalty_gradients()
    with direct_convolutions():
        expected = penalty_gradients()
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)


def test_products_with_the_jacobian_repeat_and_leave_the_weight_out(
    monkeypatch: pytest.MonkeyPatch, forced: None
) -> None:
    """An adjoint solve asks for the input's gradient alone, many times."""
    conv, x = layer(), random(2, 3, 20, 18)
    y = conv(x)
    weight_gradients = []
    gradient = spectral._weight_gradient

    def counting(*args: Any) -> Tensor:
        weight_gradients.append(args)
        return gradient(*args)

    monkeypatch.setattr(spectral, "_weight_gradient", counting)
    for _ in range(3):
        cotangent = torch.randn_like(y)
        (actual,) = torch.autograd.grad(y, x, cotangent, retain_graph=True)
        (expected,) = torch.autograd.grad(direct(x, conv.weight), x, cotangent)
        assert_close(actual, expected)
    assert not weight_gradients
    (actual,) = torch.autograd.grad(y, conv.weight, cotangent)
    assert len(weight_gradients) == 1
    assert_close(actual, torch.autograd.grad(direct(x, conv.weight), conv.weight, cotangent)[0])


def test_only_the_input_or_only_the_weight_may_have_a_gradient() -> None:
    torch.manual_seed(0)
    x, weight = random(1, 2, 9, 9), random(2, 2, 3, 3)
    assert not spectral_convolution(x.detach(), weight.detach()).requires_grad
    for one, other in ((x, weight.detach()), (x.detach(), weight)):
        spectral_convolution(one, other).sum().backward()
    expected = torch.autograd.grad(direct(x, weight).sum(), (x, weight))
    assert_close(x.grad, expected[0])
    assert_close(weight.grad, expected[1])


def test_backward_passes_may_be_batched(forced: None) -> None:
    """As torch.autograd.functional does it with ``vectorize=True``, and torch.func.vmap."""
    torch.manual_seed(0)
    x, weight = random(1, 2, 4, 5), random(2, 2, 3, 3)

    def first_and_second(convolve: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        jacobian, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian
        first = jacobian(convolve, (x, weight), vectorize=True)
        second = hessian(lambda *a: convolve(*a).sin().sum(), (x, weight), vectorize=True)
        y = convolve(x, weight)

        def products(cotangent: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(y, (x, weight), cotangent, retain_graph=True)

        cotangents = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, *y.shape).to(y)
        return [*first, *second[0], *second[1], *torch.func.vmap(products)(cotangents)]

    actual, expected = first_and_second(spectral_convolution), first_and_second(direct)
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)


def test_weight_changed_after_the_forward_pass_is_noticed() -> None:
    x, weight = random(1, 2, 9, 9), random(2, 2, 3, 3)
    y = spectral_convolution(x, weight)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_sample_does_not_depend_on_its_batch_mates(forced: None) -> None:
    conv, x = layer(), random(3, 3, 70, 18)
    assert_close(conv(x)[1:2], conv(x[1:2]))
    spoiled = x.detach().clone()
    spoiled[0] = torch.nan
    assert_close(conv(spoiled)[1:], conv(x)[1:])


def test_channels_last_and_strided_input(forced: None) -> None:
    conv, x = layer(), random(2, 3, 20, 36)
    for view in (x.to(memory_format=torch.channels_last), x[:, :, ::2, 1::2], x.transpose(2, 3)):
        assert_close(conv(view), direct(view, conv.weight))


def test_empty_batch(forced: None) -> None:
    conv, x = layer(bias=True), random(0, 3, 20, 18)
    y = conv(x)
    assert y.shape == (0, 3, 20, 18)
    y.sum().backward()
    assert x.grad.shape == x.shape and not conv.weight.grad.any()


class TestSharedSpectra:
    def test_one_spectrum_for_all_calls_and_their_backward_passes(
        self, forced: None, computed: list[Tensor]
    ) -> None:
        conv, x = layer(), random(2, 3, 20, 18)
        with shared_spectra():
            with torch.no_grad():
                state = conv(conv(x))
            with shared_spectra(), torch.enable_grad():
                y = conv(conv(state.requires_grad_()))
            conv(x)
        for _ in range(2):
            torch.autograd.grad(y.sum(), state, retain_graph=True)
        y.sum().backward()
        assert len(computed) == 1

    def test_every_call_without_a_scope(self, forced: None, computed: list[Tensor]) -> None:
        conv, x = layer(), random(2, 3, 20, 18)
        conv(conv(x)).sum().backward()
        assert len(computed) == 2

    def test_weights_and_sizes_are_kept_apart(self, forced: None, computed: list[Tensor]) -> None:
        one, other, x = layer(), layer(bias=True), random(2, 3, 20, 18)
        with torch.no_grad():
            other.weight.mul_(-1)
        with shared_spectra():
            for _ in range(2):
                assert_close(one(x), -direct(x, other.weight))
                assert_close(other(x) - other.bias.view(-1, 1, 1), direct(x, other.weight))
                assert_close(one(x[..., :9]), direct(x[..., :9], one.weight))
        assert len(computed) == 3

    @pytest.mark.parametrize(
        "change",
        [
            lambda conv: conv.weight.mul_(2),
            lambda conv: torch.optim.SGD(conv.parameters(), lr=0.1).step(),
            lambda conv: setattr(conv.weight, "data", conv.weight.data * 2),
            lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight * 2)),
            lambda conv: conv.load_state_dict({"weight": conv.weight * 2}),
        ],
        ids=["in place", "optimiser", "data", "another parameter", "state_dict"],
    )
    def test_spectrum_of_a_changed_weight_is_computed_anew(
        self, change: Callable[[Convolution], object], forced: None, computed: list[Tensor]
    ) -> None:
        conv, x = layer(), random(2, 3, 20, 18)
        with shared_spectra():
            conv(x).sum().backward()
            with torch.no_grad():
                change(conv)
            assert_close(conv(x), direct(x, conv.weight))
        assert len(computed) == 2

    def test_change_of_type(self, forced: None) -> None:
        conv, x = layer(), random(2, 3, 20, 18)
        with shared_spectra():
            conv(x)
            assert_close(conv.float()(x.float()), direct(x.float(), conv.weight))

    def test_nothing_is_left_after_the_scope(self, forced: None, computed: list[Tensor]) -> None:
        conv, x = layer(), random(2, 3, 20, 18)
        for _ in range(2):
            with pytest.raises(KeyError), shared_spectra():
                conv(x)
                raise KeyError
            assert spectral._shared.get() is None
        assert len(computed) == 2

    def test_spectrum_of_a_weight_that_is_gone_is_dropped(self, forced: None) -> None:
        """As where a parametrisation computes the weight at each call."""
        x = random(2, 3, 20, 18)
        with shared_spectra(), torch.no_grad():
            for _ in range(3):
                layer()(x)
            assert len(spectral._shared.get()) <= 1

    def test_scope_spans_inference_mode(self, forced: None, computed: list[Tensor]) -> None:
        conv, x = layer(), random(2, 3, 20, 18)
        with shared_spectra():
            with torch.inference_mode():
                conv(x)
                inside = layer()
                assert_close(inside(x), direct(x, inside.weight))
            conv(x).sum().backward()
        assert sum(weight is conv.weight for weight in computed) == 1
        assert_close(x.grad, torch.autograd.grad(direct(x, conv.weight).sum(), x)[0])


class TestKernels:
    @pytest.mark.parametrize("size", [2, 4])
    def test_even_ones_reach_further_right_and_down(self, size: int) -> None:
        convolution = Convolution(1, 1, size, even=True)
        nn.init.ones_(convolution.weight)
        picture = torch.zeros(1, 1, 9, 8)
        picture[..., 4, 4] = 1
        rows, columns = convolution(picture)[0, 0].detach().nonzero().T
        # An output looks size / 2 - 1 pixels back and size / 2 ahead.
        reached = set(range(4 - size // 2, 4 + size // 2))
        assert set(rows.tolist()) == set(columns.tolist()) == reached

    def test_even_ones_are_direct(self, forced: None) -> None:
        torch.manual_seed(0)
        convolution = Convolution(3, 2, 4, bias=True, even=True).double()
        x = random(2, 3, 5, 6)
        expected = F.conv2d(F.pad(x, (1, 2, 1, 2)), convolution.weight, convolution.bias)
        assert_close(convolution(x), expected)

    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_separable_ones_are_their_product(self, size: int, forced: None) -> None:
        """A kernel within a channel, times what the channel counts for."""
        torch.manual_seed(0)
        convolution = SeparableConvolution(3, 4, size, bias=True, even=True).double()
        mixture, kernels = convolution.pointwise.weight, convolution.depthwise.weight
        assert mixture.shape == (4, 3, 1, 1) and kernels.shape == (3, 1, size, size)
        assert convolution.depthwise.bias is None
        x = random(2, 3, 5, 6)
        before, after = (size - 1) // 2, size // 2
        padded = F.pad(x, (before, after, before, after))
        expected = F.conv2d(padded, mixture * kernels[:, 0], convolution.pointwise.bias)
        assert_close(convolution(x), expected)

    def test_impossible_sizes_are_named(self) -> None:
        for size in (0, 2):
            with pytest.raises(
                ValueError, match=f"kernel_size must be odd and positive, got {size}"
            ):
                Convolution(1, 1, size)
        with pytest.raises(ValueError, match="kernel_size must be positive, got 0"):
            Convolution(1, 1, 0, even=True)
        with pytest.raises(ValueError, match="kernel_size must be odd and positive, got 4"):
            SeparableConvolution(1, 1, 4)


class TestRule:
    def test_large_kernels_on_large_maps(self) -> None:
        weight = torch.zeros(25, 25, 15, 15)
        x = torch.zeros(1, 25, 75, 75)
        if not torch.backends.mkl.is_available():
            pytest.skip("the rule was measured with MKL")
        assert uses_spectral(x, weight)
        assert uses_spectral(x.double(), weight.double())
        with direct_convolutions():
            assert not uses_spectral(x, weight)
            with direct_convolutions():
                pass
            assert not uses_spectral(x, weight)
        assert uses_spectral(x, weight)

    @pytest.mark.parametrize("kernel_size", [1, 3, 5])
    def test_small_kernels_stay_as_they_are_to_the_bit(self, kernel_size: int) -> None:
        torch.manual_seed(0)
        conv = Convolution(8, 8, kernel_size, bias=True)
        x = torch.randn(2, 8, 75, 75, requires_grad=True)
        expected = F.conv2d(x, conv.weight, conv.bias, padding=kernel_size // 2)
        assert torch.equal(conv(x), expected)
        assert not uses_spectral(torch.zeros(4, 25, 150, 150), torch.zeros(25, 25, 3, 3))

    def test_large_kernel_on_a_small_map_is_direct(self) -> None:
        assert not uses_spectral(torch.zeros(1, 25, 8, 8), torch.zeros(25, 25, 15, 15))

    @pytest.mark.parametrize("channels", [4, 96])
    def test_few_and_very_many_channels_are_direct(self, channels: int) -> None:
        x = torch.zeros(1, channels, 40, 40)
        assert not uses_spectral(x, torch.zeros(channels, channels, 9, 9))

    @pytest.mark.parametrize(
        "x",
        [
            torch.zeros(1, 3, 9, 9, dtype=torch.bfloat16),
            torch.zeros(1, 3, 9, 9, dtype=torch.complex64),
            torch.zeros(3, 9, 9),
            torch.zeros(1, 4, 9, 9),
            torch.zeros(1, 3, 0, 9),
            torch.zeros(1, 3, 9, 9, device="meta"),
        ],
        ids=["half", "complex", "no batch", "channels", "empty", "device"],
    )
    def test_the_unusual_is_left_to_pytorch(self, x: Tensor, forced: None) -> None:
        assert not uses_spectral(x, torch.zeros(3, 3, 5, 5, dtype=x.dtype, device=x.device))

    def test_bad_input_gets_the_error_of_conv2d(self, forced: None) -> None:
        with pytest.raises(RuntimeError, match="to have 3 channels"):
            layer()(random(1, 4, 9, 9))
        with pytest.raises(RuntimeError, match="type"):
            layer()(random(1, 3, 9, 9, dtype=torch.float32))

    def test_autocast_is_direct(self, forced: None) -> None:
        conv, x = layer().float(), random(1, 3, 9, 9, dtype=torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not uses_spectral(x, conv.weight)
            assert conv(x).dtype == torch.bfloat16

    def test_transforms_are_direct(self, forced: None) -> None:
        conv, x = layer(), random(2, 3, 9, 8).detach()
        tangent = torch.randn_like(x)
        y, derivative = torch.func.jvp(conv, (x,), (tangent,))
        assert_close(y, direct(x, conv.weight))
        assert_close(derivative, direct(tangent, conv.weight))
        _, product = torch.func.vjp(conv, x)
        expected = torch.autograd.functional.vjp(conv, x, tangent)[1]
        assert_close(product(tangent)[0], expected)
        batched = torch.func.vmap(conv)(torch.stack([x, tangent]))
        assert_close(batched[1], derivative)
        with torch.autograd.forward_ad.dual_level():
            dual = conv(torch.autograd.forward_ad.make_dual(x, tangent))
            assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, derivative)

    def test_tracing_and_compiling_are_direct(self, forced: None) -> None:
        conv, x = layer(), random(1, 3, 9, 8).detach()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(conv, x)
        assert "_convolution" in str(traced.inlined_graph)
        compiled = torch.compile(conv, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), direct(x, conv.weight))


class TestModule:
    def test_bias(self, forced: None) -> None:
        conv, x = layer(bias=True), random(2, 3, 9, 8)
        expected = F.conv2d(x, conv.weight, conv.bias, padding=2)
        assert_close(conv(x), expected)
        actual = torch.autograd.grad(conv(x).square().sum(), conv.bias)
        assert_close(actual[0], torch.autograd.grad(expected.square().sum(), conv.bias)[0])

    def test_is_a_plain_conv2d_to_checkpoints_and_copies(self, forced: None) -> None:
        conv, x = layer(bias=True), random(2, 3, 9, 8)
        plain = nn.Conv2d(3, 3, 5, padding=2).double()
        plain.load_state_dict(conv.state_dict())
        with shared_spectra():
            y = conv(x)
            assert_close(plain(x), y)
            assert torch.equal(copy.deepcopy(conv)(x), y)

    def test_functional_call(self, forced: None) -> None:
        conv, x = layer(), random(2, 3, 9, 8)
        weight = random(3, 3, 5, 5)
        with shared_spectra():
            conv(x)
            y = torch.func.functional_call(conv, {"weight": weight}, x)
        assert_close(y, direct(x, weight))
        y.sum().backward()
        assert conv.weight.grad is None
        assert_close(weight.grad, torch.autograd.grad(direct(x, weight).sum(), weight)[0])
