"""Makes sure that this interpreter has a Detectron2 that works, and reports on its mends."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

from rpanoptic.installation import archive as source_archive
from rpanoptic.installation.distribution import (
    DIST_VERSION,
    REVISION,
    build_wheel,
    install_wheel,
)
from rpanoptic.installation.errors import InstallError
from rpanoptic.installation.mend import Need, Rule, State, mend_tree, states
from rpanoptic.installation.probe import Found, probe
from rpanoptic.installation.rules import MENDS, PRISTINE

# What the archive's setup.py and the packing need: module -> name for pip.
PREREQUISITES = {"torch": "torch", "torchvision": "torchvision", "setuptools": "setuptools"}
PREREQUISITES["wheel"] = "wheel"

_DEPENDENCIES = 'from the folder of this repository: python -m pip install -e ".[detectron2]"'


def ensure_detectron2(
    archive: Path | None = None,
    *,
    reinstall: bool = False,
    say: Callable[[str], None] = print,
) -> Found:
    """Keep a Detectron2 that works, or install the mended 0.6.

    A Detectron2 that the user built or put on PYTHONPATH is never changed.

    Args:
        archive: the source archive, if it was downloaded before; otherwise pip fetches it.
        reinstall: replace our own installation even if its revision is current.
        say: takes each line of progress.

    Returns:
        What this interpreter imports now.

    Raises:
        InstallError: with the reason; then nothing was changed.
    """
    found = probe(modules=())  # whose it is, before the slow imports
    if found.location is None and found.error:
        raise InstallError(f"Cannot tell whether there is a Detectron2 already: {found.error}.")
    if found.location is not None and found.revision is None:
        return _keep_users(probe(), say)
    if found.distribution and found.location is None:
        raise InstallError(
            f"A distribution detectron2 {found.distribution} is installed, but there is no package"
            " to import. Run 'pip uninstall detectron2' and then this again."
        )
    if found.revision is not None and not reinstall:
        _refuse_if_changed(found)
        if found.revision == REVISION and _is_mended(found.location):
            return _keep_ours(probe(), say)
        say(f"Replacing detectron2 {found.distribution} by {DIST_VERSION}.")
        reinstall = True
    _check_prerequisites()
    _install(archive, reinstall, say)
    found = probe(modules=())
    say(f"Installed detectron2 {found.distribution} in {found.location}.")
    return found


def _is_mended(package: Path | None) -> bool:
    """Whether all mends of today are in a folder; a checkout may be newer than its revision."""
    return package is not None and all(s is State.APPLIED for _, s in states(package, MENDS))


def _refuse_if_changed(found: Found) -> None:
    changed = changed_files(found)
    if changed:
        raise InstallError(
            f"The installed detectron2 {found.distribution} was changed by hand in"
            f" {len(changed)} file(s), first {changed[0]}. Pass --reinstall to replace it."
        )


def _keep_ours(found: Found, say: Callable[[str], None]) -> Found:
    if found.error:
        raise InstallError(
            f"The installed detectron2 {found.distribution} cannot be imported ({found.error})."
            f" Install its dependencies, {_DEPENDENCIES}"
        )
    say(f"detectron2 {found.distribution} is installed and works: nothing to do.")
    return found


def _keep_users(found: Found, say: Callable[[str], None]) -> Found:
    if found.error:
        raise InstallError(
            f"There is a Detectron2 in {found.location} that rpanoptic did not install, and it"
            f" cannot be imported ({found.error}). It was left as it is. Mend it (build it again"
            " for this Python and PyTorch), or remove it ('pip uninstall detectron2', or take it"
            " off PYTHONPATH) and run this again to get a mended 0.6."
        )
    say(f"Keeping your own Detectron2 {found.version} in {found.location}: it works.")
    if found.distribution and found.info is None:
        say(f"It hides the installed distribution detectron2 {found.distribution}.")
    if found.location is not None:
        _say_known_faults(found.location, say)
    return found


def _say_known_faults(package: Path, say: Callable[[str], None]) -> None:
    """Name the faults of v0.6 that a user's own Detectron2 still has.

    Mends that only silence a warning, and files that stand in for operators that were not
    compiled, say nothing of an own build.
    """
    needed = [
        mend
        for mend, state in states(package, MENDS)
        if state is State.NEEDED and isinstance(mend, Rule) and mend.need is not Need.QUIET
    ]
    if not needed:
        return
    say("It was left as it is. rpanoptic mends these faults in its own installation of 0.6:")
    width = max(len(mend.name) for mend in needed)
    for mend in needed:
        say(f"  {mend.name:<{width}}  {mend.why}")


def _check_prerequisites() -> None:
    missing = [pip for module, pip in PREREQUISITES.items() if not _is_importable(module)]
    if missing:
        raise InstallError(
            f"Detectron2 needs {', '.join(missing)} first. Run:"
            f" python -m pip install {' '.join(missing)}\nThen, {_DEPENDENCIES}"
        )


def _is_importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _install(archive: Path | None, reinstall: bool, say: Callable[[str], None]) -> None:
    """Fetch, check, mend, pack and install. All is temporary until pip installs the wheel."""
    with tempfile.TemporaryDirectory(prefix="rpanoptic-detectron2-") as folder:
        work = Path(folder)
        fetched, unpacked, built = (work / name for name in ("fetched", "unpacked", "built"))
        for path in (fetched, unpacked, built):
            path.mkdir()
        if archive is None:
            say(f"Downloading the source of Detectron2 {source_archive.VERSION} from PyPI.")
            archive = source_archive.download(fetched)
        source_archive.verify(archive)
        package = source_archive.unpack(archive, unpacked)
        changed = mend_tree(package, MENDS, PRISTINE)
        say(f"Made {len(MENDS)} mends in {len(changed)} files.")
        trial = probe(first=unpacked)
        if trial.error:
            raise InstallError(
                f"The mended Detectron2 cannot be imported here ({trial.error}), so it was not"
                f" installed. Install its dependencies first, {_DEPENDENCIES}"
            )
        install_wheel(build_wheel(unpacked, MENDS, built), reinstall=reinstall)


def changed_files(found: Found) -> list[str]:
    """The files of our own installation that differ from what was installed.

    Args:
        found: with ``info`` set.

    Returns:
        Their paths as in the distribution's RECORD; missing files are among them.
    """
    assert found.info is not None and found.location is not None
    listing = found.info / "RECORD"
    if not listing.is_file():
        return [f"{found.info.name}/RECORD"]
    changed = []
    with listing.open(newline="", encoding="utf-8") as record:
        for name, checksum, _ in csv.reader(record):
            if not checksum.startswith("sha256="):
                continue  # compiled files and RECORD itself have none
            path = found.location.parent / name
            if not path.is_file() or _record_hash(path) != checksum:
                changed.append(name)
    return changed


def _record_hash(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def check(say: Callable[[str], None] = print) -> bool:
    """Report on the Detectron2 of this interpreter, whoever installed it. Reads only.

    Returns:
        True if it works and, when it is ours, is of the current revision with all mends applied.
    """
    found = probe()
    if found.location is None:
        say(found.error or "There is no Detectron2 in this environment.")
        return False
    ours = found.revision is not None
    owner = f"installed by rpanoptic, {found.distribution}" if ours else "your own"
    say(f"Detectron2 {found.version or '(version unknown)'} ({owner}) in {found.location}")
    if found.error:
        say(f"It cannot be imported: {found.error}")
    table = states(found.location, MENDS)
    width = max(len(mend.name) for mend, _ in table)
    for mend, state in table:
        say(f"  {mend.name:<{width}}  {mend.need.value:<6}  {state.value:<27}  {mend.file}")
    if not ours:
        return found.works
    current = found.revision == REVISION and not changed_files(found)
    if not current:
        say(f"It is not what revision {DIST_VERSION} installs: run tools/install_detectron2.py.")
    return found.works and current and _is_mended(found.location)
