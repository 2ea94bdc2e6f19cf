"""Panoptic models that differ in their mask head, on the synthetic set."""

from __future__ import annotations

from rpanoptic.benchmarks.comparison import Comparison

# All in per cent.
METRICS = {
    "PQ": "panoptic_seg/PQ",
    "PQ_th": "panoptic_seg/PQ_th",
    "PQ_st": "panoptic_seg/PQ_st",
    "SQ": "panoptic_seg/SQ",
    "RQ": "panoptic_seg/RQ",
    "box AP": "bbox/AP",
    "mask AP": "segm/AP",
    "mIoU": "sem_seg/mIoU",
}

PANOPTIC = Comparison(
    name="panoptic",
    methods=("baseline", "bptt3", "rbp20", "crbp20"),
    configs="configs/synthetic_panoptic_{method}.yaml",
    runs="output/evidence",
    metrics=METRICS,
    columns=dict.fromkeys(METRICS, ".1f"),
    swept=("baseline", "bptt3", "crbp20"),
    steps="1-40",
    timed_pictures=5,
)
