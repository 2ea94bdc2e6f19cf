"""When the layers of a network answer, counted from the onset of the image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from rpanoptic.modeling.backbone import ConvRNN
from rpanoptic.pathfinder.imagenet.neural_fit.times import TimeBins, step_bins, unchanging


@dataclass(frozen=True)
class Timeline:
    """When a feature of a network can be read.

    Attributes:
        steps: of the loop, from 1, after which it is read for each bin; empty if the answer does
            not change.
        bins: the bins of time that belong to them, 10 ms each; one endless bin if it does not.
    """

    steps: tuple[int, ...]
    bins: TimeBins


def timeline(network: nn.Module, feature: str) -> Timeline:
    """When a feature of a network answers to an image.

    In a :class:`ConvRNN` each connection costs a step of 10 ms, and the first layer answers in the
    step that begins with the image, at 0 ms. So the l-th layer, from 1, answers from 10 (l - 1) ms
    on, and step k of a loop with b layers before it begins at 10 (k + b - 1) ms. Without delay all
    layers answer within each step, the first of which begins at 0 ms. The answer of any other
    network, and of a ConvRNN without a loop, does not change.

    Args:
        network: a backbone.
        feature: one of its outputs.

    Raises:
        ValueError: there is no such output, or a loop whose state is not known at each step.
    """
    if not isinstance(network, ConvRNN) or network.recurrence is None:
        return Timeline((), unchanging())
    network.recurrence.check_stepwise("a fit over time")
    steps = network.readout_steps(feature)
    if not network.delay:
        return Timeline(tuple(steps), step_bins(steps[0] - 1, len(steps)))
    ahead = len(network.graph.before)
    place = network.graph.names.index(network.graph.layer_of(feature))
    # A layer before the loop has answered the image for some steps when the loop begins; as in its
    # first step, if the image is still there for this layer then.
    earlier = max(ahead - place, 0)
    if 0 < network.image_steps <= earlier:
        earlier = 0
    first = steps[0] - 1 + ahead - earlier
    return Timeline((1,) * earlier + tuple(steps), step_bins(first, earlier + len(steps)))
