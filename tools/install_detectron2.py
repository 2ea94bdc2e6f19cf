#!/usr/bin/env python3
"""Give this Python environment a Detectron2 that works.

A Detectron2 that imports is kept. Otherwise release 0.6 is fetched from PyPI's source archive,
checked against a known hash, mended for current versions of Python, PyTorch, NumPy and Pillow, and
installed as an ordinary distribution: 'pip list' shows it, 'pip uninstall detectron2' removes it.
PyTorch and torchvision must be installed first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    import rpanoptic  # noqa: F401
except ModuleNotFoundError:  # run from a checkout that is not installed yet
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rpanoptic.errors import UserError
from rpanoptic.installation.install import check, ensure_detectron2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="report the state of each mend and change nothing"
    )
    parser.add_argument(
        "--archive",
        type=Path,
        help="a source archive that was downloaded before, for a machine without network",
    )
    parser.add_argument(
        "--reinstall", action="store_true", help="replace what an earlier run installed"
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.check:
            lines: list[str] = []
            sound = check(lines.append)
            # In one piece: a reader such as "head" may stop before the end.
            sys.stdout.write("\n".join(lines) + "\n")
            return 0 if sound else 1
        ensure_detectron2(arguments.archive, reinstall=arguments.reinstall)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
