"""The keys of ``MODEL.CLASSIFIER``, checked before anything is built."""

from __future__ import annotations

from itertools import pairwise

from detectron2.config import CfgNode

from rpanoptic.errors import naming
from rpanoptic.pathfinder.imagenet.models.decoders import DECODERS
from rpanoptic.pathfinder.imagenet.models.head import PREDICTORS
from rpanoptic.pathfinder.imagenet.models.torchvision_resnet import NETWORKS
from rpanoptic.recurrent.checks import check_choice, check_count, check_flag, check_number

CONFIG_KEY = "MODEL.CLASSIFIER"


def check_classifier_node(node: CfgNode) -> None:
    """Check the values of ``MODEL.CLASSIFIER``, whichever of its keys the model reads.

    What depends on the backbone, which features it has and when they can be read out, is left to
    the classifier itself.

    Raises:
        ConfigError: a key has an impossible value; the message names it.
    """
    with naming(CONFIG_KEY):
        check_count("NUM_CLASSES", node.NUM_CLASSES, least=2)
        check_choice("PREDICTOR", node.PREDICTOR, PREDICTORS)
        check_choice("DECODER", node.DECODER, tuple(DECODERS))
        check_choice("TORCHVISION", node.TORCHVISION, NETWORKS)
        check_number("MIXUP", node.MIXUP, least=0.0)
        for name in ("POOL", "STEP_LOSS"):
            check_flag(name, node[name])
        if not isinstance(node.IN_FEATURE, str):
            raise ValueError(f"IN_FEATURE must be a name, got {node.IN_FEATURE!r}")
        for name in ("DROPOUT", "LABEL_SMOOTHING"):
            if not isinstance(node[name], int | float) or not 0 <= node[name] < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {node[name]!r}")
        if not isinstance(node.THRESHOLD, int | float) or not 0 < node.THRESHOLD <= 1:
            raise ValueError(f"THRESHOLD must be above 0 and at most 1, got {node.THRESHOLD!r}")
        check_readout_steps("READOUT_STEPS", node.READOUT_STEPS)


def check_readout_steps(option: str, steps: list[int] | tuple[int, ...]) -> tuple[int, ...]:
    """Steps of readouts as a tuple.

    Args:
        option: what they are; begins the message.
        steps: the steps; none stands for all.

    Raises:
        ValueError: one is no integer of at least 1, or they do not rise.
    """
    if not isinstance(steps, list | tuple):
        raise ValueError(f"{option} must be a list, got {steps!r}")
    counts = tuple(check_count(option, step, least=1) for step in steps)
    if any(one >= other for one, other in pairwise(counts)):
        raise ValueError(f"{option} must rise, got {list(counts)}")
    return counts
