"""Packaging of rpanoptic. Settings of the development tools stand in pyproject.toml."""

import ast
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (ROOT / "rpanoptic" / "__init__.py").read_text(), re.MULTILINE
).group(1)


def detectron2_requirements() -> list[str]:
    """What the wheel of Detectron2 asks for, read without importing the package."""
    source = (ROOT / "rpanoptic" / "installation" / "distribution.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REQUIRES":
            return list(ast.literal_eval(node.value))
    raise RuntimeError("rpanoptic/installation/distribution.py has no REQUIRES")


class BuildWithConfigs(build_py):
    """Packs configs/ into the package, so that an installed rpanoptic finds them.

    From a checkout (and an editable install) they are taken from where they stand.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        packed = Path(self.build_lib) / "rpanoptic" / "model_zoo" / "configs"
        shutil.rmtree(packed, ignore_errors=True)
        shutil.copytree(ROOT / "configs", packed, ignore=shutil.ignore_patterns("*.md"))


# cv2 comes in several distributions that overwrite each other (opencv-python, its headless twin,
# a system package), so none is forced on a user who already has one.
OPENCV = ["opencv-python-headless>=4.5"]
# The official panopticapi module, for the panoptic quality. This package of it needs NumPy 1, and
# would overwrite a panopticapi that was installed from its source.
PANOPTIC = ["panopticapi-lite>=0.2"]
# What Detectron2 imports. tools/install_detectron2.py then installs Detectron2 itself, which is
# not on PyPI under its own name. A Detectron2 built from source brings these along.
DETECTRON2 = detectron2_requirements()
# Compared with by tools/benchmark.py; its latest release.
BENCHMARK = ["torchdeq==0.1.0"]
# For tools/submit.py alone.
SLURM = ["submitit>=1.5"]
# For the digits and the neural fits of rpanoptic.pathfinder.imagenet.
IMAGENET = ["scikit-learn>=1.5", "xarray>=2024.1", "h5netcdf>=1.3", "h5py>=3.9"]
# For tools/search_convrnn.py alone.
SEARCH = ["optuna>=5.0"]
# scikit-learn is what the tests compare figures with.
DEV = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "mypy>=1.14",
    "types-tabulate",
    "types-tqdm",
    "scikit-learn>=1.5",
]

setup(
    name="rpanoptic",
    version=VERSION,
    description="Recurrent vision models for Detectron2, trained by contractor recurrent "
    "back-propagation",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["rpanoptic", "rpanoptic.*"]),
    package_data={"rpanoptic": ["py.typed"]},
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=[
        # Before 2.6, loading a checkpoint with weights_only could still run code (CVE-2025-32434).
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy>=1.23",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.7",
        "yacs>=0.1.8",
        "pycocotools>=2.0.6",
        "Pillow>=9.4",
        "tabulate>=0.9",
        "tqdm>=4.60",
        # Figures of classifiers, exact over several processes.
        "torchmetrics>=1.4",
    ],
    extras_require={
        "opencv": OPENCV,
        "panoptic": PANOPTIC,
        "detectron2": DETECTRON2,
        "benchmark": BENCHMARK,
        "slurm": SLURM,
        "imagenet": IMAGENET,
        "search": SEARCH,
        "dev": DEV,
        "all": OPENCV + PANOPTIC + DETECTRON2 + SLURM + IMAGENET + SEARCH + DEV,
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
