"""Where datasets are looked for, and how their files are written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

DATASETS_VARIABLE = "DETECTRON2_DATASETS"


def datasets_root() -> Path:
    """The folder of all datasets: ``$DETECTRON2_DATASETS``, else ``datasets`` as in Detectron2.

    The variable is read at every call, so that a change during the process is seen.
    """
    return Path(os.environ.get(DATASETS_VARIABLE) or "datasets").expanduser()


def write_atomically(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write ``data`` to ``path`` so that no reader, and no later run, ever sees a part of it.

    Args:
        path: the file.
        data: all its bytes.
        sync: wait until they are on the disk, so that a machine that fails leaves the old file or
            the new one. Without it, it may leave an empty one; for many files whose readers
            check that they are whole.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    with written_whole(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """As :func:`write_atomically` for what is written piece by piece.

    Args:
        path: the file.

    Yields:
        an empty file beside it, which replaces it where the context ends without an error.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; data is for whoever may read the folder.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
