"""Errors say where they come from."""

from __future__ import annotations

import pytest

from rpanoptic.errors import ConfigError, naming


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
