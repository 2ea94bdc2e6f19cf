from __future__ import annotations

from typing import Any

import pytest
import torch

from rpanoptic.pathfinder.imagenet.neural_fit.timeline import timeline
from tests.pathfinder.imagenet.models.tiny import CONVRNN, RESNET, SIDE, tiny_model

LAYERS = [
    {"name": "conv1", "channels": 3},
    {"name": "conv2", "channels": 3},
    {"name": "conv3", "channels": 3, "cell": True},
    {"name": "conv4", "channels": 3, "cell": True},
]


def network(**changes: Any) -> Any:
    names = [layer["name"] for layer in LAYERS]
    options = {"LAYERS": LAYERS, "FEEDBACK": [["conv4", "conv3"]], "OUT_FEATURES": names} | changes
    model = tiny_model(**{f"{CONVRNN}{key}": value for key, value in options.items()})
    return model.eval().backbone


@pytest.mark.parametrize(
    ("layer", "first", "steps"),
    [
        # The l-th layer answers from 10 (l - 1) ms on; the loop, from conv3 on, begins at 20 ms.
        ("conv1", 0, (1, 1, 1, 2, 3, 4, 5)),
        ("conv2", 10, (1, 1, 2, 3, 4, 5)),
        ("conv3", 20, (1, 2, 3, 4, 5)),
        ("conv4", 30, (2, 3, 4, 5)),
    ],
)
def test_each_connection_costs_ten_milliseconds(
    layer: str, first: int, steps: tuple[int, ...]
) -> None:
    found = timeline(network(), layer)
    assert found.steps == steps
    assert found.bins.start.tolist() == [first + 10 * n for n in range(len(steps))]
    # All end with the last step.
    assert found.bins.end[-1] == 70


@pytest.mark.parametrize("image_steps", [1, 2, 3, 4])
def test_at_each_time_a_layer_before_the_loop_shows_its_frame(image_steps: int) -> None:
    """Layer p, from 0, answers at t to frame t - p: the image in the first steps."""
    backbone = network(IMAGE_STEPS=image_steps)
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = network()(image)
        by_step = backbone.unrolled(image, range(1, 6))
    for place, layer in enumerate(("conv1", "conv2")):
        found = timeline(backbone, layer)
        for step, start in zip(found.steps, found.bins.start, strict=True):
            frame = start / 10 - place
            seen = torch.equal(by_step[step][layer], whole[layer])
            assert seen == (frame < image_steps), (layer, step)
        # Earlier answers are there unless the image is already gone for step 1.
        assert (found.bins.start[0] == 10 * place) == (image_steps > 2 - place)


def test_without_delay_all_layers_answer_at_once() -> None:
    found = timeline(network(DELAY=0), "conv4")
    assert found.steps == (1, 2, 3, 4, 5) and found.bins.start.tolist() == [0, 10, 20, 30, 40]


def test_what_has_no_loop_does_not_change() -> None:
    plain = [{**layer, "cell": False} for layer in LAYERS]
    for backbone in (network(LAYERS=plain, FEEDBACK=[]), tiny_model(**RESNET).backbone):
        found = timeline(backbone, [*backbone.output_shape()][-1])
        assert found.steps == () and found.bins.labels == ["0-inf ms"]


def test_a_loop_whose_steps_are_not_seen() -> None:
    with pytest.raises(ValueError, match="a fit over time needs plain back-propagation"):
        timeline(network(GRADIENT="crbp"), "conv4")
    with pytest.raises(ValueError, match="conv5"):
        timeline(network(), "conv5")
