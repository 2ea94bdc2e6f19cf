"""The paper's R-50 model as a LazyConfig: recurrent mask head, 20 steps, C-RBP.

The same model as configs/coco_panoptic_crbp.yaml, for those who build from Python; schedule and
data are Detectron2's 1x. Detectron2's tools/lazyconfig_train_net.py trains it.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from rpanoptic.modeling import RecurrentMaskRCNNHead, RecurrentPanopticFPN
from rpanoptic.recurrent import (
    AdjointConfig,
    ForwardConfig,
    LipschitzPenalty,
    RecurrentBlock,
    build_cell,
)

_base = model_zoo.get_config("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py")
model, train, dataloader = _base.model, _base.train, _base.dataloader
optimizer, lr_multiplier = _base.optimizer, _base.lr_multiplier

model._target_ = RecurrentPanopticFPN
model.roi_heads.mask_head = L(RecurrentMaskRCNNHead)(
    input_shape=ShapeSpec(channels=256, width=14, height=14),
    recurrence=L(RecurrentBlock)(
        cell=L(build_cell)(name="hgru", channels=256, max_steps="${..steps}"),
        steps=20,
        steps_test=0,
        halt_tol=0.0,
        gradient="crbp",
        forward=L(ForwardConfig)(tol=0.0),
        adjoint=L(AdjointConfig)(solver="neumann", max_steps=15, tol=1e-6),
        penalty=L(LipschitzPenalty)(tau=0.95, weight=0.001),
    ),
    num_classes="${..num_classes}",
    output_norm="SyncBN",
)

# prepare_coco_panoptic.py writes run-length masks.
dataloader.train.mapper.instance_mask_format = "bitmask"
train.output_dir = "output/lazy_panoptic_fpn_crbp_r50"
