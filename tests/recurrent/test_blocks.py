"""Finding the recurrent blocks of a model, and running them for other numbers of steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rpanoptic.recurrent import (
    RecurrentBlock,
    build_cell,
    check_steps,
    recurrent_blocks,
    steps_at_test,
)


def _model() -> nn.ModuleDict:
    def block() -> RecurrentBlock:
        return RecurrentBlock(build_cell("conv_rnn", 2), steps=3, steps_test=4)

    return nn.ModuleDict({"lower": block(), "upper": nn.Sequential(nn.Identity(), block())})


def test_blocks_are_found_by_their_names() -> None:
    assert list(recurrent_blocks(_model())) == ["lower", "upper.1"]
    assert list(recurrent_blocks(nn.ReLU())) == []


@pytest.mark.parametrize(
    ("steps", "taken"),
    [(7, [7, 7]), (np.int64(7), [7, 7]), ({"upper.1": 2}, [4, 2]), ({}, [4, 4]), (None, [4, 4])],
)
def test_steps_are_overridden_and_come_back(steps: object, taken: list[int]) -> None:
    model = _model().eval()
    blocks = list(recurrent_blocks(model).values())
    drive = torch.zeros(1, 2, 3, 3)
    with steps_at_test(model, steps):  # type: ignore[arg-type]
        found = [int(block(drive).diagnostics.steps[0]) for block in blocks]
    assert found == taken
    assert [block.steps_test for block in blocks] == [4, 4]


def test_training_keeps_its_steps() -> None:
    model = _model()
    block = recurrent_blocks(model)["lower"]
    with steps_at_test(model, 9):
        assert int(block(torch.zeros(1, 2, 3, 3)).diagnostics.steps[0]) == 3


def test_an_error_inside_brings_the_steps_back() -> None:
    model = _model()
    with pytest.raises(RuntimeError, match="inside"), steps_at_test(model, 9):
        raise RuntimeError("inside")
    assert [block.steps_test for block in recurrent_blocks(model).values()] == [4, 4]


def test_unknown_names_and_impossible_numbers_are_refused() -> None:
    model = _model()
    unknown = pytest.raises(ValueError, match=r"no recurrent block 'uper.1'.*mean 'upper.1'")
    with unknown, steps_at_test(model, {"lower": 9, "uper.1": 2}):
        pass
    with pytest.raises(ValueError, match="steps of lower"), steps_at_test(model, {"lower": 0}):
        pass
    assert [block.steps_test for block in recurrent_blocks(model).values()] == [4, 4]


def test_blocks_state_their_least_number_of_steps() -> None:
    model = _model()
    recurrent_blocks(model)["upper.1"].cell.least_steps = 3
    check_steps(model, [3, 4])
    message = r"steps of upper\.1 must be at least 3, got 2: .* every output of ConvRNN"
    with pytest.raises(ValueError, match=message):
        check_steps(model, [4, 2])
    with pytest.raises(ValueError, match=message), steps_at_test(model, 2):
        pass
    assert [block.steps_test for block in recurrent_blocks(model).values()] == [4, 4]
