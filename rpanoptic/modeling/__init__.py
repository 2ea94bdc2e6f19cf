"""Recurrent components for Detectron2. Importing this package registers them."""

from rpanoptic.modeling.backbone import ConvRNN, RecurrentFPN, RecurrentResNet
from rpanoptic.modeling.build import build_recurrent_block, check_recurrent_node
from rpanoptic.modeling.heads import RecurrentMaskRCNNHead, RecurrentSemSegFPNHead
from rpanoptic.modeling.meta_arch import (
    RecurrentGeneralizedRCNN,
    RecurrentModel,
    RecurrentPanopticFPN,
    RecurrentRetinaNet,
    RecurrentSemanticSegmentor,
)

__all__ = [
    "ConvRNN",
    "RecurrentFPN",
    "RecurrentGeneralizedRCNN",
    "RecurrentMaskRCNNHead",
    "RecurrentModel",
    "RecurrentPanopticFPN",
    "RecurrentResNet",
    "RecurrentRetinaNet",
    "RecurrentSemSegFPNHead",
    "RecurrentSemanticSegmentor",
    "build_recurrent_block",
    "check_recurrent_node",
]
