"""Classifiers; importing this registers them."""

from __future__ import annotations
