"""The command line ``datasets/prepare_imagenet_shards.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpanoptic.pathfinder.imagenet.data.storage import ShardSource
from tests.data.helpers import load_script
from tests.pathfinder.imagenet.data.folder import CLASSES, truncate, write_folder


def run(*words: str | Path) -> int:
    script = load_script("datasets/prepare_imagenet_shards.py")
    return script.main([*map(str, words)])


def test_it_packs_and_indexes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_folder(tmp_path / "imagenet" / "val")
    folder = tmp_path / "imagenet" / "shards" / "val"
    options = ("--pictures-per-shard", "5", "--workers", "1")
    assert run("--split", "val", *options) == 0
    assert f"{folder}: 9 pictures in 2 shards, 2 of them new." in capsys.readouterr().out
    assert run("--split", "val", *options) == 0
    assert "none of them new" in capsys.readouterr().out
    expected = ShardSource(folder).records()

    (folder / "metadata.json").unlink()
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    assert run("--index-only", folder, "--classes", tmp_path / "names.txt") == 0
    assert f"{folder}: 9 pictures in 2 shards, indexed." in capsys.readouterr().out
    assert ShardSource(folder).records() == expected and ShardSource(folder).classes == CLASSES


def test_what_cannot_be_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, output = tmp_path / "pictures", tmp_path / "shards"
    assert run("--root", root, "--output", output) == 2
    assert f"error: {root}: no such folder." in capsys.readouterr().err
    write_folder(root)
    truncate(root / "cat" / "cat.0.JPEG")
    assert run("--root", root, "--output", output, "--size", "14", "--workers", "1") == 2
    assert "cat/cat.0.JPEG: cannot be read as a picture" in capsys.readouterr().err
    assert run("--index-only", tmp_path, "--classes", tmp_path / "gone") == 2
    assert "error: --classes" in capsys.readouterr().err
    both = ("--index-only", output, "--root", root)
    for words in ((), ("--root", root), ("--split", "val", "--classes", tmp_path), both):
        with pytest.raises(SystemExit):
            run(*words)
