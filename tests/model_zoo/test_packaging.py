"""An installed package finds its configs, wherever its checkout is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from rpanoptic import model_zoo
from tests.paths import ROOT

SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "configs", "rpanoptic")


def run(*command: str, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_wheel_made_from_a_source_distribution_has_the_configs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copyfile(ROOT / name, source / name)
    run("setup.py", "-q", "sdist", "--dist-dir", str(tmp_path), cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("rpanoptic-*/")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q"]
    run("-m", "pip", "wheel", *options, "-w", str(tmp_path), str(unpacked), cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)

    code = (
        "import rpanoptic; from rpanoptic import model_zoo; print(rpanoptic.__file__)\n"
        "print(model_zoo.get_config('coco_panoptic/R101/bptt3.yaml').SOLVER.MAX_ITER)\n"
        "print(*model_zoo.list())\n"
    )
    lines = run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert Path(lines[0]).is_relative_to(installed)
    assert lines[1] == "270000"
    assert lines[2].split() == model_zoo.list()
