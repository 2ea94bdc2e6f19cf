#!/usr/bin/env python
"""Train or evaluate any config of this project, or of Detectron2.

    python tools/train_net.py --config-file configs/synthetic_panoptic_crbp.yaml
    python tools/train_net.py --config-file CONFIG --resume
    python tools/train_net.py --config-file CONFIG --deterministic
    python tools/train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS model_final.pth

Without a GPU it runs on the CPU, and --num-gpus then counts processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from detectron2.engine import default_argument_parser

from rpanoptic.engine import check_process_count, check_run, setup_config
from rpanoptic.engine.launch import launch_run
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
        cfg = setup_config(args.config_file, args.opts)
        if args.deterministic:
            cfg.RPANOPTIC.DETERMINISTIC = True
        check_process_count(args.num_gpus)
        check_run(cfg, eval_only=args.eval_only)
        launch_run(cfg, args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    description, _, examples = __doc__.partition("\n\n")
    parser = default_argument_parser(epilog=examples)
    parser.description = description
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="make two runs equal, bit by bit; the same as RPANOPTIC.DETERMINISTIC True",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
