"""The mended Detectron2 imports everywhere, and says what its missing operators are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.installation.behaviour import needs_our_detectron2

needs_our_detectron2()

import torch  # noqa: E402
from detectron2 import model_zoo  # noqa: E402

MODULES = [
    "checkpoint",
    "config",
    "data",
    "data.transforms",
    "engine",
    "engine.defaults",
    "evaluation",
    "export",
    "layers",
    "model_zoo",
    "modeling",
    "modeling.test_time_augmentation",
    "projects",
    "solver",
    "structures",
    "utils.analysis",
    "utils.collect_env",
    "utils.develop",
    "utils.video_visualizer",
    "utils.visualizer",
]

# PyTorch 2.14 deprecates torch.jit.script, which fvcore too calls at import.
STRICT = """
import importlib, sys, warnings
import torch, torchvision, matplotlib, omegaconf, torch.utils.tensorboard, pycocotools.mask
warnings.simplefilter("error")
warnings.filterwarnings("ignore", ".*torch.jit.script.*")
for name in sys.argv[1:]:
    importlib.import_module("detectron2." + name)
"""


def test_all_modules_import_without_a_warning():
    done = subprocess.run(
        [sys.executable, "-c", STRICT, *MODULES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_missing_operator_says_how_to_get_it():
    from detectron2 import _C

    with pytest.raises(ImportError, match=r"'detectron2\._C\.nms_rotated' is missing.*build it"):
        _ = _C.nms_rotated
    assert not hasattr(_C, "__path__")  # inspection of a module must not fail
    assert _C.has_cuda() is False


def test_rotated_boxes_name_their_operator():
    from detectron2.layers import ROIAlignRotated
    from detectron2.layers.rotated_boxes import pairwise_iou_rotated

    boxes = torch.tensor([[5.0, 5.0, 4.0, 2.0, 30.0]])
    with pytest.raises(ImportError, match="box_iou_rotated"):
        pairwise_iou_rotated(boxes, boxes)
    with pytest.raises(ImportError, match="roi_align_rotated_forward"):
        ROIAlignRotated((2, 2), 1.0, 0)(torch.zeros(1, 1, 8, 8), torch.zeros(1, 6))


WITHOUT_STUB = """
import sys, torch
sys.modules["detectron2._C"] = None  # makes its import fail
from detectron2.layers import DeformConv, ROIAlignRotated, rotated_boxes
DeformConv(1, 1, kernel_size=1)(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2, 2))
boxes = torch.tensor([[5.0, 5.0, 4.0, 2.0, 30.0]])
for use in (
    lambda: rotated_boxes.pairwise_iou_rotated(boxes, boxes),
    lambda: ROIAlignRotated((2, 2), 1.0, 0)(torch.zeros(1, 1, 8, 8), torch.zeros(1, 6)),
):
    try:
        use()
    except ImportError:
        continue
    raise AssertionError("the operator is not there, yet it ran")
"""


def test_layers_import_without_any_compiled_module():
    subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT_STUB], check=True)


def test_deformable_convolution_runs_on_the_cpu():
    from detectron2.layers import DeformConv

    torch.manual_seed(0)
    layer = DeformConv(2, 3, kernel_size=3, padding=1)
    x, offset = torch.randn(1, 2, 5, 6), torch.zeros(1, 18, 5, 6)
    expected = torch.nn.functional.conv2d(x, layer.weight, padding=1)
    # Without offsets it is an ordinary convolution; float32, sums of 18 products of order 1.
    torch.testing.assert_close(layer(x, offset), expected, atol=1e-5, rtol=1e-5)


def test_dummies_raise_only_when_they_are_used():
    from detectron2.utils.develop import create_dummy_class, create_dummy_func

    klass = create_dummy_class("Fast", ["a", "b"], "Install it.")
    assert klass.__name__ == "Fast"
    for use in (klass, lambda: klass.method):
        with pytest.raises(ImportError, match=r"'Fast' needs 'a, b'.*Install it\."):
            use()
    with pytest.raises(ImportError, match="'fast' needs 'a'"):
        create_dummy_func("fast", "a")(1, x=2)


def test_environment_report():
    from detectron2.utils.collect_env import collect_env_info

    report = collect_env_info()
    assert "compiled operators are absent" in report
    assert torch.__version__ in report


def test_model_zoo_has_its_configs():
    path = Path(model_zoo.get_config_file("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"))
    assert path.is_file()
    cfg = model_zoo.get_config("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == "PanopticFPN"
    with pytest.raises(RuntimeError, match=r"no/such\.yaml not available in Model Zoo"):
        model_zoo.get_config_file("no/such.yaml")


def test_lazy_configs_load():
    cfg = model_zoo.get_config("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py")
    assert cfg.model.roi_heads.num_classes == 80


def test_flops_are_counted_without_caffe2():
    from detectron2.utils.analysis import FlopCountAnalysis

    layer = torch.nn.Conv2d(3, 4, 3, padding=1)
    # 4 x 3 x 3 x 3 multiplications for each of 8 x 8 places.
    assert FlopCountAnalysis(layer, torch.zeros(1, 3, 8, 8)).total() == 4 * 27 * 64


@pytest.mark.parametrize("python", ["-I", "-IS"], ids=["isolated", "without site"])
def test_projects_of_a_source_tree_are_found(python: str, tmp_path: Path):
    # With a bare `import importlib` the names importlib.abc and importlib.util may be unset.
    import detectron2.projects

    project = tmp_path / "projects" / "PointRend" / "point_rend"
    project.mkdir(parents=True)
    (project / "__init__.py").write_text("found = True\n")
    script = (
        "import sys; file = sys.argv[2]\n"
        "names = {'__file__': sys.argv[1], '__name__': 'detectron2.projects'}\n"
        "exec(compile(open(file).read(), file, 'exec'), names)\n"
        "spec = sys.meta_path[-1].find_spec('detectron2.projects.point_rend', None)\n"
        "assert spec.origin.endswith('point_rend/__init__.py'), spec\n"
    )
    place = tmp_path / "detectron2" / "projects" / "__init__.py"
    subprocess.run(
        [sys.executable, python, "-c", script, str(place), detectron2.projects.__file__], check=True
    )
