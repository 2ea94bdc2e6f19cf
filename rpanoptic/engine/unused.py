"""Settings of recurrent blocks, Pathfinder and classifiers that a config's model does not have."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from fvcore.common.registry import Registry

from rpanoptic.config import add_rpanoptic_config
from rpanoptic.errors import ConfigError
from rpanoptic.modeling.outputs import outputs_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Place:
    """What reads a node of MODEL.RECURRENT."""

    key: str  # below MODEL: names the part that may read it
    registry: Registry
    parts: tuple[str, ...]  # those that do
    output: str = ""  # without this output, as outputs_of has it, there is no such part


def _backbones(*names: str) -> _Place:
    return _Place("BACKBONE", BACKBONE_REGISTRY, names)


_PLACES = {
    "MASK_HEAD": _Place(
        "ROI_MASK_HEAD", ROI_MASK_HEAD_REGISTRY, ("RecurrentMaskRCNNHead",), "masks"
    ),
    "SEM_SEG_HEAD": _Place(
        "SEM_SEG_HEAD", SEM_SEG_HEADS_REGISTRY, ("RecurrentSemSegFPNHead",), "sem_seg"
    ),
    "FPN": _backbones("build_recurrent_fpn_backbone", "build_recurrent_retinanet_fpn_backbone"),
    "RESNET": _backbones(
        "build_recurrent_resnet_backbone",
        "build_recurrent_resnet_fpn_backbone",
        "build_recurrent_retinanet_resnet_fpn_backbone",
    ),
    "CONVRNN": _backbones(
        "build_convrnn_backbone",
        "build_convrnn_fpn_backbone",
        "build_convrnn_retinanet_fpn_backbone",
    ),
    "PATHFINDER": _backbones("build_pathfinder_recurrent_backbone"),
}

_RECURRENT, _FEEDFORWARD, _UNET = (
    f"build_pathfinder_{kind}_backbone" for kind in ("recurrent", "feedforward", "unet")
)
_HEAD, _CLASSIFIER = "ContourHead", "ContourClassifier"
#: The parts that read a key of MODEL.PATHFINDER.
PATHFINDER_READERS = {
    "CHANNELS": (_RECURRENT, _FEEDFORWARD, _UNET),
    "STEM": (_RECURRENT,),
    "STEM_SIZE": (_RECURRENT, _FEEDFORWARD),
    "STEM_ACTIVATION": (_RECURRENT,),
    "LAYERS": (_FEEDFORWARD,),
    "KERNEL_SIZE": (_FEEDFORWARD,),
    "OUTPUT_NORM": (_HEAD, _CLASSIFIER),
    "FOREGROUND_PRIOR": (_HEAD,),
    "FOCAL_GAMMA": (_HEAD,),
    # The others refuse it themselves.
    "STEP_LOSS": (_RECURRENT, _FEEDFORWARD, _UNET, _CLASSIFIER),
}

_IMAGE_CLASSIFIER = "ImageClassifier"
#: The parts that read a key of MODEL.CLASSIFIER.
CLASSIFIER_READERS = {
    "TORCHVISION": ("build_torchvision_resnet_backbone",),
    **dict.fromkeys(
        (
            "NUM_CLASSES",
            "IN_FEATURE",
            "POOL",
            "PREDICTOR",
            "DROPOUT",
            "READOUT_STEPS",
            "DECODER",
            "THRESHOLD",
            "STEP_LOSS",
            "LABEL_SMOOTHING",
            "MIXUP",
        ),
        (_IMAGE_CLASSIFIER,),
    ),
}


def check_unused_nodes(cfg: CfgNode) -> None:
    """Check that no recurrent block is configured that the model does not have.

    Parts and architectures from elsewhere than Detectron2 and this package may read any node, so
    that nothing is said where one is chosen; nor of nodes that others have added.

    The same holds for the keys of ``MODEL.PATHFINDER`` and ``MODEL.CLASSIFIER``.

    A model without any recurrent part is warned of only: the feed-forward one of a comparison may
    share its settings with the others. So is a model of Pathfinder, or a classifier of pictures, of
    keys that another one reads.

    Args:
        cfg: a config whose parts are registered.

    Raises:
        ConfigError: a key under ``MODEL.RECURRENT``, ``MODEL.PATHFINDER`` or ``MODEL.CLASSIFIER``
            differs from its default, and the model has no part that reads it; the message names the
            parts that would.
    """
    feed_forward = not any(_may_read(cfg, reader) for reader in _PLACES.values())
    default = get_cfg()
    add_rpanoptic_config(default)
    for place, reader in _PLACES.items():
        if _may_read(cfg, reader):
            continue
        key = f"MODEL.RECURRENT.{place}"
        changed = next(_differing(cfg.MODEL.RECURRENT[place], default.MODEL.RECURRENT[place]), None)
        if changed is not None:
            given = cfg.MODEL[reader.key].NAME
            why = f"MODEL.{reader.key}.NAME {given} does not read"
            if given in reader.parts:
                architecture = cfg.MODEL.META_ARCHITECTURE
                why = f"a {architecture} that predicts no {reader.output} has no use for"
            message = (
                f"{key}.{changed} is set, but {why} it: leave it at its default, or take a model "
                f"with MODEL.{reader.key}.NAME {' or '.join(reader.parts)}."
            )
            if not feed_forward:
                raise ConfigError(message)
            logger.warning(message)
    for name, readers in (("PATHFINDER", PATHFINDER_READERS), ("CLASSIFIER", CLASSIFIER_READERS)):
        _check_readers(cfg, name, default.MODEL[name], readers, only_warn=feed_forward)


def _check_readers(
    cfg: CfgNode,
    name: str,
    default: CfgNode,
    readers: Mapping[str, tuple[str, ...]],
    *,
    only_warn: bool,
) -> None:
    """Check a node below MODEL, of whose keys it is known which parts read them."""
    chosen = {
        cfg.MODEL.META_ARCHITECTURE: META_ARCH_REGISTRY,
        cfg.MODEL.BACKBONE.NAME: BACKBONE_REGISTRY,
    }
    if "sem_seg" in outputs_of(cfg):
        chosen[cfg.MODEL.SEM_SEG_HEAD.NAME] = SEM_SEG_HEADS_REGISTRY
    if any(_is_foreign(registry, part) for part, registry in chosen.items()):
        return
    any_reader = {part for parts in readers.values() for part in parts}
    for key in _differing(cfg.MODEL[name], default):
        parts = readers.get(key)
        if parts is None or chosen.keys() & {*parts}:
            continue
        message = (
            f"MODEL.{name}.{key} is set, but the model does not read it: leave it at its "
            f"default, or take {' or '.join(parts)}."
        )
        if not (only_warn or chosen.keys() & any_reader):
            raise ConfigError(message)
        logger.warning(message)


def _may_read(cfg: CfgNode, reader: _Place) -> bool:
    if _is_foreign(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE):
        return True
    if reader.output and reader.output not in outputs_of(cfg):
        return False
    name = cfg.MODEL[reader.key].NAME
    return name in reader.parts or _is_foreign(reader.registry, name)


def _is_foreign(registry: Registry, name: str) -> bool:
    package = registry.get(name).__module__.partition(".")[0]
    return package not in ("detectron2", "rpanoptic")


def _differing(node: CfgNode, default: CfgNode) -> Iterator[str]:
    """Dotted keys below a node with other values than the default's; tuples count as lists."""
    for name, value in node.items():
        wanted = default.get(name)
        if isinstance(value, CfgNode) and isinstance(wanted, CfgNode):
            yield from (f"{name}.{key}" for key in _differing(value, wanted))
        elif _plain(value) != _plain(wanted):
            yield name


def _plain(value: object) -> object:
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
