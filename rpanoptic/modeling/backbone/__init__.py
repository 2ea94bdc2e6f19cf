"""Recurrent backbones. Importing this package registers their builders."""

from rpanoptic.modeling.backbone.conv_rnn import ConvRNN
from rpanoptic.modeling.backbone.conv_rnn_cell import ConvRNNCell
from rpanoptic.modeling.backbone.conv_rnn_graph import CellSpec, ConvRNNGraph, Layer
from rpanoptic.modeling.backbone.conv_rnn_layers import five_layers, ten_layers
from rpanoptic.modeling.backbone.conv_rnn_parts import Connection
from rpanoptic.modeling.backbone.hierarchy import Hierarchy
from rpanoptic.modeling.backbone.recurrent_fpn import RecurrentFPN
from rpanoptic.modeling.backbone.recurrent_resnet import RecurrentResNet
from rpanoptic.modeling.backbone.stage_hierarchy import StageHierarchy

__all__ = [
    "CellSpec",
    "Connection",
    "ConvRNN",
    "ConvRNNCell",
    "ConvRNNGraph",
    "Hierarchy",
    "Layer",
    "RecurrentFPN",
    "RecurrentResNet",
    "StageHierarchy",
    "five_layers",
    "ten_layers",
]
