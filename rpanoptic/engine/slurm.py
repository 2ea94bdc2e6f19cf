"""Runs as jobs of SLURM, by way of submitit, which is installed on its own."""

from __future__ import annotations

import argparse
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.engine import DefaultTrainer

from rpanoptic.engine.check import check_settings
from rpanoptic.engine.launch import run_config, start_run
from rpanoptic.errors import LaunchError

# "local" runs the processes here, without SLURM.
CLUSTERS = ("slurm", "local")
# What names of partitions, accounts and the like are made of: nothing that ends a line or a word.
_PLAIN = re.compile(r"[\w.,:@+&|()\[\]*-]+")

# An exception's line in a traceback.
_RAISED = re.compile(r"[\w.]+(?:Error|Exception|Interrupt|Exit)\b")


@dataclass(frozen=True)
class JobOptions:
    """What a job asks its cluster for.

    Args:
        folder: for the files of the job, logs among them; shared by all machines.
        nodes: machines.
        tasks_per_node: processes on each, one a GPU.
        gpus_per_node: GPUs of each machine; None takes ``tasks_per_node``.
        cpus_per_task: CPU cores for each process.
        memory_gb: memory of each machine in GB; None takes the cluster's own.
        minutes: time limit.
        partition: where to run, and so for ``account``, ``qos`` and ``constraint``; "" takes the
            cluster's own.
        name: of the job.
        requeues: how often a job whose time is over is queued again.
        cluster: "slurm" or "local".

    Raises:
        LaunchError: a name holds other characters than names have, or a number is too small.
    """

    folder: Path
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int = 4
    memory_gb: int | None = None
    minutes: int = 60
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    name: str = "rpanoptic"
    requeues: int = 10
    cluster: str = "slurm"

    def __post_init__(self) -> None:
        for field in ("partition", "account", "qos", "constraint", "name"):
            value = getattr(self, field)
            if value and not _PLAIN.fullmatch(value):
                raise LaunchError(f"{field} {value!r} of the job is no name that SLURM knows.")
        for field in ("nodes", "tasks_per_node", "cpus_per_task", "minutes"):
            if getattr(self, field) < 1:
                raise LaunchError(f"{field} of the job must be at least 1.")
        if self.cluster not in CLUSTERS:
            raise LaunchError(f"cluster {self.cluster!r} is unknown; known: {', '.join(CLUSTERS)}.")

    @property
    def gpus(self) -> int:
        """GPUs of each machine."""
        return self.tasks_per_node if self.gpus_per_node is None else self.gpus_per_node

    def parameters(self) -> dict[str, Any]:
        """The same as submitit names it."""
        values = {
            "name": self.name,
            "nodes": self.nodes,
            "tasks_per_node": self.tasks_per_node,
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus_per_task,
            "mem_gb": self.memory_gb,
            "timeout_min": self.minutes,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": self.constraint,
            # The others of a process that has failed would wait for it until a time limit.
            "slurm_srun_args": ["--kill-on-bad-exit"],
        }
        return {key: value for key, value in values.items() if value not in (None, "")}


class TrainingJob:
    """The command line of ``tools/train_net.py`` as a job: each of its processes calls it.

    When the job's time is over, or when it makes place for another, SLURM sends a signal and
    submitit asks for :meth:`checkpoint`; the job is queued again and goes on from the last
    checkpoint. What was trained since that one is trained again.

    Args:
        args: from :func:`rpanoptic.engine.launch.run_parser`.

    Raises:
        ConfigError: the config is wrong; the device is not looked at, for this may not be a
            machine of the job.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        cfg = run_config(args, "MODEL.DEVICE", "cpu", splits=())
        self.output_dir = Path(cfg.OUTPUT_DIR)
        self._found = self._last_checkpoint()

    def __call__(self) -> None:
        """Take the place in the run that the cluster gave this process."""
        submitit = imported_submitit()
        _keep_signals_from_children()
        # Each process sees all GPUs of its machine and takes the one of its local rank.
        environment = submitit.helpers.TorchDistributedEnvironment()
        environment.export(set_cuda_visible_devices=False, overwrite=True)
        # SLURM itself starts the job again, as it was queued, when a machine has failed.
        again = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
        start_run(self._continued() if again else self.args)

    def checkpoint(self) -> Any:
        """What to queue in place of this job: the same, resumed where it has a checkpoint."""
        return imported_submitit().helpers.DelayedSubmission(TrainingJob(self._continued()))

    def _continued(self) -> argparse.Namespace:
        args = argparse.Namespace(**vars(self.args))
        # An evaluation is repeated. So is a training without a checkpoint of its own: one that was
        # there before it is that of an earlier run.
        if not args.eval_only and self._last_checkpoint() not in (None, self._found):
            args.resume = True
        return args

    def _last_checkpoint(self) -> int | None:
        """When the folder's last checkpoint was noted, by the clock of its file system."""
        try:
            return (self.output_dir / "last_checkpoint").stat().st_mtime_ns
        except FileNotFoundError:
            return None


def submit(args: argparse.Namespace, options: JobOptions) -> Any:
    """Queue a run. What is wrong with its config is found before, but for datasets and folders.

    Args:
        args: from :func:`rpanoptic.engine.launch.run_parser`; without flags that count processes,
            which ``options`` does.
        options: what the job asks for.

    Returns:
        submitit's job; its ``job_id`` names it, its ``paths`` are its files.

    Raises:
        UserError: submitit is not installed, the config is wrong, or the cluster refuses.
    """
    submitit = imported_submitit()
    if (args.num_gpus, args.num_machines, args.machine_rank) != (1, 1, 0):
        raise LaunchError(
            "the job starts the processes, so --num-gpus, --num-machines and --machine-rank cannot "
            "be given: name their number by --nodes and --tasks-per-node."
        )
    if not args.config_file:
        raise LaunchError("the job needs a config: give --config-file.")
    job = TrainingJob(args)
    _check_on_cluster(args, options)
    try:
        executor = submitit.AutoExecutor(
            options.folder, cluster=options.cluster, slurm_max_num_timeout=options.requeues
        )
        executor.update_parameters(**options.parameters())
        return executor.submit(job)
    except (OSError, RuntimeError, ValueError) as error:
        raise LaunchError(f"the job cannot be queued: {error}") from error


def _check_on_cluster(args: argparse.Namespace, options: JobOptions) -> None:
    """Check the config as the machines of the job will, which may have other devices and files."""
    cfg = run_config(args, "MODEL.DEVICE", "cpu", splits=())
    given = dict(zip(args.opts[0::2], args.opts[1::2], strict=True))
    cfg.MODEL.DEVICE = given.get("MODEL.DEVICE", "cuda" if options.gpus else "cpu")
    processes = options.nodes * options.tasks_per_node
    cfg = DefaultTrainer.auto_scale_workers(cfg, processes)
    check_settings(cfg, eval_only=args.eval_only, processes=processes)


def failure(error: BaseException) -> str:
    """The line of a job's failure that says what stopped it.

    Args:
        error: from submitit's ``job.exception()``; its text may hold a traceback.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The last exception of a traceback is the one that was raised at the end.
    raised = [line for line in lines if _RAISED.match(line)]
    return raised[-1] if raised else (lines[0] if lines else type(error).__name__)


def imported_submitit() -> Any:
    """The module, which only this file needs.

    Raises:
        LaunchError: it is not installed.
    """
    try:
        import submitit
        import submitit.helpers
    except ImportError as error:
        raise LaunchError(
            "jobs of SLURM need submitit, which is not installed: pip install 'rpanoptic[slurm]', "
            "or pip install submitit."
        ) from error
    return submitit


def _keep_signals_from_children() -> None:
    """Let processes that load data ignore the signals of the cluster, which reach them too.

    They would inherit submitit's answer, and queue the job a second time.
    """
    number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")

    def reset() -> None:
        signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=reset)
