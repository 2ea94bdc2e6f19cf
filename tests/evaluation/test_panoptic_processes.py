"""The panoptic evaluator in two processes that share a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from rpanoptic.evaluation.panoptic import PanopticEvaluator
from tests.evaluation.panoptic_sets import (
    NAME,
    prediction,
    random_picture,
    random_prediction,
    record,
    registered,
    write_truth,
)

# Shares of two processes, by image id: uneven, with one that comes twice; and one without any.
SHARES = [([1, 2, 3, 4], [5, 6, 1]), ([], [3, 2, 1]), ([6, 5], [4, 3])]


def shared_pictures() -> dict[int, Any]:
    random = np.random.default_rng(4)
    return {image_id: random_picture(random) for image_id in range(1, 7)}


def shared_outputs() -> dict[int, dict[str, Any]]:
    random = np.random.default_rng(5)
    return {
        image_id: prediction(*random_prediction(ids, segments, random))
        for image_id, (ids, segments) in shared_pictures().items()
    }


def judged(image_ids: list[int], folder: Path) -> dict[str, Any]:
    evaluator = PanopticEvaluator(NAME, folder, keep_predictions=True)
    outputs = shared_outputs()
    for image_id in image_ids:
        shape = tuple(outputs[image_id]["panoptic_seg"][0].shape)
        evaluator.process([record(image_id, shape)], [outputs[image_id]])
    return evaluator.evaluate()


def evaluate_a_share(rank: int, folder: Path, file: Path, pngs: Path) -> None:
    """One of two processes: judges its parts of the sets."""
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    with registered(NAME, file, pngs):
        results = [
            judged(shares[rank], folder / f"shared{place}") for place, shares in enumerate(SHARES)
        ]
    (folder / f"{rank}.json").write_text(json.dumps(results))
    comm.synchronize()
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    file, pngs = write_truth(tmp_path / "truth", shared_pictures())
    # Forked: a process that begins anew imports for seconds.
    arguments = (tmp_path, file, pngs)
    mp.start_processes(evaluate_a_share, args=arguments, nprocs=2, start_method="fork")
    found, none = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert none == [{}, {}, {}]
    with registered(NAME, file, pngs):
        for place, (first, second) in enumerate(SHARES):
            # Not the order either: sums are those of the ground truth's order.
            alone = judged(sorted({*first, *second}, reverse=True), tmp_path / f"alone{place}")
            assert found[place] == alone
            for name in ("results", "predictions"):
                written = [
                    (tmp_path / f"{kind}{place}" / f"{NAME}_panoptic_{name}.json").read_text()
                    for kind in ("shared", "alone")
                ]
                assert written[0] == written[1]
