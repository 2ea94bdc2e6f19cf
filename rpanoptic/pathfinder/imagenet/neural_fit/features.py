"""A layer's answers to stimuli over time, in NetCDF files that are written piece by piece."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rpanoptic.data.paths import written_whole
from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.neural_fit.assembly import DIMS, open_netcdf
from rpanoptic.pathfinder.imagenet.neural_fit.libraries import library
from rpanoptic.pathfinder.imagenet.neural_fit.times import TimeBins, averaging

VARIABLE = "features"


@dataclass(frozen=True)
class FeatureHeader:
    """What a file of features says beside the features.

    Attributes:
        layer: its name.
        stimuli: S ids, in the order of the features.
        channels: ``(F,)`` the layer's channel that each feature belongs to; -1 for mixtures of all.
        bins: T bins of time.
        origin: tells apart the models, settings and stimuli that features come from.
    """

    layer: str
    stimuli: tuple[str, ...]
    channels: np.ndarray
    bins: TimeBins
    origin: str = ""


class FeatureWriter(contextlib.AbstractContextManager["FeatureWriter"]):
    """Writes features in batches of stimuli; the file appears when the context ends.

    It is NetCDF-4 with one variable, ``features`` (presentation, neuroid, time_bin), float32, and
    the coordinates ``stimulus_id``, ``channel``, ``layer``, ``time_bin_start`` and
    ``time_bin_end`` (ms), so that xarray and Brain-Score's tools read it.

    Args:
        path: the file; its folder exists.
        header: what is known before the features are.

    Raises:
        DatasetError: features are not finite; or some are lacking at the end.
        UserError: h5netcdf is not installed.
    """

    def __init__(self, path: Path, header: FeatureHeader) -> None:
        self._path = path
        self._header = header
        self._written = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> FeatureWriter:
        h5netcdf = library("h5netcdf")
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(written_whole(self._path))
            self._file = stack.enter_context(h5netcdf.File(temporary, "w"))
            self._features = _declared(self._file, self._header)
            self._stack = stack.pop_all()
        return self

    def write(self, features: np.ndarray) -> None:
        """Append ``(n, F, T)`` features of the next stimuli."""
        if not np.isfinite(features).all():
            raise DatasetError(
                f"features of layer {self._header.layer} are not finite for the stimuli "
                f"{self._written} to {self._written + len(features) - 1}: has the model's training "
                "diverged?"
            )
        self._features[self._written : self._written + len(features)] = features.astype(np.float32)
        self._written += len(features)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        expected = len(self._header.stimuli)
        if error is None and self._written != expected:
            with self._stack:
                raise DatasetError(
                    f"{self._path}: features of {self._written} stimuli were given, expected "
                    f"{expected}"
                )
        self._stack.__exit__(kind, error, trace)


class FeatureFile:
    """Features that :class:`FeatureWriter` wrote.

    Args:
        path: the file.

    Raises:
        DatasetError: it is missing, or no such file.
        UserError: xarray or h5netcdf is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._data() as data:
            self.header = FeatureHeader(
                layer=str(data.coords["layer"].item()),
                stimuli=tuple(map(str, data.coords["stimulus_id"].to_numpy())),
                channels=data.coords["channel"].to_numpy(),
                bins=TimeBins(
                    data.coords["time_bin_start"].to_numpy(), data.coords["time_bin_end"].to_numpy()
                ),
                origin=str(data.attrs.get("origin", "")),
            )

    def covers(self, wanted: TimeBins) -> np.ndarray:
        """``(T,)`` which bins the layer has an answer for, from their beginning to their end."""
        return averaging(self.header.bins, wanted)[1]

    def at(self, wanted: TimeBins) -> np.ndarray:
        """The features in some bins, averaged where one lasts for several steps.

        Args:
            wanted: bins that :meth:`covers` says the layer has an answer for.

        Returns:
            ``(S, F, T)`` float32; T of 1 where the layer's answer does not change.
        """
        weights, covered = averaging(self.header.bins, wanted)
        if not covered.all():
            raise ValueError(f"{self.path}: no features at {wanted[np.flatnonzero(~covered)]}")
        if len(weights) == 1:
            weights = weights[:, :1]
        read = np.flatnonzero(weights.any(axis=1))
        with self._data() as data:
            values: np.ndarray = data.isel(time_bin=read).to_numpy()
        weights = weights[read].astype(np.float32)
        same = weights.shape[0] == weights.shape[1] and (weights == np.eye(len(weights))).all()
        return values if same else values @ weights

    @contextlib.contextmanager
    def _data(self) -> Iterator[Any]:
        with open_netcdf(self.path) as dataset:
            if VARIABLE not in dataset or dataset[VARIABLE].dims != DIMS:
                raise DatasetError(
                    f"{self.path} is no file of features: it has no variable {VARIABLE!r} of the "
                    f"dimensions {', '.join(DIMS)}"
                )
            data = dataset[VARIABLE]
            coords = ("layer", "stimulus_id", "channel", "time_bin_start", "time_bin_end")
            if lacking := [name for name in coords if name not in data.coords]:
                raise DatasetError(
                    f"{self.path} is no file of features: it has no coordinate {lacking[0]}"
                )
            yield data


def _declared(file: Any, header: FeatureHeader) -> Any:
    """Write all but the features; return their variable."""
    text = library("h5py").string_dtype()
    sizes = (len(header.stimuli), len(header.channels), len(header.bins))
    file.dimensions = dict(zip(DIMS, sizes, strict=True))
    coords: dict[str, tuple[Sequence[str], Any, Any]] = {
        "stimulus_id": (DIMS[:1], text, np.array(header.stimuli, dtype=object)),
        "channel": (DIMS[1:2], np.int32, header.channels),
        "layer": ((), text, header.layer),
        "time_bin_start": (DIMS[2:], np.float64, header.bins.start),
        "time_bin_end": (DIMS[2:], np.float64, header.bins.end),
    }
    for name, (dims, kind, values) in coords.items():
        file.create_variable(name, dims, dtype=kind)[...] = values
    features = file.create_variable(VARIABLE, DIMS, dtype=np.float32)
    # By this xarray takes them for coordinates.
    features.attrs["coordinates"] = " ".join(coords)
    features.attrs["origin"] = header.origin
    return features
