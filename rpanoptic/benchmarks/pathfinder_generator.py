"""Pathfinder samples that one core draws in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from rpanoptic.benchmarks.report import Row, table
from rpanoptic.pathfinder.generator import PathfinderSample, generate
from rpanoptic.pathfinder.settings import (
    PathfinderSettings,
    half_scale_settings,
    paper_settings,
    small_32_settings,
    small_128_settings,
)


@dataclass(frozen=True)
class Setting:
    """What is drawn.

    Attributes:
        name: in the table.
        settings: of the samples.
        resize: side to which picture and target are resized as for training; 0 leaves them.
    """

    name: str
    settings: PathfinderSettings
    resize: int = 0


SETTINGS = (
    *(Setting(f"PF-{length}", paper_settings(length)) for length in (9, 14, 20, 25)),
    Setting("PF-10 to PF-25", paper_settings(*range(10, 26))),
    Setting("PF-14, classification", paper_settings(14, form="classification")),
    Setting("PF-14, resized to 150", paper_settings(14), resize=150),
    Setting("PF-14, drawn at 150", half_scale_settings(14)),
    Setting("128 x 128, 14 paddles", small_128_settings()),
    Setting("32 x 32, 6 paddles", small_32_settings()),
)


def measure(
    *,
    samples: int = 200,
    repeats: int = 3,
    settings: Sequence[Setting] = SETTINGS,
    log: Callable[[str], object] = lambda text: None,
) -> list[Row]:
    """Draw samples of each setting in turns, in this process and one thread.

    Args:
        samples: drawn at a time; the same ones in every turn.
        repeats: turns, of which the fastest counts.
        settings: what is drawn.
        log: is told what is being done.

    Returns:
        a row a setting: samples a second of wall-clock time and of the processor's time, and the
        slowest sample in ms, least over the turns.
    """
    cv2.setNumThreads(1)
    times: dict[str, list[tuple[float, float, float]]] = {one.name: [] for one in settings}
    for turn in range(repeats):
        for one in settings:
            log(f"{one.name}: turn {turn + 1} of {repeats}")
            times[one.name].append(_time(one, samples))
    rows = []
    for one in settings:
        wall, processor, slowest = np.min(times[one.name], axis=0)
        rows.append(
            {
                "setting": one.name,
                "size": one.resize or one.settings.size,
                "samples": samples,
                "per_second": samples / wall,
                "per_processor_second": samples / processor,
                "slowest_ms": 1000 * slowest,
            }
        )
    return rows


def tabulated(rows: Sequence[Row], *, markdown: bool) -> str:
    """The rows as a table."""
    headers = ["set", "px", "samples/s", "samples/s of processor time", "slowest, ms"]
    lines = [
        [
            row["setting"],
            str(row["size"]),
            f"{row['per_second']:.0f}",
            f"{row['per_processor_second']:.0f}",
            f"{row['slowest_ms']:.0f}",
        ]
        for row in rows
    ]
    return table(headers, lines, markdown=markdown)


def _time(one: Setting, samples: int) -> tuple[float, float, float]:
    slowest = 0.0
    wall, processor = time.perf_counter(), time.process_time()
    for index in range(samples):
        start = time.perf_counter()
        sample = generate(one.settings, 0, index)
        if one.resize:
            _resized(sample, one.resize)
        slowest = max(slowest, time.perf_counter() - start)
    return time.perf_counter() - wall, time.process_time() - processor, slowest


def _resized(sample: PathfinderSample, side: int) -> list[Image.Image]:
    return [
        Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
        for picture in (sample.image, sample.target)
    ]
