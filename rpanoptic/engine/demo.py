"""Applying a trained model to a user's own pictures, and drawing what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.modeling import build_model

from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.engine.checkpoint import PanopticCheckpointer, checkpoint_classes
from rpanoptic.engine.predictor import Predictor, mask_recurrence
from rpanoptic.errors import ConfigError
from rpanoptic.visualization import draw_output, draw_steps, save_png


class Demo:
    """A model with its weights that draws pictures.

    Args:
        cfg: config of the model. Where the checkpoint holds no classes, their names come from the
            first of ``DATASETS.TEST``, of which no file is needed if it is a registered one.
        weights: checkpoint that fits the config; a path or a URL.
        threshold: least score of a thing, 0 to 1.

    Raises:
        CheckpointError: the weights are missing, unsafe or of another architecture.
        ConfigError: the checkpoint holds no classes, and the config names no test set, or one
            without class names.
    """

    def __init__(self, cfg: CfgNode, weights: str, *, threshold: float = 0.5) -> None:
        cfg = cfg.clone()
        cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = threshold
        self._threshold = threshold
        self._metadata = _metadata(cfg, checkpoint_classes(weights))
        model = build_model(cfg)
        PanopticCheckpointer(model).load(weights, checkpointables=[], strict=True)
        self._predict = Predictor(cfg, model)
        self.recurrent = mask_recurrence(model) is not None

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Draw the panoptic prediction over an RGB uint8 picture."""
        output = self._predict(image)
        if "panoptic_seg" not in output and "instances" in output:
            instances = output["instances"]
            output["instances"] = instances[instances.scores >= self._threshold]
        return draw_output(image, output, self._metadata)

    def draw_steps(self, image: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """Draw the recurrent head's masks after each number of steps, side by side.

        Raises:
            ConfigError: the mask head is not recurrent.
        """
        masks = self._predict.masks_by_step(image, steps, threshold=self._threshold)
        return draw_steps(image, masks, self._metadata)

    def save(self, image: np.ndarray, folder: Path, name: str, steps: Sequence[int]) -> list[Path]:
        """Write ``name``_panoptic.png and, for a recurrent mask head, ``name``_steps.png.

        Returns:
            the files written.

        Raises:
            PictureError: the picture is too narrow for the model.
        """
        files = [save_png(folder / f"{name}_panoptic.png", self.draw(image))]
        if self.recurrent:
            files.append(save_png(folder / f"{name}_steps.png", self.draw_steps(image, steps)))
        return files


def _metadata(cfg: CfgNode, classes: ClassTable | None) -> Metadata:
    if classes is not None:
        return Metadata(name="checkpoint", **classes.metadata())
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: its first dataset names the classes.")
    name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(name)
    if not (metadata.get("thing_classes") or metadata.get("stuff_classes")):
        raise ConfigError(f"DATASETS.TEST: dataset {name} is unknown or names no classes.")
    return metadata
