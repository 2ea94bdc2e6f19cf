"""The states of the random generators that training draws from: Python's, NumPy's and PyTorch's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

RandomState = dict[str, Any]


def random_state(device: torch.device | str = "cpu") -> RandomState:
    """The states of all global generators of this process, as tensors and plain containers.

    Such a state may stand in a checkpoint that is loaded with ``weights_only``.

    Args:
        device: of the model; the generator of a GPU is added to those of the CPU.
    """
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    keys = numpy["state"]["key"].astype(np.int64)
    state: RandomState = {
        "python": [version, list(words), gauss],
        "numpy": [
            torch.from_numpy(keys),
            numpy["state"]["pos"],
            numpy["has_gauss"],
            numpy["gauss"],
        ],
        "torch": torch.get_rng_state(),
    }
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: RandomState, device: torch.device | str = "cpu") -> None:
    """Set all global generators of this process as :func:`random_state` found them.

    Args:
        state: from :func:`random_state`.
        device: of the model; its generator is left alone where ``state`` lacks one.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(
        ("MT19937", keys.numpy().astype(np.uint32), int(position), int(has_gauss), float(cached))
    )
    torch.set_rng_state(state["torch"])
    if torch.device(device).type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def preserved_random_state(device: torch.device | str = "cpu") -> Iterator[None]:
    """What happens inside leaves the generators as they were before."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


@contextlib.contextmanager
def seeded(*seeds: int) -> Iterator[None]:
    """The generators of the CPU follow from ``seeds`` inside, and are as before afterwards.

    Args:
        seeds: non-negative; any two sequences give unrelated random numbers.
    """
    words = np.random.SeedSequence(seeds).generate_state(3)
    with preserved_random_state():
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        # torch.manual_seed would seed the GPUs too.
        torch.default_generator.manual_seed(int(words[2]))
        yield
