from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.neural_fit import FeatureFile, TimeBins
from rpanoptic.pathfinder.imagenet.neural_fit.features import FeatureHeader, FeatureWriter
from rpanoptic.pathfinder.imagenet.neural_fit.times import step_bins, unchanging
from tests.pathfinder.imagenet.neural_fit.helpers import parts, write_netcdf

VALUES = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(np.float32)
HEADER = FeatureHeader(
    layer="conv3",
    stimuli=tuple("abcde"),
    channels=np.array([0, 0, 1, 1]),
    bins=step_bins(2, 3),
    origin="checked",
)


def written(path: Path, header: FeatureHeader = HEADER, values: np.ndarray = VALUES) -> Path:
    with FeatureWriter(path, header) as writer:
        for batch in (values[:2], values[2:]):
            writer.write(batch)
    return path


def test_what_is_written_in_batches_is_read(tmp_path: Path) -> None:
    file = FeatureFile(written(tmp_path / "conv3.nc"))
    found = file.header
    assert (found.layer, found.stimuli, found.origin) == ("conv3", HEADER.stimuli, "checked")
    assert found.channels.tolist() == [0, 0, 1, 1]
    assert found.bins.labels == HEADER.bins.labels
    np.testing.assert_array_equal(file.at(step_bins(2, 3)), VALUES)
    np.testing.assert_array_equal(file.at(step_bins(3, 1)), VALUES[..., 1:2])


def test_it_is_an_assembly_that_xarray_reads(tmp_path: Path) -> None:
    import xarray

    with xarray.open_dataset(written(tmp_path / "conv3.nc"), engine="h5netcdf") as dataset:
        data = dataset["features"]
        assert data.dims == ("presentation", "neuroid", "time_bin")
        assert data.dtype == np.float32
        assert data.coords["stimulus_id"].values.tolist() == list("abcde")
        assert data.coords["layer"].item() == "conv3"
        assert data.coords["time_bin_end"].values.tolist() == [30, 40, 50]


def test_bins_of_several_steps_are_averaged(tmp_path: Path) -> None:
    file = FeatureFile(written(tmp_path / "conv3.nc"))
    wanted = TimeBins(np.array([20.0, 25.0]), np.array([40.0, 45.0]))
    assert file.covers(wanted).all()
    first = VALUES[..., :2].mean(axis=-1)
    second = VALUES @ np.float32([0.25, 0.5, 0.25])
    np.testing.assert_allclose(file.at(wanted), np.stack([first, second], -1), rtol=1e-5)
    outside = TimeBins(np.array([10.0, 20.0, 45.0]), np.array([20.0, 30.0, 55.0]))
    assert file.covers(outside).tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"no features at .*"):
        file.at(outside)


def test_what_does_not_change_has_one_bin_for_all(tmp_path: Path) -> None:
    header = FeatureHeader("res5", HEADER.stimuli, HEADER.channels, unchanging())
    file = FeatureFile(written(tmp_path / "res5.nc", header, VALUES[..., :1]))
    np.testing.assert_array_equal(file.at(step_bins(7, 19)), VALUES[..., :1])


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "conv3.nc"
    with pytest.raises(DatasetError, match=r"features of 3 stimuli were given, expected 5"):
        written(path, values=VALUES[:3])
    broken = VALUES.copy()
    broken[3, 0, 0] = np.inf
    with pytest.raises(DatasetError, match=r"layer conv3 are not finite for the stimuli 2 to 4"):
        written(path, values=broken)
    with pytest.raises(KeyboardInterrupt), FeatureWriter(path, HEADER) as writer:
        writer.write(VALUES[:2])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        FeatureFile(tmp_path / "absent.nc")
    with pytest.raises(DatasetError, match="has no variable 'features'"):
        FeatureFile(write_netcdf(tmp_path / "IT.nc", **parts()))
    with pytest.raises(DatasetError, match="has no coordinate layer"):
        FeatureFile(write_netcdf(tmp_path / "IT.nc", **parts(), name="features"))
