"""Where a study is kept: a file of SQLite, or another database by its URL.

Optuna's databases hold numbers and JSON; nothing in them is unpickled.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
)

from rpanoptic.errors import ConfigError

_SQLITE = b"SQLite format 3\x00"
# Seconds that a process waits for another one's write; by default SQLite gives up after 5.
_PATIENCE = 60
# Times that the trial of a process which has died is begun again.
_RETRIES = 3
# Processes that open a new file at once all try to make its tables; all but one fail.
_OPENINGS = 5
_PAUSE = 0.2


def open_storage(place: str, *, heartbeat: int = 60, must_exist: bool = False) -> RDBStorage:
    """Open the database of a study, or make a new one.

    A trial whose process has shown no sign of life for two heartbeats counts as failed, and is put
    into the queue again with the same values; at most three times.

    Args:
        place: a file's name, or a URL of SQLAlchemy, such as "mysql://...".
        heartbeat: seconds between two signs of life of a running trial.
        must_exist: make no new file.

    Raises:
        ConfigError: the file is no database of Optuna or cannot be written, or there is none; the
            URL cannot be used.
    """
    url = place
    if "://" not in place:
        path = Path(place).absolute()
        _check_file(path, must_exist=must_exist)
        url = f"sqlite:///{path}"
    for opening in range(_OPENINGS):
        try:
            with quiet():
                return RDBStorage(
                    url,
                    engine_kwargs={"connect_args": {"timeout": _PATIENCE}}
                    if url.startswith("sqlite:")
                    else None,
                    heartbeat_interval=heartbeat,
                    grace_period=2 * heartbeat,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(_RETRIES),
                )
        except (ArgumentError, ImportError) as error:
            raise ConfigError(f"--storage {place}: {error}") from error
        except (SQLAlchemyError, RuntimeError, AssertionError) as error:
            lost = isinstance(error, (IntegrityError, OperationalError))
            if not lost or opening + 1 == _OPENINGS:
                # That of the database alone, without SQLAlchemy's remarks.
                reason = getattr(error, "orig", None) or error
                raise ConfigError(
                    f"--storage {place} cannot be opened as a study of Optuna: {reason}"
                ) from error
            time.sleep(_PAUSE)
    raise AssertionError("the last opening returns or raises")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from remarking that what it offers is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _check_file(path: Path, *, must_exist: bool) -> None:
    """Refuse what is no study before Optuna adds its tables to it."""
    if not path.exists():
        if must_exist:
            raise ConfigError(f"--storage: there is no file {path}")
        if not path.parent.is_dir():
            raise ConfigError(f"--storage {path}: there is no folder {path.parent}")
        return
    try:
        with path.open("rb") as file:
            start = file.read(len(_SQLITE))
    except OSError as error:
        raise ConfigError(f"--storage {path} cannot be read: {error.strerror}") from error
    if not start and not must_exist:
        return  # A new database is an empty file until its first table.
    if start != _SQLITE:
        raise ConfigError(f"--storage {path} is no study: it is not a database of SQLite")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in rows}
    except sqlite3.Error as error:
        raise ConfigError(f"--storage {path} is a damaged database: {error}") from error
    if tables and not {"studies", "trials"} <= tables:
        raise ConfigError(
            f"--storage {path} is a database of something else than studies of Optuna: its tables "
            f"are {', '.join(sorted(tables)[:8])}"
        )
