"""From a config node to a recurrent block."""

from __future__ import annotations

from detectron2.config import CfgNode

from rpanoptic.errors import ConfigError
from rpanoptic.recurrent import (
    CELLS,
    GRADIENTS,
    AdjointConfig,
    LipschitzPenalty,
    RecurrentBlock,
    build_cell,
)


def build_recurrent_block(node: CfgNode, channels: int, *, key: str) -> RecurrentBlock:
    """Build the recurrent block that a node of the config describes.

    Args:
        node: a node with the keys of ``rpanoptic.config``'s recurrent block.
        channels: channels of drive and state.
        key: where the node stands, such as "MODEL.RECURRENT.MASK_HEAD"; begins error messages.

    Raises:
        ConfigError: a value is unknown or out of its range; the message begins with its key.
    """
    check_recurrent_node(node, key=key)
    try:
        cell = build_cell(
            node.CELL,
            channels,
            kernel_size=node.KERNEL_SIZE,
            gala=node.GALA,
            nonlinearity=node.NONLINEARITY,
            norm=node.NORM,
            less_softplus=node.LESS_SOFTPLUS,
            bias_init=node.BIAS_INIT,
            max_steps=node.STEPS,
        )
        return RecurrentBlock(
            cell,
            steps=node.STEPS,
            steps_test=node.STEPS_TEST,
            gradient=node.GRADIENT,
            adjoint=AdjointConfig(node.ADJOINT.MAX_STEPS, node.ADJOINT.TOL),
            penalty=LipschitzPenalty(
                node.LIPSCHITZ.TAU, node.LIPSCHITZ.WEIGHT, node.LIPSCHITZ.REDUCTION
            ),
        )
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def check_recurrent_node(node: CfgNode, *, key: str) -> None:
    """Check what can be known of a recurrent block before any data or model is there.

    Raises:
        ConfigError: an unknown cell or gradient method (the known ones are listed), or a number
            of steps that cannot be run.
    """
    for name, registry in (("CELL", CELLS), ("GRADIENT", GRADIENTS)):
        try:
            registry.get(node[name])
        except ValueError as error:
            raise ConfigError(f"{key}.{name}: {error}") from error
    for name, least in (("STEPS", 1), ("STEPS_TEST", 0)):
        if node[name] < least:
            raise ConfigError(f"{key}.{name} must be at least {least}, got {node[name]}")
