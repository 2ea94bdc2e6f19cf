"""What tests read out of the Markdown files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def python_blocks(file: Path) -> list[str]:
    """The Python examples of ``file``, in their order."""
    text = file.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_block(source: str, name: str) -> dict[str, Any]:
    """Run an example on its own and return the names that it leaves behind.

    Args:
        source: its text.
        name: the file that it stands in, for tracebacks.
    """
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, name, "exec"), names)
    return names


def broken_links(file: Path) -> list[str]:
    """The links of ``file`` to files of the repository that are not there.

    Raises:
        ValueError: it has no such links at all, so that nothing would be checked.
    """
    text = file.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    if not links:
        raise ValueError(f"{file} links to no file")
    return [link for link in links if not (file.parent / link).exists()]
