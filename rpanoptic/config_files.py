"""Config files by name: those of this package, and those that the installed Detectron2 brings."""

from __future__ import annotations

import difflib
from pathlib import Path

from rpanoptic.errors import ConfigError

# Files in this folder are parts that others build on, no models.
BASES = "_base_"


def configs_folder() -> Path:
    """The folder of this package's config files: in the package, or in a checkout beside it."""
    packed = Path(__file__).parent / "model_zoo" / "configs"
    return packed if packed.is_dir() else Path(__file__).parents[1] / "configs"


def list_config_files() -> list[str]:
    """The names of this package's config files, such as ``coco_panoptic/R50/crbp20.yaml``.

    A name is the file's path below the folder of the configs, with forward slashes; lazy configs
    end in .py. Bases, which are no models by themselves, are left out.
    """
    return [name for name in _own_names() if not name.startswith(f"{BASES}/")]


def _own_names() -> list[str]:
    return _names(configs_folder())


def own_config_file(name: str) -> Path:
    """The file of a name of :func:`list_config_files`, or of a base.

    Raises:
        ConfigError: there is no such name; the closest ones are listed.
    """
    return _file_in(configs_folder(), name, whose="rpanoptic")


def detectron2_config_file(name: str) -> Path:
    """The file of a name in Detectron2's model zoo, out of the installed package.

    Args:
        name: such as "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml". Detectron2's bases
            and, ending in .py, its lazy configs are names too.

    Raises:
        ConfigError: there is no such name; the closest ones are listed.
    """
    # Not detectron2.model_zoo.get_config_file, which gives any file or folder that a path leads to.
    return _file_in(_detectron2_folder(), name, whose="Detectron2")


def find_config_file(name: str) -> Path:
    """The file of a name of this package or, where it has none, of Detectron2's model zoo.

    Raises:
        ConfigError: neither has it; the closest names of both are listed.
    """
    own = _own_names()
    if name in own:
        return configs_folder() / name
    try:
        return detectron2_config_file(name)
    except ConfigError:
        hint = _close(name, [*own, *_detectron2_names()])
        raise ConfigError(
            f"neither rpanoptic nor Detectron2 has a config {name!r}.{hint}"
        ) from None


def is_detectron2s_own(path: Path) -> bool:
    """Whether a file is one of the configs that the installed Detectron2 brings."""
    return path.resolve().is_relative_to(_detectron2_folder().resolve())


def _detectron2_folder() -> Path:
    # Imported here: most uses need this package's files alone.
    import detectron2

    return Path(detectron2.__file__).parent / "model_zoo" / "configs"


def _detectron2_names() -> list[str]:
    return _names(_detectron2_folder())


def _file_in(folder: Path, name: str, *, whose: str) -> Path:
    known = _names(folder)
    if name not in known:
        raise ConfigError(f"{whose} has no config {name!r}.{_close(name, known)}")
    return folder / name


def _names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*.*") if path.suffix in (".yaml", ".py"))
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _close(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    # A file's own name may be right where its folder is not.
    leaves = [other for other in known if other.rpartition("/")[2] == name.rpartition("/")[2]]
    close = list(dict.fromkeys([*leaves[:3], *close]))[:3]
    return f" Close names: {', '.join(close)}." if close else ""


_ZOOS = {"detectron2://": detectron2_config_file, "rpanoptic://": own_config_file}


def zoo_file(base: str) -> Path | None:
    """The file that a ``_BASE_`` such as "detectron2://COCO-Detection/....yaml" stands for.

    "detectron2://" is also what Detectron2 calls its store of weights by; a config of the zoo is in
    the installed package and needs no network. "rpanoptic://" stands for this package's configs.

    Returns:
        None if it is another kind of name.

    Raises:
        ConfigError: the zoo has no such config.
    """
    for scheme, find in _ZOOS.items():
        if base.startswith(scheme):
            return find(base.removeprefix(scheme))
    return None
