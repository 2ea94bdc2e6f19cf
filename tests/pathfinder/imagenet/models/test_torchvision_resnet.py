"""torchvision's residual networks as backbones."""

from __future__ import annotations

import pytest
import torch
import torchvision
from detectron2.modeling import build_model

from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder.imagenet.models.torchvision_resnet import NETWORKS, TorchvisionResNet

from .tiny import CLASSIFIER, RESNET, config, tiny_model


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_689_512), ("resnet34", 21_797_672)])
def test_parameters_are_those_of_torchvision(name: str, count: int) -> None:
    cfg = config(**RESNET, **{f"{CLASSIFIER}TORCHVISION": name, f"{CLASSIFIER}NUM_CLASSES": 1000})
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_shapes_of_the_features(name: str) -> None:
    assert name in NETWORKS
    with torch.device("meta"):
        network = TorchvisionResNet(name).eval()
        features = network(torch.empty(1, 3, 64, 96))
    shapes = network.output_shape()
    assert list(features) == list(shapes) == ["res2", "res3", "res4", "res5"]
    for key, shape in shapes.items():
        size = (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
        assert features[key].shape == size


@torch.no_grad()
def test_features_are_those_of_torchvision() -> None:
    torch.manual_seed(0)
    whole = torchvision.models.resnet18(weights=None).eval()
    network = TorchvisionResNet("resnet18").eval()
    body = {k: v for k, v in whole.state_dict().items() if not k.startswith("fc.")}
    network.body.load_state_dict(body)
    picture = torch.randn(2, 3, 40, 40)
    logits = whole.fc(network(picture)["res5"].mean(dim=(2, 3)))
    torch.testing.assert_close(logits, whole(picture))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"network must be one of .*'resnet50'.*; got 'vgg11'"):
        TorchvisionResNet("vgg11")
    with pytest.raises(ConfigError, match=r"TORCHVISION: .* three channels; .* has 1"):
        tiny_model(**RESNET, MODEL__PIXEL_MEAN=[0.0], MODEL__PIXEL_STD=[1.0])
