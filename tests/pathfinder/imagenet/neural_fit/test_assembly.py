from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpanoptic.errors import ConfigError, DatasetError, UserError
from rpanoptic.pathfinder.imagenet.neural_fit import read_assembly
from tests.pathfinder.imagenet.neural_fit.helpers import parts, write_netcdf


def written(folder: Path, **changes: Any) -> Path:
    return write_netcdf(folder / "IT.nc", **parts(**changes))


def test_a_file_is_read_whatever_the_order_of_its_dimensions(tmp_path: Path) -> None:
    content = parts()
    read = read_assembly(write_netcdf(tmp_path / "IT.nc", **content))
    assert (read.name, read.stimuli, read.neuroids) == ("IT.nc", ("a", "b"), ("n0", "n1", "n2"))
    assert read.shown.tolist() == [0, 1, 0, 1] and read.repetitions.tolist() == [2, 2]
    assert read.bins.labels == ["70-80 ms", "80-90 ms"]
    assert read.responses.dtype == np.float32
    np.testing.assert_allclose(read.responses, content["data"], rtol=1e-6)

    turned = {**content, "data": content["data"].transpose(2, 0, 1)}
    turned["dims"] = ("time_bin", "presentation", "neuroid")
    again = read_assembly(write_netcdf(tmp_path / "turned.nc", **turned))
    np.testing.assert_array_equal(again.responses, read.responses)


def test_image_id_and_times_with_a_unit(tmp_path: Path) -> None:
    import xarray

    coords = {"stimulus_id": None, "image_id": ("presentation", ["a", "b", "b", "a"])}
    for edge, values in (("start", [70, 80]), ("end", [80, 90])):
        # xarray would take such numbers for durations.
        variable = xarray.Variable("time_bin", values, attrs={"units": "ms"})
        coords[f"time_bin_{edge}"] = variable
    read = read_assembly(written(tmp_path, repetition=None, **coords))
    assert read.shown.tolist() == [0, 1, 1, 0] and read.bins.start.tolist() == [70, 80]


def test_windows(tmp_path: Path) -> None:
    read = read_assembly(written(tmp_path))
    late = read.window(75, 90)
    assert late.bins.labels == ["80-90 ms"] and late.stimuli == read.stimuli
    np.testing.assert_array_equal(late.responses, read.responses[..., 1:])
    with pytest.raises(ConfigError, match="no time_bin lies between 90 and 95 ms; they are 70-80"):
        read.window(90, 95)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stimulus_id": None}, "no coordinate stimulus_id or image_id; it has repetition, neuro"),
        ({"neuroid_id": None}, "no coordinate neuroid_id"),
        ({"time_bin_end": None}, "no coordinate time_bin_end"),
        ({"stimulus_id": ("neuroid", ["a", "b", "c"])}, "must have the dimension presentation"),
        ({"neuroid_id": ("neuroid", ["n0", "n1", "n0"])}, "neuroid_id stands more than once: n0"),
        ({"repetition": ("presentation", [0, 0, 0, 1])}, r"more than once: a \(repetition 0\)"),
        ({"time_bin_start": ("time_bin", ["70", "80"])}, "time_bin_start must be numbers, ms"),
        ({"time_bin_start": ("time_bin", [70.0, 95.0])}, "95-90 ms does not end after its start"),
        ({"time_bin_end": ("time_bin", [80.0, np.inf])}, "not finite"),
        (
            {
                "time_bin_start": ("time_bin", [0.07, 0.08]),
                "time_bin_end": ("time_bin", [0.08, 0.09]),
            },
            r"the first is 0\.07-0\.08 ms\. Times are in ms; are these seconds\?",
        ),
    ],
)
def test_coordinates_at_fault(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(DatasetError, match=message) as caught:
        read_assembly(path)
    assert str(path) in str(caught.value)


def test_dimensions_and_variables_at_fault(tmp_path: Path) -> None:
    import xarray

    content = parts()
    flat = {**content, "data": content["data"][..., 0], "dims": content["dims"][:2]}
    flat["coords"] = {k: v for k, v in content["coords"].items() if "time_bin" not in k}
    message = r"expected one variable of the dimensions presentation, neuroid, time_bin; .* IT \("
    with pytest.raises(DatasetError, match=message):
        read_assembly(write_netcdf(tmp_path / "flat.nc", **flat))

    array = xarray.DataArray(content["data"], dims=content["dims"], coords=content["coords"])
    both = tmp_path / "both.nc"
    xarray.Dataset({"IT": array, "V4": array + 1}).to_netcdf(both, engine="h5netcdf")
    with pytest.raises(DatasetError, match="its variables: IT"):
        read_assembly(both)
    np.testing.assert_allclose(read_assembly(both, variable="V4").responses, content["data"] + 1)
    with pytest.raises(DatasetError, match="one variable named 'V1'"):
        read_assembly(both, variable="V1")

    words = {**content, "data": content["data"].astype(str)}
    with pytest.raises(DatasetError, match="'IT' must hold numbers"):
        read_assembly(write_netcdf(tmp_path / "words.nc", **words))


def test_a_response_that_is_not_finite_is_named(tmp_path: Path) -> None:
    content = parts()
    content["data"][2, 1, 1] = np.nan
    with pytest.raises(DatasetError, match=r"1 of 24 .* neuroid_id n1 to stimulus a .* 80-90 ms"):
        read_assembly(write_netcdf(tmp_path / "IT.nc", **content))


def test_no_file_and_no_netcdf(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"IT\.nc does not exist"):
        read_assembly(tmp_path / "IT.nc")
    (tmp_path / "IT.nc").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(DatasetError, match=r"IT\.nc cannot be read as a NetCDF-4 file"):
        read_assembly(tmp_path / "IT.nc")
    whole = written(tmp_path).read_bytes()
    (tmp_path / "cut.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"cut\.nc cannot be read"):
        read_assembly(tmp_path / "cut.nc")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    plain = importlib.import_module

    def lacking(name: str) -> Any:
        if name == "xarray":
            raise ImportError("No module named 'xarray'")
        return plain(name)

    monkeypatch.setattr(importlib, "import_module", lacking)
    with pytest.raises(UserError, match=r"need xarray, .*pip install 'rpanoptic\[imagenet\]'"):
        read_assembly(path)
