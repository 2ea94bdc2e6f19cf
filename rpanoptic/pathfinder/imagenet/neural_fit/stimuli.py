"""Which pictures of a folder an assembly's stimuli are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rpanoptic.errors import DatasetError, listed
from rpanoptic.pathfinder.imagenet.neural_fit.assembly import Assembly

logger = logging.getLogger(__name__)

_LISTED = 4


def match_stimuli(assembly: Assembly, pictures: Sequence[Path]) -> list[Path]:
    """Find the picture of each stimulus: that of which its id is the name, with its ending or not.

    Pictures that are no stimulus of the assembly are named in the log.

    Args:
        assembly: the neurons' responses.
        pictures: files.

    Returns:
        the pictures, in the order of ``assembly.stimuli``.

    Raises:
        DatasetError: a stimulus has no picture, or more than one; the message names them, and
            pictures that are no stimulus.
    """
    by_name: dict[str, list[Path]] = {}
    for path in pictures:
        for name in {path.name, path.stem}:
            by_name.setdefault(name, []).append(path)
    missing = [name for name in assembly.stimuli if name not in by_name]
    matched = [path for name in assembly.stimuli for path in by_name.get(name, [])]
    unused = sorted({path.name for path in pictures} - {path.name for path in matched})
    if missing:
        rest = f"; no stimulus: {listed(unused, most=_LISTED)}" if unused else ""
        raise DatasetError(
            f"assembly {assembly.name}: {len(missing)} of its {len(assembly.stimuli)} stimuli are "
            f"not among the {len(pictures)} pictures: {listed(missing, most=_LISTED)}{rest}. A "
            "picture is named after its stimulus, as ID.png."
        )
    for name in assembly.stimuli:
        if len(by_name[name]) > 1:
            raise DatasetError(
                f"assembly {assembly.name}: stimulus {name} could be any of "
                f"{listed(by_name[name], most=_LISTED)}"
            )
    if len(set(matched)) < len(matched):
        twice = [path for path in set(matched) if matched.count(path) > 1]
        raise DatasetError(
            f"assembly {assembly.name}: two stimuli are the picture {listed(twice, most=_LISTED)}"
        )
    if unused:
        logger.warning(
            "%d pictures are no stimulus of %s and are not used: %s",
            len(unused),
            assembly.name,
            listed(unused, most=_LISTED),
        )
    return matched
