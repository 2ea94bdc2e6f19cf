"""Fits of a model's features to neurons, over time (Nayebi et al., Neural Computation 2022)."""

from rpanoptic.pathfinder.imagenet.neural_fit.assembly import Assembly, read_assembly
from rpanoptic.pathfinder.imagenet.neural_fit.extraction import extract_features
from rpanoptic.pathfinder.imagenet.neural_fit.features import FeatureFile
from rpanoptic.pathfinder.imagenet.neural_fit.predictivity import (
    FitSettings,
    NeuralFit,
    check_assembly,
    fit_neurons,
)
from rpanoptic.pathfinder.imagenet.neural_fit.regression import MapSettings
from rpanoptic.pathfinder.imagenet.neural_fit.stimuli import match_stimuli
from rpanoptic.pathfinder.imagenet.neural_fit.tables import bin_rows, overall_row
from rpanoptic.pathfinder.imagenet.neural_fit.times import TimeBins

__all__ = [
    "Assembly",
    "FeatureFile",
    "FitSettings",
    "MapSettings",
    "NeuralFit",
    "TimeBins",
    "bin_rows",
    "check_assembly",
    "extract_features",
    "fit_neurons",
    "match_stimuli",
    "overall_row",
    "read_assembly",
]
