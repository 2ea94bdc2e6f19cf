"""Starting the processes of a run, and telling what stopped them in one message."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from rpanoptic.data.paths import write_atomically
from rpanoptic.engine.run import run
from rpanoptic.errors import UserError


def launch_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Call :func:`rpanoptic.engine.run.run` in as many processes as the arguments ask for.

    Args:
        cfg: config of the run.
        args: from Detectron2's default argument parser.

    Raises:
        UserError: the user's input stopped one of this machine's processes. The others are
            ended; the message is that of the process of the least rank which left one.
    """
    if args.num_gpus * args.num_machines == 1:
        run(cfg, args)
        return
    # A process cannot hand an exception to its parent with its type, so it leaves the message.
    with tempfile.TemporaryDirectory(prefix="rpanoptic_") as folder:
        try:
            launch(
                _run_and_report,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(cfg, args, Path(folder)),
            )
        except (ProcessExitedException, ProcessRaisedException) as error:
            # Another process may fail first, for want of the one that the user's input stopped.
            messages = sorted(Path(folder).iterdir(), key=lambda file: file.name)
            texts = [file.read_text() for file in messages if not file.name.startswith(".")]
            if not texts:
                raise
            raise UserError(texts[0]) from error


def _run_and_report(cfg: CfgNode, args: argparse.Namespace, folder: Path) -> None:
    try:
        run(cfg, args)
    except UserError as error:
        write_atomically(folder / f"{comm.get_rank():06d}", str(error).encode())
        sys.exit(2)
