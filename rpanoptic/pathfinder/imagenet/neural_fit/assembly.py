"""Neural assemblies: responses of presentations x neuroids x bins of time, read from NetCDF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rpanoptic.errors import ConfigError, DatasetError, listed
from rpanoptic.pathfinder.imagenet.neural_fit.libraries import library
from rpanoptic.pathfinder.imagenet.neural_fit.times import TimeBins

DIMS = ("presentation", "neuroid", "time_bin")
# Names of the coordinate that says which stimulus a presentation showed; the first one counts.
STIMULUS_COORDS = ("stimulus_id", "image_id")
# Neurons' spikes are not counted in shorter bins, ms; bins in seconds are.
_LEAST_MS = 0.5
# How many ids an error lists before it only counts the rest.
_LISTED = 4


@dataclass(frozen=True)
class Assembly:
    """Responses of neuroids (neurons, or sites of an electrode) to stimuli.

    Attributes:
        name: where they come from, for messages and tables.
        responses: ``(P, N, T)`` float32, finite: presentations x neuroids x bins of time.
        shown: ``(P,)`` which of ``stimuli`` each presentation showed.
        stimuli: ids, each once, in the order in which they are first shown.
        neuroids: ids, each once.
        bins: the bins of time.
    """

    name: str
    responses: np.ndarray
    shown: np.ndarray
    stimuli: tuple[str, ...]
    neuroids: tuple[str, ...]
    bins: TimeBins

    @cached_property
    def repetitions(self) -> np.ndarray:
        """``(S,)`` how often each stimulus was shown."""
        return np.bincount(self.shown, minlength=len(self.stimuli))

    def window(self, first: float, last: float) -> Assembly:
        """The responses between two times, ms from the onset of the image.

        Raises:
            ConfigError: no bin lies there; the bins are listed.
        """
        places = self.bins.within(first, last)
        if not len(places):
            raise ConfigError(
                f"assembly {self.name}: no time_bin lies between {first:g} and {last:g} ms; they "
                f"are {listed(self.bins.labels, most=40)}"
            )
        return self.at_bins(places)

    def at_bins(self, places: np.ndarray) -> Assembly:
        """The responses in some bins, by their places."""
        return replace(self, responses=self.responses[..., places], bins=self.bins[places])


def read_assembly(path: str | Path, *, variable: str | None = None) -> Assembly:
    """Read an assembly from a NetCDF-4 file, as Brain-Score and xarray write it.

    The variable has the dimensions presentation, neuroid and time_bin, in any order, and the
    coordinates ``stimulus_id`` (or ``image_id``) and, if there is one, ``repetition`` of the
    presentations, ``neuroid_id`` of the neuroids, ``time_bin_start`` and ``time_bin_end``, ms from
    the onset of the image. Presentations of one stimulus are its repetitions.

    Args:
        path: the file.
        variable: its name; it may be left out where one alone has the three dimensions.

    Raises:
        DatasetError: the file is missing or no NetCDF-4 file; a variable, a dimension or a
            coordinate is missing or has another shape; an id, a stimulus with its repetition or a
            bin stands twice; all bins are so short that they must be in seconds; or a response is
            not finite. The message names the file and the key.
        UserError: xarray or h5netcdf is not installed.
    """
    path = Path(path)
    with open_netcdf(path) as dataset:
        data = _variable(path, dataset, variable)
        responses = data.transpose(*DIMS).to_numpy()
        if responses.dtype.kind not in "iuf" or not all(responses.shape):
            raise DatasetError(
                f"{path}: variable {data.name!r} must hold numbers, at least one along each "
                f"dimension; it is {responses.dtype} {responses.shape}"
            )
        shown_ids = _texts(path, data, STIMULUS_COORDS, "presentation")
        neuroids = _texts(path, data, ("neuroid_id",), "neuroid")
        edges = [_numbers(path, data, f"time_bin_{edge}") for edge in ("start", "end")]
        repetition = None
        if "repetition" in data.coords:
            repetition = _texts(path, data, ("repetition",), "presentation")
    responses = responses.astype(np.float32, copy=False)
    _check_once(path, "neuroid_id", neuroids)
    if repetition is not None:
        pairs = [f"{one} (repetition {n})" for one, n in zip(shown_ids, repetition, strict=True)]
        _check_once(path, "stimulus and repetition", pairs)
    try:
        bins = TimeBins(*edges)
    except ValueError as error:
        raise DatasetError(f"{path}: time_bin_start, time_bin_end: {error}") from error
    if not np.isfinite(bins.end).all() or not np.isfinite(bins.start).all():
        raise DatasetError(f"{path}: time_bin_start, time_bin_end: not finite")
    if (bins.end - bins.start).max() < _LEAST_MS:
        raise DatasetError(
            f"{path}: time_bin_start, time_bin_end: every bin is shorter than {_LEAST_MS:g} ms, "
            f"the first is {bins.label(0)}. Times are in ms; are these seconds?"
        )
    _check_finite(path, responses, shown_ids, neuroids, bins)
    places = {name: place for place, name in enumerate(dict.fromkeys(shown_ids))}
    return Assembly(
        name=path.name,
        responses=responses,
        shown=np.array([places[name] for name in shown_ids]),
        stimuli=tuple(places),
        neuroids=tuple(neuroids),
        bins=bins,
    )


def open_netcdf(path: Path) -> Any:
    """Open a NetCDF-4 file as an :class:`xarray.Dataset`, to be closed; numbers stay numbers.

    Raises:
        DatasetError: it is missing or no such file.
        UserError: xarray or h5netcdf is not installed.
    """
    xarray = library("xarray")
    library("h5netcdf")
    if not path.is_file():
        what = "is a folder, not a NetCDF-4 file" if path.is_dir() else "does not exist"
        raise DatasetError(f"{path} {what}.")
    try:
        # Times in "ms" would become a type of their own.
        return xarray.open_dataset(
            path, engine="h5netcdf", decode_times=False, decode_timedelta=False
        )
    # HDF5, h5netcdf and xarray each report damage in their own ways.
    except Exception as error:
        raise DatasetError(f"{path} cannot be read as a NetCDF-4 file: {error}") from error


def _variable(path: Path, dataset: Any, name: str | None) -> Any:
    fitting = [key for key, data in dataset.data_vars.items() if set(data.dims) == set(DIMS)]
    if name is None and len(fitting) == 1:
        return dataset[fitting[0]]
    if name in fitting:
        return dataset[name]
    found = ", ".join(f"{key} {data.dims}" for key, data in dataset.data_vars.items()) or "none"
    missing = "" if name is None else f" named {name!r}"
    raise DatasetError(
        f"{path}: expected one variable{missing} of the dimensions {', '.join(DIMS)}; its "
        f"variables: {found}"
    )


def _coordinate(path: Path, data: Any, names: Sequence[str], dim: str) -> np.ndarray:
    name = next((name for name in names if name in data.coords), None)
    if name is None:
        known = ", ".join(map(str, data.coords)) or "none"
        raise DatasetError(
            f"{path}: variable {data.name!r} has no coordinate {' or '.join(names)}; it has {known}"
        )
    if data.coords[name].dims != (dim,):
        raise DatasetError(
            f"{path}: the coordinate {name} must have the dimension {dim}; it has "
            f"{', '.join(map(str, data.coords[name].dims)) or 'none'}"
        )
    found: np.ndarray = data.coords[name].to_numpy()
    return found


def _texts(path: Path, data: Any, names: Sequence[str], dim: str) -> list[str]:
    values = _coordinate(path, data, names, dim).tolist()
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _numbers(path: Path, data: Any, name: str) -> np.ndarray:
    values = _coordinate(path, data, (name,), "time_bin")
    if values.dtype.kind not in "iuf":
        raise DatasetError(f"{path}: the coordinate {name} must be numbers, ms; it is text")
    return values.astype(np.float64)


def _check_once(path: Path, key: str, ids: Sequence[str]) -> None:
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise DatasetError(f"{path}: {key} stands more than once: {listed(twice, most=_LISTED)}")


def _check_finite(
    path: Path,
    responses: np.ndarray,
    shown: Sequence[str],
    neuroids: Sequence[str],
    bins: TimeBins,
) -> None:
    bad = ~np.isfinite(responses)
    if bad.any():
        presentation, neuroid, time = np.argwhere(bad)[0]
        raise DatasetError(
            f"{path}: {int(bad.sum())} of {bad.size} responses are not finite; the first is that "
            f"of neuroid_id {neuroids[neuroid]} to stimulus {shown[presentation]} in the time_bin "
            f"{bins.label(time)}. Leave such neuroids or presentations out of the file."
        )
