"""Fetches the source archive of Detectron2 0.6 from PyPI, checks it and takes its files out."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path, PurePosixPath

from rpanoptic.installation.errors import InstallError
from rpanoptic.installation.run import run_module

# A repackaged upload of upstream's v0.6 (commit d1e04565): upstream itself is not on PyPI.
PROJECT = "pb1-detectron2"
VERSION = "0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"

_KEPT_SUFFIXES = {".py", ".yaml"}


def download(folder: Path) -> Path:
    """Download the archive into an existing folder.

    pip compares the hash before it runs anything from the archive, and the archive's setup.py
    needs torch, setuptools and wheel in this environment.

    Returns:
        The path of the archive.

    Raises:
        InstallError: no network, no such archive, or another hash.
    """
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{PROJECT}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    options = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes"]
    run_module(
        "pip",
        ["download", *options, "--requirement", str(requirement), "--dest", str(folder)],
        f"The download of {PROJECT} {VERSION} (the source of Detectron2 {VERSION}) from PyPI",
    )
    archives = sorted(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise InstallError(f"pip left {len(archives)} archives of {PROJECT}, expected 1.")
    return archives[0]


def verify(archive: Path) -> None:
    """Check the SHA-256 of the archive.

    Raises:
        InstallError: the file cannot be read, or its hash is another.
    """
    try:
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise InstallError(f"The archive {archive} cannot be read: {error.strerror}.") from error
    if found != SHA256:
        raise InstallError(
            f"The archive {archive} is not the expected one: its SHA-256 is {found}, expected"
            f" {SHA256} ({PROJECT} {VERSION} from PyPI). It was not unpacked."
        )


def unpack(archive: Path, folder: Path) -> Path:
    """Take the package and its licence out of the archive.

    Only regular Python and YAML files below ``detectron2/`` and the file ``LICENSE`` are written,
    each by its plain name below ``folder``.

    Returns:
        The ``detectron2`` folder.

    Raises:
        InstallError: the archive is damaged or holds no Detectron2.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts[1:]
                if not member.isfile() or not _is_wanted(parts):
                    continue
                source = tar.extractfile(member)
                assert source is not None  # a regular file
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InstallError(f"The archive {archive} cannot be unpacked: {error}.") from error
    package = folder / "detectron2"
    for needed in (package / "__init__.py", folder / "LICENSE"):
        if not needed.is_file():
            raise InstallError(f"The archive {archive} holds no {needed.name} of Detectron2.")
    return package


def _is_wanted(parts: tuple[str, ...]) -> bool:
    if parts == ("LICENSE",):
        return True
    inside = len(parts) > 1 and parts[0] == "detectron2" and ".." not in parts
    return inside and PurePosixPath(parts[-1]).suffix in _KEPT_SUFFIXES
