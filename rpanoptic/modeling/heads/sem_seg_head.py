"""The semantic head of Panoptic FPN with a recurrence on the sum of its levels."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.modeling.build import build_recurrent_block, check_keeps_size, output_norm_of
from rpanoptic.recurrent import RecurrentBlock

CONFIG_KEY = "MODEL.RECURRENT.SEM_SEG_HEAD"


@SEM_SEG_HEADS_REGISTRY.register()
class RecurrentSemSegFPNHead(SemSegFPNHead):
    """Detectron2's semantic head with a recurrent block before its predictor.

    The levels, brought to one stride and added, drive the block at every step (Kirillov et al.,
    CVPR 2019, for all but the recurrence)::

        levels -> convolutions, upsampling -> sum (N, C, H/s, W/s) -> recurrence -> norm -> logits

    Its other parts keep their names, so that Detectron2's weights fill them.

    Args:
        input_shape: channels and stride of each level by its name.
        recurrence: the recurrent block, driven by C channels.
        num_classes: K, classes to predict.
        conv_dims: C, channels of the convolutions.
        output_norm: normalisation of the equilibrium, as :func:`detectron2.layers.get_norm` takes
            it.
        options: further arguments of Detectron2's head: ``common_stride`` (s), ``loss_weight``,
            ``norm`` and ``ignore_value``.

    Raises:
        ValueError: the recurrent block is not driven by C channels, or its cell changes the size.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        recurrence: RecurrentBlock,
        num_classes: int,
        conv_dims: int,
        output_norm: str = "GN",
        **options: Any,
    ) -> None:
        # By keyword: as a first argument, the mapping of a LazyConfig would count as a config.
        super().__init__(
            input_shape=input_shape, num_classes=num_classes, conv_dims=conv_dims, **options
        )
        cell = recurrence.cell
        if cell.drive_channels != conv_dims or cell.channels != conv_dims:
            raise ValueError(
                f"the recurrent block takes {cell.drive_channels} channels and gives "
                f"{cell.channels}; the semantic head has conv_dims = {conv_dims}"
            )
        check_keeps_size("the semantic head", recurrence.cell)
        self.recurrence = recurrence
        self.output_norm = get_norm(output_norm, conv_dims) or nn.Identity()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Map a config to constructor arguments.

        Raises:
            ConfigError: a key has an impossible value.
        """
        node, channels = cfg.MODEL.RECURRENT.SEM_SEG_HEAD, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
        return super().from_config(cfg, input_shape) | {
            "recurrence": build_recurrent_block(node, channels, key=CONFIG_KEY),
            "output_norm": output_norm_of(node, channels, key=CONFIG_KEY),
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute the losses in training, the logits at inference.

        Args:
            features: levels by their names, each ``(N, C_level, H_level, W_level)``.
            targets: in training, classes of the pixels, ``(N, H, W)`` int64.

        Returns:
            In training None and ``loss_sem_seg``, with ``loss_lipschitz_sem_seg`` if the gradient
            method has a penalty of weight above 0; otherwise logits ``(N, K, H, W)`` and no loss.

        Raises:
            ValueError: there are no targets in training.
        """
        output = self.recurrence(self.drive(features))
        logits = self.read_out(output.output)
        if not self.training:
            size = self.common_stride
            logits = F.interpolate(logits, scale_factor=size, mode="bilinear", align_corners=False)
            return logits, {}
        if targets is None:
            raise ValueError("the semantic head needs the classes of the pixels in training")
        losses = self.losses(logits, targets)
        if output.penalty is not None:
            losses["loss_lipschitz_sem_seg"] = output.penalty
        return None, losses

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Logits ``(N, K, H/s, W/s)`` of the levels."""
        return self.read_out(self.recurrence(self.drive(features)).output)

    def drive(self, features: dict[str, Tensor]) -> Tensor:
        """The levels at one stride, added: ``(N, C, H/s, W/s)``."""
        scaled = [
            head(features[name])
            for name, head in zip(self.in_features, self.scale_heads, strict=True)
        ]
        total = scaled[0]
        for level in scaled[1:]:
            total = total + level
        return total

    def read_out(self, output: Tensor) -> Tensor:
        """Logits ``(N, K, H/s, W/s)`` of what the cell reads out, ``(N, C, H/s, W/s)``."""
        return self.predictor(self.output_norm(output))

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The cross entropy, averaged over the pixels that count; 0 where none does.

        Detectron2's own head divides by zero there, as for a batch of crowds alone.
        """
        # Interpolation and sum in float32, under autocast too.
        predictions = F.interpolate(
            predictions.float(),
            scale_factor=self.common_stride,
            mode="bilinear",
            align_corners=False,
        )
        total = F.cross_entropy(
            predictions, targets, reduction="sum", ignore_index=self.ignore_value
        )
        counted = (targets != self.ignore_value).sum().clamp(min=1)
        return {"loss_sem_seg": self.loss_weight * total / counted}
