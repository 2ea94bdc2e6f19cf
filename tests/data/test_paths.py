from __future__ import annotations

import os
from pathlib import Path

import pytest

from rpanoptic.data.paths import write_atomically


@pytest.mark.parametrize("sync", [True, False])
def test_bytes_are_on_the_disk_before_they_take_the_place_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    synced: list[tuple[int, bytes]] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((os.fstat(fd).st_size, file.read_bytes()))
    )
    write_atomically(file, b"newer", sync=sync)
    assert synced == ([(5, b"old")] if sync else [])
    assert file.read_bytes() == b"newer"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
