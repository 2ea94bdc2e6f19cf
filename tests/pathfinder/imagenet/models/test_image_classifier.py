"""The classifier: losses, readouts over time, mixup, what it refuses."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.modeling.outputs import outputs_of
from rpanoptic.pathfinder.imagenet.models import DECODERS, ClassificationHead, decode
from rpanoptic.recurrent import GRADIENTS
from rpanoptic.recurrent.dynamics import STEPWISE_METHODS

from .tiny import (
    CLASSES,
    CLASSIFIER,
    CONVRNN,
    RESNET,
    SIDE,
    TINY,
    config,
    picture,
    pictures,
    tiny_model,
)


def loss_of(model: nn.Module, batch: list[dict[str, Any]]) -> Tensor:
    with EventStorage():
        losses = model.train()(batch)
    return losses["loss_classification"]


def normalised(batch: list[dict[str, Any]]) -> Tensor:
    return torch.stack([(x["image"] - 127.5) / 60.0 for x in batch])


def labels(batch: list[dict[str, Any]]) -> Tensor:
    return torch.tensor([x["label"] for x in batch])


@pytest.mark.parametrize("gradient", list(GRADIENTS))
def test_trains_under_every_method(gradient: str) -> None:
    model = tiny_model(**{f"{CONVRNN}GRADIENT": gradient})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(pictures())
    penalties = {"loss_lipschitz_convrnn"} if GRADIENTS.get(gradient).penalised else set()
    assert set(losses) == {"loss_classification"} | penalties
    # With the loss in bfloat16 the third digit would be lost.
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_reads_out_every_step_from_the_arrival_on() -> None:
    model = tiny_model().eval()
    batch = pictures()
    assert model([]) == []
    results = model(batch)
    features = model.backbone.unrolled(normalised(batch), None)
    # The image arrives at conv3 in the second of five steps.
    assert sorted(features) == [2, 3, 4, 5]
    for place, result in enumerate(results):
        assert set(result) == {
            "classification",
            "classification_steps",
            "readout_steps",
            "readout_step",
        }
        assert result["readout_steps"] == (2, 3, 4, 5) and result["readout_step"] == 5
        assert torch.equal(result["classification"], result["classification_steps"][-1])
        for row, step in zip(result["classification_steps"], (2, 3, 4, 5), strict=True):
            wanted = model.head(features[step]["conv3"])[place]
            torch.testing.assert_close(row, wanted)
    (alone,) = model(batch[1:2])
    # Batched convolutions may round otherwise.
    torch.testing.assert_close(
        alone["classification_steps"], results[1]["classification_steps"], rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_the_last_readout_is_that_of_the_backbone() -> None:
    model = tiny_model().eval()
    batch = pictures()
    feature = model.backbone(normalised(batch))["conv3"]
    for result, wanted in zip(model(batch), model.head(feature), strict=True):
        torch.testing.assert_close(result["classification"], wanted)


@torch.no_grad()
def test_other_steps_at_inference() -> None:
    model = tiny_model().eval()
    more = model(pictures(), steps=7)[0]
    assert more["readout_steps"] == (2, 3, 4, 5, 6, 7)
    usual = model(pictures())[0]["classification_steps"]
    torch.testing.assert_close(more["classification_steps"][:4], usual)
    model = tiny_model(**{f"{CLASSIFIER}READOUT_STEPS": [3, 5]}).eval()
    assert model(pictures())[0]["readout_steps"] == (3, 5)
    with pytest.raises(ValueError, match=r"readout_steps must be among 2 to 4, .*conv3.*; got 5"):
        model(pictures(), steps=4)


@pytest.mark.parametrize("gradient", [g for g in GRADIENTS if g not in STEPWISE_METHODS])
@torch.no_grad()
def test_methods_of_the_last_state_have_one_readout(gradient: str) -> None:
    model = tiny_model(**{f"{CONVRNN}GRADIENT": gradient}).eval()
    plain = tiny_model().eval()
    plain.load_state_dict(model.state_dict())
    one, all_steps = model(pictures())[0], plain(pictures())[0]
    assert one["readout_steps"] == (5,) and one["classification_steps"].shape == (1, CLASSES)
    torch.testing.assert_close(one["classification"], all_steps["classification"])
    assert model(pictures(), steps=8)[0]["readout_steps"] == (8,)


@pytest.mark.parametrize("step_loss", [False, True])
@pytest.mark.parametrize("decoder", DECODERS)
def test_the_loss_is_that_of_what_is_read_out(decoder: str, step_loss: bool) -> None:
    changes = {"DECODER": decoder, "STEP_LOSS": step_loss, "LABEL_SMOOTHING": 0.1}
    model = tiny_model(**{f"{CLASSIFIER}{key}": value for key, value in changes.items()})
    batch = pictures()
    given = loss_of(model, batch)
    features = model.backbone.unrolled(normalised(batch), None)
    logits = torch.stack([model.head(features[step]["conv3"]) for step in (2, 3, 4, 5)])
    answers = logits if step_loss else [decode(decoder, logits)[0]]
    wanted = [F.cross_entropy(x, labels(batch), label_smoothing=0.1) for x in answers]
    torch.testing.assert_close(given, torch.stack(wanted).mean())


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, (5,)),
        ({"READOUT_STEPS": [2, 4]}, (4,)),
        ({"DECODER": "mean"}, (2, 3, 4, 5)),
        ({"STEP_LOSS": True, "READOUT_STEPS": [2, 5]}, (2, 5)),
    ],
)
def test_training_computes_no_readout_that_the_loss_does_not_need(
    changes: dict[str, Any], steps: tuple[int, ...]
) -> None:
    model = tiny_model(**{f"{CLASSIFIER}{key}": value for key, value in changes.items()})
    with mock.patch.object(model, "logits", wraps=model.logits) as logits:
        loss_of(model, pictures())
    assert logits.call_args.args[1] == steps


def test_a_feed_forward_network_and_a_residual_one_have_one_readout() -> None:
    layers = [{"name": "conv1", "channels": 4, "stride": 2}, {"name": "conv2", "channels": 5}]
    settings = {f"{CONVRNN}LAYERS": layers, f"{CONVRNN}FEEDBACK": []}
    for changes in ({**settings, f"{CONVRNN}OUT_FEATURES": ["conv2"]}, RESNET):
        model = tiny_model(**changes).eval()
        with torch.no_grad():
            (result,) = model(pictures(1, side=32))
        assert result["readout_steps"] == (1,)
        assert torch.equal(result["classification"], result["classification_steps"][0])
        assert loss_of(model, pictures(2, side=32)).isfinite()


@pytest.mark.parametrize("predictor", ["linear", "convolution"])
def test_the_head_by_hand(predictor: str) -> None:
    torch.manual_seed(0)
    head = ClassificationHead(3, 4, predictor=predictor, pool=True)
    feature = torch.randn(2, 3, 5, 5)
    # An odd size is rounded up: 3 x 3, the last row and column of one pixel's width.
    pooled = torch.stack(
        [
            feature[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].amax(dim=(2, 3))
            for row in range(3)
            for column in range(3)
        ],
        dim=2,
    ).view(2, 3, 3, 3)
    weight, bias = head.predictor.weight, head.predictor.bias
    if predictor == "linear":
        wanted = pooled.mean(dim=(2, 3)) @ weight.T + bias
    else:
        windows = [
            torch.einsum("nchw,kchw->nk", pooled[:, :, r : r + 2, c : c + 2], weight) + bias
            for r in range(2)
            for c in range(2)
        ]
        wanted = torch.stack(windows).mean(dim=0)
    torch.testing.assert_close(head(feature), wanted)
    assert not bias.any()


def test_dropout_is_for_training_alone() -> None:
    model = tiny_model(**{f"{CLASSIFIER}DROPOUT": 0.5})
    torch.manual_seed(0)
    assert loss_of(model, pictures()) != loss_of(model, pictures())
    model.eval()
    with torch.no_grad():
        one, other = (model(pictures())[0]["classification"] for _ in range(2))
    assert torch.equal(one, other)


def test_mixup() -> None:
    model = tiny_model(**{f"{CLASSIFIER}MIXUP": 0.5})
    batch = pictures()
    torch.manual_seed(3)
    given = loss_of(model, batch)
    # The weight of this seed, from the distribution that is meant.
    torch.manual_seed(3)
    weight = float(torch.distributions.Beta(torch.tensor([0.5]), torch.tensor([0.5])).sample())
    assert 0.01 < weight < 0.99
    images, targets = normalised(batch), F.one_hot(labels(batch), CLASSES).float()
    mixed = weight * images + (1 - weight) * images.roll(1, 0)
    logits = model.head(model.backbone(mixed)["conv3"])
    wanted = F.cross_entropy(logits, weight * targets + (1 - weight) * targets.roll(1, 0))
    torch.testing.assert_close(given, wanted)
    # All randomness is that of the global generator.
    torch.manual_seed(3)
    assert torch.equal(loss_of(model, batch), given)


def test_mixup_leaves_a_batch_of_one_and_inference_alone() -> None:
    plain, model = tiny_model(), tiny_model(**{f"{CLASSIFIER}MIXUP": 0.5})
    torch.testing.assert_close(loss_of(model, pictures(1)), loss_of(plain, pictures(1)))
    with torch.no_grad():
        one, other = (m.eval()(pictures())[0]["classification"] for m in (plain, model))
    assert torch.equal(one, other)


def test_learns_four_pictures() -> None:
    model = tiny_model()
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    # Seeds 0 to 2 are below 0.01 after 40.
    for _ in range(50):
        optimizer.zero_grad()
        loss_of(model, pictures(CLASSES)).backward()
        optimizer.step()
    assert loss_of(model, pictures(CLASSES)) < 0.1


def test_pictures_that_it_cannot_take() -> None:
    model = tiny_model()
    batch = pictures()
    del batch[1]["label"]
    with pytest.raises(DatasetError, match=r"picture picture 1: no 'label', which ImageClassifier"):
        loss_of(model, batch)
    with pytest.raises(DatasetError, match=r"picture 2: its label is 7, .* classes 0 to 3"):
        loss_of(model, [*pictures(2), {**picture(2), "label": 7}])
    with pytest.raises(DatasetError, match=r"one size; got \[\(3, 16, 16\), \(3, 20, 20\)\]"):
        loss_of(model, [picture(0), picture(1, side=20)])
    with pytest.raises(DatasetError, match=r"pictures must be \(3, H, W\); got \[\(1, 16, 16\)\]"):
        loss_of(model, [{**picture(0), "image": torch.zeros(1, SIDE, SIDE)}])
    small = tiny_model(**{f"{CLASSIFIER}PREDICTOR": "convolution", f"{CLASSIFIER}POOL": True})
    with pytest.raises(ValueError, match=r"gets a feature of 1 x 1: take larger pictures"):
        loss_of(small, pictures(side=8))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NUM_CLASSES", 1, r"NUM_CLASSES must be an integer of at least 2"),
        ("PREDICTOR", "mlp", r"PREDICTOR must be one of 'linear', 'convolution'; got 'mlp'"),
        ("DECODER", "first", r"DECODER must be one of 'last', .*; got 'first'"),
        ("THRESHOLD", 0.0, r"THRESHOLD must be above 0 and at most 1"),
        ("DROPOUT", 1.0, r"DROPOUT must be at least 0 and below 1"),
        ("LABEL_SMOOTHING", -0.1, r"LABEL_SMOOTHING must be at least 0 and below 1"),
        ("MIXUP", -1.0, r"MIXUP must be a number of at least 0"),
        ("TORCHVISION", "resnet19", r"TORCHVISION must be one of .*'resnet18'.*; got 'resnet19'"),
        ("READOUT_STEPS", [3, 2], r"READOUT_STEPS must rise, got \[3, 2\]"),
        ("READOUT_STEPS", [0], r"READOUT_STEPS must be an integer of at least 1"),
        ("READOUT_STEPS", [1], r"readout_steps must be among 2 to 5, .*'conv3'.*; got 1"),
        ("READOUT_STEPS", [6], r"readout_steps must be among 2 to 5, .*; got 6"),
        ("READOUT_STEPS", None, r"READOUT_STEPS must be a list, got None"),
        ("POOL", None, r"POOL must be True or False, got None"),
        ("STEP_LOSS", None, r"STEP_LOSS must be True or False, got None"),
        ("IN_FEATURE", None, r"IN_FEATURE must be a name, got None"),
        ("DROPOUT", None, r"DROPOUT must be at least 0 and below 1, got None"),
        ("THRESHOLD", None, r"THRESHOLD must be above 0 and at most 1, got None"),
        ("IN_FEATURE", "conv7", r"in_feature 'conv7' is unknown; the backbone has conv3"),
    ],
)
def test_impossible_settings(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"MODEL\.CLASSIFIER: {message}"):
        tiny_model(**{f"{CLASSIFIER}{key}": value})


def test_readouts_that_a_test_does_not_reach_are_refused() -> None:
    steps = {f"{CLASSIFIER}READOUT_STEPS": [3, 5], f"{CONVRNN}STEPS_TEST": 4}
    with pytest.raises(ConfigError, match=r"must not exceed the 4 steps of a run at test, got 5"):
        tiny_model(**steps)
    with pytest.raises(ConfigError, match=r"^MODEL\.CLASSIFIER: readout_steps .* 2 to 4.*; got 5"):
        tiny_model(**{f"{CLASSIFIER}READOUT_STEPS": [3, 5]}).eval()(pictures(), steps=4)


def test_what_the_classifier_does_not_read_is_refused() -> None:
    # It would have no gradient, and DistributedDataParallel would stop in the second pass.
    more = {f"{CONVRNN}OUT_FEATURES": ["conv1", "conv3"]}
    loss_of(tiny_model(**more), pictures()).backward()
    wanted = r"layers conv2, conv3 have no bearing: take .*OUT_FEATURES \['conv1'\]"
    with pytest.raises(ConfigError, match=wanted):
        tiny_model(**more, **{f"{CLASSIFIER}IN_FEATURE": "conv1", f"{CONVRNN}FEEDBACK": []})
    with pytest.raises(ConfigError, match=r"norms of conv1 have no bearing"):
        tiny_model(**more, **{f"{CONVRNN}OUTPUT_NORM": "BN"})


def test_pictures_of_a_size_that_a_part_is_not_made_for_are_refused() -> None:
    size = {"RPANOPTIC__CLASSIFICATION__SIZE": SIDE}
    layers = [dict(layer) for layer in TINY["MODEL.RECURRENT.CONVRNN.LAYERS"]]
    layers[1]["cell"] = {"name": "conv_lstm", "peephole_size": 8}
    tiny_model(**size, **{f"{CONVRNN}LAYERS": layers})
    with pytest.raises(
        ConfigError, match=r"layer 'conv2' .*\(8, 8\).*SIZE 224 it has \(112, 112\)"
    ):
        tiny_model(**{f"{CONVRNN}LAYERS": layers})
    small = {f"{CLASSIFIER}PREDICTOR": "convolution", f"{CLASSIFIER}POOL": True}
    tiny_model(**size, **small)
    with pytest.raises(ConfigError, match=r"CLASSIFICATION\.SIZE 8 .* gets a feature of 1 x 1"):
        tiny_model(**size | {"RPANOPTIC__CLASSIFICATION__SIZE": 8}, **small)


@pytest.mark.parametrize("key", ["STEP_LOSS", "READOUT_STEPS"])
def test_what_needs_every_step_is_refused_where_there_is_the_last_alone(key: str) -> None:
    value: object = True if key == "STEP_LOSS" else [5]
    settings = {f"{CLASSIFIER}{key}": value}
    with pytest.raises(ConfigError, match=rf"{key.lower()} needs plain back-prop.*; got 'crbp'"):
        tiny_model(**settings, **{f"{CONVRNN}GRADIENT": "crbp"})
    with pytest.raises(ConfigError, match=rf"{key.lower()} needs a network with readout 'last'"):
        tiny_model(**settings, **{f"{CONVRNN}READOUT": "mean"})


@torch.no_grad()
def test_a_network_that_is_averaged_has_one_readout() -> None:
    model = tiny_model(**{f"{CONVRNN}READOUT": "mean"}).eval()
    batch = pictures()
    result = model(batch)[0]
    assert result["readout_steps"] == (5,)
    wanted = model.head(model.backbone(normalised(batch))["conv3"])[0]
    torch.testing.assert_close(result["classification"], wanted)


def test_outputs_are_known_before_it_is_built() -> None:
    assert outputs_of(config()) == {"classification"}
