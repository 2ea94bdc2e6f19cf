"""Fixtures of this folder."""

from tests.engine.tiny import tiny_data, tiny_datasets

__all__ = ["tiny_data", "tiny_datasets"]
