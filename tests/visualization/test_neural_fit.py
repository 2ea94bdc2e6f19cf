from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rpanoptic.visualization.neural_fit import draw_neural_fits


def rows(layer: str, values: list[float | None], **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "assembly": "IT.nc",
            "label": "ConvRNN",
            "layer": layer,
            "time_bin_start": 70.0 + 10 * place,
            "time_bin_end": 80.0 + 10 * place,
            "correlation": None if value is None else value / 2,
            "ceiling": None if value is None else 0.6,
            "predictivity": value,
            "predictivity_low": None if value is None else value - 0.1,
            "predictivity_high": None if value is None else value + 0.1,
        }
        | changes
        for place, value in enumerate(values)
    ]


def test_curves_ceiling_and_bands() -> None:
    figure = draw_neural_fits(rows("conv9", [0.4, None, 0.8]) + rows("conv10", [0.5]), title="IT")
    raw, corrected = figure.axes
    ceiling, first, second = raw.lines[:3]
    np.testing.assert_array_equal(ceiling.get_xydata(), [[75, 0.6], [85, np.nan], [95, 0.6]])
    # Rows without a neuroid are gaps.
    np.testing.assert_array_equal(first.get_xydata(), [[75, 0.2], [85, np.nan], [95, 0.4]])
    assert second.get_xydata().tolist() == [[75, 0.25]]
    np.testing.assert_array_equal(corrected.lines[0].get_ydata(), [0.4, np.nan, 0.8])
    assert 1 in [line.get_ydata()[0] for line in corrected.lines]
    assert len(corrected.collections) == 2 and len(raw.collections) == 0
    assert first.get_color() == corrected.lines[0].get_color() != second.get_color()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["ConvRNN conv9", "ConvRNN conv10", "noise ceiling"]


def test_assemblies_have_panels_of_their_own() -> None:
    figure = draw_neural_fits(rows("conv9", [0.4, 0.5]) + rows("conv9", [0.2], assembly="V4.nc"))
    assert [axes.get_title() for axes in figure.axes] == ["IT.nc"] * 2 + ["V4.nc"] * 2
    colors = {axes.lines[1].get_color() for axes in figure.axes[::2]}
    assert len(colors) == 1


def test_without_repetitions_there_is_one_panel() -> None:
    unknown = dict.fromkeys(["ceiling", "predictivity", "predictivity_low", "predictivity_high"])
    figure = draw_neural_fits(rows("conv9", [0.4, 0.5], **unknown))
    (axes,) = figure.axes
    assert axes.get_ylabel() == "correlation, held-out stimuli"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ConvRNN conv9"]


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="no fit to draw"):
        draw_neural_fits(rows("conv9", [None, None]))
