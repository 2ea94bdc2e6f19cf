"""Models of Pathfinder. Importing this package registers them."""

from rpanoptic.pathfinder.models.contour_classifier import ContourClassifier
from rpanoptic.pathfinder.models.contour_segmentor import ContourSegmentor
from rpanoptic.pathfinder.models.feedforward import FeedForwardContourBackbone
from rpanoptic.pathfinder.models.head import ContourHead, focal_loss
from rpanoptic.pathfinder.models.recurrent import RecurrentContourBackbone
from rpanoptic.pathfinder.models.settings import check_pathfinder_node
from rpanoptic.pathfinder.models.stem import Stem, gabor_bank
from rpanoptic.pathfinder.models.unet import UNetContourBackbone

__all__ = [
    "ContourClassifier",
    "ContourHead",
    "ContourSegmentor",
    "FeedForwardContourBackbone",
    "RecurrentContourBackbone",
    "Stem",
    "UNetContourBackbone",
    "check_pathfinder_node",
    "focal_loss",
    "gabor_bank",
]
