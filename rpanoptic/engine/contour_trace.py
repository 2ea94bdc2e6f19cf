"""Following a trained contour tracer over its steps, on drawn pictures or a user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from PIL import Image

from rpanoptic.data import check_dataset
from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.inputs import PictureError, output_names, read_picture
from rpanoptic.errors import ConfigError, naming
from rpanoptic.pathfinder.mapper import PathfinderMapper
from rpanoptic.pathfinder.models import ContourSegmentor
from rpanoptic.recurrent import recurrent_blocks
from rpanoptic.recurrent.stability import PrincipalComponents, principal_components
from rpanoptic.visualization import draw_components, save_figure, save_png
from rpanoptic.visualization.contour_trace import (
    ContourTrace,
    draw_trace_strip,
    strip_steps,
    trace_frames,
)
from rpanoptic.visualization.gif import save_gif

# A name, and what reads the picture and makes it a model's input.
NamedPicture = tuple[str, Callable[[], dict[str, Any]]]


class ContourTracer:
    """A contour tracer with its weights, whose readout and state are seen at every step.

    Args:
        cfg: config of the model.
        weights: checkpoint that fits the config; a path or a URL.
        steps: how far it is followed; None for twice its trained steps.

    Attributes:
        steps: how far it is followed.
        trained_steps: its steps in training.

    Raises:
        CheckpointError: the weights are missing, unsafe or of another architecture.
        ConfigError: the model traces no contours or has no recurrence; or it needs more ``steps``.
    """

    def __init__(self, cfg: CfgNode, weights: str, *, steps: int | None = None) -> None:
        model = build_model(cfg)
        if not isinstance(model, ContourSegmentor):
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}: it traces no contour; "
                f"{ContourSegmentor.__name__} does."
            )
        blocks = list(recurrent_blocks(model).values())
        if not blocks:
            raise ConfigError(
                f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME}: the model has no recurrence that "
                "could be followed; build_pathfinder_recurrent_backbone has one."
            )
        self.trained_steps = blocks[0].steps
        with naming("--steps"):
            self.steps = blocks[0].check_steps(
                "steps", 2 * self.trained_steps if steps is None else steps
            )
        PanopticCheckpointer(model).load(weights, checkpointables=[], strict=True)
        self._model = model.eval()

    @property
    def least_steps(self) -> int:
        """For how many steps the state has to be followed to be drawn as a trajectory."""
        # Two components need as many states, and one more for their mean.
        return max(self.trained_steps, 3)

    def trace(
        self, inputs: dict[str, Any], *, trajectory: bool = False
    ) -> tuple[ContourTrace, PrincipalComponents | None]:
        """Follow the model on one picture.

        Args:
            inputs: one picture as :meth:`ContourSegmentor.forward` takes it, grey, and its
                "sem_seg" if the truth is known.
            trajectory: whether to look at the course of the state too; all states are in memory
                then.

        Returns:
            the readout after each step; the states in the plane in which they move most, or None.

        Raises:
            ValueError: a trajectory of fewer than three steps.
        """
        readouts, states = [], []
        for state in self._model.states([inputs], self.steps):
            probability = self._model.read_out(state).float().softmax(dim=1)[0, 1]
            # Half precision: of many pictures and steps all are kept, and eight bits are drawn.
            readouts.append(probability.half().cpu().numpy())
            if trajectory:
                states.append(state)
        trace = ContourTrace(
            image=inputs["image"][0].round().clamp(0, 255).byte().numpy(),
            probability=np.stack(readouts),
            target=inputs["sem_seg"].numpy() if "sem_seg" in inputs else None,
        )
        return trace, principal_components(states) if trajectory else None


def dataset_pictures(
    cfg: CfgNode, name: str | None, *, first: int, samples: int
) -> list[NamedPicture]:
    """Pictures of a set of contours, with their truth, as evaluation gives them to the model.

    Args:
        cfg: config of the model; ``INPUT`` counts.
        name: a registered set; None for the first of ``DATASETS.TEST``.
        first: index of the first picture.
        samples: how many.

    Returns:
        the pictures, named by dataset and index.

    Raises:
        ConfigError: no dataset is named; it is not one of contours to trace; or it has fewer
            pictures.
        DatasetError: the dataset is unknown, missing or damaged.
    """
    if name is None:
        if not cfg.DATASETS.TEST:
            raise ConfigError("DATASETS.TEST is empty: name a dataset there or by --dataset.")
        name = cfg.DATASETS.TEST[0]
    check_dataset(name)
    kind = MetadataCatalog.get(name).get("evaluator_type")
    if kind != "pathfinder_segmentation":
        raise ConfigError(
            f"dataset {name}: expected contours to trace (pathfinder_segmentation); it is for "
            f"{kind}."
        )
    records = DatasetCatalog.get(name)
    if first + samples > len(records):
        raise ConfigError(
            f"--first {first}, --samples {samples}: the last picture of dataset {name} is "
            f"{len(records) - 1}."
        )
    mapper = PathfinderMapper(cfg, is_train=False)
    return [
        (f"{name}_{index:06d}", partial(mapper, records[index]))
        for index in range(first, first + samples)
    ]


def own_pictures(
    cfg: CfgNode, paths: Sequence[Path], *, taken: Sequence[str]
) -> list[NamedPicture]:
    """A user's own pictures, of which the truth is not known; see :func:`read_grey`.

    Args:
        cfg: config of the model; ``INPUT`` counts.
        paths: of the pictures.
        taken: names that none may have.
    """
    names = output_names(paths, taken=taken)
    return [(names[path], partial(read_grey, cfg, path)) for path in paths]


def read_grey(cfg: CfgNode, path: Path) -> dict[str, Any]:
    """Read a picture in grey, its shorter side as long as that of the pictures in evaluation.

    Args:
        cfg: config of the model; ``INPUT`` counts.
        path: of the picture.

    Returns:
        a model's input, without a truth.

    Raises:
        PictureError: the picture cannot be read, or is so narrow that nothing is left of it.
    """
    grey = cv2.cvtColor(read_picture(path), cv2.COLOR_RGB2GRAY)
    size, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    # As in PathfinderMapper, 0 keeps the size.
    if size > 0:
        height, width = grey.shape
        resize = T.ResizeShortestEdge(size, longest, interp=Image.Resampling.BICUBIC).get_transform(
            grey
        )
        if min(resize.new_h, resize.new_w) < 1:
            raise PictureError(
                f"picture {path}: {width} x {height} pixels are too narrow: at the model's size, "
                f"at most {longest} pixels long, nothing is left of the shorter side."
            )
        grey = resize.apply_image(grey)
    height, width = grey.shape
    return {
        "image": torch.as_tensor(grey[None].astype("float32")),
        "height": height,
        "width": width,
    }


def save_traces(
    folder: Path,
    name: str,
    traces: Sequence[ContourTrace],
    trained_steps: int,
    *,
    columns: int = 1,
    cell_width: int = 150,
) -> list[Path]:
    """Write ``name``.png, the readout after some steps in a row, and ``name``.gif, after each.

    Args:
        folder: exists.
        name: of the files.
        traces: all of equally many steps; a row each in the strip.
        trained_steps: the steps in training.
        columns: how many stand side by side in the GIF.
        cell_width: width of one picture in the GIF, pixels.

    Returns:
        the files, each of which appeared only when it was complete.
    """
    counts = strip_steps(len(traces[0].probability), trained_steps)
    frames = trace_frames(traces, trained_steps, columns=columns, cell_width=cell_width)
    return [
        save_png(folder / f"{name}.png", draw_trace_strip(traces, counts)),
        save_gif(folder / f"{name}.gif", frames),
    ]


def save_trajectories(
    file: Path, components: Sequence[PrincipalComponents], trained_steps: int
) -> Path:
    """Draw the course of the state on each picture; see :func:`draw_components`.

    Args:
        file: a PNG; its folder must exist.
        components: of one picture each.
        trained_steps: the steps in training; the state was followed at least so far.

    Returns:
        the file, which appeared only when it was complete.
    """
    figure = draw_components(
        torch.cat([one.projections for one in components], dim=1).cpu(),
        torch.cat([one.explained for one in components]).cpu(),
        trained_steps,
        title="state after each step",
    )
    return save_figure(file, figure)
