"""Errors of the set-up. Each message says what stopped it and what to do next."""

from __future__ import annotations

from rpanoptic.errors import UserError


class InstallError(UserError):
    """Detectron2 could not be installed; nothing was changed."""


class MendError(InstallError):
    """A file of Detectron2 does not hold the text that a mend expects."""
