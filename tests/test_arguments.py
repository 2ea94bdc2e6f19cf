"""Types of command-line arguments."""

from __future__ import annotations

import argparse

import pytest

from rpanoptic.arguments import at_least, numbers_of_steps


def test_whole_numbers_from_the_least() -> None:
    assert at_least(2)("2") == 2 and at_least(0)("17") == 17


@pytest.mark.parametrize(
    ("text", "words"), [("1", "1 is not at least 2"), ("2.5", "'2.5' is not a whole number")]
)
def test_others_are_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=words):
        at_least(2)(text)


def test_numbers_of_steps() -> None:
    assert numbers_of_steps("20,1-4,3,7-7") == [1, 2, 3, 4, 7, 20]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0-3", "0 is not at least 1"),
        ("5-2", "'5-2': the range ends before it begins"),
        ("1,,2", "'' is not a whole number"),
        ("1-2-3", "'2-3' is not a whole number"),
        ("all", "'all' is not a whole number"),
    ],
)
def test_other_numbers_of_steps_are_refused(text: str, words: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=words):
        numbers_of_steps(text)
