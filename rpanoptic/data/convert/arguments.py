"""Options of ``datasets/convert_panoptic.py`` that several converters have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rpanoptic.arguments import at_least
from rpanoptic.data.convert.classes_file import read_classes
from rpanoptic.data.convert.label_segments import WITHOUT_INSTANCE
from rpanoptic.data.convert.outputs import check_outputs
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.parallel import available_cores


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
            "--workers", type=at_least(1), default=available_cores(), help="processes"
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


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Add the option ``images``."""
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of the pictures"
    )


def add_classes(
    parser: argparse._ActionsContainer, default: str, *, required: bool = False
) -> None:
    """Add the option ``classes``, which :func:`given_classes` reads.

    Args:
        parser: or a group of its options.
        default: what is so without the option, for its help.
        required: whether there is no default.
    """
    parser.add_argument(
        "--classes",
        type=Path,
        required=required,
        metavar="FILE",
        help="all classes, as JSON (a panoptic one, too), YAML or CSV with id, name, isthing"
        + (f" ({default})" if default else ""),
    )


def given_classes(args: argparse.Namespace) -> ClassTable | None:
    """The classes of the file that ``classes`` names; None without the option.

    Raises:
        DatasetError: the file is none of classes, or the output would replace it.
    """
    if args.classes is None:
        return None
    check_outputs(files=[args.output_json], inputs=[args.classes], overwrite=True)
    return read_classes(args.classes)


def add_labels(parser: argparse.ArgumentParser, what: str, *, default_classes: str | None) -> None:
    """Add where label images are, and what their numbers mean.

    Args:
        parser: of a converter.
        what: the label images are, for the help.
        default_classes: the dataset whose classes and void labels are the defaults, if there is
            one.
    """
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help=what)
    usual = "0, 255 and 65535, unless they are classes"
    if default_classes is None:
        add_classes(parser, "", required=True)
    else:
        add_classes(parser, f"default: those of {default_classes}' evaluation")
        usual = f"those that {default_classes}' evaluation ignores, or with --classes {usual}"
    parser.add_argument(
        "--void",
        type=at_least(0),
        nargs="+",
        metavar="ID",
        help=f"ids that mean void (default: {usual})",
    )
    parser.add_argument(
        "--without-instance",
        choices=WITHOUT_INSTANCE,
        default="crowd",
        help="what the pixels of a thing without an instance become (default: %(default)s)",
    )


def add_suffixes(parser: argparse.ArgumentParser, **defaults: str) -> None:
    """Add ``image_suffix`` and others like it, for the keys of ``defaults``."""
    for what, default in defaults.items():
        parser.add_argument(
            f"--{what}-suffix",
            default=default,
            metavar="TEXT",
            help=f"end of their names, before the extension (default: {default or 'none'})",
        )
