"""How many pictures a classifier takes in a second: that it is measured, not how many."""

from __future__ import annotations

import pytest

from rpanoptic.benchmarks import throughput
from rpanoptic.benchmarks.throughput import NETWORKS, Network, measure, random_pictures
from rpanoptic.engine import setup_config
from tests.paths import CONFIGS

DIGITS = CONFIGS / "imagenet" / "digits"


def test_a_row_for_each_network() -> None:
    networks = [
        Network("base", str(DIGITS / "feedforward.yaml")),
        Network(
            "narrow", str(DIGITS / "feedforward.yaml"), ("MODEL.RECURRENT.CONVRNN.WIDTH", "0.5")
        ),
    ]
    told: list[str] = []
    amp = ["SOLVER.AMP.ENABLED", "True", "RPANOPTIC.AMP_DTYPE", "bfloat16", "MODEL.DEVICE", "cpu"]
    rows = measure(networks, batch=2, iterations=1, rounds=2, opts=amp, log=told.append)
    assert [row["network"] for row in rows] == ["base", "narrow"]
    assert rows[0]["parameters"] > rows[1]["parameters"]
    for row in rows:
        assert (row["pixels"], row["batch"], row["type"]) == (8, 2, "bfloat16")
        assert row["train_per_second"] > 0 and row["test_per_second"] > 0
    assert len(told) == 4
    text = throughput.tabulated(rows, markdown=True)
    assert "bfloat16" in text and " 1.00 " in text


def test_pictures_are_the_same_at_each_call_and_fit_the_config() -> None:
    cfg = setup_config(DIGITS / "feedforward.yaml", ["MODEL.DEVICE", "cpu"])
    first, again = random_pictures(cfg, 3), random_pictures(cfg, 3)
    assert all(a["image"].equal(b["image"]) for a, b in zip(first, again, strict=True))
    assert first[0]["image"].shape == (3, 8, 8) and 1 < first[0]["image"].max() <= 255
    assert {picture["label"] for picture in first} <= set(range(10))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_what_is_measured_can_be_configured(network: Network) -> None:
    cfg = setup_config(network.config, network.options)
    assert cfg.MODEL.META_ARCHITECTURE == "ImageClassifier" and cfg.SOLVER.AMP.ENABLED
