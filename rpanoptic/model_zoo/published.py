"""Records of trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedWeights:
    """Trained weights of a config, as they can be fetched, checked and cited.

    Attributes:
        url: of the checkpoint.
        sha256: of that file, 64 hexadecimal digits.
        licence: under which the weights may be used, such as "CC-BY-4.0".
        metrics: what they reach, by the evaluator's names, such as "panoptic_seg/PQ" in percent.
        config: name of the config that they were trained with.
    """

    url: str
    sha256: str
    licence: str
    metrics: Mapping[str, float]
    config: str


#: By the name of the config. No weights of this package are published yet.
PUBLISHED: dict[str, PublishedWeights] = {}
