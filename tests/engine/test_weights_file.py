from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rpanoptic.engine.weights_file import check_sha256, file_sha256, local_weights
from rpanoptic.errors import CheckpointError


@pytest.fixture()
def file(tmp_path: Path) -> Path:
    file = tmp_path / "model.pth"
    # More than one of the pieces that it is read in.
    file.write_bytes(b"weights" * 300_000)
    return file


def test_the_sum_is_that_of_the_whole_file(file: Path) -> None:
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert file_sha256(file) == expected
    check_sha256(file, expected)
    check_sha256(file, expected.upper())


def test_another_sum_names_file_and_both_sums(file: Path) -> None:
    other = "0" * 64
    with pytest.raises(CheckpointError) as error:
        check_sha256(file, other)
    assert all(text in str(error.value) for text in (str(file), other, file_sha256(file)))


@pytest.mark.parametrize("text", ["", "abc", "g" * 64, "0" * 63])
def test_what_is_no_sum_is_named(file: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match="64 hexadecimal digits"):
        check_sha256(file, text)


def test_local_files_stay_where_they_are(file: Path) -> None:
    assert local_weights(str(file)) == file


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nowhere/model.pth", "nowhere/model.pth does not exist"),
        # A name that Detectron2 cannot look up, which needs no network to be found out.
        ("catalog://no/such", "cannot fetch checkpoint catalog://no/such.*the path of a file"),
    ],
)
def test_what_is_not_there_is_named(weights: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        local_weights(weights)
