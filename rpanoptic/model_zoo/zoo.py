"""Builds configs and models by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.modeling import build_model
from omegaconf import OmegaConf
from torch import nn

from rpanoptic.config_files import find_config_file, list_config_files
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.engine.checkpoint import PanopticCheckpointer, checkpoint_classes
from rpanoptic.engine.setup import setup_config
from rpanoptic.engine.weights_file import check_sha256, local_weights
from rpanoptic.errors import CheckpointError, ConfigError
from rpanoptic.model_zoo.published import PUBLISHED, PublishedWeights


def get_config_file(name: str) -> str:
    """The path of a config file.

    Args:
        name: of a config of ours, such as "coco_panoptic/R50/crbp20.yaml" (see
            :func:`rpanoptic.model_zoo.list_configs`), or of Detectron2's model zoo, such as
            "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml".

    Raises:
        ConfigError: there is no such name; the closest ones are listed.
    """
    return str(find_config_file(name))


def get_checkpoint_url(name: str) -> str:
    """The URL of the weights that were trained with a config.

    Raises:
        ConfigError: there is no such name.
        CheckpointError: no weights of it are published.
    """
    find_config_file(name)
    if name in list_config_files():
        return _record(name).url
    try:
        return detectron2_zoo.get_checkpoint_url(name)
    except RuntimeError:
        raise CheckpointError(f"Detectron2 publishes no weights of {name}.") from None


def get_config(name: str, trained: bool = False) -> Any:
    """The config of a name.

    Args:
        name: see :func:`get_config_file`.
        trained: set ``MODEL.WEIGHTS`` to the published weights; otherwise they stay as the file
            has them, mostly those of an ImageNet backbone to start from.

    Returns:
        a ``CfgNode`` with rpanoptic's keys, not frozen, whose device is one of this machine; for
        a name that ends in .py its lazy config.

    Raises:
        ConfigError: there is no such name.
        CheckpointError: ``trained``, but no weights are published.
    """
    return _config(name, trained)


def _config(name: str, trained: bool, classes: ClassTable | None = None) -> Any:
    """As :func:`get_config`; the numbers of classes that a YAML leaves open are those given."""
    url = get_checkpoint_url(name) if trained else None
    file = get_config_file(name)
    if file.endswith(".py"):
        lazy = LazyConfig.load(file)
        if url is not None:
            lazy.train.init_checkpoint = url
        return lazy
    cfg = setup_config(file, classes=classes)
    if url is not None:
        cfg.MODEL.WEIGHTS = url
    return cfg


def get(
    name: str,
    trained: bool = False,
    device: str | None = None,
    *,
    weights: str | Path | None = None,
    sha256: str | None = None,
) -> nn.Module:
    """A model of a name, with weights, in training mode.

    Files are loaded by :class:`rpanoptic.engine.PanopticCheckpointer`, which runs no code of
    theirs. Weights that you give or that we publish must be exactly the model's. Those that the
    config starts from, an ImageNet backbone as a rule, and Detectron2's fill what they fit; what
    is left over or new is logged.

    Args:
        name: see :func:`get_config_file`.
        trained: take the published weights, after checking their SHA-256 where they are ours.
        device: such as "cpu"; None takes a GPU if there is one.
        weights: your own file or URL, instead of the published and the config's; "" loads none. The
            model has as many classes as it says that it was trained on, unless the config says the
            number.
        sha256: 64 hexadecimal digits that ``weights`` are checked by before they are loaded.

    Raises:
        ConfigError: there is no such name, its lazy config has no model, or PyTorch cannot use the
            device.
        CheckpointError: weights are asked for that are not published, cannot be fetched, are
            other ones than ``sha256`` says, hold code, or do not fit.
    """
    if trained and weights is not None:
        raise CheckpointError("get(): give either trained=True or weights, not both.")
    if trained and sha256 is not None:
        raise CheckpointError(
            "get(): sha256 checks weights of your own; those of trained=True are checked by the "
            "SHA-256 that is published with them, where they are ours."
        )
    if sha256 is not None and not weights:
        raise CheckpointError("get(): sha256 is given, but no weights that it could check.")
    if device is not None:
        _check_device(device)
    classes = None
    if weights:
        find_config_file(name)  # Before a file is fetched.
        weights = local_weights(str(weights))
        if sha256 is not None:
            check_sha256(weights, sha256)
        classes = checkpoint_classes(str(weights))
    cfg = _config(name, trained, classes)
    if not isinstance(cfg, CfgNode) and "model" not in cfg:
        raise ConfigError(f"{name} describes no model: it is a part of other lazy configs.")
    if weights is not None:
        file, strict = str(weights), True
    else:
        source = cfg.MODEL.WEIGHTS if isinstance(cfg, CfgNode) else _lazy_weights(cfg)
        strict = trained and name in PUBLISHED
        # Before a model is built, which takes longer than to see that its weights are not there.
        file = str(local_weights(source)) if source else ""
        if strict:
            check_sha256(Path(file), PUBLISHED[name].sha256)
    model = _build(cfg, device)
    PanopticCheckpointer(model).load(file, checkpointables=[], strict=strict)
    return model


def _record(name: str) -> PublishedWeights:
    if name not in PUBLISHED:
        some = f" Published are those of: {', '.join(sorted(PUBLISHED))}." if PUBLISHED else ""
        raise CheckpointError(
            f"no trained weights of {name} are published.{some} Train them with "
            f"tools/train_net.py --config-file {name}, or give a file of your own: "
            f'get("{name}", weights="model_final.pth").'
        )
    return PUBLISHED[name]


def _lazy_weights(cfg: Any) -> str:
    """The weights that a lazy config starts from; "" for one that is a model alone."""
    return OmegaConf.select(cfg, "train.init_checkpoint") or ""


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    # AssertionError: a PyTorch that was built without CUDA.
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"get(): PyTorch cannot use device {device!r}: {reason}") from error


def _build(cfg: Any, device: str | None) -> nn.Module:
    if isinstance(cfg, CfgNode):
        if device is not None:
            cfg.MODEL.DEVICE = device
        return build_model(cfg)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return instantiate(cfg.model).to(device)
