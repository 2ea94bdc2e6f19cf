"""Configs and models by name: ours, and those of Detectron2's model zoo, by the same calls.

Importing this needs no network; fetching weights does.
"""

from rpanoptic.config_files import list_config_files as list_configs
from rpanoptic.model_zoo.published import PUBLISHED, PublishedWeights
from rpanoptic.model_zoo.zoo import get, get_checkpoint_url, get_config, get_config_file

#: ``model_zoo.list()`` reads well; it stays out of __all__, where it would hide Python's own.
list = list_configs

__all__ = [
    "PUBLISHED",
    "PublishedWeights",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "list_configs",
]
