"""The table of mends for Detectron2 v0.6, and the fingerprints of the files that they change."""

from __future__ import annotations

from rpanoptic.installation.mend import Mend
from rpanoptic.installation.rules import imports, loading, numerics, training, warnings
from rpanoptic.installation.rules.new_files import NEW_FILES

MENDS: tuple[Mend, ...] = (
    *NEW_FILES,
    *imports.RULES,
    *numerics.RULES,
    *training.RULES,
    *loading.RULES,
    *warnings.RULES,
)

# Git blob id of each file in v0.6, before any mend.
PRISTINE = {
    "checkpoint/c2_model_loading.py": "8c8d181bd7200bd3fd38446e743f8f16780d6e76",
    "config/lazy.py": "fa5d86b427ab53ecbe992842cce71d12c5e3a141",
    "data/build.py": "f85a950ad369d80edf7861fba41841165aab6002",
    "data/common.py": "d6b8742417abc897f5faa190db1341bbe7b2940d",
    "data/datasets/coco.py": "ed4f7ccb20efa3b54c719783e279c381ca5d8587",
    "data/datasets/pascal_voc.py": "dbbf82cb96442bfa0cf05ed0f4dddf3645434b7e",
    "data/detection_utils.py": "2707eb430f4474c4a8a8968e5bf4caf2124d9f36",
    "data/transforms/transform.py": "de44b991d7ab0d920ffb769e1402f08e358d37f7",
    "engine/defaults.py": "8f95145172209dc27f908b77b8246646882461d9",
    "engine/hooks.py": "d9898e84f428377b6ba11a34080e136d2bccb752",
    "engine/launch.py": "46f98691f163a82fdfcf75d910b28590af042de9",
    "engine/train_loop.py": "c4a86b52a5604f2b5799abac299ca4726345b7a6",
    "evaluation/coco_evaluation.py": "aad7f5a6e79a9047e7eea623ecc761ea9655b8d6",
    "evaluation/lvis_evaluation.py": "0604feaaf42ffd072e3cb91f395204f818fa709a",
    "evaluation/pascal_voc_evaluation.py": "1d1abcde2f87bb5f103e73cb364aaabbecb6e619",
    "evaluation/sem_seg_evaluation.py": "7a19db71562ef47569dc7f77ec616af85447f0ec",
    "export/__init__.py": "78c27d64fa42760eeacd14d241cf28d58e3da490",
    "layers/deform_conv.py": "eca070f59645af4c9ccd003d99678f19538f355d",
    "layers/mask_ops.py": "c698a03c4d3faf30c08da97169f010b64c0d1058",
    "layers/roi_align_rotated.py": "e3775e08fc9b9172f73c8ec7025a51ef2edd0a1d",
    "layers/rotated_boxes.py": "0004f765ef355ad47d92d26d3012be382e1b3eca",
    "model_zoo/model_zoo.py": "5b90bc9a165ea46ada72ed0e71f1e80e71ea9f40",
    "modeling/anchor_generator.py": "ee4b98819445f95982ca89a72cdd3e27b39b367f",
    "projects/__init__.py": "a68207db4ee3c2578e1042b00b3071a946b7adea",
    "solver/__init__.py": "9a2dbd35bb24f0d4a979bc8f304142376d87e7ec",
    "solver/build.py": "1989dfcd0855d833a75e403f6a5e88725d78022f",
    "solver/lr_scheduler.py": "8803e87b9e60cffdbe048c97c282d353191ae4c8",
    "structures/image_list.py": "5e898b34a8819539d5d20dc80ae1ca16f2461dfc",
    "structures/masks.py": "ed7b3bedf718b91053225454f6aed6e89b378f43",
    "utils/collect_env.py": "807b6c7e6245d0a21221b1b8d29b841ec8251761",
    "utils/comm.py": "d7cc4a7af1a3a08b32dee8982cd8b730380b1965",
    "utils/video_visualizer.py": "a3624cbe12df6163b6550816568b0c1dc38b57fe",
    "utils/visualizer.py": "747efada60fa830480b8783cd2a5eb61312d1d2f",
}
