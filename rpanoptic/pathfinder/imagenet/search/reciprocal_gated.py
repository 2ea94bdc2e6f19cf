"""The published search space: the Reciprocal Gated Cell in all its forms, feedback, time, rates.

After Nayebi et al. (NeurIPS 2018; Neural Computation 2022) and their released code. One set of
values holds for all layers of the base config with a cell. Ranges that are not known are our
choice: those of the kernels, biases and rates. Left out are what this package has no key for: a
weight decay of the cells alone, and a random duration of the pictures.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from rpanoptic.pathfinder.imagenet.search.layers import KEY, candidate_edges, changed, with_cell
from rpanoptic.pathfinder.imagenet.search.parameters import (
    Choice,
    Float,
    Integer,
    Parameter,
    flag,
)
from rpanoptic.recurrent import CELLS

_CELL = "general_reciprocal_gated"
_ACTIVATIONS = ("", "elu", "relu", "tanh")
_GATES = ("sigmoid", "tanh")
_EDGE = "edge "
# Gradients that see every step, and what can be searched with them alone.
_SEE_ALL_STEPS = ("bptt", "checkpointed_bptt")
_COURSE = (
    flag("image_off"),
    Float("image_part", 0.4, 1.0, when=("image_off", (True,))),
    Choice("decoder", ("last", "mean", "sum", "max_confidence")),
)


def parameters(cfg: CfgNode) -> tuple[Parameter, ...]:
    """The parameters; those of the cell have the names of its options.

    An edge of feedback is there if its number is at most ``p_edge``, which so sets how many there
    are. For the ten layers of the paper the memory has 32 to 256 channels, 21 edges are possible
    and there are 7 to 22 steps (12 to 26 of the paper's, which count the way of the image through
    the layers before the loop).
    """
    layers = with_cell(cfg)
    depth = layers[0]["channels"]
    sizes = tuple(dict.fromkeys(max(1, round(depth * part)) for part in (0.25, 0.5, 1, 2)))
    remembered = ("memory_channels", sizes)
    return (
        # The cell's structure. Without a memory it has no gates on it and no drive of it.
        Choice("memory_channels", (0, *sizes)),
        flag("input_to_memory", when=remembered),
        flag("residual_to_memory", when=remembered),
        flag("input_to_output"),
        flag("memory_to_output", when=remembered),
        flag("residual_to_output"),
        flag("input_to_tau"),
        flag("input_to_gate"),
        flag("residual_to_memory_tau", when=remembered),
        flag("residual_to_memory_gate", when=remembered),
        flag("residual_to_output_tau"),
        flag("residual_to_output_gate"),
        Choice("norm", ("", "LN")),
        # Its kernels.
        Integer("memory_kernel_size", 1, 7, when=remembered),
        flag("memory_separable", when=remembered),
        Integer("output_kernel_size", 1, 7, when=("input_to_output", (True,))),
        flag("output_separable", when=("input_to_output", (True,))),
        Integer("tau_kernel_size", 1, 7),
        Integer("memory_tau_kernel_size", 1, 7, when=remembered),
        flag("tau_separable"),
        Integer("gate_kernel_size", 1, 7),
        flag("gate_separable"),
        # Its gains and nonlinearities.
        Float("tau_gain", 0.0, 1.0),
        Float("gate_gain", 0.0, 1.0),
        Float("tau_bias", -5.0, 5.0),
        Float("gate_bias", -5.0, 5.0),
        Choice("tau_nonlinearity", _GATES),
        Choice("gate_nonlinearity", _GATES),
        Choice("input_nonlinearity", _ACTIVATIONS),
        Choice("memory_nonlinearity", _ACTIVATIONS, when=remembered),
        Choice("output_nonlinearity", _ACTIVATIONS),
        Float("init_scale", 0.3, 2.0),
        # The layers.
        Integer("layer_kernel_size", 1, 5),
        Choice("width", (0.5, 0.75, 1.0, 1.25)),
        # Feedback.
        Choice("feedback_entry", ("input", "memory", "output")),
        Integer("feedback_kernel_size", 1, 8),
        flag("feedback_separable"),
        Choice("feedback_nonlinearity", _ACTIVATIONS),
        Float("p_edge", 0.0, 1.0),
        *(Float(f"{_EDGE}{a} > {b}", 0.0, 1.0) for a, b in candidate_edges(cfg)),
        # Time.
        Integer("steps", len(layers), 3 * len(layers) + 1),
        *(_COURSE if cfg.MODEL.RECURRENT.CONVRNN.GRADIENT in _SEE_ALL_STEPS else ()),
        # Learning.
        Float("learning_rate", 1e-3, 1e-1, log=True),
        Float("clip", 0.1, 10.0, log=True),
        Float("weight_decay", 1e-6, 1e-3, log=True),
    )


def overrides(cfg: CfgNode, values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that a trial changes.

    Two things are repaired: a memory that nothing drives gets the drive of the layer, and feedback
    to a memory that is not there enters the output.
    """
    known = inspect.signature(CELLS.get(_CELL)).parameters
    options = {name: value for name, value in values.items() if name in known}
    if not options["memory_channels"]:
        if options["feedback_entry"] == "memory":
            options["feedback_entry"] = "output"
    elif not (options["input_to_memory"] or options["residual_to_memory"]):
        options["input_to_memory"] = True
    cell = {"name": _CELL, **options, "init": "variance_scaling"}

    def change(layer: Mapping[str, Any]) -> dict[str, Any]:
        # The nonlinearity of the drive is the cell's, for feedback may enter before it. That of a
        # residual layer stands at its end too, and stays.
        plain = {} if layer.get("residual") else {"activation": ""}
        return {"kernel_size": values["layer_kernel_size"], "cell": cell, **plain}

    steps = values["steps"]
    seen = max(1, round(steps * values.get("image_part", 1.0)))
    return {
        f"{KEY}.LAYERS": changed(cfg, change),
        f"{KEY}.WIDTH": cfg.MODEL.RECURRENT.CONVRNN.WIDTH * values["width"],
        f"{KEY}.FEEDBACK": [
            [later, earlier]
            for later, earlier in candidate_edges(cfg)
            if values[f"{_EDGE}{later} > {earlier}"] <= values["p_edge"]
        ],
        f"{KEY}.CONNECTION.KERNEL_SIZE": values["feedback_kernel_size"],
        f"{KEY}.CONNECTION.SEPARABLE": values["feedback_separable"],
        f"{KEY}.CONNECTION.NONLINEARITY": values["feedback_nonlinearity"],
        f"{KEY}.STEPS": steps,
        f"{KEY}.IMAGE_STEPS": seen if seen < steps else 0,
        "MODEL.CLASSIFIER.DECODER": values.get("decoder", cfg.MODEL.CLASSIFIER.DECODER),
        "SOLVER.BASE_LR": values["learning_rate"],
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": values["clip"],
        "SOLVER.WEIGHT_DECAY": values["weight_decay"],
    }
