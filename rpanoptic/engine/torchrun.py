"""A process that something else has started: by torchrun, or under SLURM with its variables."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm

from rpanoptic.errors import LaunchError, UserError

logger = logging.getLogger(__name__)

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class LaunchedProcess:
    """The place of this process among those of the run.

    Attributes:
        rank: among all processes, from 0.
        world_size: number of processes.
        local_rank: among those of this machine, from 0; the number of its GPU.
        local_size: number of processes of this machine, 0 where it is not known.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size} (on {socket.gethostname()})"


def launched_process(environment: Mapping[str, str] = os.environ) -> LaunchedProcess | None:
    """What the environment variables of torchrun say, None if this process has none of them.

    Raises:
        LaunchError: some are missing, or are no ranks.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    missing = [name for name in _NEEDED if name not in environment]
    if missing:
        raise LaunchError(
            "the environment has RANK and WORLD_SIZE, as under torchrun, but lacks "
            f"{', '.join(missing)}: start with torchrun, or unset these variables."
        )
    rank, world_size, local_rank = (_number(environment, name) for name in _NEEDED[:3])
    local_size = (
        _number(environment, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in environment else 0
    )
    if not 0 < _number(environment, "MASTER_PORT") < 2**16:
        raise LaunchError(f"MASTER_PORT is {environment['MASTER_PORT']}, which is no port.")
    if not rank < world_size or (local_size and not local_rank < local_size):
        raise LaunchError(
            f"RANK is {rank} of WORLD_SIZE {world_size}, LOCAL_RANK is {local_rank}"
            f"{f' of {local_size}' if local_size else ''}: ranks count from 0."
        )
    return LaunchedProcess(rank, world_size, local_rank, local_size)


def check_flags(args: argparse.Namespace) -> None:
    """Check that Detectron2's own flags do not ask for processes a second time.

    Raises:
        LaunchError: they do.
    """
    given = [
        f"{flag} {value}"
        for flag, value, default in (
            ("--num-gpus", args.num_gpus, 1),
            ("--num-machines", args.num_machines, 1),
            ("--machine-rank", args.machine_rank, 0),
        )
        if value != default
    ]
    if given:
        raise LaunchError(
            f"torchrun has started the processes already, so {' and '.join(given)} cannot be "
            "given: name their number by torchrun's --nproc-per-node and --nnodes."
        )


def check_slurm_step(environment: Mapping[str, str] = os.environ) -> None:
    """Check that a process which knows of no others is not one of several that srun has started.

    Each would be a run of its own, and all would write to the same ``OUTPUT_DIR``. To be called
    where neither torchrun's variables nor Detectron2's flags name other processes. The number of
    tasks is that of srun's step: SLURM sets the one of the job in a batch script too, which is
    a single process.

    Raises:
        LaunchError: it is.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if "SLURM_PROCID" in environment and tasks != "1":
        raise LaunchError(
            f"srun has started {tasks} processes, of which this is number "
            f"{environment['SLURM_PROCID']}, but the environment lacks RANK and WORLD_SIZE: each "
            "would train for itself. Queue the run by tools/submit.py, let srun start one torchrun "
            "a machine, or give --num-machines and --machine-rank."
        )


@contextlib.contextmanager
def process_group(process: LaunchedProcess, cfg: CfgNode) -> Iterator[None]:
    """Join the other processes, in the way in which Detectron2 expects them to be joined.

    Exchanges go by NCCL where the model is on GPUs, and by gloo on CPUs. With one process alone
    there is nothing to join.

    Args:
        process: this one.
        cfg: config of the run; ``RPANOPTIC.PROCESS_TIMEOUT`` limits each wait.

    Raises:
        LaunchError: there are fewer GPUs than processes on this machine, or the others were not
            met in time.
    """
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    if on_gpu and process.local_rank >= torch.cuda.device_count():
        raise LaunchError(
            f"{process} is number {process.local_rank} of its machine, counted from 0, but PyTorch "
            f"finds {torch.cuda.device_count()} GPU(s) there."
        )
    if process.world_size == 1:
        yield
        return
    if on_gpu:
        torch.cuda.set_device(process.local_rank)
    try:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method="env://",
            rank=process.rank,
            world_size=process.world_size,
            timeout=timedelta(seconds=cfg.RPANOPTIC.PROCESS_TIMEOUT),
        )
        _make_local_groups(process)
        # As Detectron2's launch does: so that none begins before all have come.
        comm.synchronize()
    except (RuntimeError, ValueError) as error:  # PyTorch's network errors are RuntimeErrors
        raise LaunchError(
            f"{process} did not meet the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} within {cfg.RPANOPTIC.PROCESS_TIMEOUT:g} s "
            f"(RPANOPTIC.PROCESS_TIMEOUT): {_first_line(error)}"
        ) from error
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError):
            # Others may fail later, for want of this one: their logs say which was first.
            logger.error("%s stops: %s", process, _first_line(error))
        # NCCL would wait for exchanges that the others never enter; the end of the process ends it.
        if not on_gpu:
            _leave()
        raise
    _leave()


def _first_line(error: BaseException) -> str:
    """The message of an error without what PyTorch appends to it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def speaks_for_all(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the one that tells the user's error.

    Under torchrun all processes share a terminal and most errors, so the first to ask tells it.
    Elsewhere each process has an output of its own.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        store = dist.TCPStore(
            environment["MASTER_ADDR"],
            int(environment["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=10),
        )
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(store.add(f"rpanoptic/told/{attempt}", 1) == 1)
    except (KeyError, RuntimeError, TypeError, ValueError):
        return True


def _make_local_groups(process: LaunchedProcess) -> None:
    """Detectron2 keeps a group of the processes of each machine."""
    # Ranks of a machine follow each other, so its first rank names the machine.
    firsts: list[int] = [0] * process.world_size
    dist.all_gather_object(firsts, process.rank - process.local_rank)
    machines: dict[int, list[int]] = {}
    for rank, first in enumerate(firsts):
        machines.setdefault(first, []).append(rank)
    for ranks in machines.values():  # every process takes part in making every group
        group = dist.new_group(ranks)
        if process.rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def _leave() -> None:
    comm._LOCAL_PROCESS_GROUP = None
    # Detectron2 remembers a group for pickled data, which would be of the past in a next run.
    comm._get_global_gloo_group.cache_clear()
    dist.destroy_process_group()


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        value = int(environment[name])
    except ValueError:
        value = -1
    if value < 0:
        raise LaunchError(f"{name} in the environment must be a number; got {environment[name]!r}.")
    return value
