"""Writes the synthetic panoptic set as files in the COCO panoptic format."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from iopath.common.file_io import file_lock

from rpanoptic.data.panoptic_format import panoptic_rgb, stuff_labels, thing_annotation
from rpanoptic.data.parallel import map_in_processes
from rpanoptic.data.synthetic_classes import CLASSES, THINGS, coco_categories
from rpanoptic.data.synthetic_scene import MIN_SIZE, Scene, draw_scene
from rpanoptic.errors import DatasetError

# Raise it whenever an unchanged seed would draw or write anything else.
GENERATOR_VERSION = 1

# The set that is built on first use of its registered names.
DEFAULT_TRAIN = 1000
DEFAULT_VAL = 100
DEFAULT_SIZE = 128
DEFAULT_SEED = 0

SPLITS = ("train", "val")
MANIFEST = "manifest.json"

_JPEG_QUALITY = 95
_PNG_COMPRESSION = 3
_SCRIPT = "datasets/prepare_synthetic_panoptic.py"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyntheticParameters:
    """What a synthetic set is made of; two equal ones make byte-identical files.

    Attributes:
        train: number of pictures to train on, at least 1.
        val: number of held-out pictures, at least 1.
        size: side of the pictures in pixels, at least 64.
        seed: non-negative. Picture ``i`` of a split depends on seed, split and ``i`` alone.
    """

    train: int = DEFAULT_TRAIN
    val: int = DEFAULT_VAL
    size: int = DEFAULT_SIZE
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        for name, least in (("train", 1), ("val", 1), ("size", MIN_SIZE), ("seed", 0)):
            if getattr(self, name) < least:
                raise DatasetError(
                    f"A synthetic set needs {name} of at least {least}, got {getattr(self, name)}."
                )


def build_synthetic_panoptic(
    folder: Path,
    parameters: SyntheticParameters | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> bool:
    """Write a synthetic set, unless a set of these parameters is there already.

    The set appears in ``folder`` all at once, when it is complete. Several processes may call
    this at the same time: one builds, the others wait.

    Args:
        folder: where the set goes. It holds ``{split}/*.jpg``, ``panoptic_{split}/*.png``,
            ``panoptic_stuff_{split}/*.png``, ``annotations/panoptic_{split}.json``,
            ``annotations/instances_{split}.json`` and a manifest.
        parameters: the defaults, when None.
        workers: number of processes; the files do not depend on it.
        overwrite: replace a set that another version or other parameters made.
        progress: whether to show a progress bar.

    Returns:
        Whether anything was written.

    Raises:
        DatasetError: ``folder`` holds something else, or cannot be written.
    """
    parameters = parameters or SyntheticParameters()
    folder = folder.absolute()
    try:
        if _is_there(folder, parameters, overwrite):
            return False
        with file_lock(str(folder)):
            # Another process may have built the set while this one waited.
            if _is_there(folder, parameters, overwrite):
                return False
            _logger.info(f"Drawing the synthetic panoptic set into {folder}")
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            for index, split in enumerate(SPLITS):
                _write_split(unfinished, split, index, parameters, workers, progress)
            manifest = {"version": GENERATOR_VERSION, **asdict(parameters)}
            (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            if folder.exists():
                shutil.rmtree(folder)
            unfinished.rename(folder)
            # Whoever takes the lock from now on finds the set complete, so it can go.
            folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(
            f"{folder}: the synthetic panoptic set cannot be written there ({error})."
        ) from error
    return True


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the complete synthetic set in ``folder``, or None if nothing is there.

    Raises:
        DatasetError: the folder holds something else, or a set of another generator version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise DatasetError(
                f"{folder} holds no synthetic panoptic set: {MANIFEST} is missing. Move the "
                f"folder away, or choose another one."
            )
        return None
    try:
        manifest = json.loads(path.read_text())
        SyntheticParameters(**{key: manifest[key] for key in ("train", "val", "size", "seed")})
        version = manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: no manifest of a synthetic panoptic set ({error}).") from None
    if version != GENERATOR_VERSION:
        raise DatasetError(
            f"{folder}: this synthetic panoptic set was drawn by generator version {version}, "
            f"this is version {GENERATOR_VERSION}. Delete the folder, or rebuild it: "
            f"{_rebuild_command(folder)}"
        )
    return manifest


def _rebuild_command(folder: Path) -> str:
    return f"python {_SCRIPT} --output {folder} --overwrite"


def _is_there(folder: Path, parameters: SyntheticParameters, overwrite: bool) -> bool:
    """Whether the wanted set is in ``folder``. Raises if something else is, unless replaceable."""
    try:
        manifest = read_manifest(folder)
    except DatasetError:
        # Only what carries a manifest of ours is ever deleted.
        if overwrite and (folder / MANIFEST).is_file():
            return False
        raise
    wanted = asdict(parameters)
    if manifest is None or manifest == {"version": GENERATOR_VERSION, **wanted}:
        return manifest is not None
    if overwrite:
        return False
    found = {key: manifest[key] for key in wanted}
    raise DatasetError(
        f"{folder} holds a synthetic panoptic set with {_spell(found)}, not {_spell(wanted)}. "
        f"Choose another folder, or add --overwrite to replace it."
    )


def _spell(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in parameters.items())


def _write_split(
    root: Path,
    split: str,
    split_index: int,
    parameters: SyntheticParameters,
    workers: int,
    progress: bool,
) -> None:
    for name in (split, f"panoptic_{split}", f"panoptic_stuff_{split}", "annotations"):
        (root / name).mkdir(parents=True, exist_ok=True)
    write = partial(_write_picture, root, split, split_index, parameters.size, parameters.seed)
    records = map_in_processes(
        write,
        range(getattr(parameters, split)),
        workers=workers,
        description=f"synthetic_panoptic_{split}",
        progress=progress,
    )
    images = [image for image, _, _ in records]
    things = [annotation for _, _, annotations in records for annotation in annotations]
    for number, annotation in enumerate(things, start=1):
        annotation["id"] = number
    info = {"description": "rpanoptic synthetic panoptic set", "version": GENERATOR_VERSION}
    contents = {
        "panoptic": (CLASSES, [panoptic for _, panoptic, _ in records]),
        "instances": (THINGS, things),
    }
    for kind, (classes, items) in contents.items():
        content = {
            "info": info,
            "images": images,
            "annotations": items,
            "categories": coco_categories(classes),
        }
        (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))


def _write_picture(
    root: Path, split: str, split_index: int, size: int, seed: int, index: int
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Write the three files of a picture; returns its image record and its annotations."""
    # OpenCV's own threads would fight with the worker processes.
    cv2.setNumThreads(1)
    sequence = np.random.SeedSequence(seed, spawn_key=(split_index, index))
    scene = draw_scene(size, np.random.Generator(np.random.Philox(sequence)))
    image_id = index + 1
    stem = f"{image_id:012d}"
    ids = _segment_ids(scene)
    labels_of = stuff_labels(coco_categories(CLASSES))
    labels = np.array([labels_of[item.id] for item in scene.segments], dtype=np.uint8)

    _write_image(root / split / f"{stem}.jpg", scene.image)
    _write_image(
        root / f"panoptic_{split}" / f"{stem}.png", _paint(scene.index_map, panoptic_rgb(ids))
    )
    _write_image(root / f"panoptic_stuff_{split}" / f"{stem}.png", _paint(scene.index_map, labels))

    segments, things = [], []
    for position, item in enumerate(scene.segments):
        geometry = thing_annotation(scene.index_map == position)
        common = {"category_id": item.id, "iscrowd": 0}
        common |= {"area": geometry["area"], "bbox": geometry["bbox"]}
        segments.append({"id": int(ids[position]), **common})
        if item.isthing:
            segmentation = geometry["segmentation"]
            things.append({"id": 0, "image_id": image_id, **common, "segmentation": segmentation})
    image = {"id": image_id, "file_name": f"{stem}.jpg", "height": size, "width": size}
    panoptic = {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments}
    return image, panoptic, things


def _segment_ids(scene: Scene) -> np.ndarray:
    """An id for each segment: its class colour, darker for each further one of the class.

    So a panoptic PNG, opened in any viewer, shows the segmentation.
    """
    seen: dict[int, int] = {}
    ids = []
    for item in scene.segments:
        earlier = seen[item.id] = seen.get(item.id, -1) + 1
        red, green, blue = (round(channel * 0.86**earlier) for channel in item.color)
        ids.append(red | green << 8 | blue << 16)
    return np.array(ids, dtype=np.uint32)


def _paint(index_map: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``values[index_map]`` for uint8 maps (H, W) and values (N,) or (N, 3), many times faster."""
    table = np.zeros((1, 256, *values.shape[1:]), dtype=np.uint8)
    table[0, : len(values)] = values
    channels = 1 if values.ndim == 1 else values.shape[1]
    return cv2.LUT(cv2.merge([index_map] * channels), table)


def _write_image(path: Path, pixels: np.ndarray) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    if path.suffix == ".png":
        options = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION]
    stored = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(path.suffix, stored, options)
    if not done:
        raise OSError(f"OpenCV could not encode {path.name}")
    path.write_bytes(data.tobytes())
