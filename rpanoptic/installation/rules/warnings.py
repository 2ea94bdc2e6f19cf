"""Mends of calls that still work but warn at every start or step."""

from __future__ import annotations

from rpanoptic.installation.mend import Edit, Need, Rule


def _logger_warn(name: str, file: str, *contexts: str) -> Rule:
    """A rule that calls ``warning`` in place of ``warn``, once for each text that follows."""
    return Rule(
        name=name,
        need=Need.QUIET,
        file=file,
        why="Logger.warn is deprecated in favour of Logger.warning.",
        edits=tuple(Edit(f".warn({context}", f".warning({context}") for context in contexts),
    )


RULES = (
    Rule(
        name="anchor-meshgrid-indexing",
        need=Need.QUIET,
        file="modeling/anchor_generator.py",
        why="torch.meshgrid asks for its indexing by name; the result is unchanged.",
        edits=(
            Edit(
                "torch.meshgrid(shifts_y, shifts_x)",
                'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
            ),
        ),
    ),
    _logger_warn(
        "logger-warning-coco-eval",
        "evaluation/coco_evaluation.py",
        '\n                "COCO Evaluator instantiated',
        '"No predictions from the model!")',
    ),
    _logger_warn(
        "logger-warning-lvis-eval",
        "evaluation/lvis_evaluation.py",
        '\n                "COCO Evaluator instantiated',
        '"No predictions from the model!")',
    ),
    _logger_warn(
        "logger-warning-sem-seg-eval",
        "evaluation/sem_seg_evaluation.py",
        '\n                "SemSegEvaluator(num_classes)',
        '\n                "SemSegEvaluator(ignore_label)',
    ),
    _logger_warn(
        "logger-warning-trainer",
        "engine/defaults.py",
        '\n                        "No evaluator found.',
    ),
    _logger_warn(
        "logger-warning-coco-data",
        "data/datasets/coco.py",
        '\n            "Directory {} and {}',
        '"Will use their intersection',
    ),
    Rule(
        name="writable-masks",
        need=Need.QUIET,
        file="data/detection_utils.py",
        why="A mask that Pillow resized may not be written to: PyTorch gets a copy of it.",
        edits=(
            Edit(
                "torch.from_numpy(np.ascontiguousarray(x)) for x in masks",
                'torch.from_numpy(np.array(x, order="C")) for x in masks',
            ),
        ),
    ),
    Rule(
        name="gather-without-typed-storage",
        need=Need.QUIET,
        file="utils/comm.py",
        why="PyTorch 2 deprecates typed storages; the bytes are the same.",
        edits=(
            Edit(
                """    storage = torch.ByteStorage.from_buffer(buffer)
    tensor = torch.ByteTensor(storage).to(device=device)
""",
                """    # A bytearray, because PyTorch warns of memory that it may not write to.
    tensor = torch.frombuffer(bytearray(buffer), dtype=torch.uint8).to(device=device)
""",
            ),
        ),
    ),
)
