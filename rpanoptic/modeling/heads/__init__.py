"""Recurrent heads."""

from rpanoptic.modeling.heads.mask_head import RecurrentMaskRCNNHead
from rpanoptic.modeling.heads.sem_seg_head import RecurrentSemSegFPNHead

__all__ = ["RecurrentMaskRCNNHead", "RecurrentSemSegFPNHead"]
