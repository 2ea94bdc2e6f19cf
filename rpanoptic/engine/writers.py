"""What of the recurrence is printed to the terminal."""

from __future__ import annotations

import logging

from detectron2.utils.events import EventWriter, get_event_storage

from rpanoptic.recurrent import StopReason

logger = logging.getLogger(__name__)


class RecurrencePrinter(EventWriter):
    """Prints a line for each recurrent block that was recorded since the last write.

    Detectron2's printer shows losses, rates and times only. The scalars are those of
    :class:`rpanoptic.engine.hooks.RecurrenceLogger`; stop reasons that no sample has are left out.
    """

    def __init__(self) -> None:
        self._last = -1

    def write(self) -> None:
        """Print what is new."""
        blocks: dict[str, dict[str, float]] = {}
        newest = self._last
        for name, (value, iteration) in get_event_storage().latest().items():
            kind, _, rest = name.partition("/")
            if kind == "recurrence" and iteration > self._last:
                block, _, what = rest.partition("/")
                blocks.setdefault(block, {})[what] = value
                newest = max(newest, iteration)
        self._last = newest
        for block, values in blocks.items():
            logger.info(" %s  %s", block, recurrence_line(values))


def recurrence_line(values: dict[str, float]) -> str:
    """The scalars of one block in one line; those that are absent are left out.

    Args:
        values: by the names that :class:`rpanoptic.engine.hooks.RecurrenceLogger` lists.
    """
    parts = [
        text.format(values[name])
        for name, text in (
            ("steps", "steps: {:.3g}"),
            ("residual", "residual: {:.2g}"),
            ("adjoint_terms", "adjoint terms: {:.3g}"),
            ("adjoint_residual", "adjoint residual: {:.2g}"),
            ("adjoint_failed", "failed: {:.0%}"),
        )
        if name in values
    ]
    reasons = [reason.name.lower() for reason in StopReason]
    shares = [
        f"{name} {share:.0%}" for name in reasons if (share := values.get(f"adjoint_stop/{name}"))
    ]
    if shares:
        parts.append(f"stop: {', '.join(shares)}")
    return "  ".join(parts)
