from __future__ import annotations

from rpanoptic.benchmarks import pathfinder_generator
from rpanoptic.benchmarks.pathfinder_generator import SETTINGS, Setting, measure
from rpanoptic.pathfinder.generator import generate
from rpanoptic.pathfinder.settings import half_scale_settings, small_32_settings


def test_rows_have_the_samples_of_a_second() -> None:
    settings = [
        Setting("small", small_32_settings()),
        Setting("resized", small_32_settings(), resize=16),
    ]
    told: list[str] = []
    rows = measure(samples=3, repeats=2, settings=settings, log=told.append)
    assert [(row["setting"], row["size"]) for row in rows] == [("small", 32), ("resized", 16)]
    for row in rows:
        assert row["per_second"] > 0 and row["per_processor_second"] > 0
        # No turn is faster than its slowest sample.
        assert row["slowest_ms"] <= 3 * 1000 / row["per_second"]
    assert len(told) == 4
    text = pathfinder_generator.tabulated(rows, markdown=True)
    assert "samples/s" in text and "resized" in text


def test_every_setting_that_is_measured_can_be_drawn() -> None:
    assert len({one.name for one in SETTINGS}) == len(SETTINGS)
    for one in SETTINGS:
        assert generate(one.settings, 0, 0).image.shape == (one.settings.size,) * 2
    assert half_scale_settings(14) in [one.settings for one in SETTINGS]
