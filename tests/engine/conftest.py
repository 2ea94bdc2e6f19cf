"""Fixtures of this folder."""

from tests.engine.tiny import one_thread, tiny_data, tiny_datasets

__all__ = ["one_thread", "tiny_data", "tiny_datasets"]
