from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from rpanoptic.random_state import preserved_random_state, random_state, seeded, set_random_state


def numbers() -> list[float]:
    # A normal number leaves a second one behind, which is part of the state.
    return [random.gauss(0, 1), np.random.normal(), float(torch.randn(()))]


def test_state_survives_a_restricted_load(tmp_path: Path) -> None:
    numbers()
    torch.save(random_state(), tmp_path / "state.pth")
    expected = [numbers() for _ in range(3)]
    set_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert [numbers() for _ in range(3)] == expected


def test_numbers_inside_do_not_count() -> None:
    state = random_state()
    expected = numbers()
    set_random_state(state)
    with preserved_random_state():
        numbers()
    assert numbers() == expected


def test_seeds_alone_decide() -> None:
    drawn = []
    for seeds in ((1, 2), (2, 1), (1, 2)):
        with seeded(*seeds):
            drawn.append(numbers())
    assert drawn[0] == drawn[2]
    assert not set(drawn[0]) & set(drawn[1])
