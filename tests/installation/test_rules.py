"""Each mend on the files of v0.6: it applies, once, and refuses anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpanoptic.installation.errors import MendError
from rpanoptic.installation.mend import (
    NOTICE,
    Mend,
    NewFile,
    Rule,
    State,
    blob_id,
    mend_tree,
    read_text,
    states,
)
from rpanoptic.installation.rules import MENDS, PRISTINE

RULES = [mend for mend in MENDS if isinstance(mend, Rule)]
each_mend = pytest.mark.parametrize("mend", MENDS, ids=lambda mend: mend.name)
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def test_names_are_unique_and_files_known():
    names = [mend.name for mend in MENDS]
    assert len(set(names)) == len(names)
    assert set(PRISTINE) == {rule.file for rule in RULES}
    assert all(mend.why.endswith(".") for mend in MENDS)


def test_blob_ids_are_those_of_the_archive(pristine: Path):
    found = {file: blob_id((pristine / file).read_bytes()) for file in PRISTINE}
    assert found == PRISTINE


@each_mend
def test_applies_once(mend: Mend, pristine: Path):
    text = read_text(pristine, mend.file)
    assert mend.state(text) is State.NEEDED
    mended = mend.apply(text)
    assert mended != text
    assert mend.state(mended) is State.APPLIED
    assert mend.apply(mended) == mended
    compile(mended, mend.file, "exec")
    if isinstance(mend, NewFile):
        assert mended.startswith("# Written for rpanoptic")
    else:
        assert mended.startswith(NOTICE)


@each_rule
def test_fails_loudly_without_the_expected_text(rule: Rule, pristine: Path):
    text = read_text(pristine, rule.file)
    assert text is not None
    for edit in rule.edits:
        without = text.replace(edit.old, "", 1)
        assert rule.state(without) is State.OTHER
        with pytest.raises(MendError) as caught:
            rule.apply(without)
        for part in (f"'{rule.name}'", f"detectron2/{rule.file}", "expected"):
            assert part in str(caught.value)


@each_rule
def test_refuses_a_part_of_itself(rule: Rule, pristine: Path):
    text = read_text(pristine, rule.file)
    assert text is not None
    if len(rule.edits) == 1:
        half = text + rule.edits[0].new
    else:
        half = text.replace(rule.edits[0].old, rule.edits[0].new)
    with pytest.raises(MendError, match=f"'{rule.name}'"):
        rule.apply(half)


def test_whole_tree_is_mended_once(tree: Path):
    changed = mend_tree(tree, MENDS, PRISTINE)
    assert set(changed) == {mend.file for mend in MENDS}
    assert all(state is State.APPLIED for _, state in states(tree, MENDS))
    assert all((tree / file).read_text().count(NOTICE) == 1 for file in PRISTINE)
    assert mend_tree(tree, MENDS, PRISTINE) == []


def test_whole_tree_or_nothing(tree: Path):
    victim = tree / "utils" / "comm.py"  # of the last mend
    victim.write_text(victim.read_text().replace("ByteStorage", "UntypedStorage"))
    before = {path: path.read_bytes() for path in tree.rglob("*.py")}
    with pytest.raises(MendError, match=r"detectron2/utils/comm\.py is not the file of v0\.6"):
        mend_tree(tree, MENDS, PRISTINE)
    assert {path: path.read_bytes() for path in tree.rglob("*.py")} == before
