"""The machinery of the mends, on small texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpanoptic.installation.errors import MendError
from rpanoptic.installation.mend import (
    NOTICE,
    Edit,
    Need,
    NewFile,
    Rule,
    State,
    blob_id,
    mend_tree,
    states,
)

TEXT = "import numpy as np\na = np.int(1)\nb = np.int(2)\n"
RULE = Rule(
    name="np-int",
    need=Need.MUST,
    file="a.py",
    why="np.int is gone.",
    edits=(Edit("= np.int(", "= int(", count=2),),
)
SECOND = Rule(
    name="alias",
    need=Need.QUIET,
    file="a.py",
    why="The whole name.",
    edits=(Edit("numpy as np", "numpy as numpy"),),
)
ADDED = NewFile(name="extra", need=Need.SHOULD, file="sub/b.py", why="", text="x = 1\n")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text(TEXT)
    return tmp_path


PRISTINE = {"a.py": blob_id(TEXT.encode())}


def test_blob_id_is_gits():
    # git hash-object of an empty file and of "hello\n"
    assert blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_apply_replaces_all_and_says_so():
    assert RULE.state(TEXT) is State.NEEDED
    mended = RULE.apply(TEXT)
    assert mended == NOTICE + "import numpy as np\na = int(1)\nb = int(2)\n"
    assert RULE.state(mended) is State.APPLIED
    assert RULE.apply(mended) == mended


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "the file is absent"),
        ("a = np.int(1)\n", "expected 2 time(s) the text '= np.int(', found 1"),
        (TEXT + "c = np.int(3)\n", "found 3"),
        (TEXT + "c = int(3)\n", "holds a part of the mended text"),
    ],
)
def test_apply_refuses_another_text(text: str | None, said: str):
    assert RULE.state(text) is State.OTHER
    with pytest.raises(MendError) as caught:
        RULE.apply(text)
    assert said in str(caught.value)
    assert "'np-int'" in str(caught.value)
    assert "detectron2/a.py" in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [("", "x"), ("x", "xy"), ("xy", "x"), ("x", "x")])
def test_edit_refuses_states_that_look_alike(old: str, new: str):
    with pytest.raises(ValueError, match="two states"):
        Edit(old, new)


def test_new_file_refuses_to_replace():
    assert ADDED.state(None) is State.NEEDED
    assert ADDED.state(ADDED.apply(None)) is State.APPLIED
    with pytest.raises(MendError, match=r"'extra' cannot be made: detectron2/sub/b\.py exists"):
        ADDED.apply("y = 2\n")


def test_tree_is_mended_once(package: Path):
    mends = (RULE, SECOND, ADDED)
    assert [state for _, state in states(package, mends)] == [State.NEEDED] * 3
    assert mend_tree(package, mends, PRISTINE) == ["a.py", "sub/b.py"]
    text = (package / "a.py").read_text()
    assert text.count(NOTICE) == 1
    assert "import numpy as numpy\n" in text
    assert (package / "sub" / "b.py").read_text() == "x = 1\n"
    assert mend_tree(package, mends, PRISTINE) == []
    assert [state for _, state in states(package, mends)] == [State.APPLIED] * 3


def test_refusal_leaves_the_tree_as_it_was(package: Path):
    impossible = Rule("never", Need.MUST, "a.py", "", (Edit("no such text", "other"),))
    with pytest.raises(MendError, match="'never'"):
        mend_tree(package, (ADDED, RULE, impossible), PRISTINE)
    assert (package / "a.py").read_text() == TEXT
    assert not (package / "sub").exists()


def test_another_file_than_v06_is_refused(package: Path):
    (package / "a.py").write_text(TEXT + "# a local change\n")
    with pytest.raises(MendError, match=r"detectron2/a\.py is not the file of v0\.6 \(git blob"):
        mend_tree(package, (RULE,), PRISTINE)
    assert (package / "a.py").read_text() == TEXT + "# a local change\n"


def test_line_ends_are_kept(package: Path):
    (package / "a.py").write_bytes(TEXT.replace("\n", "\r\n").encode())
    with pytest.raises(MendError, match="git blob"):  # another file to git, hence to us
        mend_tree(package, (RULE,), PRISTINE)
