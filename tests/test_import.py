"""Importing the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

SCRIPTS = sorted([*ROOT.glob("tools/*.py"), *ROOT.glob("datasets/*.py")])
WARN_WHEN_IMPORTED = {"detectron2", "fvcore"}


def test_the_import_of_fvcore_warns_of_nothing() -> None:
    """Each command, and each of its processes, would else begin with a warning of PyTorch's."""
    code = "import rpanoptic, fvcore.nn, detectron2.layers"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "Warning" not in result.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_commands_import_the_package_before_what_warns(script: Path) -> None:
    names = [
        module.partition(".")[0]
        for node in ast.parse(script.read_text()).body
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    first = next((n for n in names if n in {"rpanoptic", *WARN_WHEN_IMPORTED}), "rpanoptic")
    assert first == "rpanoptic"
