"""rpanoptic: recurrent vision models for Detectron2, trained by recurrent back-propagation."""

import warnings

from rpanoptic.config import add_rpanoptic_config

# fvcore and Detectron2 script functions when they are imported, of which newer versions of PyTorch
# warn in every process.
warnings.filterwarnings(
    "ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning
)

__version__ = "0.1.0"

__all__ = ["__version__", "add_rpanoptic_config"]
