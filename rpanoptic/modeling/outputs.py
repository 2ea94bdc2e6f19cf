"""What the model of a config predicts, known before it is built."""

from __future__ import annotations

import inspect

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import (
    DenseDetector,
    GeneralizedRCNN,
    PanopticFPN,
    SemanticSegmentor,
)

#: The keys of a prediction; "masks" stands for those of its instances.
OUTPUTS = ("instances", "masks", "sem_seg", "panoptic_seg", "classification")


def outputs_of(cfg: CfgNode) -> frozenset[str]:
    """Which of :data:`OUTPUTS` the model of a config predicts.

    Args:
        cfg: ``MODEL.META_ARCHITECTURE``, which is registered, and ``MODEL.MASK_ON`` are read.

    Returns:
        what the architecture's class says in an attribute ``outputs``, a frozenset; without one,
        what the architecture of Detectron2 gives that it derives from; all of them if it derives
        from none.
    """
    base = architecture_of(cfg)
    own = getattr(base, "outputs", None)
    if isinstance(own, frozenset):
        return own
    instances = {"instances", "masks"} if cfg.MODEL.MASK_ON else {"instances"}
    if issubclass(base, PanopticFPN):
        return frozenset({*instances, "sem_seg", "panoptic_seg"})
    if issubclass(base, GeneralizedRCNN):
        return frozenset(instances)
    if issubclass(base, DenseDetector):
        return frozenset({"instances"})
    if issubclass(base, SemanticSegmentor):
        return frozenset({"sem_seg"})
    return frozenset(OUTPUTS)


def architecture_of(cfg: CfgNode) -> type:
    """The class of a config's architecture; ``object`` where a function builds it."""
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return architecture if inspect.isclass(architecture) else object
