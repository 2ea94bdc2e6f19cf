"""The README keeps its word: its Python runs, and what it points at is there."""

from __future__ import annotations

import re

import pytest

from tests.paths import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("source", EXAMPLES, ids=["engine", "config"])
def test_examples_run(source: str) -> None:
    exec(compile(source, "README.md", "exec"), {"__name__": "readme"})


def test_linked_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_files_named_in_commands_exist() -> None:
    named = re.findall(r"\b(?:configs|tools|datasets)/[\w/]+\.(?:yaml|py)\b", TEXT)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
