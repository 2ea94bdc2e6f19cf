"""tools/install_detectron2.py from end to end, in environments of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from rpanoptic.installation import install
from rpanoptic.installation.distribution import DIST_VERSION, REVISION, mends_text, revision_of
from rpanoptic.installation.errors import InstallError, MendError
from rpanoptic.installation.mend import Edit, Need, Rule
from rpanoptic.installation.probe import Found
from rpanoptic.installation.rules import MENDS
from tests.installation.conftest import (
    make_environment,
    run_script,
    site_packages,
    snapshot,
    write_package,
)

NOTHING = Found(location=None, version="", distribution="", info=None, error="")


def pip(python: Path, *arguments: str) -> str:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_installs_keeps_repairs_and_uninstalls(full_python: Path, archive: Path):
    packages = site_packages(full_python)
    before = {path.name for path in packages.iterdir()}

    done = run_script(full_python, "--archive", archive)
    assert done.returncode == 0, done.stderr
    assert f"Made {len(MENDS)} mends" in done.stdout
    assert f"detectron2=={DIST_VERSION}\n" in pip(full_python, "freeze")
    info = packages / f"detectron2-{DIST_VERSION}.dist-info"
    assert (info / "MENDS.txt").read_text() == mends_text(MENDS)
    assert "Apache License" in (info / "LICENSE").read_text()
    configs = packages / "detectron2" / "model_zoo" / "configs"
    assert len(list(configs.rglob("*.yaml"))) == 92

    # A second run finds nothing to do, and says so.
    state = snapshot(packages)
    done = run_script(full_python, "--archive", "/no/such/archive")
    assert (done.returncode, "nothing to do" in done.stdout) == (0, True), done.stderr
    done = run_script(full_python, "--check")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" applied ") == len(MENDS)
    assert snapshot(packages) == state

    # A file that someone changed is neither overwritten nor passed over.
    changed = packages / "detectron2" / "engine" / "launch.py"
    changed.write_text(changed.read_text() + "# mine\n")
    done = run_script(full_python, "--archive", archive)
    assert done.returncode == 2
    assert "changed by hand in 1 file(s), first detectron2/engine/launch.py" in done.stderr
    assert changed.read_text().endswith("# mine\n")
    done = run_script(full_python, "--archive", archive, "--reinstall")
    assert done.returncode == 0, done.stderr
    assert not changed.read_text().endswith("# mine\n")

    pip(full_python, "uninstall", "--yes", "detectron2")
    assert {path.name for path in packages.iterdir()} == before


def test_names_what_is_missing(bare_python: Path):
    done = run_script(bare_python)
    assert done.returncode == 2
    wanted = "torch torchvision setuptools wheel"
    assert f"Run: python -m pip install {wanted}\n" in done.stderr
    assert 'pip install -e ".[detectron2]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (site_packages(bare_python) / "detectron2").exists()
    assert run_script(bare_python, "--check").returncode == 1


def test_without_network_nothing_is_installed(full_python: Path, tmp_path: Path):
    before = snapshot(site_packages(full_python))
    done = run_script(
        full_python,
        PIP_CONFIG_FILE="/dev/null",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_EXTRA_INDEX_URL="",
        PIP_FIND_LINKS="",
        PIP_RETRIES="0",
        PIP_NO_CACHE_DIR="1",
        TMPDIR=str(tmp_path),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: The download of pb1-detectron2 0.6")
    assert len(done.stderr.strip().splitlines()) == 1
    assert snapshot(site_packages(full_python)) == before
    assert list(tmp_path.iterdir()) == []


def test_wrong_archive_installs_nothing(full_python: Path, tmp_path: Path):
    before = snapshot(site_packages(full_python))
    other = tmp_path / "other.tar.gz"
    other.write_bytes(b"not it")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = run_script(full_python, "--archive", other, TMPDIR=str(temporary))
    assert done.returncode == 2
    assert "is not the expected one: its SHA-256 is" in done.stderr
    assert snapshot(site_packages(full_python)) == before
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("way", ["PYTHONPATH", "editable"])
def test_keeps_a_users_own(bare_python: Path, tmp_path: Path, way: str):
    source = write_package(tmp_path / "source")
    before = snapshot(source)
    link = site_packages(bare_python) / "editable_detectron2.pth"
    try:
        if way == "editable":
            link.write_text(f"{source}\n")
            done = run_script(bare_python)
        else:
            done = run_script(bare_python, pythonpath=[source])
    finally:
        link.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    assert f"Keeping your own Detectron2 9.9 in {source / 'detectron2'}" in done.stdout
    assert snapshot(source) == before


def test_checks_a_users_own(bare_python: Path, tmp_path: Path, pristine: Path):
    own = write_package(tmp_path)
    (own / "detectron2" / "data.py").unlink()
    text = (pristine / "data" / "common.py").read_text()
    (own / "detectron2" / "data").mkdir()
    (own / "detectron2" / "data" / "__init__.py").write_text("")
    (own / "detectron2" / "data" / "common.py").write_text(text)
    done = run_script(bare_python, "--check", pythonpath=[own])
    assert done.returncode == 0
    assert "your own" in done.stdout
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert " needed " in rows["sample-from-list"]
    assert " not applicable: other text " in rows["np-bool-masks"]


def test_names_the_faults_of_a_users_own(bare_python: Path, tmp_path: Path, pristine: Path):
    own = write_package(tmp_path)
    assert "It was left as it is" not in run_script(bare_python, pythonpath=[own]).stdout
    package = own / "detectron2"
    (package / "data.py").unlink()
    (package / "data").mkdir()
    (package / "data" / "__init__.py").write_text("")
    shutil.copy(pristine / "data" / "common.py", package / "data")
    before = snapshot(own)
    done = run_script(bare_python, pythonpath=[own])
    assert done.returncode == 0, done.stderr
    rule = next(mend for mend in MENDS if mend.name == "sample-from-list")
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  ")]
    assert lines == [[rule.name, rule.why]]
    assert snapshot(own) == before


def test_leaves_a_users_broken_one_alone(full_python: Path, tmp_path: Path):
    source = write_package(tmp_path, "raise ImportError('libcudart.so.9 is missing')\n")
    before, installed = snapshot(source), snapshot(site_packages(full_python))
    done = run_script(full_python, pythonpath=[source])
    assert done.returncode == 2
    assert "libcudart.so.9 is missing" in done.stderr
    assert f"{source / 'detectron2'} that rpanoptic did not install" in done.stderr
    assert "It was left as it is" in done.stderr
    assert run_script(full_python, "--check", pythonpath=[source]).returncode == 1
    assert snapshot(source) == before
    assert snapshot(site_packages(full_python)) == installed


def test_a_refused_mend_installs_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    impossible = Rule(
        "never", Need.MUST, "engine/launch.py", "", (Edit("no such text", "nor this"),)
    )
    installed: list[Path] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(install, "probe", lambda **_: NOTHING)
    monkeypatch.setattr(install, "MENDS", (*MENDS, impossible))
    monkeypatch.setattr(install, "install_wheel", lambda wheel, **_: installed.append(wheel))
    with pytest.raises(MendError, match=r"'never' cannot be made in detectron2/engine/launch\.py"):
        install.ensure_detectron2(archive, say=lambda line: None)
    assert installed == []
    assert list(tmp_path.iterdir()) == []


def test_one_that_would_not_import_is_not_installed(
    archive: Path, tmp_path_factory: pytest.TempPathFactory
):
    python = make_environment(
        tmp_path_factory.mktemp("part"), lambda name: not name.startswith("yacs")
    )
    before = snapshot(site_packages(python))
    done = run_script(python, "--archive", archive)
    assert done.returncode == 2
    assert "No module named 'yacs'), so it was not installed" in done.stderr
    assert 'pip install -e ".[detectron2]"' in done.stderr
    assert snapshot(site_packages(python)) == before


def test_ours_that_does_not_import_is_explained(
    mended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "RECORD").write_text("")
    error = "ModuleNotFoundError: No module named 'fvcore'"
    found = Found(mended, "", DIST_VERSION, tmp_path, error)
    monkeypatch.setattr(install, "probe", lambda **_: found)
    with pytest.raises(InstallError, match=r"'fvcore'\)\. Install its dependencies"):
        install.ensure_detectron2()
    (tmp_path / "RECORD").unlink()
    with pytest.raises(InstallError, match=r"changed by hand in 1 file\(s\), first .*/RECORD"):
        install.ensure_detectron2()


@pytest.mark.parametrize("whole", [True, False])
def test_check_of_ours(whole: bool, mended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    info = tmp_path / "info"
    info.mkdir()
    file = "detectron2/engine/launch.py"
    checksum = install._record_hash(mended / "engine" / "launch.py") if whole else "sha256=other"
    (info / "RECORD").write_text(f"{file},{checksum},1\n{file}c,,\n")
    monkeypatch.setattr(install, "probe", lambda **_: Found(mended, "0.6", DIST_VERSION, info, ""))
    said: list[str] = []
    assert install.check(said.append) is whole
    assert sum(" applied " in line for line in said) == len(MENDS)
    assert ("run tools/install_detectron2.py" in said[-1]) is not whole


def test_an_older_revision_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old = write_package(tmp_path)
    info = tmp_path / "info"
    info.mkdir()
    (info / "RECORD").write_text("")
    version = f"0.6+rpanoptic.{REVISION - 1}"
    found = Found(old / "detectron2", "0.6", version, info, error="")
    calls: list[str] = []
    monkeypatch.setattr(install, "probe", lambda **_: found)
    monkeypatch.setattr(install, "_install", lambda *_: calls.append("installed"))
    said: list[str] = []
    install.ensure_detectron2(say=said.append)
    assert calls == ["installed"]
    assert said[0] == f"Replacing detectron2 {version} by {DIST_VERSION}."


def test_unmended_files_of_the_same_revision_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old = write_package(tmp_path)  # as after a mend was added and the revision forgotten
    (tmp_path / "RECORD").write_text("")
    found = Found(old / "detectron2", "0.6", DIST_VERSION, tmp_path, error="")
    calls: list[bool] = []
    monkeypatch.setattr(install, "probe", lambda **_: found)
    monkeypatch.setattr(
        install, "_install", lambda archive, reinstall, say: calls.append(reinstall)
    )
    install.ensure_detectron2(say=lambda line: None)
    assert calls == [True]


def test_a_distribution_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch):
    lost = Found(location=None, version="", distribution="0.5", info=None, error="")
    monkeypatch.setattr(install, "probe", lambda **_: lost)
    with pytest.raises(InstallError, match=r"detectron2 0\.5 is installed, but .* 'pip uninstall"):
        install.ensure_detectron2()


def test_an_unclear_answer_stops_it(monkeypatch: pytest.MonkeyPatch):
    unclear = Found(None, "", "", None, error="ValueError: detectron2.__spec__ is None")
    monkeypatch.setattr(install, "probe", lambda **_: unclear)
    with pytest.raises(InstallError, match=r"Cannot tell .*__spec__ is None"):
        install.ensure_detectron2()


def test_revision_of():
    assert revision_of(DIST_VERSION) == REVISION
    assert revision_of("0.6") is None
    assert revision_of("0.6+cu113") is None
    assert revision_of("0.7+rpanoptic.1") is None
