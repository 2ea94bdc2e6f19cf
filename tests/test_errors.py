"""Errors say where they come from."""

from __future__ import annotations

import pytest

from rpanoptic.errors import ConfigError, listed, naming


def test_a_value_error_gets_its_place() -> None:
    with (
        pytest.raises(ConfigError, match=r"^MODEL\.KEY: too small$") as raised,
        naming("MODEL.KEY"),
    ):
        raise ValueError("too small")
    assert isinstance(raised.value.__cause__, ValueError)


def test_other_errors_pass_as_they_are() -> None:
    named = ConfigError("OTHER.KEY: too small")
    with pytest.raises(ConfigError) as raised, naming("MODEL.KEY"):
        raise named
    assert raised.value is named
    with pytest.raises(KeyError), naming("MODEL.KEY"):
        raise KeyError("absent")
    with naming("MODEL.KEY"):
        pass


def test_a_long_list_ends_in_a_count() -> None:
    assert listed([], most=2) == ""
    assert listed(["a", "b"], most=2) == "a, b"
    assert listed([1, 2, 3, 4], most=2) == "1, 2 and 2 more"
