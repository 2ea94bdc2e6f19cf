from pathlib import Path

import pytest

from rpanoptic.data.convert.outputs import check_outputs, written_together
from rpanoptic.errors import DatasetError


def write(folder, file):
    """Write a file of each kind; returns where they were before they appeared."""
    with written_together(folder, file) as unfinished:
        (unfinished.folder / "a.png").write_text("png")
        unfinished.file.write_text("json")
    assert (folder / "a.png").read_text() == "png"
    assert file.read_text() == "json"
    return unfinished.folder.parent


def test_a_link_to_a_folder_is_followed_as_it_may_lead_to_another_disk(tmp_path):
    (tmp_path / "disk/real").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk/real")
    assert write(tmp_path / "out", tmp_path / "out.json") == (tmp_path / "disk").resolve()
    assert [path.name for path in (tmp_path / "disk").rglob("*")] == ["real", "a.png"]


def test_where_a_disk_is_mounted_nothing_is_moved_past_it(tmp_path, monkeypatch):
    place = (tmp_path / "out").resolve()
    place.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == place)
    assert write(tmp_path / "out", tmp_path / "out.json") == place
    assert [path.name for path in place.iterdir()] == ["a.png"]


def test_a_killed_run_leaves_nothing_that_stops_the_next(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(SystemExit), written_together(out, out / "list.csv"):
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert [path.parent for path in left] == [out]
        check_outputs(folders=[out], files=[out / "list.csv"])
        raise SystemExit
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.png").touch()
    with pytest.raises(DatasetError, match="holds files already"):
        check_outputs(folders=[tmp_path])


def test_a_full_folder_within_an_input_is_not_written_to(tmp_path):
    out = tmp_path / "images/out"
    out.mkdir(parents=True)
    inputs = [tmp_path / "images"]
    check_outputs(folders=[out], inputs=inputs)
    (out / "a.png").touch()
    with pytest.raises(DatasetError, match=r"out: holds files and lies in the input .*images"):
        check_outputs(folders=[out], inputs=inputs, overwrite=True)
    check_outputs(folders=[out], inputs=[tmp_path / "other"], overwrite=True)
