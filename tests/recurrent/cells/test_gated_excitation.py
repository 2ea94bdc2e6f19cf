"""What the cells share that gate an inhibition and an excitation: biases of gates, batch norms."""

from __future__ import annotations

import pytest
import torch

from rpanoptic.recurrent import build_cell
from tests.recurrent.cells import plain

OPTIONS = {
    "hgru": {},
    "hgru_pathfinder": {"kernel_size": 3},
    "hgru_low_dim": {"drive_channels": 8},
    "top_down": {"drive_channels": 6},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("max_steps", [1, 2])
def test_gate_biases_without_an_interval(name: str, max_steps: int) -> None:
    cell = build_cell(name, 4, max_steps=max_steps)
    assert not cell.inhibition_gate.bias.any() and not cell.update_gate.bias.any()


@pytest.mark.parametrize("name", OPTIONS)
def test_batch_statistics_couple_the_samples(name: str) -> None:
    torch.manual_seed(0)
    cell = build_cell(name, 4, norm="BN", **OPTIONS[name])
    # Little at the start, where a norm's scale is 0.1, yet far above float64's rounding.
    assert plain.effect_of_batch_mates(cell) > 1e-4
