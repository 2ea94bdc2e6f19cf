#!/usr/bin/env python
"""Queue a training or an evaluation on a cluster with SLURM, by way of submitit.

    python tools/submit.py --partition gpu --nodes 2 --tasks-per-node 8 --minutes 720 -- \\
        --config-file configs/coco_panoptic_crbp.yaml SOLVER.CHECKPOINT_PERIOD 2000

What follows -- is the command line of tools/train_net.py. A job whose time is over is queued again
and goes on from its last checkpoint. Its logs are in --folder, one for each process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rpanoptic.arguments import at_least
from rpanoptic.engine.launch import run_parser
from rpanoptic.engine.slurm import CLUSTERS, JobOptions, failure, submit
from rpanoptic.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0, or 2 when the user's input stopped it; the message is on standard error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    own = vars(_parser().parse_args(words[:end]))
    args = run_parser().parse_args(words[end + 1 :])
    wait = own.pop("wait")
    try:
        job = submit(args, JobOptions(**own))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"job {job.job_id} is queued; its logs: {job.paths.stdout}, {job.paths.stderr}")
    if wait:
        job.wait()
        stopped = job.exception()
        if stopped is not None:
            print(f"error: job {job.job_id}: {failure(stopped)}", file=sys.stderr)
            print(f"its log: {job.paths.stderr}", file=sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    number = at_least(1)
    parser.add_argument(
        "--folder", type=Path, default=Path("output/jobs"), help="for logs; seen by all machines"
    )
    parser.add_argument("--nodes", type=number, default=1, help="machines")
    parser.add_argument(
        "--tasks-per-node", type=number, default=1, help="processes on each machine, one a GPU"
    )
    parser.add_argument(
        "--gpus-per-node", type=at_least(0), help="GPUs of each machine; one a process by default"
    )
    parser.add_argument("--cpus-per-task", type=number, default=4, help="cores of each process")
    parser.add_argument("--memory-gb", type=number, help="memory of each machine")
    parser.add_argument("--minutes", type=number, default=60, help="time limit")
    for name in ("partition", "account", "qos", "constraint"):
        parser.add_argument(f"--{name}", default="", help="as sbatch takes it")
    parser.add_argument("--name", default="rpanoptic", help="of the job")
    parser.add_argument(
        "--requeues", type=at_least(0), default=10, help="how often time may run out"
    )
    parser.add_argument(
        "--cluster", choices=CLUSTERS, default="slurm", help="local: here, without SLURM"
    )
    parser.add_argument(
        "--wait", action="store_true", help="until the job is over, and say what stopped it"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
