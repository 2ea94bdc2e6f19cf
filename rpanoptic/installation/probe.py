"""Finds out which Detectron2 this interpreter imports, whose it is and whether it works.

The question is put to a fresh process of the same interpreter: this process may have imported
another one already, and an import that fails could leave traces.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpanoptic.installation.distribution import revision_of

# What a training run of a panoptic model imports.
MODULES = (
    "detectron2",
    "detectron2.config",
    "detectron2.layers",
    "detectron2.structures",
    "detectron2.data",
    "detectron2.modeling",
    "detectron2.solver",
    "detectron2.checkpoint",
    "detectron2.evaluation",
    "detectron2.engine",
)

_SCRIPT = """
import importlib, importlib.metadata, importlib.util, json, os, sys
answer = {"location": None, "version": "", "distribution": "", "info": None, "error": ""}
try:
    spec = importlib.util.find_spec("detectron2")
    if spec is not None and spec.origin is not None:  # else absent, or a folder without a package
        answer["location"] = os.path.dirname(os.path.abspath(spec.origin))
    for dist in importlib.metadata.distributions(name="detectron2"):
        answer["distribution"] = dist.version
        start = str(dist.locate_file("detectron2/__init__.py"))
        if answer["location"] and os.path.isfile(start):
            if os.path.samefile(start, os.path.join(answer["location"], "__init__.py")):
                answer["info"] = str(getattr(dist, "_path", ""))
        break
    print("\\n" + json.dumps(answer), flush=True)  # an import may end the process
    if answer["location"]:
        for name in json.loads(sys.argv[1]):
            module = importlib.import_module(name)
            answer["version"] = answer["version"] or str(getattr(module, "__version__", ""))
except BaseException as error:
    answer["error"] = f"{type(error).__name__}: {error}"
sys.stdout.write("\\n" + json.dumps(answer))
"""


@dataclass(frozen=True)
class Found:
    """The Detectron2 of an interpreter.

    Attributes:
        location: the folder of the package that ``import detectron2`` takes; None if there is none.
        version: its ``__version__``; empty if it could not be imported.
        distribution: the version of an installed distribution called detectron2; empty if none.
            It need not be the one that is imported.
        info: the metadata folder of that distribution, if it is the one that is imported.
        error: why an import failed; empty if all of ``MODULES`` were imported.
    """

    location: Path | None
    version: str
    distribution: str
    info: Path | None
    error: str

    @property
    def revision(self) -> int | None:
        """The revision of our mends if we installed what is imported, else None."""
        return revision_of(self.distribution) if self.info else None

    @property
    def works(self) -> bool:
        """Whether there is one and everything that training needs was imported."""
        return self.location is not None and not self.error


def probe(modules: Sequence[str] = MODULES, first: Path | None = None) -> Found:
    """Ask a fresh process of this interpreter. It reads only.

    Args:
        modules: what it imports, if there is a Detectron2.
        first: a folder to look into before all others.
    """
    with tempfile.TemporaryDirectory() as neutral:  # the current folder must not be importable
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, json.dumps(list(modules))],
            capture_output=True,
            text=True,
            check=False,
            cwd=neutral,
            env=_environment(first),
        )
    answer: dict[str, Any] = {
        "location": None,
        "version": "",
        "distribution": "",
        "info": None,
        "error": "",
    }
    for line in done.stdout.splitlines():
        if line.startswith('{"location"'):
            answer = json.loads(line)
    if done.returncode != 0 and not answer["error"]:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        answer["error"] = f"the interpreter ended with {done.returncode}: {last}"
    return Found(
        location=Path(answer["location"]) if answer["location"] else None,
        version=answer["version"],
        distribution=answer["distribution"],
        info=Path(answer["info"]) if answer["info"] else None,
        error=answer["error"],
    )


def _environment(first: Path | None) -> dict[str, str]:
    """This process's environment, with PYTHONPATH independent of the current folder."""
    environment = dict(os.environ)
    given = environment.pop("PYTHONPATH", "").split(os.pathsep)
    folders = [str(Path(folder).absolute()) for folder in given if folder]
    if first is not None:
        folders.insert(0, str(first))
    if folders:
        environment["PYTHONPATH"] = os.pathsep.join(folders)
    return environment
