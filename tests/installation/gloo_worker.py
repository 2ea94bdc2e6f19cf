"""What each of two processes does in the test of several processes on the CPU."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm


def work(folder: str) -> None:
    """Gather objects of unequal size and average a gradient; write what came out."""
    rank = comm.get_rank()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gathered = comm.all_gather("x" * (rank + 1))
        first = comm.gather({"rank": rank})
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    model = create_ddp_model(model, broadcast_buffers=False)
    model(torch.full((1, 1), 2.0 * (rank + 1))).sum().backward()
    answer = {
        "gathered": gathered,
        "first": first,
        "local": [comm.get_local_rank(), comm.get_local_size()],
        "gradient": model.module.weight.grad.item(),
        "backend": torch.distributed.get_backend(),
    }
    (Path(folder) / f"{rank}.json").write_text(json.dumps(answer))
