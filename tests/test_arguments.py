"""Types of command-line arguments."""

from __future__ import annotations

import argparse

import pytest

from rpanoptic.arguments import at_least


def test_whole_numbers_from_the_least() -> None:
    assert at_least(2)("2") == 2 and at_least(0)("17") == 17


@pytest.mark.parametrize(
    ("text", "words"), [("1", "1 is not at least 2"), ("2.5", "'2.5' is not a whole number")]
)
def test_others_are_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=words):
        at_least(2)(text)
