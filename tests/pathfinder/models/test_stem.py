"""The Gabor bank by the facts of its formula, and the first layer that it starts."""

from __future__ import annotations

import math

import pytest
import torch

from rpanoptic.pathfinder.models import Stem, gabor_bank


def disc(size: int) -> torch.Tensor:
    offsets = torch.arange(size) - size // 2
    return offsets[:, None].square() + offsets.square() <= (size // 2) ** 2


def test_the_published_bank() -> None:
    bank = gabor_bank()
    assert bank.shape == (25, 7, 7) and bank.dtype == torch.float32
    inside = disc(7)
    assert int(inside.sum()) == 29
    gabors, last = bank[:24], bank[24]
    zeros, ones = torch.zeros(24), torch.ones(24)
    torch.testing.assert_close(gabors.mean(dim=(1, 2)), zeros, rtol=0, atol=1e-7)
    torch.testing.assert_close(gabors.flatten(1).norm(dim=1), ones)
    # Zero outside the disc until the mean was taken off: equal there, and far below the stripes.
    outside = gabors[:, ~inside]
    assert torch.equal(outside, outside[:, :1].expand_as(outside))
    assert outside.abs().max() < 0.06 * gabors.abs().max()
    assert not last[~inside].any()
    torch.testing.assert_close(last[inside], torch.full((29,), 49 / 29))
    torch.testing.assert_close(last.mean(), torch.tensor(1.0))


def test_numbers_of_the_formula() -> None:
    """Filter 1 at x = 1, y = -1 and filter 12 at x = 0, y = 1, worked out by themselves."""

    def value(degrees: float, phase: float, x: int, y: int) -> float:
        theta = math.radians(degrees)
        across = x * math.cos(theta) - y * math.sin(theta)
        along = x * math.sin(theta) + y * math.cos(theta)
        envelope = math.exp(-(across**2 + 0.09 * along**2) / 15.68)
        return envelope * math.cos(2 * math.pi * across / 3.5 + math.radians(phase))

    bank = gabor_bank()
    for place, degrees, phase in ((1, 105, 0), (12, 90, -116.5), (23, 255, -116.5)):
        values = torch.tensor(
            [[value(degrees, phase, x, y) for x in range(-3, 4)] for y in range(-3, 4)]
        )
        values[~disc(7)] = 0
        values -= values.mean()
        torch.testing.assert_close(bank[place], values / values.norm())
    # Twelve orientations: at 90 degrees stripes are horizontal, at 180 vertical.
    assert torch.equal(bank[0], bank[0].flip(0)) and torch.equal(bank[0], bank[0].flip(1))
    torch.testing.assert_close(bank[6], bank[0].T)
    similarity = bank[:24].flatten(1) @ bank[:24].flatten(1).T
    assert (similarity - torch.eye(24)).max() < 0.9


@pytest.mark.parametrize(("channels", "orientations"), [(1, 0), (2, 1), (8, 4), (9, 4), (26, 13)])
def test_other_numbers_of_channels(channels: int, orientations: int) -> None:
    bank = gabor_bank(channels)
    assert bank.shape == (channels, 7, 7) and bank.isfinite().all()
    assert torch.equal(bank[-1], gabor_bank()[24])
    if channels > 1:
        assert torch.equal(bank[0], gabor_bank()[0])
    if channels > orientations + 1:
        assert torch.equal(bank[orientations], gabor_bank()[12])
    different = bank.flatten(1).unique(dim=0)
    assert len(different) == channels


@pytest.mark.parametrize("size", [5, 9, 11])
def test_other_sizes(size: int) -> None:
    bank = gabor_bank(9, size)
    assert bank.shape == (9, size, size)
    zeros = torch.zeros(8)
    torch.testing.assert_close(bank[:8].mean(dim=(1, 2)), zeros, rtol=0, atol=1e-7)
    assert torch.equal(bank[-1] > 0, disc(size))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0,), "channels must be .* at least 1"), ((4, 3), "size .* at least 5"), ((4, 8), "odd")],
)
def test_impossible_banks(arguments: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gabor_bank(*arguments)


def test_a_stem_filters_and_squares() -> None:
    stem = Stem(1, 25)
    image = torch.rand(2, 1, 9, 12)
    padded = torch.nn.functional.pad(image, (3, 3, 3, 3))
    patch = padded[1, 0, 2:9, 4:11]
    with torch.no_grad():
        drive = stem(image)
    assert drive.shape == (2, 25, 9, 12) and stem.channels == 25
    expected = (gabor_bank() * patch).sum(dim=(1, 2)).square()
    torch.testing.assert_close(drive[1, :, 2, 4], expected)
    assert sum(p.numel() for p in stem.parameters() if p.requires_grad) == 1250


@torch.no_grad()
def test_a_grey_picture_in_three_channels_drives_as_in_one() -> None:
    image = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(Stem(3, 6)(image.expand(-1, 3, -1, -1)), Stem(1, 6)(image))


@torch.no_grad()
def test_activations_and_random_kernels() -> None:
    image = torch.rand(1, 1, 8, 8)
    drives = {}
    for activation in ("none", "relu", "square"):
        torch.manual_seed(0)
        drives[activation] = Stem(1, 4, size=3, kernels="random", activation=activation)(image)
    assert torch.equal(drives["relu"], drives["none"].relu())
    assert torch.equal(drives["square"], drives["none"] ** 2)
    for option in ({"kernels": "sobel"}, {"activation": "tanh"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} must be one of"):
            Stem(1, 4, **option)
