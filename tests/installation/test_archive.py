"""Fetching, checking and unpacking the source archive, with archives made for the purpose."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from rpanoptic.installation import archive as source_archive
from rpanoptic.installation.errors import InstallError


def make_archive(path: Path, files: dict[str, str], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.SYMTYPE
            member.linkname = target
            tar.addfile(member)
    return path


def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip see nothing but an address where nobody listens."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


def test_verify_names_both_hashes(tmp_path: Path):
    other = tmp_path / "other.tar.gz"
    other.write_bytes(b"hello\n")
    with pytest.raises(InstallError) as caught:
        source_archive.verify(other)
    text = str(caught.value)
    assert "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03" in text
    assert source_archive.SHA256 in text
    assert str(other) in text


def test_verify_names_a_missing_file(tmp_path: Path):
    with pytest.raises(InstallError, match=r"none\.tar\.gz cannot be read: No such file"):
        source_archive.verify(tmp_path / "none.tar.gz")


def test_unpack_takes_only_what_it_should(tmp_path: Path):
    archive = make_archive(
        tmp_path / "a.tar.gz",
        {
            "d-0.6/LICENSE": "licence",
            "d-0.6/setup.py": "raise SystemExit",
            "d-0.6/detectron2/__init__.py": "",
            "d-0.6/detectron2/sub/a.yaml": "x: 1",
            "d-0.6/detectron2/sub/a.so": "",
            "d-0.6/detectron2/../../../outside.py": "",
            "d-0.6/detectron2/../evil.py": "",
            "/d-0.6/../outside.py": "",
            "../outside.py": "",
        },
        {"d-0.6/detectron2/link.py": "/etc/passwd"},
    )
    folder = tmp_path / "out" / "in"
    folder.mkdir(parents=True)
    assert source_archive.unpack(archive, folder) == folder / "detectron2"
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {
        "a.tar.gz",
        "out/in/LICENSE",
        "out/in/detectron2/__init__.py",
        "out/in/detectron2/sub/a.yaml",
    }


def test_unpack_refuses_a_damaged_archive(tmp_path: Path):
    whole = make_archive(tmp_path / "a.tar.gz", {"d-0.6/detectron2/__init__.py": "x" * 10_000})
    whole.write_bytes(whole.read_bytes()[:60])
    with pytest.raises(InstallError, match=r"a\.tar\.gz cannot be unpacked"):
        source_archive.unpack(whole, tmp_path)


def test_unpack_refuses_another_project(tmp_path: Path):
    other = make_archive(tmp_path / "a.tar.gz", {"d-0.6/LICENSE": "licence"})
    with pytest.raises(InstallError, match=r"holds no __init__\.py of Detectron2"):
        source_archive.unpack(other, tmp_path)


def test_the_archive_holds_what_it_should(pristine: Path):
    python = [p for p in pristine.rglob("*.py") if "configs" not in p.parts]
    assert len(python) == 141
    assert len(list((pristine / "model_zoo" / "configs").rglob("*.yaml"))) == 92


def test_download_says_that_the_network_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without_network(monkeypatch)
    with pytest.raises(InstallError) as caught:
        source_archive.download(tmp_path)
    text = str(caught.value)
    assert "The download of pb1-detectron2 0.6" in text
    assert "No matching distribution found" in text
    assert "\n" not in text
    assert not list(tmp_path.glob("*.tar.gz"))


def test_download_checks_the_hash_before_it_runs_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    without_network(monkeypatch)
    shelf, folder, marker = tmp_path / "shelf", tmp_path / "to", tmp_path / "setup-was-run"
    shelf.mkdir()
    folder.mkdir()
    script = (
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
        "from setuptools import setup\nsetup(name='pb1-detectron2', version='0.6')\n"
    )
    info = "Metadata-Version: 2.1\nName: pb1-detectron2\nVersion: 0.6\n"
    make_archive(
        shelf / "pb1-detectron2-0.6.tar.gz",
        {"pb1-detectron2-0.6/setup.py": script, "pb1-detectron2-0.6/PKG-INFO": info},
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    with pytest.raises(InstallError, match=r"(?i)do not match the hashes"):
        source_archive.download(folder)
    assert not marker.exists()
    assert not list(folder.glob("*.tar.gz"))
    # The same archive runs its script when the hash is the expected one: the marker does work.
    found = source_archive.hashlib.sha256((shelf / "pb1-detectron2-0.6.tar.gz").read_bytes())
    monkeypatch.setattr(source_archive, "SHA256", found.hexdigest())
    source_archive.download(folder)
    assert marker.exists()
