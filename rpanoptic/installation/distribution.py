"""Packs the mended Detectron2 as an ordinary wheel and installs it with pip."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from rpanoptic.installation.archive import VERSION
from rpanoptic.installation.mend import Mend
from rpanoptic.installation.run import run_module

# Count up whenever a mend changes: an installation of an older revision is then replaced.
REVISION = 3

DIST_VERSION = f"{VERSION}+rpanoptic.{REVISION}"

# Upstream's own list, less what only its caffe2 export and its code formatter need.
REQUIRES = (
    "torch>=1.10",
    "torchvision",
    "numpy",
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
)

_METADATA = """\
Metadata-Version: 2.1
Name: detectron2
Version: {version}
Summary: Detectron2 0.6, mended for current versions of its dependencies; no compiled operators
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
License: Apache-2.0
License-File: LICENSE
Classifier: License :: OSI Approved :: Apache Software License
Requires-Python: >=3.8
{requires}
Description-Content-Type: text/plain

Detectron2 is FAIR's platform for object detection and segmentation. These are the files of its
release 0.6 (https://github.com/facebookresearch/detectron2, commit d1e04565), changed by rpanoptic
so that they run on current versions of Python, PyTorch, NumPy and Pillow. Each changed file says
so in its first lines; MENDS.txt beside this file lists all changes. The compiled operators are not
included.
"""

_WHEEL = """\
Wheel-Version: 1.0
Generator: rpanoptic
Root-Is-Purelib: true
Tag: py3-none-any
"""


def revision_of(version: str) -> int | None:
    """The revision in a version such as ``0.6+rpanoptic.1``; None for a version not of ours."""
    match = re.fullmatch(re.escape(VERSION) + r"\+rpanoptic\.(\d+)", version)
    return int(match.group(1)) if match else None


def mends_text(mends: Iterable[Mend]) -> str:
    """The list of changes that travels with the installed package."""
    lines = ["Changes that rpanoptic made to the files of Detectron2 0.6.", ""]
    for mend in mends:
        lines.append(f"{mend.name} ({mend.need.value}): detectron2/{mend.file}")
        lines.append(f"    {mend.why}")
        if mend.upstream:
            lines.append(f"    A like change upstream: {mend.upstream}")
    return "\n".join(lines) + "\n"


def build_wheel(source: Path, mends: Iterable[Mend], folder: Path) -> Path:
    """Pack a wheel from a folder that holds the mended ``detectron2/`` and ``LICENSE``.

    Args:
        source: left unchanged.
        mends: named in the wheel's MENDS.txt.
        folder: an existing folder to build in.

    Returns:
        The path of the wheel in ``folder``.

    Raises:
        InstallError: the packing failed.
    """
    tree = folder / "tree"
    info = tree / f"detectron2-{DIST_VERSION}.dist-info"
    shutil.copytree(source / "detectron2", tree / "detectron2")
    info.mkdir()
    requires = "\n".join(f"Requires-Dist: {requirement}" for requirement in REQUIRES)
    texts = {
        "METADATA": _METADATA.format(version=DIST_VERSION, requires=requires),
        "WHEEL": _WHEEL,
        "top_level.txt": "detectron2\n",
        "MENDS.txt": mends_text(mends),
    }
    for name, text in texts.items():
        (info / name).write_text(text, encoding="utf-8", newline="\n")
    shutil.copyfile(source / "LICENSE", info / "LICENSE")
    run_module(
        "wheel", ["pack", str(tree), "--dest-dir", str(folder)], "Packing the mended Detectron2"
    )
    return next(folder.glob("*.whl"))


def install_wheel(wheel: Path, *, reinstall: bool = False) -> None:
    """Install the wheel, and nothing else, into this interpreter's environment.

    pip replaces another version of the distribution and puts it back if the new one fails.

    Raises:
        InstallError: pip refused, with its reasons.
    """
    options = ["--no-deps", "--no-index", *(["--force-reinstall"] if reinstall else [])]
    # By name and folder, so that 'pip freeze' shows a version and not this temporary file.
    source = ["--find-links", str(wheel.parent), f"detectron2=={DIST_VERSION}"]
    run_module("pip", ["install", *options, *source], "Installing the mended Detectron2")
