"""Whether a classifier's backbone, its readout and the size of its pictures go together."""

from __future__ import annotations

import math

from detectron2.modeling import Backbone

from rpanoptic.modeling.backbone.conv_rnn import ConvRNN
from rpanoptic.modeling.backbone.conv_rnn_cell import ConvRNNCell
from rpanoptic.pathfinder.imagenet.models.head import ClassificationHead
from rpanoptic.recurrent.cells import ConvLSTM


def check_all_read(backbone: Backbone, feature: str) -> None:
    """Check that a ConvRNN has nothing that its only reader does without.

    Such parameters have no gradient, which several processes that train together do not bear.

    Args:
        backbone: any.
        feature: the output that is read.

    Raises:
        ValueError: layers behind the feature, or norms of other outputs.
    """
    if not isinstance(backbone, ConvRNN):
        return
    needed = backbone.graph.reduced_to([feature]).names
    idle = [name for name in backbone.graph.names if name not in needed]
    others = [name for name in backbone.output_shape() if name != feature]
    normed = any(True for name in others for _ in backbone.output_norm[name].parameters())
    if idle or normed:
        what = f"layers {', '.join(idle)}" if idle else f"norms of {', '.join(others)}"
        raise ValueError(
            f"the classifier reads {feature!r} alone, on which {what} have no bearing: take "
            f"MODEL.RECURRENT.CONVRNN.OUT_FEATURES [{feature!r}]"
        )


def check_size(backbone: Backbone, feature: str, head: ClassificationHead, size: int) -> None:
    """Check that pictures of the config's size fit the parts that are bound to one.

    Args:
        backbone: any.
        feature: the output that is read.
        head: what reads it.
        size: RPANOPTIC.CLASSIFICATION.SIZE, in pixels.

    Raises:
        ValueError: peepholes of another size, or a map that is too small for the head.
    """
    where = f"RPANOPTIC.CLASSIFICATION.SIZE {size}"
    if isinstance(backbone, ConvRNN) and backbone.recurrence is not None:
        loop = backbone.recurrence.cell
        assert isinstance(loop, ConvRNNCell)
        for name, cell in loop.cells.items():
            side = math.ceil(size / backbone.graph.stride(name))
            bound = cell.peephole_size if isinstance(cell, ConvLSTM) else None
            if bound not in (None, (side, side)):
                raise ValueError(
                    f"the peepholes of layer {name!r} are made for maps of {bound} pixels; with "
                    f"{where} it has {(side, side)}"
                )
    stride = backbone.output_shape()[feature].stride or 1
    head.check_size(math.ceil(size / stride), where)
