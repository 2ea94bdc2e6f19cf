"""The libraries that neural fits need beside the package's own, loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

from rpanoptic.errors import UserError

# Where the name on PyPI is another.
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def library(module: str) -> Any:
    """Import a module such as "xarray" or "sklearn.decomposition".

    Raises:
        UserError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        name = _DISTRIBUTIONS.get(top, top)
        raise UserError(
            f"neural fits need {name}, which cannot be imported ({error}): "
            "pip install 'rpanoptic[imagenet]'"
        ) from error
