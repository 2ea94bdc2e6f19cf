"""From a config file and overrides to a config, with errors that name file and key."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from detectron2.config import CfgNode, get_cfg

from rpanoptic.config import add_rpanoptic_config
from rpanoptic.config_files import find_config_file, is_detectron2s_own, zoo_file
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.engine.own_data import (
    SPLITS,
    add_own_data,
    first_classes,
    follow_data,
    leave_open,
    register_own_data,
)
from rpanoptic.errors import ConfigError

logger = logging.getLogger(__name__)

_UNKNOWN_KEY = re.compile(r"Non-existent (?:config )?key: ([\w.]+)")
_ZOO_NAME = re.compile(r"\w+://.*")


def setup_config(
    config_file: str | Path | None,
    opts: Sequence[str] | None = None,
    *,
    output_dir: str | Path | None = None,
    train_data: Sequence[PanopticSource] | None = None,
    test_data: Sequence[PanopticSource] | None = None,
    data_cache: str | Path | None = None,
    classes: ClassTable | None = None,
    splits: Sequence[str] = SPLITS,
) -> CfgNode:
    """Build the config of a run: defaults, then the file, then the overrides, then your own data.

    The datasets of ``DATASETS.PANOPTIC`` are registered. ``MODEL.ROI_HEADS.NUM_CLASSES``,
    ``MODEL.RETINANET.NUM_CLASSES`` and ``MODEL.SEM_SEG_HEAD.NUM_CLASSES`` follow from the first
    panoptic set of ``DATASETS.TRAIN`` and ``DATASETS.TEST`` where neither a file nor an override
    says them, or where one says 0, and ``INPUT.MASK_FORMAT`` becomes "bitmask" for one of your own.
    Without such a set they are Detectron2's defaults.

    ``MODEL.DEVICE`` falls back to "cpu" on a machine without a GPU, unless the overrides ask for
    a GPU by name. Files are read as plain YAML: tags that would run code are refused, but for the
    files of the installed Detectron2, some of which have such. A ``_BASE_`` may also be a name of a
    model zoo, "detectron2://COCO-Detection/....yaml" or "rpanoptic://coco_panoptic/....yaml".

    Args:
        config_file: YAML file, with ``_BASE_`` or without, or where there is no such file a name
            of a config of rpanoptic or of Detectron2's model zoo; None or "" takes the defaults.
        opts: overrides as a flat list, ``["SOLVER.BASE_LR", "0.01", ...]``.
        output_dir: replaces ``OUTPUT_DIR`` when given.
        train_data: panoptic datasets that become ``DATASETS.TRAIN``; see
            :func:`rpanoptic.engine.own_data.add_own_data`, also for the next two.
        test_data: those that become ``DATASETS.TEST``.
        data_cache: folder for what is derived from them.
        classes: those that a checkpoint holds, taken for those of the datasets, which are then not
            opened.
        splits: whose datasets are needed: ("TEST",) for an evaluation, () for work that reads no
            data. Of ``DATASETS.PANOPTIC``, others that cannot be opened are left out, with a
            warning.

    Returns:
        the config, not frozen.

    Raises:
        ConfigError: the file is missing or not YAML of keys and values, files build
            on each other in a circle, a key is unknown (the message names the
            closest known keys) or a value has the wrong type; an entry of ``DATASETS.PANOPTIC`` is
            none; data and an override both name the datasets.
        DatasetError: data of your own are missing, or their JSON has a fault.
    """
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    before = leave_open(cfg)
    opts = list(opts or [])
    if config_file:
        cfg = _with_file(cfg, existing_config_file(config_file))
    _merge_overrides(cfg, opts)
    if output_dir is not None:
        cfg.OUTPUT_DIR = str(output_dir)
    for split, given in (("TRAIN", train_data), ("TEST", test_data)):
        if given is not None and f"DATASETS.{split}" in opts[0::2]:
            raise ConfigError(
                f"DATASETS.{split} is on the command line, and data of your own in its place: give "
                "one of the two."
            )
    add_own_data(cfg, train=train_data, test=test_data, cache=data_cache)
    if classes is None:
        register_own_data(cfg, splits)
        classes = first_classes([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    follow_data(cfg, before, classes)
    _choose_device(cfg, asked_by_name="MODEL.DEVICE" in opts[0::2])
    return cfg


class _FileConfig(CfgNode):
    """A config whose files may build on those of a model zoo, by name."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """As fvcore's, which takes a zoo's name for one of a file beside the building one.

        Tags that run code are allowed file by file, whatever ``allow_unsafe`` is.
        """
        name = _ZOO_NAME.search(filename)
        file = str((name and zoo_file(name.group())) or filename)
        return super().load_yaml_with_base(file, allow_unsafe=is_detectron2s_own(Path(file)))


def existing_config_file(config_file: str | Path) -> Path:
    """The local file of this name or, where there is none, that of a model zoo.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(config_file)
    if path.is_file():
        return path
    if zoo := zoo_file(str(config_file)):
        return zoo
    try:
        return find_config_file(path.as_posix())
    except ConfigError as error:
        raise ConfigError(
            f"config file {path} does not exist, and {error}{_similar_files(path)}"
        ) from None


def _with_file(cfg: CfgNode, path: Path) -> CfgNode:
    """A copy of ``cfg`` into which a file is merged."""
    if path.suffix == ".py":
        raise ConfigError(
            f"config file {path} is a lazy config; this takes YAML. "
            "rpanoptic.model_zoo.get_config and detectron2.config.LazyConfig load it."
        )
    try:
        if _checked_content(path, ()) is None:
            return cfg  # An empty file changes nothing.
        merged = _FileConfig(cfg)
        merged.merge_from_file(str(path))
        return CfgNode(merged)
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path} is not plain YAML: {error}") from error
    except FileNotFoundError as error:
        raise ConfigError(
            f"config file {path} builds on {error.filename}, which does not exist."
        ) from error
    except ConfigError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path} is no text: {error}") from error
    except (KeyError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise _explained(error, cfg, path) from error


def _checked_content(path: Path, above: tuple[Path, ...]) -> dict[str, Any] | None:
    """Check the form of a config file and of those it builds on.

    Args:
        path: the file.
        above: the files that build on it.

    Returns:
        its content, None if it is empty.
    """
    place = path.resolve()
    if place in above:
        chain = " -> ".join(str(file) for file in (*above[above.index(place) :], place))
        raise ConfigError(f"_BASE_: config files build on each other in a circle: {chain}.")
    content = _read(path)
    if content is None:
        return None
    if not isinstance(content, dict):
        raise ConfigError(
            f"config file {path} holds a {type(content).__name__}, expected keys and values."
        )
    for base in _bases(content):
        if not isinstance(base, str):
            raise ConfigError(f"config file {path}: _BASE_ must be a file's name, got {base!r}.")
        base_path = _base_path(path, base)
        # What is not a local file is Detectron2's to fetch, and to miss.
        if base_path.is_file() and _checked_content(base_path, (*above, place)) is None:
            raise ConfigError(f"config file {path} builds on {base_path}, which is empty.")
    return content


def _read(path: Path) -> Any:
    """The content of a YAML file.

    Detectron2 would allow tags that run code in any file. A config needs none, but some of its own
    have them, and to install it was to trust it.
    """
    text = path.read_text()
    return yaml.unsafe_load(text) if is_detectron2s_own(path) else yaml.safe_load(text)


def _base_path(path: Path, base: str) -> Path:
    """The file that ``base``, written in the file ``path``, stands for."""
    try:
        return zoo_file(base) or path.parent / Path(base).expanduser()
    except ConfigError as error:
        raise ConfigError(f"config file {path}: _BASE_ {base!r}: {error}") from None


def _bases(content: dict[str, Any]) -> list[Any]:
    bases = content.get("_BASE_", [])
    return bases if isinstance(bases, list) else [bases]


def _merge_overrides(cfg: CfgNode, opts: list[str]) -> None:
    if len(opts) % 2:
        raise ConfigError(
            f"overrides come in pairs of KEY VALUE, but {len(opts)} words were given: "
            f"{' '.join(opts)}"
        )
    for key, value in zip(opts[0::2], opts[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except (KeyError, ValueError, AssertionError, TypeError, AttributeError) as error:
            raise _explained(error, cfg, None, key) from error


def _explained(
    error: Exception, cfg: CfgNode, path: Path | None, override: str | None = None
) -> ConfigError:
    """Turn what yacs raised into a message that names the key, its source and close keys."""
    text = str(error.args[0]) if error.args else str(error)
    found = _UNKNOWN_KEY.search(text)
    key = found.group(1) if found else None
    if override is not None:
        key = override if key is not None or override not in set(_known_keys(cfg)) else None
        source = "on the command line"
    else:
        assert path is not None
        source = f"in {_file_of_key(path, key) if key else path}"
    if key is None:
        what = f"{override}: " if override else ""
        return ConfigError(f"{what}bad value {source}: {text}")
    close = closest(key, _known_keys(cfg))
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return ConfigError(f"unknown config key {key} {source}.{hint}")


def closest(key: str, known: Iterable[str]) -> list[str]:
    """At most three dotted names of ``known`` that resemble ``key``, the best first.

    Names under the same parent come first: a long common prefix says nothing about the typo.
    """
    names = list(known)
    parent, _, leaf = key.rpartition(".")
    siblings = {n.rpartition(".")[2]: n for n in names if n.rpartition(".")[0] == parent}
    near = [siblings[n] for n in difflib.get_close_matches(leaf, siblings, n=3, cutoff=0.6)]
    if near:
        return near
    same_leaf = [n for n in names if n.rpartition(".")[2] == leaf]
    return difflib.get_close_matches(key, same_leaf or names, n=3, cutoff=0.5)


def _known_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, CfgNode):
            yield from _known_keys(value, f"{prefix}{name}.")


def _file_of_key(path: Path, key: str) -> Path:
    """The file in the chain of ``_BASE_`` files that spells ``key``; ``path`` if none does."""
    return next(_files_with_key(path, key), path)


def _files_with_key(path: Path, key: str) -> Iterator[Path]:
    content = node = _read(path)
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            break
        node = node[part]
    else:
        yield path
    for base in _bases(content) if isinstance(content, dict) else []:
        base_path = _base_path(path, base)
        if base_path.is_file():
            yield from _files_with_key(base_path, key)


def said_where(key: str, config_file: str | Path | None, opts: Sequence[str] | None = None) -> str:
    """Where a value comes from, for a message: " on the command line", " in FILE" or "".

    Args:
        key: dotted.
        config_file: as :func:`setup_config` takes it, and has read it without an error.
        opts: overrides.
    """
    if key in list(opts or [])[0::2]:
        return " on the command line"
    if not config_file:
        return ""
    file = next(_files_with_key(existing_config_file(config_file), key), None)
    return f" in {file}" if file else ""


def _similar_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {path.parent}."
    names = [p.name for p in path.parent.glob("*.yaml")]
    close = difflib.get_close_matches(path.name, names, n=3)
    return f" Files of a similar name there: {', '.join(close)}." if close else ""


def _choose_device(cfg: CfgNode, *, asked_by_name: bool) -> None:
    if not str(cfg.MODEL.DEVICE).startswith("cuda") or torch.cuda.is_available():
        return
    if asked_by_name:
        raise ConfigError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but PyTorch finds no GPU here.")
    logger.warning("PyTorch finds no GPU: MODEL.DEVICE becomes cpu.")
    cfg.MODEL.DEVICE = "cpu"
