"""What the mends for NumPy, Python and PyTorch changes make work again."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from tests.installation.behaviour import needs_our_detectron2

needs_our_detectron2()

import torch  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from detectron2.structures import Boxes, Instances, PolygonMasks  # noqa: E402
from PIL import Image  # noqa: E402


@pytest.fixture
def dataset(request: pytest.FixtureRequest, tmp_path: Path):
    """A registered dataset of one 4 x 4 picture with a semantic map and one instance."""
    name = f"mends_{request.node.name}"
    semantic = np.repeat([[0, 0, 1, 1]], 4, axis=0).astype("uint8")
    Image.fromarray(semantic).save(tmp_path / "semantic.png")
    instances = {
        "images": [{"id": 1, "height": 4, "width": 4, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 4}
            | {"bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    record = {"file_name": "a.jpg", "sem_seg_file_name": str(tmp_path / "semantic.png")}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(
        thing_classes=["disc"],
        thing_dataset_id_to_contiguous_id={1: 0},
        stuff_classes=["left", "right"],
        ignore_label=255,
        json_file=str(tmp_path / "instances.json"),
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_extent_transform_interpolates_between_pixels():
    from detectron2.data.transforms import ExtentTransform

    image = np.array([[0, 100]], dtype="uint8")
    # Each output pixel lies half-way between the two: bilinear gives their mean, nearest does not.
    out = ExtentTransform((0.5, 0, 1.5, 1), (1, 1)).apply_image(image)
    assert out.tolist() == [[50]]


def test_class_histogram_is_logged(caplog: pytest.LogCaptureFixture):
    from detectron2.data.build import print_instances_class_histogram

    annotations = [{"category_id": 0}, {"category_id": 0}, {"category_id": 1, "iscrowd": 1}]
    with caplog.at_level(logging.INFO):
        print_instances_class_histogram([{"annotations": annotations}], ["disc", "bar"])
    table = next(text for text in caplog.messages if "Distribution of instances" in text)
    assert "disc" in table and "| 2 " in table


def test_semantic_evaluation(dataset: str):
    from detectron2.evaluation import SemSegEvaluator

    evaluator = SemSegEvaluator(dataset, distributed=False)
    evaluator.reset()
    scores = torch.zeros(2, 4, 4)
    scores[0, :, 0] = scores[1, :, 1:] = 1  # column 1 of "left" is taken for "right"
    evaluator.process([{"file_name": "a.jpg"}], [{"sem_seg": scores}])
    result = evaluator.evaluate()["sem_seg"]
    # IoU 4/8 and 8/12 of 16 pixels, of which 12 are right.
    assert result["mIoU"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert result["pACC"] == pytest.approx(75.0)


@pytest.mark.filterwarnings("error::DeprecationWarning:detectron2")
def test_coco_evaluation_falls_back(dataset: str, caplog: pytest.LogCaptureFixture):
    from detectron2.evaluation import COCOEvaluator

    with caplog.at_level(logging.INFO):
        evaluator = COCOEvaluator(dataset, ("bbox",), distributed=False, use_fast_impl=True)
    assert any("using pycocotools instead" in text for text in caplog.messages)
    evaluator.reset()
    found = Instances((4, 4), pred_boxes=Boxes(torch.tensor([[0.0, 0, 2, 2]])))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100.0)


def test_evaluators_warn_without_deprecated_calls(dataset: str):
    from detectron2.evaluation import COCOEvaluator, SemSegEvaluator

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator = COCOEvaluator(dataset, ("bbox",), distributed=False, use_fast_impl=False)
        assert np.isnan(evaluator._derive_coco_results(None, "bbox")["AP"])
        SemSegEvaluator(dataset, distributed=False, num_classes=2, ignore_label=255)


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_lvis_and_coco_data_warn_without_deprecated_calls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    from detectron2.data.datasets import load_sem_seg
    from detectron2.evaluation.lvis_evaluation import _evaluate_predictions_on_lvis

    assert np.isnan(_evaluate_predictions_on_lvis(None, [], "bbox")["AP"])
    for name in ("images/a.jpg", "images/b.jpg", "maps/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    records = load_sem_seg(str(tmp_path / "maps"), str(tmp_path / "images"))
    assert [Path(record["file_name"]).name for record in records] == ["a.jpg"]
    assert "intersection of 1 files" in caplog.text


def test_mapper_may_skip_a_picture():
    from detectron2.data.common import MapDataset

    dataset = MapDataset(list(range(10)), lambda i: i if i % 2 else None)
    assert {dataset[i] % 2 for i in range(10)} == {1}


def test_polygon_masks():
    from detectron2.structures.masks import polygons_to_bitmask

    square = np.array([1.0, 1, 4, 1, 4, 3, 1, 3])
    mask = polygons_to_bitmask([square], 5, 5)
    assert mask.dtype == bool
    assert mask.sum() == 6
    assert not polygons_to_bitmask([], 2, 2).any()
    assert PolygonMasks([[square], []]).nonempty().tolist() == [True, False]


def test_resized_masks_are_read_without_a_warning():
    from detectron2.data import detection_utils as utils
    from detectron2.data.transforms import ResizeTransform
    from detectron2.structures import BoxMode

    mask = np.zeros((4, 4), dtype="uint8")
    mask[:2] = 1
    annotation = {"bbox": [0, 0, 4, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    annotation["segmentation"] = mask_util.encode(np.asfortranarray(mask))
    resize = ResizeTransform(4, 4, 8, 8)
    annotation = utils.transform_instance_annotations(annotation, resize, (8, 8))
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = utils.annotations_to_instances([annotation], (8, 8), mask_format="bitmask")
    finally:
        torch.set_warn_always(False)
    assert found.gt_masks.tensor.sum() == 4 * 8


def test_panoptic_picture_is_drawn(dataset: str):
    from detectron2.utils.visualizer import Visualizer

    np.random.seed(0)
    meta = MetadataCatalog.get(dataset)
    segments = torch.tensor([[1, 1, 1, 2, 2, 2, 0, 0]] * 8, dtype=torch.int32)
    described = [
        {"id": 1, "category_id": 0, "isthing": True, "score": 0.9},
        {"id": 2, "category_id": 1, "isthing": False},
    ]
    image = np.full((8, 8, 3), 128, dtype="uint8")
    drawn = Visualizer(image, meta, scale=10).draw_panoptic_seg(segments, described).get_image()
    assert drawn.shape == (80, 80, 3)
    assert (drawn[40, 5] != 128).any()


def test_colours_stay_in_range(monkeypatch: pytest.MonkeyPatch):
    from detectron2.utils import visualizer

    above, below = 1.0 + 2**-52, -(2.0**-60)
    monkeypatch.setattr(visualizer.colorsys, "hls_to_rgb", lambda *_: (above, 0.5, below))
    drawer = visualizer.Visualizer(np.zeros((4, 4, 3), dtype="uint8"))
    assert drawer._change_color_brightness("red", 0.7) == (1.0, 0.5, 0.0)


def test_video_is_drawn(dataset: str):
    from detectron2.utils.video_visualizer import VideoVisualizer

    np.random.seed(0)
    drawer = VideoVisualizer(MetadataCatalog.get(dataset))
    frame = np.zeros((16, 16, 3), dtype="uint8")
    found = Instances((16, 16), pred_boxes=Boxes(torch.tensor([[2.0, 2, 12, 12]])))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    first = drawer.draw_instance_predictions(frame, found)
    colour = drawer._old_instances[0].color
    drawer.draw_instance_predictions(frame, found)
    assert np.array_equal(drawer._old_instances[0].color, colour)  # it is the same object
    assert first.get_image().any()


def test_pascal_voc_is_read_and_evaluated(tmp_path: Path):
    from detectron2.data.datasets.pascal_voc import load_voc_instances
    from detectron2.evaluation.pascal_voc_evaluation import voc_eval

    for folder in ("ImageSets/Main", "Annotations"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("000001\n000002\n")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    rest = "<pose>x</pose><truncated>0</truncated>"
    for name, difficult in (("000001", 0), ("000002", 1)):
        (tmp_path / "Annotations" / f"{name}.xml").write_text(
            "<a><size><width>8</width><height>8</height></size><object><name>cat</name>"
            f"{rest}<difficult>{difficult}</difficult>{box}</object></a>"
        )
    records = load_voc_instances(str(tmp_path), "val", ["cat"])
    assert [record["image_id"] for record in records] == ["000001", "000002"]
    (tmp_path / "cat.txt").write_text("000001 0.9 1 1 4 4\n000002 0.8 1 1 4 4\n")
    recall, _, precision = voc_eval(
        str(tmp_path / "{}.txt"),
        str(tmp_path / "Annotations" / "{}.xml"),
        str(tmp_path / "ImageSets" / "Main" / "val.txt"),
        "cat",
    )
    assert recall[-1] == 1.0  # the difficult object does not count
    assert precision == pytest.approx(1.0)


def test_old_mask_pasting(monkeypatch: pytest.MonkeyPatch):
    from detectron2.layers import mask_ops
    from detectron2.layers.mask_ops import paste_mask_in_image_old

    array = np.array

    def array_of_numpy_2(*args, copy: bool = True, **options):
        assert copy, "NumPy 2 raises if copy=False but a copy is needed"
        return array(*args, copy=copy, **options)

    monkeypatch.setattr(mask_ops.np, "array", array_of_numpy_2)
    mask = paste_mask_in_image_old(torch.ones(4, 4), torch.tensor([1.0, 1, 2, 3]), 6, 6, 0.5)
    assert mask.sum() == 2 * 3  # the box's ends are pixels that belong to it
    assert mask[1:4, 1:3].all()


def test_pictures_are_padded_up_to_the_stride():
    from detectron2.structures import ImageList

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = ImageList.from_tensors([torch.ones(3, 33, 64), torch.ones(3, 20, 65)], 32)
    assert images.tensor.shape == (2, 3, 64, 96)


def test_common_prefixes():
    from detectron2.checkpoint import c2_model_loading as loading

    assert loading._longest_common_prefix(["a.x.bias", "a.y.bias"]) == "a."
    assert loading._longest_common_prefix(["a.x", "b.x"]) == ""
    assert loading._longest_common_prefix_str(["conv1.w", "conv2.w"]) == "conv"


def test_anchor_grid_is_row_by_row():
    from detectron2.modeling.anchor_generator import _create_grid_offsets

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = _create_grid_offsets([2, 3], 4, 0.5, torch.device("cpu"))
    assert x.tolist() == [2, 6, 10, 2, 6, 10]
    assert y.tolist() == [2, 2, 2, 6, 6, 6]
