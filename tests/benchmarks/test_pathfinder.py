from __future__ import annotations

import sys

import pytest
import torch

from rpanoptic.benchmarks.pathfinder import SETTINGS, compare, tabulated
from rpanoptic.benchmarks.problem import Problem

TINY = Problem("hgru_pathfinder", channels=8, kernel_size=15, size=32, batch=1)


def test_settings_are_compared_and_tabulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdeq", None)
    said: list[str] = []
    rows = compare(
        TINY, steps=4, terms=3, repeats=1, threads=torch.get_num_threads(), log=said.append
    )
    ours = [s.name for s in SETTINGS if s.method != "torchdeq"]
    assert [row["setting"] for row in rows] == ours
    assert sum("pip install torchdeq==0.1.0" in text for text in said) == 2

    cells = {row["setting"]: row for row in rows}
    for key in ("loss", "drive", "parameter"):
        # The same numbers up to rounding, whichever way the convolutions go.
        assert cells["crbp"][f"{key}_difference"] < 1e-4
        assert cells["crbp, channels last"][f"{key}_difference"] < 1e-4
    assert cells["crbp, forward tol 1e-3"]["steps"] <= 4
    assert all(row["seconds"] > 0 for row in rows)

    text = tabulated(rows, markdown=False)
    assert all(name in text for name in ours)
    assert "reference" in text


def test_every_setting_names_a_reference_that_stands_before_it() -> None:
    seen: set[str] = set()
    for setting in SETTINGS:
        seen.add(setting.name)
        assert setting.reference in seen
