"""Mends without which Detectron2 0.6 does not import."""

from __future__ import annotations

from rpanoptic.installation.mend import Edit, Need, Rule

RULES = (
    Rule(
        name="pillow-bilinear",
        need=Need.MUST,
        file="data/transforms/transform.py",
        why="Pillow 10 dropped the name Image.LINEAR, so the import failed.",
        edits=(
            Edit(
                "src_rect, output_size, interp=Image.LINEAR, fill=0",
                "src_rect, output_size, interp=Image.BILINEAR, fill=0",
            ),
        ),
        upstream="ff53992b1985",
    ),
    Rule(
        name="deform-conv-optional",
        need=Need.MUST,
        file="layers/deform_conv.py",
        why="The compiled operators are optional; what runs on torchvision alone stays usable.",
        edits=(
            Edit(
                "\nfrom detectron2 import _C\n\nfrom .wrappers import _NewEmptyTensorOp\n",
                """
from detectron2.utils.develop import create_dummy_class

from .wrappers import _NewEmptyTensorOp

try:
    from detectron2 import _C
except ImportError:
    _C = create_dummy_class("_C", "detectron2._C", "Deformable convolution on a GPU needs it.")
""",
            ),
        ),
        upstream="710e7795d0ee",
    ),
    Rule(
        name="roi-align-rotated-lazy",
        need=Need.MUST,
        file="layers/roi_align_rotated.py",
        why="The compiled operator is looked up when it is called, not at import.",
        edits=(
            Edit(
                "import _pair\n\nfrom detectron2 import _C\n\n\nclass _ROIAlignRotated",
                "import _pair\n\n\nclass _ROIAlignRotated",
            ),
            Edit(
                "ctx.input_shape = input.size()\n        output = _C.roi",
                "ctx.input_shape = input.size()\n"
                "        from detectron2 import _C  # compiled, so it may be absent\n\n"
                "        output = _C.roi",
            ),
            Edit(
                "bs, ch, h, w = ctx.input_shape\n        grad_input = _C.roi",
                "bs, ch, h, w = ctx.input_shape\n        from detectron2 import _C\n\n"
                "        grad_input = _C.roi",
            ),
        ),
        upstream="ac31916cd298",
    ),
    Rule(
        name="rotated-iou-lazy",
        need=Need.MUST,
        file="layers/rotated_boxes.py",
        why="The compiled operator is looked up when it is called, not at import.",
        edits=(
            Edit(
                "unicode_literals\n\nfrom detectron2 import _C\n\n\ndef",
                "unicode_literals\n\n\ndef",
            ),
            Edit(
                '    """\n    return _C.box_iou_rotated(boxes1, boxes2)\n',
                '    """\n    from detectron2 import _C  # compiled, so it may be absent\n\n'
                "    return _C.box_iou_rotated(boxes1, boxes2)\n",
            ),
        ),
        upstream="ac31916cd298",
    ),
    Rule(
        name="coco-eval-fallback",
        need=Need.MUST,
        file="evaluation/coco_evaluation.py",
        why="Without the compiled COCO evaluation, pycocotools' own is taken and the log says so.",
        edits=(
            Edit(
                "import convert_to_coco_json\n"
                "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
                "from detectron2.structures import",
                "import convert_to_coco_json\nfrom detectron2.structures import",
            ),
            Edit(
                "from .evaluator import DatasetEvaluator\n\n\nclass COCOEvaluator(",
                """from .evaluator import DatasetEvaluator

try:
    # Asks for the operator itself: the module may be there without it.
    from detectron2._C import COCOevalEvaluateImages  # noqa: F401
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
except ImportError:
    COCOeval_opt = COCOeval


class COCOEvaluator(""",
            ),
            Edit(
                "_dir = output_dir\n        self._use_fast_impl = use_fast_impl\n",
                """_dir = output_dir
        if use_fast_impl and COCOeval_opt is COCOeval:
            self._logger.info("The compiled COCO evaluation is absent: using pycocotools instead.")
        self._use_fast_impl = use_fast_impl and COCOeval_opt is not COCOeval
""",
            ),
        ),
        upstream="710e7795d0ee",
    ),
    Rule(
        name="model-zoo-without-pkg-resources",
        need=Need.MUST,
        file="model_zoo/model_zoo.py",
        why="Setuptools no longer has pkg_resources; the configs lie beside this module.",
        edits=(
            Edit(
                "from typing import Optional\nimport pkg_resources\nimport torch\n",
                "from typing import Optional\nimport torch\n",
            ),
            Edit(
                """    cfg_file = pkg_resources.resource_filename(
        "detectron2.model_zoo", os.path.join("configs", config_path)
    )
""",
                """    package_dir = os.path.dirname(os.path.abspath(__file__))
    cfg_file = os.path.join(package_dir, "configs", config_path)
""",
            ),
        ),
    ),
    Rule(
        name="caffe2-optional",
        need=Need.MUST,
        file="export/__init__.py",
        why="PyTorch no longer carries caffe2; tracing and FLOP counts do not need it.",
        edits=(
            Edit(
                "\nfrom .api import *\n",
                """
try:
    import caffe2.proto.caffe2_pb2  # noqa: F401
except ImportError:
    pass  # the caffe2 exporters are left out
else:
    from .api import *  # noqa: F401, F403
""",
            ),
        ),
        upstream="d29378aa3e69, 48b598b4",
    ),
)
