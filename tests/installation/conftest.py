"""The source archive of Detectron2 0.6, and environments to install it into.

No test writes into the environment that runs the tests. What is installed goes to small virtual
environments that borrow its packages, all but Detectron2 and this package, through links.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from rpanoptic.installation import archive as source_archive
from rpanoptic.installation.errors import InstallError
from rpanoptic.installation.mend import mend_tree
from rpanoptic.installation.probe import MODULES
from rpanoptic.installation.rules import MENDS, PRISTINE

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "tools" / "install_detectron2.py"


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, fetched once; skips without network."""
    try:
        return source_archive.download(tmp_path_factory.mktemp("archive"))
    except InstallError as error:
        pytest.skip(f"the source archive of Detectron2 0.6 is out of reach: {error}")


@pytest.fixture(scope="session")
def pristine(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``detectron2`` folder of v0.6. Not to be written to."""
    source_archive.verify(archive)
    return source_archive.unpack(archive, tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def tree(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the ``detectron2`` folder of v0.6 without its configs."""
    return shutil.copytree(
        pristine, tmp_path / "detectron2", ignore=shutil.ignore_patterns("configs")
    )


@pytest.fixture(scope="session")
def mended(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``detectron2`` folder of v0.6 with all mends. Not to be written to."""
    package = shutil.copytree(pristine, tmp_path_factory.mktemp("mended") / "detectron2")
    mend_tree(package, MENDS, PRISTINE)
    return package


def make_environment(folder: Path, keep: Callable[[str], bool]) -> Path:
    """Make a virtual environment that borrows packages of the running one.

    Args:
        folder: where to make it.
        keep: says of each name in the running environment's site-packages whether it is borrowed.

    Returns:
        Its interpreter.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        ours = entry.name.lower().startswith(
            ("detectron2", "rpanoptic", "__editable__", "_virtual")
        )
        if not ours and entry.suffix != ".pth" and keep(entry.name.lower()):
            (borrowed / entry.name).symlink_to(entry)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (folder / "lib" / version / "site-packages" / "borrowed.pth").write_text(f"{borrowed}\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def full_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with everything but Detectron2; fresh for each test module."""
    return make_environment(tmp_path_factory.mktemp("full"), lambda name: True)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with pip alone."""
    return make_environment(tmp_path_factory.mktemp("bare"), lambda name: name.startswith("pip"))


def run_script(
    python: Path, *arguments: str | Path, pythonpath: Iterable[Path] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``tools/install_detectron2.py`` with an interpreter, from a folder of no meaning."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path := os.pathsep.join(map(str, pythonpath)):
        environment["PYTHONPATH"] = path
    return subprocess.run(
        [str(python), str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=python.parent,
        env=environment | variables,
        timeout=300,
    )


def site_packages(python: Path) -> Path:
    """The folder that pip installs to for an interpreter of :func:`make_environment`."""
    return next((python.parent.parent / "lib").glob("python*")) / "site-packages"


def write_package(folder: Path, start: str = "__version__ = '9.9'\n") -> Path:
    """Write a package that passes for a user's own Detectron2; returns the folder that holds it."""
    package = folder / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(start)
    for name in MODULES[1:]:
        (package / f"{name.removeprefix('detectron2.')}.py").write_text("")
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name, time of change and content of each file below a folder, compiled ones left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


assert sys.platform != "win32", "these environments are laid out for POSIX systems"
