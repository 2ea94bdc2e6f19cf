"""Classifiers of pictures. Importing this package registers them."""

from rpanoptic.pathfinder.imagenet.models.decoders import DECODERS, decode
from rpanoptic.pathfinder.imagenet.models.head import ClassificationHead
from rpanoptic.pathfinder.imagenet.models.image_classifier import ImageClassifier
from rpanoptic.pathfinder.imagenet.models.settings import check_classifier_node
from rpanoptic.pathfinder.imagenet.models.torchvision_resnet import TorchvisionResNet

__all__ = [
    "DECODERS",
    "ClassificationHead",
    "ImageClassifier",
    "TorchvisionResNet",
    "check_classifier_node",
    "decode",
]
