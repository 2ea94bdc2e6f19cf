#!/usr/bin/env python3
"""Convert annotations to the COCO panoptic format, and from it to others.

Each converter is a subcommand with options of its own: CONVERTER --help shows them. The outputs
appear when all of them are complete; after an error everything is as it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rpanoptic.arguments import at_least
from rpanoptic.data.convert.cityscapes import (
    CITYSCAPES_RULES,
    CITYSCAPES_SUFFIXES,
    cityscapes_to_panoptic,
    panoptic_to_cityscapes,
)
from rpanoptic.data.convert.classes_file import read_classes
from rpanoptic.data.convert.coco_parts import ORDERS, Stuff, convert_coco_parts
from rpanoptic.data.convert.label_images import (
    LabelSuffixes,
    label_images_to_panoptic,
    panoptic_to_label_images,
)
from rpanoptic.data.convert.label_segments import WITHOUT_INSTANCE, LabelRules
from rpanoptic.data.convert.labelme import VOID_LABELS, labelme_to_panoptic
from rpanoptic.data.convert.labelme_export import panoptic_to_labelme
from rpanoptic.data.convert.panoptic_parts import (
    NUMBERINGS,
    panoptic_to_instances,
    panoptic_to_semantic,
)
from rpanoptic.data.parallel import available_cores
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


def _add_from_coco(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> Any:
        stuff = None
        if args.stuff is not None:
            void = None if args.void is None else tuple(args.void)
            stuff = Stuff(args.stuff, void, args.offset)
        return convert_coco_parts(
            args.output_json,
            args.output_pngs,
            instances=args.instances,
            stuff=stuff,
            classes=None if args.classes is None else read_classes(args.classes),
            images=args.images,
            order=args.order,
            workers=args.workers,
            overwrite=args.overwrite,
        )

    parser = converters.add(
        "from-coco",
        convert,
        "COCO instances (polygons, RLE, crowds), stuff (JSON or label images), or both -> panoptic",
    )
    parser.add_argument("--instances", type=Path, metavar="FILE", help="COCO JSON of instances")
    parser.add_argument(
        "--stuff",
        type=Path,
        metavar="PATH",
        help="COCO JSON of stuff segments, or folder of label images (8 or 16 bits, PNG or TIFF)",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="all classes, as JSON, YAML or CSV with id, name, isthing; needed for label images",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="the pictures, where no JSON names them"
    )
    parser.add_argument(
        "--void",
        type=int,
        nargs="+",
        metavar="N",
        help="values of label images, or category ids of the stuff JSON, that are void or stand "
        "for all things (default: in label images 0, 255 and 65535, unless they are classes)",
    )
    parser.add_argument(
        "--offset",
        type=int,
        default=0,
        metavar="N",
        help="what is added to a value of a label image to get the category id (default: 0)",
    )
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default="area",
        help="of instances that overlap: the smaller above the larger, and crowds below all; or "
        "the later in the file above (default: area)",
    )
    add_panoptic_outputs(parser)


def _add_to_instances(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> str:
        number = panoptic_to_instances(
            args.panoptic_json,
            args.panoptic_root,
            args.output,
            workers=args.workers,
            overwrite=args.overwrite,
        )
        return f"{args.output}: {number} instances"

    parser = converters.add(
        "to-instances", convert, "panoptic -> COCO instances: the things, masks as RLE"
    )
    add_panoptic_inputs(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")


def _add_to_semantic(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> str:
        void, report = panoptic_to_semantic(
            args.panoptic_json,
            args.panoptic_root,
            args.output,
            numbering=args.numbering,
            things=not args.stuff_only,
            workers=args.workers,
            overwrite=args.overwrite,
        )
        return f"{args.output}: {report}; void is {void}"

    parser = converters.add(
        "to-semantic", convert, "panoptic -> label images of the class of each pixel"
    )
    add_panoptic_inputs(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--numbering",
        choices=NUMBERINGS,
        default="contiguous",
        help="1, 2, ... in the order of classes.csv, and 0 for void; or category ids, and the "
        "first of 0, 255 and 65535 that is none for void (default: contiguous)",
    )
    parser.add_argument("--stuff-only", action="store_true", help="things are void too")


def _add_from_labels(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> Any:
        return label_images_to_panoptic(
            args.images,
            args.labels,
            args.output_json,
            args.output_pngs,
            LabelRules.of(read_classes(args.classes), args.void, args.without_instance),
            instance_root=args.instances,
            divisor=args.divisor,
            suffixes=LabelSuffixes(args.image_suffix, args.label_suffix, args.instance_suffix),
            workers=args.workers,
            overwrite=args.overwrite,
        )

    parser = converters.add(
        "from-labels", convert, "label images (class map and instance map, or one) -> panoptic"
    )
    _add_pictures(parser)
    _add_labels(parser, "class maps, or images of class and instance", classes_needed=True)
    instances = parser.add_mutually_exclusive_group()
    instances.add_argument("--instances", type=Path, metavar="DIR", help="instance maps")
    instances.add_argument(
        "--divisor", type=at_least(2), metavar="N", help="label images hold class * N + instance"
    )
    _add_suffixes(parser, image="", label="", instance="")
    add_panoptic_outputs(parser)


def _add_to_labels(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> str:
        void, report = panoptic_to_label_images(
            args.panoptic_json,
            args.panoptic_root,
            args.output,
            void=args.void,
            divisor=args.divisor,
            extension=f".{args.format}",
            workers=args.workers,
            overwrite=args.overwrite,
        )
        return f"{args.output}: {report}; void is class {void}"

    parser = converters.add(
        "to-labels", convert, "panoptic -> label images (class map and instance map, or one)"
    )
    add_panoptic_inputs(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--divisor", type=at_least(2), metavar="N", help="one image of class * N + instance"
    )
    parser.add_argument(
        "--void",
        type=at_least(0),
        metavar="ID",
        help="class of void (default: one of 0, 255 and 65535 that no class has)",
    )
    parser.add_argument("--format", choices=("png", "tif"), default="png")


def _add_from_labelme(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> Any:
        return labelme_to_panoptic(
            args.images,
            args.labels or args.images,
            args.output_json,
            args.output_pngs,
            classes=None if args.classes is None else read_classes(args.classes),
            stuff=args.stuff,
            void=args.void,
            workers=args.workers,
            overwrite=args.overwrite,
        )

    parser = converters.add("from-labelme", convert, "JSON files of labelme -> panoptic")
    _add_pictures(parser)
    parser.add_argument(
        "--labels", type=Path, metavar="DIR", help="the JSON files (default: with the pictures)"
    )
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument(
        "--classes", type=Path, metavar="FILE", help="JSON, YAML or CSV with id, name, isthing"
    )
    classes.add_argument(
        "--stuff",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="without --classes: which of the labels are stuff; the others are things",
    )
    parser.add_argument(
        "--void",
        nargs="+",
        default=VOID_LABELS,
        metavar="LABEL",
        help=f"labels that mean void (default: {' '.join(VOID_LABELS)})",
    )
    add_panoptic_outputs(parser)


def _add_to_labelme(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> str:
        report = panoptic_to_labelme(
            args.images,
            args.panoptic_json,
            args.panoptic_root,
            args.output,
            polygons=args.polygons,
            workers=args.workers,
            overwrite=args.overwrite,
        )
        return f"{args.output}: {report}"

    parser = converters.add("to-labelme", convert, "panoptic -> JSON files of labelme")
    _add_pictures(parser)
    add_panoptic_inputs(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--polygons", action="store_true", help="outlines, not masks, which keep each pixel"
    )


def _add_from_cityscapes(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> Any:
        rules = replace(CITYSCAPES_RULES, without_instance=args.without_instance)
        if args.classes is not None:
            rules = LabelRules.of(read_classes(args.classes), args.void, args.without_instance)
        elif args.void is not None:
            rules = replace(rules, void=frozenset(args.void))
        return cityscapes_to_panoptic(
            args.images,
            args.labels,
            args.output_json,
            args.output_pngs,
            rules=rules,
            suffixes=LabelSuffixes(args.image_suffix, args.label_suffix),
            workers=args.workers,
            overwrite=args.overwrite,
        )

    parser = converters.add(
        "from-cityscapes", convert, "instance images as those of Cityscapes -> panoptic"
    )
    _add_pictures(parser)
    _add_labels(parser, "as gtFine/val of Cityscapes", classes_needed=False)
    _add_suffixes(parser, image=CITYSCAPES_SUFFIXES.picture, label=CITYSCAPES_SUFFIXES.classes)
    add_panoptic_outputs(parser)


def _add_to_cityscapes(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> str:
        report = panoptic_to_cityscapes(
            args.panoptic_json,
            args.panoptic_root,
            args.output,
            void=args.void,
            suffixes=LabelSuffixes(args.image_suffix, args.label_suffix),
            workers=args.workers,
            overwrite=args.overwrite,
        )
        return f"{args.output}: {report}"

    parser = converters.add(
        "to-cityscapes", convert, "panoptic -> instance images as those of Cityscapes"
    )
    add_panoptic_inputs(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--void", type=at_least(0), default=0, metavar="LABEL", help="of void (default: 0)"
    )
    _add_suffixes(parser, image=CITYSCAPES_SUFFIXES.picture, label=CITYSCAPES_SUFFIXES.classes)


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of the pictures"
    )


def _add_labels(parser: argparse.ArgumentParser, what: str, *, classes_needed: bool) -> None:
    """Add where label images are, and what their numbers mean."""
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help=what)
    parser.add_argument(
        "--classes",
        type=Path,
        required=classes_needed,
        metavar="FILE",
        help="JSON (a panoptic one, too), YAML or CSV with id, name, isthing"
        + ("" if classes_needed else " (default: the 19 classes of Cityscapes)"),
    )
    parser.add_argument(
        "--void",
        type=at_least(0),
        nargs="+",
        metavar="ID",
        help="ids that mean void (default: 0, 255 and 65535, unless they are classes)"
        if classes_needed
        else "ids that mean void (default: those that Cityscapes' evaluation ignores, or with "
        "--classes 0, 255 and 65535, unless they are classes)",
    )
    parser.add_argument(
        "--without-instance",
        choices=WITHOUT_INSTANCE,
        default="crowd",
        help="what the pixels of a thing without an instance become (default: %(default)s)",
    )


def _add_suffixes(parser: argparse.ArgumentParser, **defaults: str) -> None:
    for what, default in defaults.items():
        parser.add_argument(
            f"--{what}-suffix",
            default=default,
            metavar="TEXT",
            help=f"end of their names, before the extension (default: {default or 'none'})",
        )


# What adds the subcommands, in the order of the help.
_CONVERTERS: tuple[Callable[[Converters], None], ...] = (
    _add_from_coco,
    _add_to_instances,
    _add_to_semantic,
    _add_from_labels,
    _add_to_labels,
    _add_from_labelme,
    _add_to_labelme,
    _add_from_cityscapes,
    _add_to_cityscapes,
)


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
