#!/usr/bin/env python
"""Look through a panoptic dataset, list everything that is wrong with it, and draw some pictures.

    python tools/check_dataset.py IMAGES JSON PNGS
    python tools/check_dataset.py coco_2017_val_panoptic_separated --workers 4
    python tools/check_dataset.py NAME --config-file CONFIG.yaml
    python tools/check_dataset.py IMAGES JSON PNGS --report check.json --preview check.png

IMAGES is the folder of the pictures, JSON the COCO panoptic annotations, PNGS the folder of the
panoptic PNGs. NAME is a registered dataset, or with --config-file one of its DATASETS.PANOPTIC.
Every file is read; nothing of the dataset is changed.

The exit status is 0 if there is nothing wrong (there may be notes), 1 if there are warnings, and 2
if there are errors, or if the dataset cannot be opened at all.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import rpanoptic  # first: it silences a warning of what follows

# isort: split
from detectron2.data import DatasetCatalog

import rpanoptic.data  # noqa: F401  (registers names)
from rpanoptic.arguments import at_least
from rpanoptic.data.check import existing_paths, registered_metadata
from rpanoptic.data.inspection import inspect_panoptic
from rpanoptic.data.inspection.tables import class_table, findings_list, findings_table, summary
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.data.parallel import available_cores
from rpanoptic.data.paths import write_atomically
from rpanoptic.engine import check_output_dir, setup_config
from rpanoptic.engine.own_data import own_datasets
from rpanoptic.errors import ConfigError, UserError
from rpanoptic.visualization import save_png
from rpanoptic.visualization.panoptic_preview import draw_preview

_STATUS = {None: 0, "note": 0, "warning": 1, "error": 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        the exit status: 0, 1 with warnings, 2 with errors or when the user's input stopped the
        work; in the last case the message is on standard error.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if len(args.data) not in (1, 3):
        parser.error(f"NAME, or IMAGES JSON PNGS, was expected, got {len(args.data)} words")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of classes and files may have letters that the terminal lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    began = time.perf_counter()
    try:
        _check_outputs({"--report": args.report, "--preview": args.preview})
        inspection = inspect_panoptic(_source(args), workers=args.workers)
        print(summary(inspection), class_table(inspection), sep="\n\n")
        if inspection.findings:
            examples = findings_list(inspection, most=args.examples)
            print("", findings_table(inspection), "", examples, sep="\n")
        if args.report:
            report = json.dumps(inspection.to_dict(), indent=1)
            write_atomically(args.report, report.encode())
            print(f"written: {args.report}")
        if args.preview:
            picture = draw_preview(inspection, pictures=args.pictures)
            if picture is not None:
                print(f"written: {save_png(args.preview, picture)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.stats:
        print(_stats(time.perf_counter() - began))
    return _STATUS[inspection.worst]


def _check_outputs(files: dict[str, Path | None]) -> None:
    """Fail before the work, not after it."""
    for flag, file in files.items():
        if file is None:
            continue
        if file.is_dir():
            raise ConfigError(f"{flag}: {file} is a folder, not a file")
        check_output_dir(file.parent, key=flag)


def _source(args: argparse.Namespace) -> PanopticSource:
    if len(args.data) == 3:
        return PanopticSource.of(*args.data)
    name = args.data[0]
    if args.config_file:
        # With classes given, the datasets are not opened, which may be what is broken.
        cfg = setup_config(args.config_file, args.opts, classes=ClassTable(()))
        own = {one.name: one.source for one in own_datasets(cfg)}
        if name in own:
            return own[name]
        if name not in DatasetCatalog:
            known = ", ".join(own) or "no datasets"
            raise ConfigError(
                f"{args.config_file} has no dataset {name!r} in DATASETS.PANOPTIC; it has {known}."
            )
    metadata = registered_metadata(name)
    source = PanopticSource.of_dataset(name, metadata)
    existing_paths(name, metadata, vars(source))
    return source


def _stats(seconds: float) -> str:
    """Time, and the most memory that this process, and the largest of its workers, ever held.

    What a forked worker shares with this process counts in both.
    """
    import resource  # Unix alone has it.

    unit = 1 if sys.platform == "darwin" else 1024
    own, worker = (
        resource.getrusage(who).ru_maxrss * unit / 2**20
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return (
        f"{seconds:.1f} s; peak memory {own:.0f} MiB, of the largest worker {worker:.0f} MiB with "
        "what it shares"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", metavar="NAME | IMAGES JSON PNGS")
    parser.add_argument(
        "--config-file", metavar="FILE", help="its DATASETS.PANOPTIC are known by their names"
    )
    parser.add_argument(
        "--workers",
        type=at_least(1),
        default=available_cores(),
        metavar="N",
        help="processes (default: all cores)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="all this as JSON")
    parser.add_argument(
        "--preview",
        type=Path,
        metavar="FILE.png",
        help="pictures with their ground truth, those with faults first",
    )
    parser.add_argument(
        "--pictures", type=at_least(1), default=12, metavar="N", help="in the preview (default 12)"
    )
    parser.add_argument(
        "--examples",
        type=at_least(0),
        default=3,
        metavar="N",
        help="findings of each kind that are printed (default 3; the report has 20)",
    )
    parser.add_argument("--stats", action="store_true", help="print time and peak memory")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
