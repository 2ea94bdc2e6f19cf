"""A ConvRNN of ten layers unrolled in time with the paper's operations written out."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rpanoptic.modeling.backbone import ConvRNN
from rpanoptic.recurrent.state import State

# Layers before the first of the loop.
BEFORE = 3
NAMES = tuple(f"conv{place}" for place in range(1, 11))
# In the step t, counted from 0, the first layer of the loop sees the first frame.
ARRIVAL = BEFORE


def unrolled_by_hand(
    net: ConvRNN,
    image: Tensor,
    steps: int,
    delay: int,
    *,
    image_steps: int = 0,
    blank: float = 0.5,
) -> list[dict[str, Tensor]]:
    """Outputs of all layers, before pooling, after each step of the loop.

    Every layer is evaluated for every sample in every step from t = 0 on. With a delay it reads
    what the layer before it, and those that feed back to it, had one step earlier, and zeros in
    step 0; frame t enters the first layer in step t. Without a delay a step is a sweep.

    Args:
        net: its loop begins with conv4.
        image: ``(N, 3, 33, 50)``, whose paddings of the first convolution are (3, 3) and (2, 3).
        steps: of the loop.
        delay: 1 or 0.
        image_steps: frames that are the image; 0: all.
        blank: what the others hold.
    """
    weights = {key.split("cell.")[-1]: value for key, value in net.named_parameters()}
    cells = net.recurrence.cell.cells
    sizes = _sizes(net, image)

    def conv(x: Tensor, key: str) -> Tensor:
        weight = weights[f"{key}.weight"]
        return F.conv2d(x, weight, weights.get(f"{key}.bias"), padding=weight.shape[-1] // 2)

    def pool(name: str, y: Tensor) -> Tensor:
        odd = (0, y.shape[-1] % 2, 0, y.shape[-2] % 2)
        return F.max_pool2d(F.pad(y, odd, value=-math.inf), 2) if net.graph[name].pool else y

    def drive(name: str, x: Tensor) -> Tensor:
        if name != "conv1":
            return F.elu(conv(x, f"layers.{name}.conv"))
        kernel, bias = weights["layers.conv1.conv.weight"], weights["layers.conv1.conv.bias"]
        return F.elu(F.conv2d(F.pad(x, (2, 3, 3, 3)), kernel, bias, 2))

    def feedback(name: str, read: dict[str, Tensor]) -> Tensor | None:
        sources = [source for source, target in net.graph.feedback if target == name]
        if not sources:
            return None
        resized = [
            F.interpolate(read[s], sizes[name], mode="bilinear", align_corners=True)
            for s in sources
        ]
        mixing = torch.cat([weights[f"feedback.{name}.convs.{s}.weight"] for s in sources], dim=1)
        bias = weights[f"feedback.{name}.bias"].flatten()
        return F.conv2d(torch.cat(resized, dim=1), mixing, bias)

    def finish(name: str, h: Tensor, x: Tensor) -> Tensor:
        if f"layers.{name}.conv_out.weight" not in weights:
            return h
        key = f"layers.{name}.shortcut"
        skip = conv(x, key) if f"{key}.weight" in weights else x
        return F.elu(conv(h, f"layers.{name}.conv_out") + skip)

    zeros = {
        name: image.new_zeros(len(image), net.graph[name].out_channels, *sizes[name])
        for name in NAMES
    }
    read = {name: pool(name, zeros[name]) for name in NAMES}
    hidden: dict[str, State] = {
        name: cell.initial_state(
            image.new_zeros(len(image), net.graph[name].channels, *sizes[name])
        )
        for name, cell in cells.items()
    }
    history = []
    for t in range(steps + (ARRIVAL if delay else 0)):
        off = image_steps and t >= image_steps
        x = torch.full_like(image, blank) if off else image
        outputs, now = {}, {}
        for name in NAMES:
            u = drive(name, x)
            f = feedback(name, read)
            if name in cells:
                cell = cells[name]
                if "input" in cell.drive_parts or "feedback" in cell.drive_parts:
                    parts = {"drive": u, "input": x, "feedback": f}
                    hidden[name] = cell(tuple(parts[p] for p in cell.drive_parts), hidden[name])
                else:
                    hidden[name] = cell(u if f is None else u + f, hidden[name])
                h = cell.output(hidden[name])
            else:
                h = u if f is None else u + f
            outputs[name] = finish(name, h, x)
            now[name] = pool(name, outputs[name])
            x = read[name] if delay else now[name]
        read = now
        history.append(outputs)
    return history[ARRIVAL if delay else 0 :]


def _sizes(net: ConvRNN, image: Tensor) -> dict[str, tuple[int, ...]]:
    """Heights and widths of the layers before their pooling."""
    sizes = {}
    size = tuple(math.ceil(side / 2) for side in image.shape[-2:])
    for name in NAMES:
        sizes[name] = size
        size = tuple(math.ceil(side / 2) for side in size) if net.graph[name].pool else size
    return sizes
