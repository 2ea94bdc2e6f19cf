from __future__ import annotations

import torch
from detectron2.layers import NaiveSyncBatchNorm
from torch import nn

from rpanoptic.engine.cpu_norm import replace_sync_batch_norm


def test_layers_are_replaced_with_their_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sequential(nn.SyncBatchNorm(3, eps=0.01)))
    model[1][0].weight.data.uniform_()
    model[1][0].running_mean.uniform_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert replace_sync_batch_norm(model) == ["1.0"]
    assert isinstance(model[1][0], NaiveSyncBatchNorm)
    assert model[1][0].eps == 0.01
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert replace_sync_batch_norm(model) == []
