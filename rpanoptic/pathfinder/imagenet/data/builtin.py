"""The names of the sets of this package."""

from __future__ import annotations

from functools import partial

from rpanoptic.pathfinder.imagenet.data.digits import DigitsSource
from rpanoptic.pathfinder.imagenet.data.sets import register_source

# Name in configs -> part, and whether it is noisy.
DIGITS_SETS = {
    "digits_train": ("train", False),
    "digits_test": ("test", False),
    "digits_search_train": ("search_train", False),
    "digits_search_val": ("search_val", False),
    "digits_noisy_train": ("train", True),
    "digits_noisy_test": ("test", True),
}


def register_builtin_sets() -> None:
    """Register all names of this module. Nothing is read."""
    for name, (part, noisy) in DIGITS_SETS.items():
        register_source(name, partial(DigitsSource, part, noisy=noisy))
