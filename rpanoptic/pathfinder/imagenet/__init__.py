"""Task-driven ConvRNNs (Nayebi et al., NeurIPS 2018): classifiers, their pictures and datasets.

Importing this registers the models and the datasets; nothing is read.
"""

from __future__ import annotations

from rpanoptic.pathfinder.imagenet import data, models, neural_fit

__all__ = ["data", "models", "neural_fit"]
