"""The task-driven ConvRNN (Nayebi et al., NeurIPS 2018) as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor, nn

from rpanoptic.errors import naming
from rpanoptic.modeling.backbone.conv_rnn_cell import ConvLayer, ConvRNNCell
from rpanoptic.modeling.backbone.conv_rnn_graph import ConvRNNGraph, ten_layers
from rpanoptic.modeling.backbone.pyramid import build_fpn_on, last_level_p6p7
from rpanoptic.modeling.build import build_block_of, build_recurrent_cell, output_norm_of
from rpanoptic.modeling.penalty import PenaltySource
from rpanoptic.recurrent import RecurrentBlock, RecurrentCell
from rpanoptic.recurrent.checks import check_choice

CONFIG_KEY = "MODEL.RECURRENT.CONVRNN"
PENALTY_NAME = "loss_lipschitz_convrnn"
READOUTS = ("last", "mean")


class ConvRNN(PenaltySource, Backbone):
    """A chain of convolutional layers with cells and long-range feedback, run in time.

    The image is constant. The layers before the loop are run once; driven by their output, one
    recurrent block runs all others, see :class:`ConvRNNCell`. An output is what a layer puts out
    before its pooling; in the ten-layer network "res2" is conv4 (stride 4), "res3" conv6 (8),
    "res4" conv7 (16) and "res5" conv10 (32). Images may have any size: strides round up.

    Its penalty is "loss_lipschitz_convrnn"; see :class:`PenaltySource` for how it reaches the
    losses. It concerns the Jacobian of the whole step. With a delay that holds the feed-forward
    connections of the loop too, without one only what comes back to a layer.

    Args:
        graph: the network. Layers that no output depends on should not be in it, see
            :meth:`ConvRNNGraph.reduced_to`: their parameters would have no gradient.
        cells: the local cells by the names of the layers that hold one.
        delay: 1: each edge takes a step; 0: a step is a sweep through all layers, with feedback
            from the step before.
        out_features: names of outputs: "res2" to "res5", or of layers.
        readout: "last", the outputs after the last step; or "mean", over the steps from that on
            in which the image first has a part in an output. An equilibrium is its own mean, so
            "mean" is for gradients through all steps, "bptt" and "checkpointed_bptt", and for
            runs that neither stop early nor are accelerated.
        make_block: puts the loop into a recurrent block: steps, gradient method, penalty. It is
            not called for a network without cells and feedback.
        output_norm: normalisation of each output, outside the recurrence, as
            :func:`detectron2.layers.get_norm` takes it; "" for none, as published.

    Raises:
        ValueError: an unknown output or readout, cells that do not fit the graph, a block that
            takes too few steps for the image to arrive at an output (the least number is named),
            or one whose steps no "mean" can be taken of.
    """

    @configurable
    def __init__(
        self,
        *,
        graph: ConvRNNGraph,
        cells: Mapping[str, RecurrentCell],
        delay: int = 1,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        readout: str = "last",
        make_block: Callable[[RecurrentCell], RecurrentBlock] = RecurrentBlock,
        output_norm: str = "",
    ) -> None:
        super().__init__()
        check_choice("readout", readout, READOUTS)
        self.graph = graph
        self.readout = readout
        self._layer_of = {feature: graph.layer_of(feature) for feature in out_features}
        names = self._layer_of.values()
        self.layers = nn.ModuleDict(
            {layer.name: ConvLayer(layer, graph.in_channels(layer.name)) for layer in graph.before}
        )
        # Of the outputs that come out of the loop.
        self._arrivals = {
            layer.name: graph.arrival(layer.name, delay)
            for layer in graph.loop
            if layer.name in names
        }
        self.recurrence: RecurrentBlock | None = None
        if graph.loop:
            cell = ConvRNNCell(graph, cells, delay=delay, outputs=tuple(self._arrivals))
            self.recurrence = make_block(cell)
            if readout == "mean":
                # At an equilibrium the mean is the last state.
                self.recurrence.check_stepwise("readout 'mean'")
        self._out_features = list(out_features)
        self._out_feature_strides = {f: graph.stride(name) for f, name in self._layer_of.items()}
        self._out_feature_channels = {f: graph[name].channels for f, name in self._layer_of.items()}
        self.output_norm = nn.ModuleDict(
            {
                feature: get_norm(output_norm, channels) or nn.Identity()
                for feature, channels in self._out_feature_channels.items()
            }
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Map a config to constructor arguments.

        Raises:
            ValueError: a key has an impossible value.
        """
        node = cfg.MODEL.RECURRENT.CONVRNN
        graph = ten_layers(
            node.WIDTHS,
            cells=node.LAYERS,
            feedback=node.FEEDBACK,
            residual=node.RESIDUAL,
            input_channels=input_shape.channels,
        ).reduced_to(node.OUT_FEATURES)
        for feature in node.OUT_FEATURES:
            output_norm_of(node, graph[graph.layer_of(feature)].channels, key=CONFIG_KEY)
        return {
            "graph": graph,
            "cells": {
                layer.name: build_recurrent_cell(node, layer.channels, key=CONFIG_KEY)
                for layer in graph.loop
                if layer.cell
            },
            "delay": node.DELAY,
            "out_features": node.OUT_FEATURES,
            "readout": node.READOUT,
            "make_block": partial(build_block_of, node=node, key=CONFIG_KEY),
            "output_norm": node.OUTPUT_NORM,
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Run the network.

        Args:
            image: ``(N, C, H, W)``, normalised.

        Returns:
            The outputs by name, ``(N, C, H / stride, W / stride)``, rounded up.

        Raises:
            ValueError: an image of another shape, or steps, as set for inference, that are too
                few for the image to arrive at an output.
        """
        if image.dim() != 4 or image.shape[1] != self.graph.input_channels:
            raise ValueError(
                f"image must be (N, {self.graph.input_channels}, H, W), got {tuple(image.shape)}"
            )
        self.clear_penalties()
        outputs: dict[str, Tensor] = {}
        x = image
        for name, layer in self.layers.items():
            outputs[name] = layer(x)
            x = cast(ConvLayer, layer).pooled(outputs[name])
        if self.recurrence is not None:
            steps = self.recurrence.steps
            if not self.training:
                steps = self.recurrence.steps_test or steps
            run = self._last if self.readout == "last" else self._mean
            outputs |= run(self.recurrence, x, steps)
        return {f: self.output_norm[f](outputs[name]) for f, name in self._layer_of.items()}

    def _last(self, block: RecurrentBlock, drive: Tensor, steps: int) -> dict[str, Tensor]:
        """The outputs of the loop after the last step, by their layers."""
        result = block(drive, steps=steps)
        self.put_penalty(PENALTY_NAME, result.penalty)
        return cast(ConvRNNCell, block.cell).features(result.state)

    def _mean(self, block: RecurrentBlock, drive: Tensor, steps: int) -> dict[str, Tensor]:
        """Their mean over the steps from the image's arrival on."""
        cell = cast(ConvRNNCell, block.cell)
        sums: dict[str, Tensor] = {}
        for step, result in enumerate(block.run_stepwise(drive, steps), start=1):
            for name, output in cell.features(result.state).items():
                if step >= self._arrivals[name]:
                    sums[name] = sums[name] + output if name in sums else output
        return {name: x / (steps - self._arrivals[name] + 1) for name, x in sums.items()}


@BACKBONE_REGISTRY.register()
def build_convrnn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ConvRNN:
    """The ConvRNN that ``MODEL.RECURRENT.CONVRNN`` describes.

    All its layers are trained, whatever ``MODEL.BACKBONE.FREEZE_AT`` says.

    Raises:
        ConfigError: a key has an impossible value.
    """
    with naming(CONFIG_KEY):
        return ConvRNN(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_convrnn_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A ConvRNN under Detectron2's FPN with p6, for Mask R-CNN and panoptic models."""
    return build_fpn_on(build_convrnn_backbone(cfg, input_shape), cfg, LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_convrnn_retinanet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A ConvRNN under Detectron2's FPN with p6 and p7 of res5, for RetinaNet."""
    bottom_up = build_convrnn_backbone(cfg, input_shape)
    return build_fpn_on(bottom_up, cfg, last_level_p6p7(cfg, bottom_up))
