"""Checkpoints that load without running code, say what does not fit, and are written whole."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.paths import write_atomically
from rpanoptic.engine.array_pickle import RefusedPickleError, load_arrays
from rpanoptic.engine.moved_weights import moved_weights
from rpanoptic.engine.shared_files import agreed_checkpoint, weights_everywhere
from rpanoptic.engine.weights_file import local_weights
from rpanoptic.errors import CheckpointError, DatasetError, listed

logger = logging.getLogger(__name__)

# How many keys of each kind an error lists before it only counts the rest.
_LISTED_KEYS = 4
# What depends on the number of classes: it may differ where a training starts.
_PREDICTORS = (
    "roi_heads.box_predictor.",
    "roi_heads.mask_head.predictor.",
    "sem_seg_head.predictor.",
)
# Names that a training's checkpoints have until they are complete.
_PARTIAL = re.compile(r"\.model_(\d{7,}|final|best)\.pth\.partial")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class PanopticCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with restricted loading, errors that name the file, atomic saves.

    Files are unpickled with restricted loaders only: tensors, arrays and plain containers. A file
    that needs anything else is refused.

    Loading is strict or lenient. Resuming is always strict: every weight must be there, with its
    shape. Lenient loading is for starting a training from other weights: a backbone, a model with
    another number of classes or another head. A backbone may stand elsewhere there, see
    :func:`moved_weights`. What is new or left over is logged; but no weight
    may have another shape, except in the predictors of classes, and at least half of the
    backbone's must load. ``resume_or_load(..., strict=True)`` makes this case strict too.

    Args:
        model: the model to load into and to save.
        save_dir: folder of the checkpoints.
        classes: what the model's labels mean by the data it is used with. They are saved along, as
            plain containers under "classes". A checkpoint of other classes is not resumed from; in
            all other cases it is warned of.
        checkpointables: objects with ``state_dict`` that are saved along, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        classes: ClassTable | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self._classes = classes
        self._strict = self._resuming = False
        self._path = ""

    def resume_or_load(
        self, path: str, *, resume: bool = True, strict: bool = False
    ) -> dict[str, Any]:
        """Load the last checkpoint of the folder if ``resume`` and there is one, else ``path``.

        Every process of a distributed run calls this.

        Args:
            path: file or URL; "" keeps the model as it is.
            resume: prefer the last checkpoint of ``save_dir``, with all that was saved along.
            strict: refuse ``path`` unless it holds exactly the model's weights.

        Raises:
            CheckpointError: processes see different checkpoints, or see :meth:`load`.
        """
        last = self.last_checkpoint() if resume else ""
        if last or path:
            weights_everywhere(last or path)
        if last:
            return self.load(last, strict=True)
        return self.load(path, checkpointables=[], strict=strict)

    def last_checkpoint(self) -> str:
        """The file to resume from, "" where there is none; every process calls this.

        Raises:
            CheckpointError: processes see different ones.
        """
        return agreed_checkpoint(self.get_checkpoint_file(), folder=self.save_dir)

    def load(
        self, path: str, checkpointables: list[str] | None = None, *, strict: bool = False
    ) -> dict[str, Any]:
        """Load the model, and the named checkpointables (None: all that the file holds).

        Raises:
            CheckpointError: the file is missing, cut short, damaged, holds objects that are
                refused, or does not fit the model (see the class).
        """
        if not path:
            return super().load(path, checkpointables)
        local = local_weights(path)
        self._strict, self._path = strict, path
        self._resuming = strict and checkpointables is None and bool(self.checkpointables)
        try:
            return super().load(str(local), checkpointables)
        finally:
            self._strict = self._resuming = False

    def save(self, name: str, *, last: bool = True, **kwargs: Any) -> None:
        """Write ``name``.pth and make it the last checkpoint; a kill leaves no half-written file.

        Args:
            name: file name without its ending.
            last: whether it becomes the last checkpoint, which a run resumes from.
            kwargs: extra data to save; ``model``, other weights in place of the model's.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        if self._classes is not None:
            data["classes"] = self._classes.to_dict()
        data.update(kwargs)
        file = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {file}")
        with _replacing(file) as stream:
            torch.save(data, stream)
        if last:
            self.tag_last_checkpoint(file.name)

    def remove_partial(self) -> None:
        """Remove what a killed run left half-written; for when no run writes into the folder."""
        for file in Path(self.save_dir).glob(".*.partial") if self.save_dir else ():
            if _PARTIAL.fullmatch(file.name):
                file.unlink(missing_ok=True)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which file of the folder is the last checkpoint."""
        write_atomically(Path(self.save_dir) / "last_checkpoint", last_filename_basename.encode())

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read a file into ``{"model": weights, ...}``; the format follows from its ending."""
        path = Path(filename)
        if path.suffix == ".pkl":
            return _guarded(_read_pickle, path)
        data = _guarded(_read_torch, path)
        if path.suffix == ".pyth":
            # Only pycls writes this ending.
            weights = {
                key: value
                for key, value in data.get("model_state", {}).items()
                if not key.endswith("num_batches_tracked")
            }
            return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        return data if "model" in data else {"model": data}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        # First: of other classes as a rule the shapes differ too, which says less.
        self._compare_classes(checkpoint)
        heuristic = bool(checkpoint.get("matching_heuristics", False))
        try:
            if not self._strict and not heuristic:
                names = self.model.state_dict()
                checkpoint["model"] = moved_weights(checkpoint["model"], names)
            incompatible = super()._load_model(checkpoint)
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {self._path} does not hold the weights of a model: {error}"
            ) from error
        self._judge(incompatible, heuristic=heuristic)
        return incompatible

    def _compare_classes(self, checkpoint: dict[str, Any]) -> None:
        trained_on = _classes_in(checkpoint, self._path)
        if trained_on is None or self._classes is None:
            return
        difference = trained_on.difference(self._classes)
        if difference is None:
            return
        message = (
            f"checkpoint {self._path} was trained on other classes than those of the data now: "
            f"{difference}."
        )
        if self._resuming:
            raise CheckpointError(
                f"{message} To train on with these, start a new training from it by MODEL.WEIGHTS."
            )
        logger.warning("%s%s", message[0].upper(), message[1:])

    def _judge(self, incompatible: Any, *, heuristic: bool) -> None:
        """Refuse what does not fit; see the class for how much must."""
        wrong = {
            key: f"{key} (here {tuple(here)}, in the model {tuple(wanted)})"
            for key, here, wanted in incompatible.incorrect_shapes
        }
        # A weight of another shape is not loaded, so PyTorch reports it as missing too.
        missing = [k for k in incompatible.missing_keys if k not in wrong]
        unexpected = list(incompatible.unexpected_keys)
        # The running mean and variance may be made up for old files, or be absent from them.
        weights = [k for k in self.model.state_dict() if not k.endswith(_STATISTICS)]
        loaded = set(weights) - set(missing) - set(wrong)
        backbone = [k for k in weights if k.startswith("backbone.")]
        lists = _listed("weights that the model lacks", unexpected)
        lists += _listed("weights of another shape", list(wrong.values()))
        if self._strict:
            missing = [k for k in missing if not k.endswith("num_batches_tracked")]
            if missing or wrong or unexpected:
                raise CheckpointError(
                    f"checkpoint {self._path} is of another architecture than the config."
                    + _listed("weights that it lacks", missing)
                    + lists
                )
        elif weights and not loaded:
            raise CheckpointError(f"nothing in checkpoint {self._path} fits the model." + lists)
        elif misfits := [text for key, text in wrong.items() if not key.startswith(_PREDICTORS)]:
            raise CheckpointError(
                f"checkpoint {self._path} is of another architecture than the config; only "
                "predictors of classes may differ in shape."
                + _listed("weights of another shape", misfits)
                + _listed("weights that it lacks", missing)
                + _listed("weights that the model lacks", unexpected)
            )
        elif backbone and 2 * len(loaded.intersection(backbone)) < len(backbone):
            absent = [k for k in backbone if k not in loaded]
            raise CheckpointError(
                f"checkpoint {self._path} is of another architecture than the config: it fills "
                f"{len(backbone) - len(absent)} of the backbone's {len(backbone)} weights."
                + _listed("weights that it lacks", absent)
                + lists
            )
        elif not heuristic and (new := _new_modules(missing, loaded)):
            # A file with heuristics holds a backbone alone, where all else is new as a rule.
            logger.warning(
                "Checkpoint %s lacks these modules, which start untrained: %s",
                self._path,
                ", ".join(new),
            )


def checkpoint_classes(path: str) -> ClassTable | None:
    """The classes that a checkpoint was trained on; its weights are not read.

    Args:
        path: file or URL.

    Returns:
        None if it holds none: it was written by another program or an earlier version, or its model
        was trained on no panoptic set.

    Raises:
        CheckpointError: the file is missing, damaged, or holds objects that are refused.
    """
    local = local_weights(path)
    if local.suffix in (".pkl", ".pyth"):
        return None

    def mapped(file: Path) -> Any:
        # What PyTorch wrote before version 1.6 is no archive, and cannot be mapped into memory.
        mapping = zipfile.is_zipfile(file)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapping)

    return _classes_in(_guarded(mapped, local), path)


def _classes_in(checkpoint: dict[str, Any], path: str) -> ClassTable | None:
    """The classes of a checkpoint's content."""
    if "classes" not in checkpoint:
        return None
    try:
        return ClassTable.from_dict(checkpoint["classes"])
    except DatasetError as error:
        logger.warning('What checkpoint %s holds as "classes" is passed over: %s', path, error)
        return None


def _new_modules(missing: list[str], loaded: set[str]) -> list[str]:
    """The outermost modules of which weights are missing and none is loaded."""
    known = {key[:end] for key in loaded for end, sign in enumerate(key) if sign == "."}
    found: dict[str, None] = {}
    for key in missing:
        parts = key.split(".")
        outermost = (".".join(parts[:count]) for count in range(1, len(parts)))
        name = next((name for name in outermost if name not in known), None)
        if name is not None:
            found[name] = None
    return list(found)


def _listed(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    return f"\n  {what}: {listed(keys, most=_LISTED_KEYS)}"


def _guarded(read: Callable[[Path], Any], path: Path) -> dict[str, Any]:
    """Call ``read(path)``; whatever stops it becomes a CheckpointError that names the file."""
    try:
        data = read(path)
    except RefusedPickleError as error:
        raise _refused(path, str(error)) from error
    except pickle.UnpicklingError as error:
        # PyTorch's message is long and advises to load without the restriction.
        found = re.search(r"GLOBAL (\S+)|[Ff]unction (\S+) was not an allowed", str(error))
        if found is None:
            raise CheckpointError(f"checkpoint {path} is damaged or cut short: {error}") from error
        raise _refused(path, found.group(1) or found.group(2)) from error
    except Exception as error:
        # Damaged archives raise RuntimeError, EOFError, KeyError, UnicodeDecodeError and others.
        raise CheckpointError(f"checkpoint {path} is damaged or cut short: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(
            f"checkpoint {path} holds a {type(data).__name__}, expected a dictionary of weights."
        )
    return data


def _refused(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path} is refused: it holds {what}, and loading that could run code. "
        "Only tensors, arrays and plain containers are accepted."
    )


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as stream:
        return _caffe2_or_zoo(load_arrays(stream))


def _caffe2_or_zoo(data: Any) -> Any:
    """Bring a model-zoo or a Caffe2 pickle into the form of a checkpoint."""
    if not isinstance(data, dict) or ("model" in data and "__author__" in data):
        return data
    weights = data.get("blobs", data)
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise ValueError("its weights are not listed by name")
    weights = {key: value for key, value in weights.items() if not key.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A stream to a temporary file that takes the place of ``path`` once it is complete.

    A checkpoint may be as large as the memory, so it is not put together there first, as
    :func:`rpanoptic.data.paths.write_atomically` would need it.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
