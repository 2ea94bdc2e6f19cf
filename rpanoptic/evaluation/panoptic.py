"""Panoptic quality by panopticapi's own counting, picture by picture."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import ConfigError, DatasetError, listed
from rpanoptic.evaluation.panoptic_count import (
    ClassCount,
    PictureCount,
    class_places,
    count_picture,
    write_prediction,
)
from rpanoptic.evaluation.panoptic_prediction import (
    PanopticPrediction,
    PredictedIds,
    plain,
    read_prediction,
)
from rpanoptic.evaluation.panoptic_results import PanopticQuality
from rpanoptic.evaluation.panoptic_truth import Annotation, ImageId, PanopticTruth
from rpanoptic.evaluation.samples import Samples, sample_name
from rpanoptic.visualization.confusion import draw_confusion
from rpanoptic.visualization.style import save_figure

logger = logging.getLogger(__name__)

# Characters of an id in the name of a file.
_LONGEST_NAME = 150


class _Kept(NamedTuple):
    """A prediction that is kept: (height, width), and its annotation in COCO's panoptic format."""

    size: tuple[int, int]
    annotation: dict[str, Any]


class _Picture(NamedTuple):
    """A picture that was judged: what it adds, None without ground truth; what is kept of it."""

    image_id: ImageId
    file_name: str | None
    counted: PictureCount | None
    kept: _Kept | None


@dataclass
class _Sums:
    """What all pictures add up to, and how many had what."""

    counts: dict[int, ClassCount]
    confusion: np.ndarray
    judged: int = 0
    unannotated: int = 0
    other_areas: int = 0


class PanopticEvaluator(DatasetEvaluator):
    """Panoptic quality (PQ, SQ, RQ) of a dataset with a COCO panoptic JSON and its PNGs.

    It reads ``outputs[i]["panoptic_seg"]``, see
    :func:`rpanoptic.evaluation.panoptic_prediction.read_prediction`, and ``inputs[i]["image_id"]``.
    Each picture is counted when it comes, in this process, by panopticapi's own code, so that the
    figures are those of panopticapi. They do not depend on how many processes shared the dataset,
    and a picture that comes twice counts once.

    * Areas of the ground truth are those of the PNGs, whatever the JSON says.
    * ``iscrowd`` that is absent is 0.
    * A picture without ground truth is left out. If no picture has any, all figures are NaN.
    * A picture with ground truth that never comes has missed all its segments; the log warns of
      how many there are.
    * A class that neither ground truth nor predictions have is NaN, and counts in no mean.

    The result is ``{"panoptic_seg": {...}}`` with ``PQ``, ``SQ`` and ``RQ`` of all classes, of
    things (``PQ_th``, ...) and of stuff (``PQ_st``, ...), in per cent. The main process also logs a
    table of the classes, and writes into ``folder``

    * ``<dataset>_panoptic_results.json``: the same with the counts of each class, null for NaN;
    * ``<dataset>_panoptic_confusion.png``: pixels by true and predicted class, of the pictures that
      came;
    * with ``keep_predictions``, ``<dataset>_panoptic_predictions.json`` in COCO's panoptic format
      and the PNGs in the folder of that name. The JSON is there only if it is complete.

    Args:
        dataset_name: a registered dataset.
        folder: where the files go, made if need be; None writes none. Several processes of one
            evaluation share it.
        keep_predictions: keep them.

    Raises:
        DatasetError: the metadata names no panoptic files or ids; or the JSON is damaged.
        ValueError: predictions are to be kept in no folder.
    """

    def __init__(
        self, dataset_name: str, folder: str | Path | None, *, keep_predictions: bool = False
    ) -> None:
        if keep_predictions and folder is None:
            raise ValueError("keep_predictions needs a folder")
        self._dataset = dataset_name
        self._folder = None if folder is None else Path(folder)
        self._keep = keep_predictions
        metadata = MetadataCatalog.get(dataset_name)
        self._truth = PanopticTruth(PanopticSource.of_dataset(dataset_name, metadata))
        known = (one.id for one in self._truth.classes.classes)
        self._classes = PredictedIds.of(dataset_name, metadata, known)
        self.reset()

    def reset(self) -> None:
        """Forget all pictures; copies that were made before keep theirs."""
        self._pictures: list[_Picture] = []

    def process(self, inputs: Samples, outputs: Samples) -> None:
        """Judge a batch.

        Raises:
            ConfigError: a prediction is none that a PNG and a list of segments can hold, has
                unknown classes, or is not of its picture's size.
            DatasetError: the PNG of the ground truth cannot be read, or has another size than the
                picture.
        """
        with tempfile.TemporaryDirectory(prefix="rpanoptic_") as temporary:
            folder = self._predictions_folder() if self._keep else Path(temporary)
            for sample, output in zip(inputs, outputs, strict=True):
                self._pictures.append(self._judged(sample, output, folder))

    def evaluate(self, img_ids: Sequence[ImageId] | None = None) -> dict[str, dict[str, float]]:
        """The figures in the main process; ``{}`` in others. All processes call it.

        Args:
            img_ids: the pictures of which the dataset is taken to consist; None for all.

        Raises:
            DatasetError: two pictures have one ``image_id``.
        """
        comm.synchronize()
        gathered = comm.gather(self._pictures)
        if not comm.is_main_process():
            return {}
        pictures = self._once([one for part in gathered for one in part])
        annotations = self._truth.annotations
        if img_ids is not None:
            wanted = set(img_ids)
            pictures = {key: one for key, one in pictures.items() if key in wanted}
            annotations = {key: one for key, one in annotations.items() if key in wanted}
        missing = [one for image_id, one in annotations.items() if image_id not in pictures]
        sums = self._summed(pictures)
        for annotation in missing:
            _miss(sums.counts, annotation)
        quality = PanopticQuality(self._truth.classes, sums.counts)
        self._tell(sums, missing, quality)
        if self._folder is not None:
            self._write(self._folder, sums, len(missing), quality, pictures)
        return {"panoptic_seg": quality.figures()}

    def _judged(
        self, sample: Mapping[str, Any], output: Mapping[str, Any], folder: Path
    ) -> _Picture:
        picture = f"{self._dataset}: {sample_name(sample)}"
        image_id = plain(sample["image_id"])
        if "panoptic_seg" not in output:
            raise ConfigError(
                f"{picture}: the model gives no 'panoptic_seg', but {listed(list(output), most=9)}."
            )
        prediction = read_prediction(output["panoptic_seg"], self._classes, picture)
        annotation = self._truth.annotation(image_id)
        ids = None if annotation is None else self._truth.read(annotation)
        self._check_size(picture, sample, prediction, annotation, ids)
        count = kept = None
        if annotation is not None or self._keep:
            png = folder / _png_name(image_id)
            write_prediction(png, prediction)
            if annotation is not None and ids is not None:
                count = count_picture(self._truth, annotation, ids, prediction, png)
            kept = _kept(image_id, prediction, png) if self._keep else None
        return _Picture(image_id, sample.get("file_name"), count, kept)

    def _check_size(
        self,
        picture: str,
        sample: Mapping[str, Any],
        prediction: PanopticPrediction,
        annotation: Annotation | None,
        ids: np.ndarray | None,
    ) -> None:
        found = prediction.ids.shape
        size = expected = tuple(plain(sample.get(side)) for side in ("height", "width"))
        what = "the picture"
        if annotation is not None and ids is not None:
            what = f"the ground truth {self._truth.source.panoptic_root / annotation['file_name']}"
            expected = ids.shape
        if None in expected or found == expected:
            return
        # The prediction has the picture's size, so the ground truth has not.
        kind = DatasetError if found == size else ConfigError
        raise kind(f"{picture}: {what} is {expected} px (height, width), its prediction {found}.")

    def _file(self, ending: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._dataset.replace('/', '_')}_panoptic_{ending}"

    def _predictions_folder(self) -> Path:
        folder = self._file("predictions")
        folder.mkdir(parents=True, exist_ok=True)
        if not self._pictures:
            # From here on the PNGs are no longer those that an earlier JSON tells of.
            self._file("predictions.json").unlink(missing_ok=True)
        return folder

    def _once(self, pictures: Iterable[_Picture]) -> dict[ImageId, _Picture]:
        """By id: those with ground truth in its order, then the others in theirs."""
        found: dict[ImageId, _Picture] = {}
        for one in pictures:
            first = found.setdefault(one.image_id, one)
            if first.file_name != one.file_name:
                raise DatasetError(
                    f"{self._dataset}: {first.file_name} and {one.file_name} both have image_id "
                    f"{one.image_id!r}."
                )
        places = {image_id: place for place, image_id in enumerate(self._truth.annotations)}
        ordered = sorted(found, key=lambda image_id: places.get(image_id, len(places)))
        return {image_id: found[image_id] for image_id in ordered}

    def _summed(self, pictures: Mapping[ImageId, _Picture]) -> _Sums:
        # In one order, whatever process judged which picture: sums of floats depend on it.
        places = len(class_places(self._truth.classes)) + 1
        sums = _Sums({}, np.zeros((places, places), dtype=np.int64))
        for one in pictures.values():
            if one.counted is None:
                sums.unannotated += 1
                continue
            sums.judged += 1
            sums.other_areas += one.counted.other_areas > 0
            for category, count in one.counted.classes.items():
                _add(sums.counts, category, count)
            for true, predicted, pixels in one.counted.confusion:
                sums.confusion[true, predicted] += pixels
        return sums

    def _tell(self, sums: _Sums, missing: Sequence[Annotation], quality: PanopticQuality) -> None:
        if missing:
            logger.warning(
                "%s: no prediction came for %d of the %d annotated pictures (image_id %s); all "
                "their segments count as missed.",
                self._dataset,
                len(missing),
                len(missing) + sums.judged,
                listed([repr(one["image_id"]) for one in missing], most=5),
            )
        if sums.unannotated:
            logger.warning(
                "%s: %d pictures have no ground truth in %s and are left out.",
                self._dataset,
                sums.unannotated,
                self._truth.source.panoptic_json,
            )
        if sums.other_areas:
            logger.warning(
                "%s: of %d pictures the areas in %s are not those of the PNGs, which count.",
                self._dataset,
                sums.other_areas,
                self._truth.source.panoptic_json,
            )
        logger.info(
            "Panoptic quality of %s in per cent, on %d pictures:\n%s",
            self._dataset,
            sums.judged + len(missing),
            quality.table(),
        )

    def _write(
        self,
        folder: Path,
        sums: _Sums,
        missing: int,
        quality: PanopticQuality,
        pictures: Mapping[ImageId, _Picture],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        source = self._truth.source
        _write_json(
            self._file("results.json"),
            {
                "dataset": self._dataset,
                "panoptic_json": str(source.panoptic_json),
                "panoptic_root": str(source.panoptic_root),
                "unit": "per cent",
                "pictures": sums.judged + missing,
                "pictures_without_prediction": missing,
                "pictures_without_ground_truth": sums.unannotated,
                "pictures_with_other_areas": sums.other_areas,
                **quality.to_dict(),
            },
        )
        if self._keep:
            self._write_predictions(pictures)
        if sums.judged:
            names = [one.name for one, _, _ in quality.by_class()]
            groups = (len(quality.classes.things), len(quality.classes.stuff))
            figure = draw_confusion(sums.confusion, names, groups, title=self._dataset)
            save_figure(self._file("confusion.png"), figure)

    def _write_predictions(self, pictures: Mapping[ImageId, _Picture]) -> None:
        images, annotations = [], []
        for image_id, one in pictures.items():
            assert one.kept is not None
            known = self._truth.images.get(image_id, {})
            name = known.get("file_name") or Path(str(one.file_name)).name
            height, width = one.kept.size
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            annotations.append(one.kept.annotation)
        categories = self._truth.classes.categories()
        content = {"images": images, "annotations": annotations, "categories": categories}
        _write_json(self._file("predictions.json"), content)


def _kept(image_id: ImageId, prediction: PanopticPrediction, png: Path) -> _Kept:
    segments = [
        {"id": number, "category_id": category, "area": prediction.areas[number], "iscrowd": 0}
        for number, category in prediction.categories.items()
    ]
    height, width = prediction.ids.shape
    annotation = {"image_id": image_id, "file_name": png.name, "segments_info": segments}
    return _Kept((height, width), annotation)


def _miss(counts: dict[int, ClassCount], annotation: Annotation) -> None:
    """Count all segments of a picture as missed, as panopticapi does of an empty prediction."""
    for segment in annotation["segments_info"]:
        if not segment["iscrowd"]:
            _add(counts, segment["category_id"], ClassCount(0.0, 0, 0, 1))


def _add(counts: dict[int, ClassCount], category: int, more: ClassCount) -> None:
    counts[category] = counts.get(category, ClassCount(0.0, 0, 0, 0)).plus(more)


def _png_name(image_id: ImageId) -> str:
    # Names of pictures may repeat in several folders; ids do not. COCO's files have 12 digits.
    name = f"{image_id:012d}" if isinstance(image_id, int) else quote(image_id, safe="")
    if len(name) > _LONGEST_NAME:
        # A letter beyond ASCII has six characters and more here, and file systems take 255.
        name = f"{name[:_LONGEST_NAME]}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{name}.png"


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    write_atomically(file, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
