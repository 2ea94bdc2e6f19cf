"""Whether all processes of a run read the same checkpoint.

Machines that do not share a folder would load different weights, and processes of which one alone
has stopped would leave the others waiting. So each function here is called by every process, and
raises in all of them or in none.
"""

from __future__ import annotations

import socket
from pathlib import Path

from detectron2.utils import comm

from rpanoptic.engine.weights_file import local_weights
from rpanoptic.errors import CheckpointError, listed

# Ranks that a message lists before it only counts the rest.
_LISTED = 8


def agreed_checkpoint(file: str, *, folder: str) -> str:
    """The last checkpoint of a folder, once all processes see the same.

    Args:
        file: what this process sees as the last checkpoint, "" for none.
        folder: where it looked, for the message.

    Returns:
        ``file``.

    Raises:
        CheckpointError: processes see different ones, or some cannot find the file; the message
            is the same in all, and says which process lacks what.
    """
    if comm.get_world_size() == 1:
        return file
    if not file:
        sight = "no checkpoint"
    elif Path(file).is_file():
        sight = Path(file).name
    else:
        sight = f"the name {Path(file).name} but no such file"
    sights = comm.all_gather((sight, socket.gethostname()))
    if len({sight for sight, _ in sights}) > 1:
        raise CheckpointError(
            f"--resume: processes see different last checkpoints in OUTPUT_DIR ({folder}): "
            f"{_by_process(sights)}. OUTPUT_DIR must be seen by all machines."
        )
    return file


def weights_everywhere(path: str) -> None:
    """Make sure that all processes can read a file of weights, fetched if need be.

    Args:
        path: path, URL or "detectron2://" name.

    Raises:
        CheckpointError: some process cannot get the file; the message is the same in all.
    """
    fault = ""
    try:
        local_weights(path)
    except CheckpointError as error:
        fault = str(error)
    faults = comm.all_gather((fault, socket.gethostname()))
    if not any(fault for fault, _ in faults):
        return
    if len({fault for fault, _ in faults}) == 1:
        raise CheckpointError(fault)
    failed = _by_process([(fault.rstrip(".") or "found", host) for fault, host in faults])
    raise CheckpointError(f"not every process can read checkpoint {path}: {failed}.")


def _by_process(said: list[tuple[str, str]]) -> str:
    """Which processes say what; ``said`` has it by rank, with the name of the machine."""
    ranks: dict[str, list[int]] = {}
    for rank, (what, _) in enumerate(said):
        ranks.setdefault(what, []).append(rank)
    return "; ".join(
        f"{what} in process {listed(of, most=_LISTED)} (on {said[of[0]][1]})"
        for what, of in ranks.items()
    )
