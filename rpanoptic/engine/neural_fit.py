"""Fits of trained models to neural assemblies: features by checkpoint, tables and a figure."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn
from tqdm import tqdm

from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.weights_file import file_sha256, local_weights
from rpanoptic.errors import ConfigError, DatasetError, listed
from rpanoptic.modeling.backbone import ConvRNN
from rpanoptic.pathfinder.imagenet.data import ClassificationMapper
from rpanoptic.pathfinder.imagenet.neural_fit import (
    Assembly,
    FeatureFile,
    FitSettings,
    bin_rows,
    extract_features,
    fit_neurons,
    match_stimuli,
    overall_row,
)
from rpanoptic.pathfinder.imagenet.neural_fit.tables import Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureSettings:
    """How features are taken.

    Args:
        projection: most features of a layer; more are mixed into so many at random. 0: all.
        batch: pictures that are in the model at a time.
        seed: of the mixtures.
    """

    projection: int = 2048
    batch: int = 16
    seed: int = 0


def model_features(
    cfg: CfgNode,
    weights: str,
    layers: Sequence[str],
    pictures: dict[str, Path],
    folder: Path,
    settings: FeatureSettings | None = None,
) -> dict[str, FeatureFile]:
    """The features of a checkpoint's layers on stimuli, from files where they are there already.

    Pictures become inputs as in the evaluation of classifiers, by ``RPANOPTIC.CLASSIFICATION`` and
    ``INPUT.FORMAT``. A ConvRNN is unrolled for its STEPS, its image goes off as IMAGE_STEPS says.

    Args:
        cfg: config of the model.
        weights: checkpoint that fits the config; a path or a URL.
        layers: outputs of its backbone; of a ConvRNN any of its layers.
        pictures: files by the ids of the stimuli.
        folder: exists; a file for each layer stands in it, named after the layer and where its
            features come from.
        settings: None for the defaults.

    Raises:
        CheckpointError: the weights are missing, unsafe or of another architecture.
        ConfigError: an unknown layer, or an impossible config.
        DatasetError: a picture cannot be read; or features are not finite.
    """
    settings = settings or FeatureSettings()
    local = local_weights(weights)
    cfg = _feature_config(cfg, layers)
    what = _origin(cfg, local, pictures, settings)
    files, found = {}, {}
    for layer in dict.fromkeys(layers):
        origin = hashlib.sha256(f"{what} {layer}".encode()).hexdigest()
        path = folder / f"{layer}-{origin[:12]}.nc"
        if there := _kept(path, origin):
            logger.info("features of %s: those of %s", layer, path)
            found[layer] = there
        else:
            files[layer] = (path, origin)
    if files:
        model = build_model(cfg)
        PanopticCheckpointer(model).load(weights, checkpointables=[], strict=True)
        extract_features(
            _network(model.eval()),
            _batches(cfg, model, pictures, settings.batch),
            list(pictures),
            {layer: path for layer, (path, _) in files.items()},
            projection=settings.projection,
            seed=settings.seed,
            origin={layer: origin for layer, (_, origin) in files.items()},
        )
    found |= {layer: FeatureFile(path) for layer, (path, _) in files.items()}
    return {layer: found[layer] for layer in dict.fromkeys(layers)}


def fit_rows(
    label: str,
    features: dict[str, FeatureFile],
    assembly: Assembly,
    settings: FitSettings,
    *,
    drop_bins: bool = False,
) -> tuple[list[Row], list[Row]]:
    """Fit layers of a model to an assembly.

    Args:
        label: name of the model.
        features: by layer.
        assembly: the responses.
        settings: of the fits.
        drop_bins: leave out the bins of time for which a layer has no answer; they are logged.

    Returns:
        rows of all bins, and one row for each layer; see
        :func:`rpanoptic.pathfinder.imagenet.neural_fit.bin_rows`, and "label", "layer", "map",
        "assembly" and "stimuli" before them.

    Raises:
        ConfigError: bins for which a layer has no answer, or for which none has.
        DatasetError: too few stimuli or repetitions.
    """
    by_bin, overall = [], []
    for layer, file in features.items():
        shown = _covered(file, assembly, drop=drop_bins)
        fit = fit_neurons(file.at(shown.bins), shown, settings)
        identity: Row = {
            "label": label,
            "layer": layer,
            "map": settings.map.kind,
            "assembly": assembly.name,
            "stimuli": len(assembly.stimuli),
        }
        by_bin += [identity | row for row in bin_rows(fit, seed=settings.seed)]
        overall.append(identity | overall_row(fit, seed=settings.seed))
    return by_bin, overall


def stimulus_pictures(assembly: Assembly, pictures: Sequence[Path]) -> dict[str, Path]:
    """The pictures of an assembly's stimuli by their ids.

    Raises:
        DatasetError: see :func:`match_stimuli`.
    """
    return dict(zip(assembly.stimuli, match_stimuli(assembly, pictures), strict=True))


def _feature_config(cfg: CfgNode, layers: Sequence[str]) -> CfgNode:
    """The config of a model that puts out the layers, and whose steps can be seen."""
    cfg = cfg.clone()
    cfg.defrost()
    # Every stimulus counts.
    cfg.RPANOPTIC.CLASSIFICATION.UNREADABLE = "raise"
    if "convrnn" in cfg.MODEL.BACKBONE.NAME:
        node = cfg.MODEL.RECURRENT.CONVRNN
        # Those of the config stay the last, of which a classifier may read the last.
        first = [name for name in dict.fromkeys(layers) if name not in node.OUT_FEATURES]
        node.OUT_FEATURES = [*first, *node.OUT_FEATURES]
        # Nothing is differentiated, and all methods take the same steps.
        node.GRADIENT = "bptt"
    return cfg


def _kept(path: Path, origin: str) -> FeatureFile | None:
    """Features that were taken before; None if there are none, or they are damaged."""
    if not path.is_file():
        return None
    try:
        there = FeatureFile(path)
    except DatasetError as error:
        logger.warning("features are taken again: %s", error)
        return None
    return there if there.header.origin == origin else None


def _network(model: nn.Module) -> nn.Module:
    """The part of a model that gives features: its backbone, of an FPN what is under it."""
    backbone: nn.Module = model.get_submodule("backbone")
    bottom_up = getattr(backbone, "bottom_up", backbone)
    return bottom_up if isinstance(bottom_up, ConvRNN) else backbone


def _batches(
    cfg: CfgNode, model: nn.Module, pictures: dict[str, Path], size: int
) -> Iterator[Tensor]:
    """The pictures as the backbone takes them, ``(n, C, S, S)``."""
    # Any: a detector's buffers are not declared on nn.Module.
    owner: Any = model
    mapper = ClassificationMapper(cfg, is_train=False)
    items = list(pictures.items())
    # None: no bar where nobody watches.
    for start in tqdm(range(0, len(items), size), desc="features", unit="batch", disable=None):
        records = [
            {"file_name": str(path), "image_id": name, "label": 0}
            for name, path in items[start : start + size]
        ]
        images = torch.stack([mapper(record)["image"] for record in records])
        yield (images.to(owner.pixel_mean.device) - owner.pixel_mean) / owner.pixel_std


def _origin(
    cfg: CfgNode, weights: Path, pictures: dict[str, Path], settings: FeatureSettings
) -> str:
    """What features depend on, but for their layer."""
    model = cfg.MODEL.clone()
    model.defrost()
    model.WEIGHTS = model.DEVICE = ""
    model.RECURRENT.CONVRNN.OUT_FEATURES = []
    parts = [
        file_sha256(weights),
        model.dump(),
        cfg.INPUT.FORMAT,
        cfg.RPANOPTIC.CLASSIFICATION.dump(),
        [settings.projection, settings.seed],
        [(name, file_sha256(path)) for name, path in pictures.items()],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _covered(file: FeatureFile, assembly: Assembly, *, drop: bool) -> Assembly:
    """The assembly at the bins for which a layer has an answer."""
    layer, bins = file.header.layer, file.header.bins
    covered = file.covers(assembly.bins)
    if covered.all():
        return assembly
    places = [place for place in range(len(covered)) if not covered[place]]
    labels = listed([assembly.bins.label(place) for place in places], most=8)
    when = f"layer {layer} answers from {bins.start[0]:g} to {bins.end[-1]:g} ms"
    if not drop:
        raise ConfigError(
            f"assembly {assembly.name}: {len(places)} of its {len(covered)} time_bin lie outside "
            f"the model's times, {labels}: {when}. --window chooses bins, --drop-bins leaves out "
            "those outside; MODEL.RECURRENT.CONVRNN.STEPS lets the model run longer."
        )
    if not covered.any():
        raise ConfigError(f"assembly {assembly.name}: no time_bin is left; {when}.")
    logger.warning("%s: %s; left out: %s", assembly.name, when, labels)
    return assembly.at_bins(covered.nonzero()[0])
