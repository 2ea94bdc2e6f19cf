"""The README keeps its word: its Python runs, and what it points at is there."""

from __future__ import annotations

import re

import pytest

from tests.markdown import broken_links, python_blocks, run_block
from tests.paths import ROOT

README = ROOT / "README.md"
EXAMPLES = python_blocks(README)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("source", EXAMPLES, ids=["engine", "config"])
def test_examples_run(source: str) -> None:
    run_block(source, "README.md")


def test_linked_files_exist() -> None:
    assert broken_links(README) == []


def test_files_named_in_commands_exist() -> None:
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"\b(?:configs|tools|datasets)/[\w/]+\.(?:yaml|py)\b", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
