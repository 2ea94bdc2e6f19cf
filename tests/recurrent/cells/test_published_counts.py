"""Parameters of the deeper networks of Nayebi et al. by their cells."""

from __future__ import annotations

import pytest
import torch

from rpanoptic.recurrent import build_cell
from tests.recurrent.cells import plain

# What is not their cells': convolutions of residual layers, shortcuts and readout.
FEEDFORWARD = 16_403_432
WIDTHS = (128, 128, 256, 256, 512, 512, 512)


@pytest.mark.parametrize(
    ("cell", "count"),
    [
        ("time_decay", 16_403_439),
        ("conv_rnn", 33_512_936),
        ("conv_gru", 67_725_032),
        ("conv_lstm", 84_832_232),
        ("ugrnn", 50_617_832),
        ("intersection_rnn", 84_832_232),
    ],
)
def test_deeper_networks(cell, count) -> None:
    with torch.device("meta"):
        counts = [plain.count(build_cell(cell, channels)) for channels in WIDTHS]
    assert FEEDFORWARD + sum(counts) == count
