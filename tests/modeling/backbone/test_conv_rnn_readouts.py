"""A ConvRNN read out after several steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rpanoptic.modeling.backbone import ConvRNN
from rpanoptic.recurrent import steps_at_test
from tests.modeling.backbone.by_hand import unrolled_by_hand
from tests.modeling.backbone.tiny import images, ten_layer_dicts, tiny_backbone

NODE = "RECURRENT__CONVRNN__"
IMAGE = images(2, 33, 50)


def conv_rnn(**node: Any) -> ConvRNN:
    options = {"LAYERS": ten_layer_dicts(), "STEPS": 8, "ON_FAILURE": "record"} | node
    return tiny_backbone("build_convrnn_backbone", **{NODE + k: v for k, v in options.items()})


@pytest.mark.parametrize("schedule", ["faithful", "pruned"])
def test_features_by_step(schedule: str) -> None:
    net = conv_rnn(SCHEDULE=schedule, OUT_FEATURES=["res2", "res5", "conv2"]).double()
    image = IMAGE.double()
    with torch.no_grad():
        found = net.unrolled(image, [5, 2])
        expected = unrolled_by_hand(net, image, 8, delay=1)
        assert list(found) == [2, 5]
        for step, features in found.items():
            for feature, name in (("res2", "conv4"), ("res5", "conv10"), ("conv2", "conv2")):
                # Rounding, of sums in another order.
                torch.testing.assert_close(
                    features[feature], expected[step - 1][name], rtol=1e-9, atol=1e-9
                )
        every = net.unrolled(image)
        assert list(every) == [7, 8]
        torch.testing.assert_close(every[8], net(image), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("readout", ["last", "mean"])
def test_readout_steps(readout: str) -> None:
    net = conv_rnn(READOUT=readout, OUT_FEATURES=["conv2", "res3", "res5"], STEPS_TEST=10)
    assert net.readout_steps("res3") == range(3, 9)
    assert net.readout_steps("res5") == range(7, 9)
    assert net.readout_steps("conv2") == range(1, 9)
    net.eval()
    assert net.readout_steps("res5") == range(7, 11)
    with steps_at_test(net, 7):
        assert net.readout_steps("res5") == range(7, 8)
        assert list(net.unrolled(IMAGE)) == [7]
    assert conv_rnn(DELAY=0).readout_steps("res5") == range(1, 9)
    with pytest.raises(ValueError, match="output must be one of 'conv2', 'res3', 'res5'; got 're"):
        net.readout_steps("res2")


@pytest.mark.parametrize(
    "options", [{"GRADIENT": "crbp"}, {"GRADIENT": "cbptt"}, {"HALT_TOL": 0.1}]
)
def test_what_sees_the_last_state_alone(options: dict[str, Any]) -> None:
    net = conv_rnn(**options)
    assert net.readout_steps("res2") == range(8, 9)
    for steps in (None, [8]):
        found = net.unrolled(IMAGE, steps)
        assert list(found) == [8]
        torch.testing.assert_close(found[8], net(IMAGE))
    with pytest.raises(ValueError, match="may be only 8, got 7"):
        net.unrolled(IMAGE, [7])


def test_without_a_loop_there_is_one_readout() -> None:
    options: dict[str, Any] = {"LAYERS": ten_layer_dicts(cells=()), "FEEDBACK": []}
    net = conv_rnn(**options)
    assert net.readout_steps("res5") == range(1, 2)
    found = net.unrolled(IMAGE)
    assert list(found) == [1]
    torch.testing.assert_close(found[1], net(IMAGE))
    # It sees the image in its only step, whenever that of others would go off.
    other = conv_rnn(**options, IMAGE_STEPS=1)
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(IMAGE), net(IMAGE))


@pytest.mark.parametrize(
    ("steps", "words"),
    [([0], "from 1 to 8, got 0"), ([3, 9], "from 1 to 8, got 9"), ([], "from 1 to 8, got none")],
)
def test_steps_that_are_not_there(steps: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        conv_rnn().unrolled(IMAGE, steps)


def test_the_block_tells_of_a_run_that_changes_its_drive() -> None:
    net = conv_rnn(IMAGE_STEPS=3, GRADIENT="bptt")
    net(IMAGE)
    assert net.recurrence is not None and net.recurrence.last is not None
    assert net.recurrence.last.steps.tolist() == [8, 8]
