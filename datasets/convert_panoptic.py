#!/usr/bin/env python3
"""Convert annotations to the COCO panoptic format, and from it to others.

Each converter is a subcommand with options of its own: CONVERTER --help shows them. The outputs
appear when all of them are complete; after an error everything is as it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rpanoptic.arguments import at_least
from rpanoptic.errors import UserError


class Converters:
    """The subcommands of the command line."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(metavar="CONVERTER", required=True)

    def add(
        self, name: str, convert: Callable[[argparse.Namespace], Any], summary: str
    ) -> argparse.ArgumentParser:
        """Add a converter with the options that all of them have.

        Args:
            name: of the subcommand.
            convert: does the work, given all options (``workers`` and ``overwrite`` among them),
                and returns what is to be printed at the end.
            summary: what it does, for the help.

        Returns:
            the parser, for the converter's own options.
        """
        parser = self._commands.add_parser(name, help=summary, description=summary)
        parser.set_defaults(convert=convert)
        parser.add_argument(
            "--workers", type=at_least(1), default=os.cpu_count() or 1, help="processes"
        )
        parser.add_argument(
            "--overwrite", action="store_true", help="replace outputs that are there already"
        )
        return parser


def add_panoptic_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the options ``output_json`` and ``output_pngs`` of a converter to the panoptic format."""
    group = parser.add_argument_group("panoptic outputs")
    group.add_argument("--output-json", type=Path, required=True, metavar="FILE")
    group.add_argument("--output-pngs", type=Path, required=True, metavar="DIR")


def add_panoptic_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the options ``panoptic_json`` and ``panoptic_root`` of a converter from the format."""
    group = parser.add_argument_group("panoptic inputs")
    group.add_argument("--panoptic-json", type=Path, required=True, metavar="FILE")
    group.add_argument("--panoptic-root", type=Path, required=True, metavar="DIR")


# What adds the subcommands, in the order of the help.
_CONVERTERS: tuple[Callable[[Converters], None], ...] = ()


def main(argv: list[str] | None = None) -> int:
    """Parse ``argv``, convert, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    converters = Converters(parser)
    for add in _CONVERTERS:
        add(converters)
    args = parser.parse_args(argv)
    try:
        print(args.convert(args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
