"""Starting the processes of a run, and telling what stopped them in one message."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.data.paths import write_atomically
from rpanoptic.engine.check import check_process_count, check_run
from rpanoptic.engine.own_data import SPLITS
from rpanoptic.engine.run import run
from rpanoptic.engine.setup import said_where, setup_config
from rpanoptic.engine.torchrun import (
    check_flags,
    check_slurm_step,
    launched_process,
    process_group,
)
from rpanoptic.errors import ConfigError, LaunchError, UserError

# What PyTorch raises where the others of a run are not met.
_NOT_MET = re.compile(r"torch\.distributed\.Dist(?:Store|Network)Error: (.*)")

# Words of a command line that are keys, not paths.
_CONFIG_KEY = re.compile(
    r"OUTPUT_DIR|(DATALOADER|DATASETS|INPUT|MODEL|RPANOPTIC|SOLVER|TEST)\.[A-Z0-9_.]+"
)


def run_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Detectron2's argument parser with our own flags.

    Args:
        epilog: examples that follow the flags.
    """
    parser = default_argument_parser(epilog=epilog)
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="make two runs equal, bit by bit; the same as RPANOPTIC.DETERMINISTIC True",
    )
    for split, meaning in (("train", "train on"), ("test", "evaluate")):
        parser.add_argument(
            f"--{split}-data",
            nargs=3,
            action="append",
            metavar=("IMAGES", "JSON", "PNGS"),
            help=f"{meaning} panoptic data of your own: folder of the pictures, COCO panoptic "
            "JSON, folder of its PNGs; may be repeated",
        )
    parser.add_argument(
        "--data-cache",
        metavar="DIR",
        help="folder for what is derived from them (default: beside the JSON)",
    )
    return parser


def run_config(
    args: argparse.Namespace, *overrides: str, splits: Sequence[str] | None = None
) -> CfgNode:
    """The config that the arguments of a command line ask for.

    Args:
        args: from :func:`run_parser`.
        overrides: more of them.
        splits: see :func:`rpanoptic.engine.setup_config`; None takes those that the run reads.

    Raises:
        UserError: see there; or --data-cache is given without data, or a config key where a path
            of the data was expected.
    """
    for flag, sets in (("--train-data", args.train_data), ("--test-data", args.test_data)):
        for word in itertools.chain.from_iterable(sets or ()):
            if _CONFIG_KEY.fullmatch(word) and not Path(word).exists():
                raise ConfigError(
                    f"{flag} takes three paths, IMAGES JSON PNGS, but {word!r} among them is a "
                    "config key: is a path missing before it?"
                )
    train, test = (
        None if words is None else [PanopticSource.of(*paths) for paths in words]
        for words in (args.train_data, args.test_data)
    )
    if args.data_cache is not None and train is None and test is None:
        raise ConfigError("--data-cache is for --train-data and --test-data; neither is given.")
    if args.eval_only and test is not None and train is None:
        # The classes are then those of the test data, not of what the config trains on.
        train = []
    return setup_config(
        args.config_file,
        [*args.opts, *overrides],
        train_data=train,
        test_data=test,
        data_cache=args.data_cache,
        splits=(("TEST",) if args.eval_only else SPLITS) if splits is None else splits,
    )


def start_run(args: argparse.Namespace) -> None:
    """Check what the arguments of a command line ask for, and do it.

    Args:
        args: from :func:`run_parser`.

    Raises:
        UserError: the user's input stopped the run, before it began or later.
    """
    process = launched_process()
    if process is not None:
        check_flags(args)
    elif args.num_machines == 1:
        check_slurm_step()
    with _log_on_console(wanted=process is None or process.rank == 0):
        cfg = run_config(args)
        if args.deterministic:
            cfg.RPANOPTIC.DETERMINISTIC = True
        if process is None:
            check_process_count(args.num_gpus)
        said = partial(said_where, config_file=args.config_file, opts=args.opts)
        check_run(cfg, eval_only=args.eval_only, said_where=said)
    if process is None:
        launch_run(cfg, args)
        return
    with process_group(process, cfg):
        run(cfg, args)


@contextlib.contextmanager
def _log_on_console(*, wanted: bool) -> Iterator[None]:
    """Show our log meanwhile: a run sets up its own later, and to look data through takes long.

    Args:
        wanted: whether by this process; another one shows nothing.
    """
    log = logging.getLogger("rpanoptic")
    if log.handlers:
        yield
        return
    handler = logging.StreamHandler(sys.stdout) if wanted else logging.NullHandler()
    handler.setFormatter(
        logging.Formatter("[%(asctime)s %(name)s]: %(message)s", datefmt="%m/%d %H:%M:%S")
    )
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def launch_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Call :func:`rpanoptic.engine.run.run` in as many processes as the arguments ask for.

    Args:
        cfg: config of the run.
        args: from :func:`run_parser`.

    Raises:
        UserError: the user's input stopped one of this machine's processes. The others are
            ended; the message is that of the process of the least rank which left one.
    """
    world_size = args.num_gpus * args.num_machines
    if world_size == 1:
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
                timeout=timedelta(seconds=cfg.RPANOPTIC.PROCESS_TIMEOUT),
            )
        except (ProcessExitedException, ProcessRaisedException) as error:
            # Another process may fail first, for want of the one that the user's input stopped.
            messages = sorted(Path(folder).iterdir(), key=lambda file: file.name)
            texts = [file.read_text() for file in messages if not file.name.startswith(".")]
            if texts:
                raise UserError(texts[0]) from error
            not_met = _NOT_MET.search(str(error))
            if not_met is None:
                raise
            if "EADDRINUSE" in not_met.group(1):
                raise LaunchError(
                    f"the address {args.dist_url}, at which the processes are to meet, is in use, "
                    "perhaps by another run on this machine: give --dist-url auto, or on several "
                    "machines another port."
                ) from error
            rank = args.machine_rank * args.num_gpus + error.error_index
            raise LaunchError(
                f"process {rank} of {world_size} cannot reach the others at {args.dist_url}; it "
                f"waited at most {cfg.RPANOPTIC.PROCESS_TIMEOUT:g} s (RPANOPTIC.PROCESS_TIMEOUT): "
                f"{not_met.group(1)}"
            ) from error


def _run_and_report(cfg: CfgNode, args: argparse.Namespace, folder: Path) -> None:
    try:
        run(cfg, args)
    except UserError as error:
        write_atomically(folder / f"{comm.get_rank():06d}", str(error).encode())
        sys.exit(2)
