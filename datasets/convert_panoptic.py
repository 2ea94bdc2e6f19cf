#!/usr/bin/env python3
"""Convert annotations to the COCO panoptic format, and from it to others; or part them.

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
from rpanoptic.data.convert.arguments import (
    Converters,
    add_classes,
    add_labels,
    add_panoptic_inputs,
    add_panoptic_outputs,
    add_pictures,
    add_suffixes,
    given_classes,
)
from rpanoptic.data.convert.cityscapes import (
    CITYSCAPES_RULES,
    CITYSCAPES_SUFFIXES,
    cityscapes_to_panoptic,
    panoptic_to_cityscapes,
)
from rpanoptic.data.convert.coco_parts import ORDERS, Stuff, convert_coco_parts
from rpanoptic.data.convert.hold_out import hold_out
from rpanoptic.data.convert.label_images import (
    LabelSuffixes,
    label_images_to_panoptic,
    panoptic_to_label_images,
)
from rpanoptic.data.convert.label_segments import LabelRules
from rpanoptic.data.convert.labelme import VOID_LABELS, labelme_to_panoptic
from rpanoptic.data.convert.labelme_export import panoptic_to_labelme
from rpanoptic.data.convert.panoptic_parts import (
    NUMBERINGS,
    panoptic_to_instances,
    panoptic_to_semantic,
)
from rpanoptic.errors import UserError


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
            classes=given_classes(args),
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
    add_classes(parser, "default: those of the JSON files; needed for label images")
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
        classes = given_classes(args)
        assert classes is not None  # the option is required
        return label_images_to_panoptic(
            args.images,
            args.labels,
            args.output_json,
            args.output_pngs,
            LabelRules.of(classes, args.void, args.without_instance),
            instance_root=args.instances,
            divisor=args.divisor,
            suffixes=LabelSuffixes(args.image_suffix, args.label_suffix, args.instance_suffix),
            workers=args.workers,
            overwrite=args.overwrite,
        )

    parser = converters.add(
        "from-labels", convert, "label images (class map and instance map, or one) -> panoptic"
    )
    add_pictures(parser)
    add_labels(parser, "class maps, or images of class and instance", default_classes=None)
    instances = parser.add_mutually_exclusive_group()
    instances.add_argument("--instances", type=Path, metavar="DIR", help="instance maps")
    instances.add_argument(
        "--divisor", type=at_least(2), metavar="N", help="label images hold class * N + instance"
    )
    add_suffixes(parser, image="", label="", instance="")
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
            classes=given_classes(args),
            stuff=args.stuff,
            void=args.void,
            workers=args.workers,
            overwrite=args.overwrite,
        )

    parser = converters.add("from-labelme", convert, "JSON files of labelme -> panoptic")
    add_pictures(parser)
    parser.add_argument(
        "--labels", type=Path, metavar="DIR", help="the JSON files (default: with the pictures)"
    )
    classes = parser.add_mutually_exclusive_group()
    add_classes(classes, "default: one for each label")
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
    add_pictures(parser)
    add_panoptic_inputs(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--polygons", action="store_true", help="outlines, not masks, which keep each pixel"
    )


def _add_from_cityscapes(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> Any:
        rules = replace(CITYSCAPES_RULES, without_instance=args.without_instance)
        if (classes := given_classes(args)) is not None:
            rules = LabelRules.of(classes, args.void, args.without_instance)
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
    add_pictures(parser)
    add_labels(parser, "as gtFine/val of Cityscapes", default_classes="Cityscapes")
    add_suffixes(parser, image=CITYSCAPES_SUFFIXES.picture, label=CITYSCAPES_SUFFIXES.classes)
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
    add_suffixes(parser, image=CITYSCAPES_SUFFIXES.picture, label=CITYSCAPES_SUFFIXES.classes)


def _add_hold_out(converters: Converters) -> None:
    def convert(args: argparse.Namespace) -> Any:
        return hold_out(
            args.panoptic_json,
            args.output_train,
            args.output_held_out,
            percent=args.percent,
            seed=args.seed,
            overwrite=args.overwrite,
        )

    parser = converters.add(
        "hold-out", convert, "one panoptic JSON -> one to train on and a held-out one"
    )
    parser.add_argument("--panoptic-json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--output-train", type=Path, required=True, metavar="FILE")
    parser.add_argument("--output-held-out", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--percent", type=int, default=10, metavar="N", help="of the pictures (default: 10)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another one makes another choice (default: 0)"
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
    _add_hold_out,
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
