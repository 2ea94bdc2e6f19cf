"""The readout of a classifier: from a feature to logits."""

from __future__ import annotations

import math
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.recurrent.cells.parts import variance_scaling_
from rpanoptic.recurrent.checks import check_choice, check_count

PREDICTORS = ("linear", "convolution")
# Side of the kernels of a convolution that predicts, px.
_SIDE = 2


class ClassificationHead(nn.Module):
    """Reads a feature out::

        feature (N, C, H, W) -> 2 x 2 max-pooling, if any
        "linear":      global average -> dropout -> linear -> logits (N, K)
        "convolution": dropout -> 2 x 2 convolution without padding -> global average -> logits

    The published networks of ten layers pool and have the first, the shallow ones pool and have the
    second. Weights start as a truncated normal distribution of variance 1 / fan-in, biases at 0.

    Args:
        channels: C.
        classes: K, at least 2.
        predictor: "linear" or "convolution".
        pool: whether there is a max-pooling; odd sizes are rounded up.
        dropout: probability, below 1, with which a number that the predictor takes is dropped in
            training.

    Raises:
        ValueError: another predictor, fewer classes, or an impossible probability.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        predictor: str = "linear",
        pool: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("predictor", predictor, PREDICTORS)
        check_count("classes", classes, least=2)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.classes = classes
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        self.predictor: nn.Linear | nn.Conv2d
        if predictor == "linear":
            self.predictor = nn.Linear(channels, classes)
        else:
            self.predictor = nn.Conv2d(channels, classes, _SIDE)
        variance_scaling_(self.predictor.weight, self.predictor.weight[0].numel())
        nn.init.zeros_(cast(Tensor, self.predictor.bias))

    def forward(self, feature: Tensor) -> Tensor:
        """Logits ``(N, K)`` of a feature ``(N, C, H, W)``.

        Raises:
            ValueError: the feature is too small for the convolution.
        """
        if self.pool:
            feature = F.max_pool2d(feature, kernel_size=2, stride=2, ceil_mode=True)
        if isinstance(self.predictor, nn.Linear):
            logits: Tensor = self.predictor(self.dropout(feature.mean(dim=(2, 3))))
            return logits
        self._check_map(*feature.shape[-2:])
        maps: Tensor = self.predictor(self.dropout(feature))
        return maps.mean(dim=(2, 3))

    def check_size(self, side: int, where: str) -> None:
        """Check that a square feature is large enough.

        Args:
            side: height and width of the feature, in its pixels.
            where: what makes it so large, for the message.

        Raises:
            ValueError: it is too small for the convolution.
        """
        try:
            self._check_map(*[math.ceil(side / 2) if self.pool else side] * 2)
        except ValueError as error:
            raise ValueError(f"with {where} {error}") from error

    def _check_map(self, height: int, width: int) -> None:
        if isinstance(self.predictor, nn.Conv2d) and min(height, width) < _SIDE:
            raise ValueError(
                f"the predictor, a convolution of {_SIDE} x {_SIDE}, gets a feature of "
                f"{height} x {width}: take larger pictures, no pooling, or predictor 'linear'"
            )
