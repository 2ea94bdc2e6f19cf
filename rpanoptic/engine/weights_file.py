"""Files of weights: fetched where they are elsewhere, and told by what they hold."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from detectron2.utils.file_io import PathManager

from rpanoptic.errors import CheckpointError


def local_weights(weights: str) -> Path:
    """The local file of a path, URL or "detectron2://" name of weights, fetched if need be.

    Raises:
        CheckpointError: it does not exist, or cannot be fetched.
    """
    try:
        local = Path(PathManager.get_local_path(weights))
    except Exception as error:  # whatever a URL handler raises: network, catalogue, disk
        raise CheckpointError(
            f"cannot fetch checkpoint {weights}: {error}. MODEL.WEIGHTS also takes the path of a "
            "file, or an empty word to start from random weights."
        ) from error
    if not local.is_file():
        raise CheckpointError(f"checkpoint {weights} does not exist.")
    return local


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read piece by piece."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(file: Path, expected: str) -> None:
    """Check that a file is the one that was meant.

    Args:
        file: to be read whole.
        expected: 64 hexadecimal digits.

    Raises:
        CheckpointError: ``expected`` is no SHA-256, or that of another file; the message has both.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise CheckpointError(f"a SHA-256 has 64 hexadecimal digits, got {expected!r}.")
    found = file_sha256(file)
    if found != expected.lower():
        raise CheckpointError(
            f"checkpoint {file} has the SHA-256 {found}, but {expected.lower()} was expected: it "
            "is another file, was cut short or was changed. A fetched file can be deleted, to "
            "fetch it again."
        )
