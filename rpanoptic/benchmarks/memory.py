"""Peak memory of a function: what the process holds, and what PyTorch's allocator gave out."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20
# For a process whose resident memory is to follow what lives in it. By default glibc keeps freed
# blocks for later, and more of them the larger the blocks that it has seen freed; then the peak
# would depend on how well old holes fit new tensors. A fixed threshold hands each block of 64 KiB
# and more back to the system once it is freed. It costs page faults, so it is not for timings.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
}

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Peaks of memory, in MiB.

    Attributes:
        process: above what was held before: resident memory of the process on a CPU, allocated
            memory of the device on a GPU.
        tensors: most that PyTorch's CPU allocator had given out at a time, exact and the same at
            every run; without the workspaces that libraries allocate by themselves. None on a GPU,
            where ``process`` is that figure.
        baseline: what was held before.
    """

    process: float
    tensors: float | None
    baseline: float


def measure_peak(function: Callable[[], object], device: str, repeats: int = 3) -> Peak:
    """Peak memory of ``function``, the largest of ``repeats`` calls.

    Args:
        function: what is measured. What libraries load once, at first use, is part of the peak
            unless it has been used before.
        device: where it works.
        repeats: calls.
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        return _measure_cuda(function, device, repeats)
    _trim()
    baseline = _resident()
    _reset_peak()
    for _ in range(repeats):
        function()
    peak = _peak_resident()
    return Peak((peak - baseline) / MIB, allocated_peak(function) / MIB, baseline / MIB)


def allocated_peak(function: Callable[[], object]) -> int:
    """Most bytes that PyTorch's CPU allocator had given out at a time during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    assert record.profiler is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _measure_cuda(function: Callable[[], object], device: str, repeats: int) -> Peak:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    baseline = torch.cuda.memory_allocated(device)
    for _ in range(repeats):
        function()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    return Peak((peak - baseline) / MIB, None, baseline / MIB)


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc
        trim(0)


def _resident() -> int:
    return _status("VmRSS") if _STATUS.exists() else _max_resident()


def _peak_resident() -> int:
    # Linux hands ru_maxrss down from the process that started this one; VmHWM is our own.
    return _status("VmHWM") if _STATUS.exists() else _max_resident()


def _reset_peak() -> None:
    # Imports may have held more for a moment than they do now. Where a peak cannot be set back,
    # as outside Linux, it counts from there.
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _max_resident() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
