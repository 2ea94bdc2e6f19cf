"""rpanoptic: recurrent vision models for Detectron2, trained by recurrent back-propagation."""

from rpanoptic.config import add_rpanoptic_config

__version__ = "0.1.0"

__all__ = ["__version__", "add_rpanoptic_config"]
