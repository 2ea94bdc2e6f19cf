"""Weights of a backbone under the names that another model has for the same backbone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

# Where a backbone, or a layer of it, may stand: under a pyramid or as the model's own, and in the
# loop of a ConvRNN or before it.
_PLACES = re.compile(r"(?<=^backbone\.)bottom_up\.|(?<=\.)recurrence\.cell\.(?=layers\.)")


def moved_weights(weights: Mapping[str, T], wanted: Iterable[str]) -> dict[str, T]:
    """Weights under the names that a model has for them.

    A classifier's backbone fills that of a detector, "backbone.bottom_up", and the other way round;
    a layer of a feed-forward ConvRNN fills the one of its name in the loop of a recurrent one.

    Args:
        weights: by the names that a checkpoint has.
        wanted: names of the model's weights.

    Returns:
        the same weights in the same order. Those whose name the model has, or that it has no one
        place for, keep it.
    """
    names = list(wanted)
    known = set(names)
    free = [name for name in names if name not in weights]
    times = Counter(map(_plain, free))
    places = {_plain(name): name for name in free if times[_plain(name)] == 1}
    claims = Counter(_plain(name) for name in weights if name not in known)
    moved = {}
    for name, value in weights.items():
        plain = _plain(name)
        fits = name not in known and plain in places and claims[plain] == 1
        moved[places[plain] if fits else name] = value
    return moved


def _plain(name: str) -> str:
    return _PLACES.sub("", name)
