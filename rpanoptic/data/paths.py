"""Where datasets are looked for, and how their files are written."""

from __future__ import annotations

import os
import tempfile
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
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        # mkstemp makes private files; data is for whoever may read the folder.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
