"""Recurrent heads."""

from rpanoptic.modeling.heads.mask_head import RecurrentMaskRCNNHead

__all__ = ["RecurrentMaskRCNNHead"]
