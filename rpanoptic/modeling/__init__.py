"""Recurrent components for Detectron2. Importing this package registers them."""

from rpanoptic.modeling.build import build_recurrent_block, check_recurrent_node
from rpanoptic.modeling.heads import RecurrentMaskRCNNHead

__all__ = ["RecurrentMaskRCNNHead", "build_recurrent_block", "check_recurrent_node"]
