"""The dynamics of a trained model's recurrent blocks on pictures: collected, measured, saved."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from torch import nn

from rpanoptic.data import check_dataset
from rpanoptic.data.paths import write_atomically
from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.predictor import Predictor
from rpanoptic.errors import ConfigError, UserError
from rpanoptic.evaluation.dynamics import (
    LEAST_STEPS,
    BlockDynamics,
    BlockInput,
    measure_dynamics,
)
from rpanoptic.recurrent import RecurrentBlock, recurrent_blocks
from rpanoptic.recurrent.state import State, like, to_tensors
from rpanoptic.visualization import (
    draw_components,
    draw_past_trained_steps,
    draw_residuals,
    draw_spectrum,
    save_figure,
)


class DynamicsProbe:
    """A model with its weights that keeps what drives its recurrent blocks.

    Args:
        cfg: config of the model.
        weights: checkpoint that fits the config; a path or a URL.
        steps: how far each block is followed; None for twice its trained steps.
        samples: at most so many samples of each block, the first ones of each picture.
        pictures: among how many pictures the samples are shared out.

    Raises:
        CheckpointError: the weights are missing, unsafe or of another architecture.
        ConfigError: the model has no recurrent block, or one that is trained for more steps.
    """

    def __init__(
        self,
        cfg: CfgNode,
        weights: str,
        *,
        steps: int | None = None,
        samples: int = 8,
        pictures: int = 1,
    ) -> None:
        model = build_model(cfg)
        self._blocks = recurrent_blocks(model)
        if not self._blocks:
            raise ConfigError(
                "the model has no recurrent block; MODEL.ROI_MASK_HEAD.NAME RecurrentMaskRCNNHead "
                "would give it one"
            )
        self._steps = {name: _steps(name, block, steps) for name, block in self._blocks.items()}
        PanopticCheckpointer(model).load(weights, checkpointables=[], strict=True)
        model.eval()
        # Views of one picture would be counted as several pictures.
        self._predict = Predictor(cfg, model, augment=False)
        self._samples = samples
        self._of_a_picture = -(-samples // pictures)
        self._inputs: dict[str, list[BlockInput]] = {name: [] for name in self._blocks}

    def look(self, image: np.ndarray) -> None:
        """Predict an RGB uint8 picture and keep what drives each block in doing so.

        Raises:
            PictureError: the picture is too narrow for the model.
        """
        with recorded_inputs(self._blocks, limit=self._of_a_picture) as inputs:
            self._predict(image)
        for name, found in inputs.items():
            kept = self._inputs[name]
            kept += found[: self._samples - len(kept)]

    def measure(self, *, iterations: int = 100) -> list[BlockDynamics]:
        """Measure each block on what :meth:`look` has kept.

        A block that no sample has reached is left out.

        Args:
            iterations: of the power iterations, at least 2.

        Raises:
            UserError: no sample has reached any block.
        """
        reached = {name: inputs for name, inputs in self._inputs.items() if inputs}
        if not reached:
            raise UserError(
                f"no sample reached the recurrent blocks ({', '.join(self._blocks)}): nothing was "
                "detected. Other pictures, or a lower MODEL.ROI_HEADS.SCORE_THRESH_TEST, may help; "
                "of a ConvRNN, SCHEDULE 'faithful'."
            )
        return [
            measure_dynamics(
                name, self._blocks[name], inputs, steps=self._steps[name], iterations=iterations
            )
            for name, inputs in reached.items()
        ]


@contextmanager
def recorded_inputs(
    blocks: dict[str, RecurrentBlock], *, limit: int
) -> Iterator[dict[str, list[BlockInput]]]:
    """Within the context, keep the first samples that each block is given.

    Args:
        blocks: the blocks by name.
        limit: at most so many samples of each.

    Yields:
        the samples by the block's name, filled as the blocks run.
    """
    inputs: dict[str, list[BlockInput]] = {name: [] for name in blocks}

    def record(name: str, block: RecurrentBlock) -> Any:
        call = inspect.signature(block.forward)

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = call.bind(*args, **kwargs).arguments
            drive, state = given["drive"], given.get("state")
            samples = len(to_tensors(drive)[0])
            for number in range(min(limit - len(inputs[name]), samples)):
                first = None if state is None else _sample(state, number)
                inputs[name].append(BlockInput(_sample(drive, number), first))

        return block.register_forward_pre_hook(hook, with_kwargs=True)

    with ExitStack() as hooks:
        for name, block in blocks.items():
            hooks.callback(record(name, block).remove)
        yield inputs


def _sample(tensors: State, number: int) -> State:
    # Copies: a view would keep the whole batch in memory.
    one = slice(number, number + 1)
    return like(tuple(t.detach()[one].clone() for t in to_tensors(tensors)), tensors)


def dataset_pictures(cfg: CfgNode, limit: int) -> list[Path]:
    """The first pictures of the first of ``DATASETS.TEST``.

    Raises:
        ConfigError: the config names no test set.
        DatasetError: the dataset is unknown, missing or damaged.
    """
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: name a dataset there, or give --input.")
    name = cfg.DATASETS.TEST[0]
    check_dataset(name, max_pngs=limit)
    return [Path(record["file_name"]) for record in DatasetCatalog.get(name)[:limit]]


def save_dynamics(folder: Path, results: Sequence[BlockDynamics]) -> list[Path]:
    """Write all numbers to ``dynamics.json`` and four figures of each block.

    Args:
        folder: exists.
        results: the blocks.

    Returns:
        the files, each of which appeared only when it was complete.
    """
    files = [folder / "dynamics.json"]
    text = json.dumps([result.numbers() for result in results], allow_nan=False, indent=1)
    write_atomically(files[0], f"{text}\n".encode())
    for result in results:
        trained, title = result.past.trained_steps, f"{result.name} ({result.cell})"
        figures = {
            "residual": draw_residuals(result.residual, trained, title=title),
            "past_trained_steps": draw_past_trained_steps(
                result.past.distance, trained, title=title
            ),
            "spectrum": draw_spectrum(
                result.radius.value, result.singular_value.value, title=title
            ),
            "components": draw_components(
                result.components.projections, result.components.explained, trained, title=title
            ),
        }
        for name, figure in figures.items():
            files.append(save_figure(folder / f"{result.name}_{name}.png", figure))
    return files


def _steps(name: str, block: RecurrentBlock, steps: int | None) -> int:
    least = max(block.steps, LEAST_STEPS)
    if steps is None:
        return max(2 * block.steps, LEAST_STEPS)
    if steps < least:
        raise ConfigError(
            f"--steps {steps}: block {name} is trained for {block.steps} steps; follow it for at "
            f"least {least}."
        )
    return steps
