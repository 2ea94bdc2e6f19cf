#!/usr/bin/env python
"""Train or evaluate any config of this project, or of Detectron2.

    python tools/train_net.py --config-file configs/synthetic_panoptic_crbp.yaml
    python tools/train_net.py --config-file CONFIG --resume
    python tools/train_net.py --config-file CONFIG --deterministic
    python tools/train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS model_final.pth
    python tools/train_net.py --config-file CONFIG --num-gpus 8
    python tools/train_net.py --config-file CONFIG --train-data IMAGES JSON PNGS
    torchrun --nproc-per-node 8 tools/train_net.py --config-file CONFIG

IMAGES JSON PNGS are panoptic data of your own: folder of the pictures, COCO panoptic JSON, folder
of its PNGs. Without a GPU it runs on the CPU, and --num-gpus then counts processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rpanoptic.engine.launch import run_parser, start_run
from rpanoptic.engine.torchrun import speaks_for_all
from rpanoptic.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0, or 2 when the user's input stopped the run; the message is on standard error.
    """
    args = _parser().parse_args(argv)
    try:
        start_run(args)
    except UserError as error:
        if speaks_for_all():
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    description, _, examples = __doc__.partition("\n\n")
    parser = run_parser(epilog=examples)
    parser.description = description
    return parser


if __name__ == "__main__":
    sys.exit(main())
