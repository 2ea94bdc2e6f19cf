"""Synthetic neurons whose answers are known, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rpanoptic.pathfinder.imagenet.neural_fit import Assembly, TimeBins


def trajectory(
    stimuli: int = 120, features: int = 30, bins: int = 5, *, latent: int = 6, seed: int = 0
) -> np.ndarray:
    """Features ``(S, F, T)`` of a random recurrent network, which move from bin to bin."""
    generator = np.random.default_rng(seed)
    turn = 1.5 * generator.standard_normal((latent, latent)) / np.sqrt(latent)
    states = [generator.standard_normal((stimuli, latent))]
    for _ in range(bins - 1):
        states.append(np.tanh(states[-1] @ turn) + 0.3 * states[-1])
    lift = generator.standard_normal((latent, features))
    return np.stack([np.maximum(state @ lift, -0.5) for state in states], axis=-1)


def neurons(features: np.ndarray, count: int = 20, *, seed: int = 1) -> np.ndarray:
    """Noiseless responses ``(S, N, T)``: one fixed linear map of the features, unit variance."""
    weights = np.random.default_rng(seed).standard_normal((features.shape[1], count))
    responses = np.einsum("sft,fn->snt", features, weights)
    return responses / responses.std(axis=0)


def measured(
    responses: np.ndarray, reliability: float = 0.6, *, repetitions: int = 6, seed: int = 2
) -> Assembly:
    """Repeated noisy measurements, whose mean has this reliability where responses vary by 1."""
    stimuli, count, bins = responses.shape
    generator = np.random.default_rng(seed)
    noise = np.sqrt(repetitions * (1 - reliability) / reliability)
    shape = (stimuli, repetitions, count, bins)
    every = responses[:, None] + noise * generator.standard_normal(shape)
    return assembly(every.reshape(-1, count, bins), np.repeat(np.arange(stimuli), repetitions))


def assembly(responses: np.ndarray, shown: np.ndarray) -> Assembly:
    """Presentations ``(P, N, T)`` in bins of 10 ms from 0 on."""
    start = 10.0 * np.arange(responses.shape[2])
    return Assembly(
        name="synthetic.nc",
        responses=responses.astype(np.float32),
        shown=shown,
        stimuli=tuple(f"s{place:03d}" for place in range(int(shown.max()) + 1)),
        neuroids=tuple(f"n{place}" for place in range(responses.shape[1])),
        bins=TimeBins(start, start + 10),
    )


def parts(**changes: Any) -> dict[str, Any]:
    """What a small valid file holds; a change of None leaves a coordinate out."""
    generator = np.random.default_rng(0)
    coords: dict[str, Any] = {
        "stimulus_id": ("presentation", ["a", "b", "a", "b"]),
        "repetition": ("presentation", [0, 0, 1, 1]),
        "neuroid_id": ("neuroid", ["n0", "n1", "n2"]),
        "time_bin_start": ("time_bin", [70.0, 80.0]),
        "time_bin_end": ("time_bin", [80.0, 90.0]),
    } | changes
    coords = {name: value for name, value in coords.items() if value is not None}
    dims = ("presentation", "neuroid", "time_bin")
    return {"data": generator.standard_normal((4, 3, 2)), "dims": dims, "coords": coords}


def write_netcdf(path: Path, *, data: Any, dims: Any, coords: Any, name: str = "IT") -> Path:
    """Write a variable as a user of xarray does."""
    import xarray

    array = xarray.DataArray(data, dims=dims, coords=coords, name=name)
    array.to_netcdf(path, engine="h5netcdf")
    return path


def write_assembly(path: Path, given: Assembly) -> Path:
    """Write an assembly to a file."""
    coords = {
        "stimulus_id": ("presentation", [given.stimuli[place] for place in given.shown]),
        "neuroid_id": ("neuroid", list(given.neuroids)),
        "time_bin_start": ("time_bin", given.bins.start),
        "time_bin_end": ("time_bin", given.bins.end),
    }
    dims = ("presentation", "neuroid", "time_bin")
    return write_netcdf(path, data=given.responses, dims=dims, coords=coords)
