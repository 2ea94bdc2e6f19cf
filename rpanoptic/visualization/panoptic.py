"""Ground truth and predictions drawn over a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as rle
import torch
from detectron2.data.catalog import Metadata
from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances, polygons_to_bitmask
from detectron2.utils.visualizer import Visualizer

from rpanoptic.visualization.colors import Color, class_color, instance_color
from rpanoptic.visualization.style import as_it_is

# Labels are legible from about this size on; smaller pictures are enlarged.
MIN_SIDE = 440
# A long and narrow picture is not enlarged beyond this.
_MAX_SIDE = 4000
_STUFF_OPACITY = 0.5
_THING_OPACITY = 0.65
_EDGE = (1.0, 1.0, 0.94)
# Stuff below this share of the picture gets no label.
_MIN_LABELLED = 0.004


def draw_panoptic(
    image: np.ndarray,
    panoptic_seg: np.ndarray | torch.Tensor,
    segments_info: Sequence[dict[str, Any]],
    metadata: Metadata,
) -> np.ndarray:
    """Draw the segments of a panoptic segmentation, each in its class's colour with its name.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        panoptic_seg: ``(H, W)`` segment ids; pixels whose id is not listed stay as they are.
        segments_info: for each segment "id", "category_id" (contiguous), "isthing", and
            optionally "score".
        metadata: class names, and colours if it has them.

    Returns:
        RGB uint8; small pictures are enlarged so that the labels can be read.
    """
    ids = np.asarray(panoptic_seg)
    canvas = enlarged(image)
    visualizer = Visualizer(canvas, metadata)
    things = []
    for segment in segments_info:
        mask = enlarged_mask(ids == segment["id"], canvas)
        if not mask.any():
            continue
        if segment["isthing"]:
            things.append((mask, segment["category_id"], segment.get("score")))
        else:
            _draw_stuff(visualizer, mask, segment["category_id"], metadata)
    _draw_things(visualizer, things, metadata)
    return visualizer.output.get_image()


def draw_output(image: np.ndarray, output: dict[str, Any], metadata: Metadata) -> np.ndarray:
    """Draw what a model predicted: its panoptic segmentation, else its instances, else its stuff.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        output: Detectron2's output for this picture.
        metadata: class names and colours.

    Returns:
        RGB uint8, see :func:`draw_panoptic`; the bare picture if ``output`` has none.
    """
    if "panoptic_seg" in output:
        panoptic_seg, segments_info = output["panoptic_seg"]
        return draw_panoptic(image, panoptic_seg.cpu(), segments_info, metadata)
    if "instances" in output:
        return draw_instances(image, output["instances"].to("cpu"), metadata)
    if "sem_seg" in output:
        labels = output["sem_seg"].argmax(dim=0).cpu()
        segments = [
            {"id": label, "category_id": label, "isthing": False}
            for label in torch.unique(labels).tolist()
        ]
        return draw_panoptic(image, labels, segments, metadata)
    return enlarged(image)


def draw_instances(image: np.ndarray, instances: Instances, metadata: Metadata) -> np.ndarray:
    """Draw the masks of detections, or their boxes if there are none, with names and scores.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        instances: with "pred_classes", "scores", and boolean "pred_masks" ``(N, H, W)`` or
            "pred_boxes", at the picture's size.
        metadata: class names and colours.

    Returns:
        RGB uint8, see :func:`draw_panoptic`.
    """
    canvas = enlarged(image)
    visualizer = Visualizer(canvas, metadata)
    if not instances.has("pred_masks"):
        _draw_boxes(visualizer, instances, canvas.shape[0] / image.shape[0], metadata)
        return visualizer.output.get_image()
    things = [
        (enlarged_mask(mask.numpy(), canvas), category, score)
        for mask, category, score in zip(
            instances.pred_masks,
            instances.pred_classes.tolist(),
            instances.scores.tolist(),
            strict=True,
        )
    ]
    _draw_things(visualizer, things, metadata)
    return visualizer.output.get_image()


def draw_record(image: np.ndarray, record: dict[str, Any], metadata: Metadata) -> np.ndarray:
    """Draw the ground truth of a dataset's record.

    Args:
        image: ``(H, W, 3)`` uint8, RGB; the picture of the record.
        record: in Detectron2's format, panoptic ("pan_seg_file_name", "segments_info") or
            separated ("annotations", "sem_seg_file_name").
        metadata: of the dataset.

    Returns:
        RGB uint8, see :func:`draw_panoptic`.
    """
    panoptic_seg, segments_info = panoptic_from_record(record, (image.shape[0], image.shape[1]))
    return draw_panoptic(image, panoptic_seg, segments_info, metadata)


def panoptic_from_record(
    record: dict[str, Any], shape: tuple[int, int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The panoptic ground truth of a record, in the form of a prediction.

    Args:
        record: see :func:`draw_record`.
        shape: (H, W) of the picture.

    Returns:
        ``(H, W)`` int64 segment ids, 0 where nothing is labelled; and the segments.
    """
    if "pan_seg_file_name" in record:
        rgb = read_image(record["pan_seg_file_name"], "RGB").astype(np.int64)
        return rgb @ np.array([1, 256, 256**2]), record["segments_info"]
    ids = np.zeros(shape, dtype=np.int64)
    segments: list[dict[str, Any]] = []
    if "sem_seg_file_name" in record:
        labels = read_image(record["sem_seg_file_name"])
        # 0 stands for "some thing" and 255 for unlabelled in the separated format.
        for label in sorted(set(np.unique(labels).tolist()) - {0, 255}):
            segments.append({"id": len(segments) + 1, "category_id": label, "isthing": False})
            ids[labels == label] = len(segments)
    for annotation in record.get("annotations", ()):
        if "segmentation" not in annotation:
            continue
        category = annotation["category_id"]
        segments.append({"id": len(segments) + 1, "category_id": category, "isthing": True})
        ids[_to_bitmask(annotation["segmentation"], shape)] = len(segments)
    return ids, segments


def enlarged(image: np.ndarray) -> np.ndarray:
    """A copy of a picture, enlarged if its shorter side is below :data:`MIN_SIDE`."""
    height, width = image.shape[:2]
    factor = max(1.0, min(MIN_SIDE / min(height, width), _MAX_SIDE / max(height, width)))
    size = (round(width * factor), round(height * factor))
    if factor == 1.0:
        return image.copy()
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


def enlarged_mask(mask: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """A boolean ``(h, w)`` mask at the size of the enlarged picture, with a smooth outline."""
    height, width = canvas.shape[:2]
    if mask.shape == (height, width):
        return mask
    size = (width, height)
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5


def _draw_stuff(
    visualizer: Visualizer, mask: np.ndarray, category: int, metadata: Metadata
) -> None:
    color = class_color(metadata, "stuff", category)
    visualizer.draw_binary_mask(mask, color=color, edge_color=_EDGE, alpha=_STUFF_OPACITY)
    if mask.mean() >= _MIN_LABELLED:
        _write_label(visualizer, mask, metadata.stuff_classes[category], color)


def _draw_things(
    visualizer: Visualizer, things: list[tuple[np.ndarray, int, float | None]], metadata: Metadata
) -> None:
    seen: Counter[int] = Counter()
    labels = []
    for mask, category, score in sorted(things, key=lambda thing: -thing[0].sum()):
        color = instance_color(class_color(metadata, "thing", category), seen[category])
        seen[category] += 1
        visualizer.draw_binary_mask(mask, color=color, edge_color=color, alpha=_THING_OPACITY)
        name = metadata.thing_classes[category]
        labels.append((mask, name if score is None else f"{name} {score:.0%}", color))
    # After all masks, so that none hides the label of another.
    for mask, text, color in labels:
        if mask.any():
            _write_label(visualizer, mask, text, color)


def _draw_boxes(
    visualizer: Visualizer, instances: Instances, factor: float, metadata: Metadata
) -> None:
    """Draw boxes, the best on top; ``factor`` is that by which the picture was enlarged."""
    seen: Counter[int] = Counter()
    for index in instances.scores.argsort().tolist():
        category = int(instances.pred_classes[index])
        color = instance_color(class_color(metadata, "thing", category), seen[category])
        seen[category] += 1
        box = (instances.pred_boxes.tensor[index] * factor).tolist()
        visualizer.draw_box(box, edge_color=color, alpha=_THING_OPACITY)
        text = f"{metadata.thing_classes[category]} {float(instances.scores[index]):.0%}"
        place = (box[0], box[1])
        visualizer.draw_text(as_it_is(text), place, color=color, horizontal_alignment="left")


def _write_label(visualizer: Visualizer, mask: np.ndarray, text: str, color: Color) -> None:
    """Write a label where the mask is widest, and wholly inside the picture."""
    height, width = mask.shape
    room = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(room.argmax()), room.shape)
    points = max(10.0, np.sqrt(height * width) / 44)
    line = points * visualizer.output.dpi / 72
    # A letter is about 0.6 of the line's height wide; Detectron2 hangs the text below its point.
    half = min(0.31 * line * len(text) + 2, width / 2)
    x = float(np.clip(column, half, width - half))
    y = float(np.clip(row - line / 2, 1, max(1.0, height - 1.4 * line)))
    # Half way to white: legible on the black behind it, and still of its class.
    tint = tuple((1 + value) / 2 for value in color)
    visualizer.draw_text(as_it_is(text), (x, y), font_size=points, color=tint)


def _to_bitmask(segmentation: Any, shape: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        return polygons_to_bitmask([np.asarray(p) for p in segmentation], *shape)
    if isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, *shape)
    return rle.decode(segmentation).astype(bool)
