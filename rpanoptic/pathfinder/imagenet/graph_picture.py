"""The picture of the ConvRNN that a config describes."""

from __future__ import annotations

from typing import cast

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from matplotlib.figure import Figure

from rpanoptic.errors import ConfigError, naming
from rpanoptic.modeling.backbone.conv_rnn import ConvRNN
from rpanoptic.modeling.backbone.conv_rnn_cell import ConvRNNCell
from rpanoptic.modeling.backbone.conv_rnn_graph import CellSpec
from rpanoptic.modeling.backbone.conv_rnn_schedule import first_step, needed_steps
from rpanoptic.pathfinder.imagenet.models.readouts import Readouts
from rpanoptic.recurrent import RecurrentCell
from rpanoptic.visualization.conv_rnn_graph import draw_graph
from rpanoptic.visualization.conv_rnn_schedule import Unrolling

_BACKBONE = "MODEL.BACKBONE.NAME"


def graph_figure(cfg: CfgNode, *, size: tuple[int, int] | None = None, title: str = "") -> Figure:
    """Draw the ConvRNN of a config, see :func:`rpanoptic.visualization.conv_rnn_graph.draw_graph`.

    A classifier's readouts are those that MODEL.CLASSIFIER.READOUT_STEPS names, or without them
    those that its training sees: the last alone where DECODER is "last" and STEP_LOSS off. The
    outputs of other models are read out after the last step, or with READOUT "mean" after each
    from the image's arrival on.

    Args:
        cfg: of the model; no weights and no data are needed.
        size: height and width of the image, px; a classifier's own by default, else
            INPUT.MIN_SIZE_TEST.
        title: over the figure.

    Raises:
        ConfigError: the backbone is no ConvRNN, or a key has an impossible value.
    """
    network = _network(cfg)
    node = cfg.MODEL.RECURRENT.CONVRNN
    graph = network.graph
    classifier = cfg.MODEL.META_ARCHITECTURE == "ImageClassifier"
    side = cfg.RPANOPTIC.CLASSIFICATION.SIZE if classifier else cfg.INPUT.MIN_SIZE_TEST
    unrolling = None
    if network.recurrence is not None:
        readouts = _readouts(cfg, network, classifier)
        unrolling = Unrolling(
            steps=network.recurrence.steps,
            first=first_step(graph, network.delay),
            delay=network.delay,
            image_steps=network.image_steps,
            needed=needed_steps(graph, readouts, delay=network.delay),
            readouts=readouts,
        )
    return draw_graph(
        graph,
        size or (side, side),
        cells={
            layer.name: layer.cell.name or node.CELL
            for layer in graph.layers
            if isinstance(layer.cell, CellSpec)
        },
        connection=_connection(node.CONNECTION, network),
        readout=_readout(cfg.MODEL.CLASSIFIER) if classifier else "",
        unrolling=unrolling,
        title=title,
    )


def _network(cfg: CfgNode) -> ConvRNN:
    name = cfg.MODEL.BACKBONE.NAME
    known = [known for known, _ in BACKBONE_REGISTRY if "convrnn" in known]
    if name not in known:
        raise ConfigError(
            f"{_BACKBONE}: {name} is no ConvRNN, whose graph could be drawn; "
            f"expected {', '.join(known)}"
        )
    backbone = build_backbone(cfg)
    (network,) = (module for module in backbone.modules() if isinstance(module, ConvRNN))
    return network


def _readouts(cfg: CfgNode, network: ConvRNN, classifier: bool) -> dict[str, tuple[int, ...]]:
    """Steps after which layers of the loop are read out, by their names."""
    graph = network.graph
    node = cfg.MODEL.CLASSIFIER
    found: dict[str, tuple[int, ...]] = {}
    if classifier:
        with naming("MODEL.CLASSIFIER"):
            readouts = Readouts(
                network, node.IN_FEATURE, node.READOUT_STEPS, step_loss=node.STEP_LOSS
            )
        steps = readouts.steps()
        if not node.READOUT_STEPS and node.DECODER == "last" and not node.STEP_LOSS:
            steps = steps[-1:]
        found[graph.layer_of(readouts.feature)] = steps
    else:
        for feature in network.output_shape():
            every = network.readout_steps(feature)
            found[graph.layer_of(feature)] = tuple(
                every if network.readout == "mean" else every[-1:]
            )
    loop = [layer.name for layer in graph.loop]
    return {name: steps for name, steps in found.items() if name in loop}


def _readout(node: CfgNode) -> str:
    pooled = "pooled, " if node.POOL else ""
    return f"{node.NUM_CLASSES} classes\n{pooled}{node.PREDICTOR}"


def _connection(node: CfgNode, network: ConvRNN) -> str:
    words = [f"{node.KERNEL_SIZE} × {node.KERNEL_SIZE} convolution"]
    if node.SEPARABLE:
        words[0] = f"separable {words[0]}"
    if node.NONLINEARITY:
        words.append(node.NONLINEARITY)
    # Some cells take it themselves, others the drive with which it is combined.
    loop = network.recurrence.cell if network.recurrence is not None else None
    cells = dict(loop.cells.items()) if isinstance(loop, ConvRNNCell) else {}
    targets = [cells[target] for _, target in network.graph.feedback if target in cells]
    own = any("feedback" in cast(RecurrentCell, cell).drive_parts for cell in targets)
    words.append("into the cell" if own else node.COMBINATION)
    return ", ".join(words)
