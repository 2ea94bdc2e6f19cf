"""What a model costs: parameters, operations and activations, memory of a training iteration.

All is long rows of "task", "module", "steps", "value" and "unit", as one CSV file takes them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.export import TracingAdapter
from detectron2.utils.analysis import FlopCountAnalysis
from detectron2.utils.events import EventStorage
from fvcore.nn import ActivationCountAnalysis
from torch import nn

from rpanoptic.benchmarks.memory import MIB, allocated_peak, measure_peak
from rpanoptic.benchmarks.model_inputs import fixed_regions, random_batch
from rpanoptic.benchmarks.report import Row, table
from rpanoptic.benchmarks.saved_tensors import saved_peak
from rpanoptic.errors import ConfigError
from rpanoptic.recurrent import check_steps, recurrent_blocks, steps_at_test
from rpanoptic.recurrent.convolution import direct_convolutions

TASKS = ("parameters", "flops", "activations", "memory")
TOTAL = "total"
SAVED, ALLOCATED, DEVICE = "saved for the backward pass", "allocated (CPU)", "allocated (device)"


def parameters(model: nn.Module) -> list[Row]:
    """Parameters, all and trainable, of the model, its parts and its recurrent blocks."""
    rows = []
    for name, part in {TOTAL: model, **_parts(model)}.items():
        for task, every in (("parameters", True), ("trainable parameters", False)):
            count = sum(p.numel() for p in part.parameters() if every or p.requires_grad)
            rows.append(_row(task, name, None, count, ""))
    return rows


def operations(
    cfg: CfgNode,
    model: nn.Module,
    *,
    size: tuple[int, int],
    steps: Sequence[int],
    tasks: Sequence[str] = ("flops", "activations"),
    detections: int | None = None,
) -> list[Row]:
    """FLOPs and activations of an inference on one picture, against the steps.

    fvcore counts what one traced run does: a multiplication with its addition is one FLOP, and an
    activation is an element that a convolution or a matrix product puts out. It counts no
    element-wise functions. A recurrence is traced with all its steps; the row "a step of NAME" is
    what one step more adds. What no output depends on is not counted: T steps count T times that
    row, less what the last of them do for the state alone, such as the memory of
    :class:`~rpanoptic.recurrent.cells.ReciprocalGated`. Convolutions count as direct ones, also
    where the model would take the Fourier transform. Post-processing is not traced.

    Args:
        cfg: config of the model.
        model: the model; its weights do not matter.
        size: height and width of the picture in pixels.
        steps: of all recurrent blocks, at least as many as each needs.
        tasks: "flops", "activations" or both.
        detections: regions that reach the mask head; None for ``TEST.DETECTIONS_PER_IMAGE``. There
            are ``MODEL.RPN.POST_NMS_TOPK_TEST`` proposals.

    Raises:
        ConfigError: too few steps for a block.
    """
    blocks = recurrent_blocks(model)
    wanted = _wanted(model, steps)
    # Two numbers whose difference is a step.
    least = max((block.cell.least_steps for block in blocks.values()), default=1)
    traced = {*wanted, least, least + 1} if blocks else {*wanted}
    number = cfg.TEST.DETECTIONS_PER_IMAGE if detections is None else detections
    proposals = cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    counts: dict[tuple[str, int | None], Mapping[str, float]] = {}
    inputs = [{"image": random_batch(cfg, size)[0]["image"]}]
    with inference_context(model), fixed_regions(model, proposals=proposals, detections=number):
        for count in sorted(traced, key=lambda n: n or 0):
            for task in tasks:
                counts[task, count] = _count(model, inputs, count, task)
    rows = []
    for task in tasks:
        for count in wanted:
            for name in (TOTAL, *_parts(model)):
                key = "" if name == TOTAL else f"model.{name}"
                rows.append(_row(task, name, count, int(counts[task, count].get(key, 0)), ""))
        for name in blocks:
            fewer, more = (counts[task, least + n].get(f"model.{name}", 0) for n in (0, 1))
            rows.append(_row(task, f"a step of {name}", None, int(more - fewer), ""))
    return rows


def memory(
    cfg: CfgNode,
    model: nn.Module,
    *,
    size: tuple[int, int],
    steps: Sequence[int],
    batch: int = 1,
    log: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Peak memory of a training iteration, forward and backward, against the steps.

    The optimizer is left out; parameters and their gradients are there before and do not count.
    The heads draw their full number of regions, ``MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE``.

    Args:
        cfg: config of the model.
        model: the model; parameters keep their values.
        size: height and width of the pictures in pixels.
        steps: of all recurrent blocks in training, at least as many as each needs.
        batch: pictures.
        log: told what could not be measured.

    Returns:
        in MiB: what autograd saves, and the peak of PyTorch's allocator on the model's device.

    Raises:
        ConfigError: too few steps for a block.
    """
    wanted = _wanted(model, steps)
    inputs = random_batch(cfg, size, batch)
    per_picture = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    was_training = model.training
    model.train()
    standing = [*model.parameters(), *model.buffers()]

    def iteration() -> None:
        with EventStorage(), warnings.catch_warnings():
            # Untrained recurrences need not reach an equilibrium.
            warnings.simplefilter("ignore", RuntimeWarning)
            sum(model(inputs).values()).backward()

    rows = []
    try:
        with fixed_regions(model, proposals=per_picture, detections=0):
            iteration()  # gradients exist from here on, and libraries are loaded
            for count in wanted:
                with _trained_steps(model, count):
                    try:
                        saved = saved_peak(iteration, standing)
                        rows.append(_row("memory", SAVED, count, saved / MIB, "MiB"))
                    except RuntimeError as error:
                        if "saved tensor hooks" not in str(error):
                            raise
                        log(f"{SAVED}, {count} steps: {error}")
                    rows.append(_allocated(iteration, count, cfg.MODEL.DEVICE))
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    return rows


def tabulated(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """A table a task: a line a module, a column a number of steps."""
    texts = []
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        steps = sorted({row["steps"] for row in mine}, key=lambda count: count or 0)
        cells = {(row["module"], row["steps"]): row for row in mine}
        headers = [task, *(_heading(count) for count in steps)]
        lines = [
            [name, *(_shown(cells.get((name, count))) for count in steps)]
            for name in dict.fromkeys(row["module"] for row in mine)
        ]
        texts.append(table(headers, lines, markdown=markdown))
    return "\n\n".join(texts)


def check_size(size: Sequence[int]) -> tuple[int, int]:
    """Height and width, if a picture can have them.

    Raises:
        ConfigError: a side is shorter than 32 pixels, the stride of the smallest feature map.
    """
    height, width = size
    if min(height, width) < 32:
        raise ConfigError(f"--size {height} {width}: both sides must have at least 32 pixels")
    return height, width


def _wanted(model: nn.Module, steps: Sequence[int]) -> list[int | None]:
    """The numbers of steps in order; None alone for a model without recurrence."""
    if not recurrent_blocks(model):
        return [None]
    try:
        check_steps(model, steps)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return [*sorted(set(steps))]


def _row(task: str, module: str, steps: int | None, value: float, unit: str) -> Row:
    return {"task": task, "module": module, "steps": steps, "value": value, "unit": unit}


def _heading(steps: int | None) -> str:
    if steps is None:
        return ""
    return "1 step" if steps == 1 else f"{steps} steps"


def _shown(row: Row | None) -> str:
    if row is None:
        return ""
    value, unit = row["value"], row["unit"]
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f} {unit}"


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of a model and, inside of them, its recurrent blocks."""
    parts: dict[str, nn.Module] = {}
    blocks = recurrent_blocks(model)
    for name, part in model.named_children():
        if next(part.parameters(), None) is None:
            continue
        parts[name] = part
        parts |= {key: block for key, block in blocks.items() if key.startswith(f"{name}.")}
    return parts


def _count(
    model: nn.Module, inputs: list[dict[str, Any]], steps: int | None, task: str
) -> Mapping[str, float]:
    """Count by the names of modules, "" being all and "model" the model."""
    with torch.no_grad(), steps_at_test(model, steps), direct_convolutions():
        analysis: Any
        if task == "flops":
            analysis = FlopCountAnalysis(model, inputs)
        else:
            wrapper = TracingAdapter(model, inputs, allow_non_tensor=True)
            analysis = ActivationCountAnalysis(wrapper, wrapper.flattened_inputs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        with warnings.catch_warnings():
            # Of tracing itself, which PyTorch has deprecated.
            warnings.simplefilter("ignore")
            return dict(analysis.by_module())


def _allocated(iteration: Callable[[], None], steps: int | None, device: str) -> Row:
    if torch.device(device).type == "cuda":
        return _row("memory", DEVICE, steps, measure_peak(iteration, device).process, "MiB")
    return _row("memory", ALLOCATED, steps, allocated_peak(iteration) / MIB, "MiB")


@contextmanager
def _trained_steps(model: nn.Module, steps: int | None) -> Iterator[None]:
    blocks = list(recurrent_blocks(model).values())
    before = [block.steps for block in blocks]
    try:
        for block in blocks:
            block.steps = block.steps if steps is None else steps
        yield
    finally:
        for block, count in zip(blocks, before, strict=True):
            block.steps = count
