"""Runs this interpreter's own pip, and turns its failures into one readable paragraph."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from rpanoptic.installation.errors import InstallError


def run_module(module: str, arguments: Sequence[str], doing: str) -> str:
    """Run ``python -m module arguments`` with this interpreter.

    Args:
        module: such as ``pip`` or ``wheel``.
        arguments: its command line.
        doing: what fails if it fails, as the start of a sentence in the error.

    Returns:
        What it printed on standard output.

    Raises:
        InstallError: it ended with an error; the message holds the reasons that it gave.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise InstallError(f"{doing} failed: {_reason(done.stderr or done.stdout)}")
    return done.stdout


def _reason(output: str) -> str:
    """The lines of pip's output that give a reason, or the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    # pip says the same of each failed attempt: keep each reason once.
    return " ".join(dict.fromkeys(errors or lines[-1:])) or "it gave no reason."
