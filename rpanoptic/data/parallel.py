"""One function over many items, in several processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from rpanoptic.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Seconds between two states of a bar that goes to a file, as a batch system's log.
_LOGGED_EVERY = 30


def available_cores() -> int:
    """The number of cores that this process may use, which a batch system may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int = 1,
    description: str = "",
    unit: str = "pictures",
    chunk: int = 32,
    progress: bool = True,
) -> list[Result]:
    """``[function(item) for item in items]``, in the order of ``items``.

    Args:
        function: picklable when ``workers`` is above 1.
        items: what to work on.
        workers: number of processes, at least 1; 1 works in this process.
        description: text before the progress bar.
        unit: what the items are, for the progress bar.
        chunk: items that a process takes at a time, at most; 1 for items that take seconds.
        progress: whether to show the bar, on standard error.

    Raises:
        ValueError: ``workers`` is below 1.
        UserError: a process was killed.
        Exception: the first error of ``function``; work that has not begun is dropped.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    workers = min(workers, len(items))
    with tqdm(
        total=len(items),
        desc=description,
        unit=f" {unit}",
        disable=not progress,
        mininterval=0.1 if sys.stderr.isatty() else _LOGGED_EVERY,
    ) as bar:
        if workers <= 1:
            return [_advance(bar, function(item)) for item in items]
        # A forked worker starts at once; a spawned one imports PyTorch first. Forking is only
        # dependable on Linux.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
        try:
            size = max(1, min(chunk, len(items) // (4 * workers)))
            return [_advance(bar, result) for result in pool.map(function, items, chunksize=size)]
        except BrokenProcessPool:
            raise UserError(
                f"{description or 'work'}: one of {workers} processes was killed. If memory was "
                "short, use fewer workers."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when its parent is killed.

    A worker would else wait for work for ever, and keep what it inherited, file locks too.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _advance(bar: tqdm, result: Result) -> Result:
    bar.update()
    return result
