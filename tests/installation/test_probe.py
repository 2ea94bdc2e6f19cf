"""Which Detectron2 the probe finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpanoptic.installation.probe import probe
from tests.installation.conftest import write_package


def test_finds_what_pythonpath_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_package(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("PYTHONPATH", tmp_path.name)  # relative to the current folder
    found = probe()
    assert found.location == tmp_path / "detectron2"
    assert (found.version, found.info, found.revision) == ("9.9", None, None)
    assert found.works


def test_the_current_folder_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_package(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert probe(modules=()).location != tmp_path / "detectron2"


def test_a_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # The checkout of upstream's repository is such a folder.
    (tmp_path / "detectron2" / "docs").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert probe(modules=()).location != tmp_path / "detectron2"


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("raise ImportError('no such library')\n", "ImportError: no such library"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("import os\nos._exit(5)\n", "the interpreter ended with 5"),
        ("print('a line without an end', end='')\n", ""),
    ],
)
def test_says_why_an_import_failed(
    start: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_package(tmp_path, start)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe()
    assert found.error.startswith(said) if said else found.error == ""
    assert found.location == tmp_path / "detectron2"
    assert found.works is not bool(said)


def test_a_part_that_does_not_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_package(tmp_path)
    (tmp_path / "detectron2" / "engine.py").write_text("import no_such_module\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert probe().error == "ModuleNotFoundError: No module named 'no_such_module'"


def test_a_given_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_package(tmp_path / "a")
    write_package(tmp_path / "b")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "a"))
    assert probe(first=tmp_path / "b").location == tmp_path / "b" / "detectron2"
