"""Meta-architectures that know of their recurrent parts."""

from rpanoptic.modeling.meta_arch.dense import RecurrentRetinaNet, RecurrentSemanticSegmentor
from rpanoptic.modeling.meta_arch.rcnn import RecurrentGeneralizedRCNN, RecurrentPanopticFPN
from rpanoptic.modeling.meta_arch.recurrent_model import RecurrentModel

__all__ = [
    "RecurrentGeneralizedRCNN",
    "RecurrentModel",
    "RecurrentPanopticFPN",
    "RecurrentRetinaNet",
    "RecurrentSemanticSegmentor",
]
