"""Pictures that classifiers learn from, and answer for, in a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from rpanoptic.benchmarks.memory import MIB
from rpanoptic.benchmarks.problem import seconds
from rpanoptic.benchmarks.report import Row, table
from rpanoptic.engine import Trainer, setup_config
from rpanoptic.engine.train_step import amp_dtype


@dataclass(frozen=True)
class Network:
    """What is measured.

    Attributes:
        name: in the table.
        config: config file.
        options: overrides, as a flat list.
    """

    name: str
    config: str
    options: tuple[str, ...] = ()


_INTERMEDIATE = "configs/imagenet/intermediate"
_SCHEDULE = "MODEL.RECURRENT.CONVRNN.SCHEDULE"
NETWORKS = (
    Network("feed-forward base", f"{_INTERMEDIATE}/feedforward.yaml"),
    Network("Reciprocal Gated", f"{_INTERMEDIATE}/reciprocal_gated.yaml"),
    Network(
        "Reciprocal Gated, every layer at every step",
        f"{_INTERMEDIATE}/reciprocal_gated.yaml",
        (_SCHEDULE, "faithful"),
    ),
    Network("ResNet-18", "configs/imagenet/reference/resnet18.yaml"),
)


def measure(
    networks: Sequence[Network] = NETWORKS,
    *,
    batch: int = 64,
    iterations: int = 5,
    rounds: int = 3,
    opts: Sequence[str] = (),
    log: Callable[[str], object] = lambda text: None,
) -> list[Row]:
    """Time iterations of training and inference on random pictures, the networks in turns.

    Each has its own config's size of pictures, optimizer and mixed precision, which an inference
    has too here. Reading and augmenting pictures does not count. The weights stay as they are.

    Args:
        networks: what is measured.
        batch: pictures of an iteration.
        iterations: of each kind in a turn.
        rounds: turns, of which the fastest counts.
        opts: overrides of all configs.
        log: is told what is being done.

    Returns:
        a row a network: "network", "parameters", "type" of the forward pass, "pixels" of a side,
        "batch", "train_per_second" and "test_per_second" in pictures, and, on a GPU,
        "train_peak_mib", the most memory that a training took.

    Raises:
        ConfigError: a config is at fault.
    """
    rows: dict[str, Row] = {}
    for turn in range(rounds):
        for network in networks:
            log(f"{network.name}: turn {turn + 1} of {rounds}")
            row = _measure(network, batch, iterations, opts)
            best = rows.setdefault(network.name, row)
            for key in ("train_per_second", "test_per_second"):
                best[key] = max(best[key], row[key])
    return list(rows.values())


def tabulated(rows: Sequence[Row], *, markdown: bool) -> str:
    """The rows as a table, with the pace relative to the first network's."""
    headers = ["network", "parameters", "type", "px", "batch", "training, pictures/s"]
    headers += ["relative", "inference, pictures/s", "peak of a training, MiB"]
    first = rows[0]["train_per_second"]
    lines = [
        [
            row["network"],
            f"{row['parameters']:,}",
            row["type"],
            str(row["pixels"]),
            str(row["batch"]),
            f"{row['train_per_second']:.3g}",
            f"{row['train_per_second'] / first:.2f}",
            f"{row['test_per_second']:.3g}",
            "-" if row["train_peak_mib"] is None else f"{row['train_peak_mib']:.0f}",
        ]
        for row in rows
    ]
    return table(headers, lines, markdown=markdown)


def _measure(network: Network, batch: int, iterations: int, opts: Sequence[str]) -> Row:
    cfg = setup_config(network.config, [*network.options, *opts])
    device = torch.device(cfg.MODEL.DEVICE)
    dtype = amp_dtype(cfg)
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    pictures = random_pictures(cfg, batch)

    def forward() -> Any:
        with EventStorage(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            return model(pictures)

    def train() -> None:
        sum(forward().values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    def test() -> None:
        with torch.no_grad():
            forward()

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    row: Row = {
        "network": network.name,
        "parameters": _parameters(model),
        "type": str(dtype or torch.float32).removeprefix("torch."),
        "pixels": cfg.RPANOPTIC.CLASSIFICATION.SIZE,
        "batch": batch,
        "train_per_second": batch / _least(train, model.train(), iterations),
    }
    row["train_peak_mib"] = torch.cuda.max_memory_allocated(device) / MIB if on_gpu else None
    return row | {"test_per_second": batch / _least(test, model.eval(), iterations)}


def random_pictures(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    """Noise with random labels, on the model's device, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    side = cfg.RPANOPTIC.CLASSIFICATION.SIZE
    labels = torch.randint(cfg.MODEL.CLASSIFIER.NUM_CLASSES, (count,), generator=generator)
    images = torch.rand(count, 3, side, side, generator=generator).mul_(255).to(cfg.MODEL.DEVICE)
    return [
        {"image": image, "label": int(label), "height": side, "width": side}
        for image, label in zip(images, labels, strict=True)
    ]


def _least(function: Callable[[], None], model: nn.Module, iterations: int) -> float:
    """Seconds of the fastest call, after one that loads what is loaded at first use."""
    device = str(next(model.parameters()).device)
    function()
    return min(seconds(function, device) for _ in range(iterations))


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
