"""Models without region heads: RetinaNet and the semantic segmentor."""

from __future__ import annotations

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import RetinaNet, SemanticSegmentor

from rpanoptic.modeling.meta_arch.recurrent_model import RecurrentModel


@META_ARCH_REGISTRY.register()
class RecurrentRetinaNet(RecurrentModel, RetinaNet):
    """RetinaNet whose backbone may be recurrent.

    Arguments, module names and config keys are those of :class:`detectron2.modeling.RetinaNet`.
    """

    ground_truth = ("instances",)


@META_ARCH_REGISTRY.register()
class RecurrentSemanticSegmentor(RecurrentModel, SemanticSegmentor):
    """A semantic segmentor whose backbone and head may be recurrent.

    Arguments, module names and config keys are those of
    :class:`detectron2.modeling.SemanticSegmentor`.
    """

    ground_truth = ("sem_seg",)
