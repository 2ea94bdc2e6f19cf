"""Errors that a user's input causes. Their message names the thing at fault and what was expected.

Command lines print such a message alone, without a traceback, and exit with status 2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence


class UserError(Exception):
    """Something that the user named, wrote or lacks stops the work; the message says what."""


class ConfigError(UserError, ValueError):
    """A config key, or its value, is unknown or impossible."""


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Turn a ValueError that is raised inside into a ConfigError that says where it comes from.

    Args:
        place: a config key, or what else is at fault; begins the message.

    Raises:
        ConfigError: "place: message". One that is raised inside passes as it is.
    """
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


class DatasetError(UserError, ValueError):
    """A dataset's folder, file or annotation is missing, damaged or contradicts another."""


class CheckpointError(UserError, ValueError):
    """A checkpoint is missing, unreadable, unsafe, or of another architecture."""


class NonFiniteError(UserError, FloatingPointError):
    """A loss or a gradient of a training became infinite or not a number."""


class EvaluationError(UserError, RuntimeError):
    """An evaluation of a dataset fails, by an error that is none of the others."""


class LaunchError(UserError, RuntimeError):
    """The processes of a run were asked for in a way that cannot be, or did not meet."""


def listed(things: Sequence[object], *, most: int) -> str:
    """The first ``most`` things for a message, and how many more there are."""
    rest = f" and {len(things) - most} more" if len(things) > most else ""
    return f"{', '.join(map(str, things[:most]))}{rest}"
