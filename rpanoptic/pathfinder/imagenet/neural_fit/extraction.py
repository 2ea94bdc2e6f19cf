"""A network's features on stimuli, layer by layer and step by step, into files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rpanoptic.errors import ConfigError, listed
from rpanoptic.modeling.backbone import ConvRNN
from rpanoptic.pathfinder.imagenet.neural_fit.features import FeatureHeader, FeatureWriter
from rpanoptic.pathfinder.imagenet.neural_fit.libraries import library
from rpanoptic.pathfinder.imagenet.neural_fit.timeline import Timeline, timeline


def extract_features(
    network: nn.Module,
    batches: Iterable[Tensor],
    stimuli: Sequence[str],
    files: Mapping[str, Path],
    *,
    projection: int = 0,
    seed: int = 0,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write the features of some layers on stimuli, a file for each layer.

    One batch is in memory at a time. No file appears unless all are complete.

    Args:
        network: a backbone in eval mode; a :class:`ConvRNN` is read at each step from the image's
            arrival at the layer on.
        batches: of the stimuli, in their order: ``(n, C, H, W)``, normalised, on its device.
        stimuli: their ids.
        files: where to, by the names of the network's outputs.
        projection: a layer of more features is reduced to so many random mixtures of them (Li et
            al., KDD 2006: very sparse random projection), which do not depend on the stimuli or
            the neurons; 0 keeps all.
        seed: of the mixtures.
        origin: notes for the files, see :class:`FeatureHeader`.

    Raises:
        ConfigError: an unknown layer; the known ones are listed.
        DatasetError: features are not finite, or of fewer stimuli than named.
        UserError: h5netcdf or scikit-learn is not installed.
    """
    times = {name: _timeline(network, name) for name in files}
    with ExitStack() as stack, torch.inference_mode():
        writers: dict[str, FeatureWriter] = {}
        mixes: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        for images in batches:
            for name, found in _features(network, images, times).items():
                if name not in writers:
                    mixes[name], channels = _mix(found.shape[1:4], projection, seed)
                    header = FeatureHeader(
                        name,
                        tuple(stimuli),
                        channels,
                        times[name].bins,
                        (origin or {}).get(name, ""),
                    )
                    writers[name] = stack.enter_context(FeatureWriter(files[name], header))
                flat = found.flatten(1, 3).float().cpu().numpy()
                writers[name].write(mixes[name](flat))


def _timeline(network: nn.Module, name: str) -> Timeline:
    known: dict[str, Any] = getattr(network, "output_shape", dict)()
    if name not in known:
        raise ConfigError(f"layer {name} is no output of the model: {listed([*known], most=40)}")
    try:
        return timeline(network, name)
    except ValueError as error:
        raise ConfigError(f"layer {name}: {error}") from error


def _features(
    network: nn.Module, images: Tensor, times: Mapping[str, Timeline]
) -> dict[str, Tensor]:
    """Features ``(n, C, H, W, T)`` by layer."""
    steps = sorted({step for line in times.values() for step in line.steps})
    if not steps:
        found = network(images)
        return {name: found[name][..., None] for name in times}
    assert isinstance(network, ConvRNN)
    by_step = network.unrolled(images, steps)
    return {
        name: torch.stack([by_step[step][name] for step in line.steps], dim=-1)
        for name, line in times.items()
    }


def _mix(
    shape: Sequence[int], projection: int, seed: int
) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """What reduces features ``(n, F, T)`` of ``C x H x W`` pixels, and their channels ``(F,)``."""
    channels, height, width = shape
    features = channels * height * width
    if not 0 < projection < features:
        return lambda values: values, np.repeat(np.arange(channels), height * width)
    # Its fit looks at the shape alone.
    mixing = (
        library("sklearn.random_projection")
        .SparseRandomProjection(projection, random_state=seed)
        .fit(np.zeros((1, features), np.float32))
        .components_.astype(np.float32)
    )

    def mixed(values: np.ndarray) -> np.ndarray:
        count, _, bins = values.shape
        rows = mixing @ values.swapaxes(0, 1).reshape(features, -1)
        return rows.reshape(projection, count, bins).swapaxes(0, 1)

    return mixed, np.full(projection, -1)
