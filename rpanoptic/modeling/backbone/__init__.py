"""Recurrent backbones. Importing this package registers their builders."""

from rpanoptic.modeling.backbone.hierarchy import Hierarchy
from rpanoptic.modeling.backbone.recurrent_fpn import RecurrentFPN
from rpanoptic.modeling.backbone.recurrent_resnet import RecurrentResNet
from rpanoptic.modeling.backbone.stage_hierarchy import StageHierarchy

__all__ = ["Hierarchy", "RecurrentFPN", "RecurrentResNet", "StageHierarchy"]
