"""The keys of ``MODEL.PATHFINDER``, checked before anything is built."""

from __future__ import annotations

from detectron2.config import CfgNode

from rpanoptic.errors import ConfigError, naming
from rpanoptic.pathfinder.models.stem import ACTIVATIONS, KERNELS
from rpanoptic.recurrent.checks import check_choice, check_count, check_number

CONFIG_KEY = "MODEL.PATHFINDER"


def check_pathfinder_node(node: CfgNode) -> None:
    """Check the values of ``MODEL.PATHFINDER``, whichever of its keys the model reads.

    Two are left to those who know more: OUTPUT_NORM, which must suit the number of channels (see
    :func:`rpanoptic.modeling.build.output_norm_of`), and the least STEM_SIZE of Gabor filters.

    Raises:
        ConfigError: a key has an impossible value; the message names it.
    """
    with naming(CONFIG_KEY):
        for name in ("CHANNELS", "LAYERS"):
            check_count(name, node[name], least=1)
        for name in ("STEM_SIZE", "KERNEL_SIZE"):
            if check_count(name, node[name], least=1) % 2 == 0:
                raise ValueError(f"{name} must be odd, got {node[name]}")
        check_choice("STEM", node.STEM, KERNELS)
        check_choice("STEM_ACTIVATION", node.STEM_ACTIVATION, tuple(ACTIVATIONS))
        check_number("FOCAL_GAMMA", node.FOCAL_GAMMA, least=0.0)
        if not 0 < node.FOREGROUND_PRIOR < 1:
            raise ValueError(
                f"FOREGROUND_PRIOR must be above 0 and below 1, got {node.FOREGROUND_PRIOR}"
            )


def refuse_step_loss(node: CfgNode, part: str) -> None:
    """Raise a ConfigError where STEP_LOSS is set, for a part that cannot be read out every step."""
    if node.STEP_LOSS:
        raise ConfigError(
            f"{CONFIG_KEY}.STEP_LOSS is the loss of a ContourSegmentor on the steps of "
            f"build_pathfinder_recurrent_backbone; {part} has no such loss"
        )
