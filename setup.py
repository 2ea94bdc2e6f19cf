"""Packaging of rpanoptic. Settings of the development tools stand in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (ROOT / "rpanoptic" / "__init__.py").read_text(), re.MULTILINE
).group(1)

# cv2 comes in several distributions that overwrite each other (opencv-python, its headless twin,
# a system package), so none is forced on a user who already has one.
OPENCV = ["opencv-python-headless>=4.5"]
DEV = ["pytest>=8", "ruff>=0.9", "mypy>=1.14", "types-tabulate", "types-tqdm"]

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
    # Detectron2 itself is not on PyPI under its own name: tools/install_detectron2.py, or a
    # build from its source.
    install_requires=[
        "torch>=2.1",
        "torchvision>=0.16",
        "numpy>=1.23",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.7",
        "yacs>=0.1.8",
        "pycocotools>=2.0.6",
        "panopticapi-lite>=0.2",
        "Pillow>=9.4",
        "tabulate>=0.9",
        "tqdm>=4.60",
    ],
    extras_require={"opencv": OPENCV, "dev": DEV, "all": OPENCV + DEV},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
