"""Importing the package."""

from __future__ import annotations

import subprocess
import sys


def test_the_import_of_fvcore_warns_of_nothing() -> None:
    """Each command, and each of its processes, would else begin with a warning of PyTorch's."""
    code = "import rpanoptic, fvcore.nn, detectron2.layers"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "Warning" not in result.stderr
