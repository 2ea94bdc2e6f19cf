#!/usr/bin/env python
"""Draw a ConvRNN: its layers, cells and feedback, and when each layer is evaluated.

    python tools/draw_graph.py --config-file configs/imagenet/intermediate/reciprocal_gated.yaml
    python tools/draw_graph.py --config-file configs/imagenet/shallow/conv_lstm.yaml \\
        --size 128 128 --output output/shallow.png MODEL.CLASSIFIER.READOUT_STEPS "[13, 14]"

No weights and no data are needed. Any config draws whose backbone is a ConvRNN, those of detectors
too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rpanoptic.arguments import at_least
from rpanoptic.engine import check_output_dir, setup_config
from rpanoptic.errors import ConfigError, UserError
from rpanoptic.pathfinder.imagenet.graph_picture import graph_figure
from rpanoptic.visualization import save_figure

# Flat colours: more would only add shades to the edges of letters.
_COLORS = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0, or 2 when the user's input stopped the work; the message is on standard error.
    """
    args = _parser().parse_args(argv)
    file = Path(args.output)
    try:
        if file.is_dir():
            raise ConfigError(f"--output: {file} is a folder, not a picture")
        cfg = setup_config(args.config_file, args.opts, splits=())
        size = tuple(args.size) if args.size else None
        figure = graph_figure(cfg, size=size, title=_title(Path(args.config_file)))
        check_output_dir(file.parent, key="--output")
        save_figure(file, figure, colors=_COLORS)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {file}")
    return 0


def _title(file: Path) -> str:
    return f"{file.parent.name}/{file.name}" if file.parent.name else file.name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--output", default="graph.png", metavar="FILE", help="the picture (default graph.png)"
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=at_least(1),
        metavar=("H", "W"),
        help="of the image, in pixels (default: the classifier's, or INPUT.MIN_SIZE_TEST)",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, at the end"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
