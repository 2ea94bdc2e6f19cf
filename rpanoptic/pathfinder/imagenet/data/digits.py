"""Handwritten digits that come with scikit-learn: a real data set without a download.

1797 pictures of 8 x 8 pixels in 17 grey levels, of 10 classes: the test part of the UCI set
"Optical Recognition of Handwritten Digits". The split is fixed: of each class 50 pictures are for
tests, and 25 of the others are held out for searches.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rpanoptic.errors import DatasetError

DIGITS = tuple(map(str, range(10)))
SIDE = 8

_LEVELS = 16
_TEST_OF_A_CLASS = 50
_HELD_OUT_OF_A_CLASS = 25
# The noisy form: standard deviation of the noise, of 255, and side of the square that hides, px.
_NOISE = 48.0
_HIDDEN = 3
_SPLIT_SEED, _NOISE_SEED = 0, 1


class DigitsSource:
    """Some of the digits.

    Args:
        part: "train" (1297 pictures), "test" (500), or, to choose a model without a look at the
            test, "search_train" (1047) and "search_val" (250), which share out "train".
        noisy: each picture with Gaussian noise and a black square of 3 x 3 pixels, which follow
            from the picture's number.
    """

    classes = DIGITS

    def __init__(self, part: str, *, noisy: bool = False) -> None:
        self._part = part
        self._noisy = noisy

    def records(self) -> list[dict[str, Any]]:
        """A record for each picture, in scikit-learn's order.

        Raises:
            DatasetError: scikit-learn is missing.
        """
        _, labels = _digits()
        form = "noisy digit" if self._noisy else "digit"
        return [
            {
                "file_name": f"{form} {number} of scikit-learn",
                "digit": int(number),
                "noisy": self._noisy,
                "label": int(labels[number]),
                "height": SIDE,
                "width": SIDE,
            }
            for number in _split()[self._part]
        ]


def read_digit(number: int, *, noisy: bool = False) -> Image.Image:
    """A digit as an RGB picture with three equal channels, brightness 0 to 255.

    Args:
        number: in scikit-learn's order.
        noisy: see :class:`DigitsSource`.

    Raises:
        DatasetError: scikit-learn is missing.
    """
    brightness = _digits()[0][number] * (255 / _LEVELS)
    if noisy:
        # Unlike those of NumPy's newer generators, these numbers are fixed for good.
        random = np.random.RandomState([_NOISE_SEED, number])
        brightness = brightness + random.normal(0, _NOISE, brightness.shape)
        top, left = random.randint(0, SIDE - _HIDDEN + 1, 2)
        brightness[top : top + _HIDDEN, left : left + _HIDDEN] = 0
    grey = Image.fromarray(np.clip(np.rint(brightness), 0, 255).astype(np.uint8))
    return grey.convert("RGB")


@cache
def _digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Levels ``(1797, 8, 8)``, 0 to 16, and labels ``(1797,)``."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"The digits come with scikit-learn, which is missing ({error}): "
            'pip install "rpanoptic[imagenet]"'
        ) from error
    loaded = load_digits()
    return loaded.images, loaded.target


@cache
def _split() -> dict[str, npt.NDArray[np.int64]]:
    """The numbers of each part's pictures, ascending."""
    _, labels = _digits()
    random = np.random.RandomState(_SPLIT_SEED)
    parts: dict[str, list[npt.NDArray[np.int64]]] = {"test": [], "search_val": [], "rest": []}
    for label in range(len(DIGITS)):
        drawn = random.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum([_TEST_OF_A_CLASS, _HELD_OUT_OF_A_CLASS])
        for numbers, some in zip(parts.values(), np.split(drawn, ends), strict=True):
            numbers.append(some)
    test, held_out, rest = (np.sort(np.concatenate(numbers)) for numbers in parts.values())
    train = np.sort(np.concatenate([held_out, rest]))
    return {"train": train, "test": test, "search_train": rest, "search_val": held_out}
