"""Reading what a training has recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path

# The metrics that tell of the clock; all others are the same in two equal runs.
CLOCK = {"time", "data_time", "rank_data_time", "eta_seconds"}


def metrics(output: Path) -> dict[int, dict[str, float | None]]:
    """Metrics by iteration, the last line for each, without what tells of the clock.

    None stands for what is not a number (an average precision of a class without any object),
    which would not equal itself.
    """
    file = output / "metrics.json"
    found: dict[int, dict[str, float | None]] = {}
    # The last line may be half-written.
    for line in file.read_text().splitlines(keepends=True) if file.is_file() else []:
        if line.endswith("\n"):
            values = json.loads(line)
            found[values["iteration"]] = {
                name: None if math.isnan(value) else value
                for name, value in values.items()
                if name not in CLOCK
            }
    return found
