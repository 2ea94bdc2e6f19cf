"""Classification of pictures by any backbone; a ConvRNN is read out at several steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from rpanoptic.errors import DatasetError, naming
from rpanoptic.modeling import RecurrentModel
from rpanoptic.pathfinder.imagenet.models.agreement import check_all_read, check_size
from rpanoptic.pathfinder.imagenet.models.decoders import DECODERS, decode
from rpanoptic.pathfinder.imagenet.models.head import ClassificationHead
from rpanoptic.pathfinder.imagenet.models.readouts import Readouts
from rpanoptic.pathfinder.imagenet.models.settings import CONFIG_KEY, check_classifier_node
from rpanoptic.recurrent.checks import check_choice, check_number


class _Classifier(nn.Module):
    """The classifier itself, to which :class:`ImageClassifier` adds what recurrence needs."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: ClassificationHead,
        in_feature: str = "",
        readout_steps: Sequence[int] = (),
        decoder: str = "last",
        threshold: float = 0.9,
        step_loss: bool = False,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__()
        check_choice("decoder", decoder, tuple(DECODERS))
        check_number("mixup", mixup, least=0.0)
        self.backbone = backbone
        self.head = head
        self.readouts = Readouts(backbone, in_feature, readout_steps, step_loss=step_loss)
        self.decoder = decoder
        self.threshold = threshold
        self.step_loss = step_loss
        self.label_smoothing = label_smoothing
        self.mixup: v2.MixUp | None = None
        if mixup > 0:
            # It draws on the CPU, wherever the model is made.
            with torch.device("cpu"):
                self.mixup = v2.MixUp(alpha=mixup, num_classes=head.classes)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Map a config to constructor arguments.

        Raises:
            ConfigError: a key has an impossible value, or the backbone no such feature, or it
                cannot be read out at such steps.
        """
        node = cfg.MODEL.CLASSIFIER
        check_classifier_node(node)
        backbone = build_backbone(cfg)
        with naming(CONFIG_KEY):
            readouts = Readouts(
                backbone, node.IN_FEATURE, node.READOUT_STEPS, step_loss=node.STEP_LOSS
            )
            head = ClassificationHead(
                backbone.output_shape()[readouts.feature].channels,
                node.NUM_CLASSES,
                predictor=node.PREDICTOR,
                pool=node.POOL,
                dropout=node.DROPOUT,
            )
            check_all_read(backbone, readouts.feature)
            check_size(backbone, readouts.feature, head, cfg.RPANOPTIC.CLASSIFICATION.SIZE)
        return {
            "backbone": backbone,
            "head": head,
            "in_feature": node.IN_FEATURE,
            "readout_steps": node.READOUT_STEPS,
            "decoder": node.DECODER,
            "threshold": node.THRESHOLD,
            "step_loss": node.STEP_LOSS,
            "label_smoothing": node.LABEL_SMOOTHING,
            "mixup": node.MIXUP,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        images = self._images(batched_inputs)
        if self.training:
            targets = self._labels(batched_inputs)
            if self.mixup is not None:
                images, targets = self.mixup(images, targets)
            return {"loss_classification": self._loss(images, targets)}
        with naming(CONFIG_KEY):
            # They may be given by call, fewer than the readouts need.
            steps = self.readouts.steps()
        logits = self.logits(images, steps)
        answer, index = decode(self.decoder, logits, self.threshold)
        return [
            {
                "classification": row,
                "classification_steps": logits[:, place],
                "readout_steps": steps,
                "readout_step": steps[int(taken)],
            }
            for place, (row, taken) in enumerate(zip(answer, index.tolist(), strict=True))
        ]

    def logits(self, images: Tensor, steps: Sequence[int]) -> Tensor:
        """Logits ``(R, N, K)`` in float32 of R readouts.

        Args:
            images: ``(N, C, S, S)``, normalised.
            steps: of the readouts, among those that :attr:`readouts` gives.
        """
        features = self.readouts.features(images, steps)
        return self.head(torch.cat(features)).float().unflatten(0, (len(steps), -1))

    def _loss(self, images: Tensor, targets: Tensor) -> Tensor:
        steps = self.readouts.steps()
        if self.decoder == "last" and not self.step_loss:
            steps = steps[-1:]
        logits = self.logits(images, steps)
        if not self.step_loss:
            logits = decode(self.decoder, logits, self.threshold)[0][None]
        repeated = targets.repeat(len(logits), *[1] * (targets.dim() - 1))
        return F.cross_entropy(logits.flatten(0, 1), repeated, label_smoothing=self.label_smoothing)

    def _images(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """The pictures ``(N, C, S, S)`` of a batch, normalised."""
        images = [x["image"] for x in batched_inputs]
        sizes = {tuple(image.shape) for image in images}
        channels = len(self.pixel_mean)
        if any(len(size) != 3 or size[0] != channels for size in sizes):
            raise DatasetError(f"pictures must be ({channels}, H, W); got {sorted(sizes)}")
        if len(sizes) > 1:
            # What pads the smaller ones would have a part in the average.
            raise DatasetError(f"pictures of a batch must have one size; got {sorted(sizes)}")
        stacked = torch.stack(images).to(self.device)
        normalised = (stacked - self.pixel_mean) / self.pixel_std
        return ImageList.from_tensors([*normalised], self.backbone.size_divisibility).tensor

    def _labels(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """The labels ``(N,)`` of a batch, int64."""
        labels = [int(x["label"]) for x in batched_inputs]
        for place, label in enumerate(labels):
            if not 0 <= label < self.head.classes:
                name = batched_inputs[place].get("file_name", f"number {place} of the batch")
                raise DatasetError(
                    f"picture {name}: its label is {label}, but the model has classes 0 to "
                    f"{self.head.classes - 1}."
                )
        return torch.tensor(labels, device=self.device)


@META_ARCH_REGISTRY.register()
class ImageClassifier(RecurrentModel, _Classifier):
    """Says to which class a picture belongs::

        picture -> backbone -> a feature at R steps -> head -> logits (R, N, K) -> decoder

    A picture is {"image": (3, S, S) float or uint8 in 0..255, "label": int}; those of a batch have
    one size, and only training needs labels. In training it gives "loss_classification", the
    cross-entropy in nats, in float32, of the decoded logits (or, with ``step_loss``, its mean over
    the readouts), beside the penalties of its recurrent parts; readouts that the loss does not need
    are not computed. Otherwise its output for a picture is

    - "classification": the decoded logits ``(K,)``, float32,
    - "classification_steps": the logits of each readout, ``(R, K)``,
    - "readout_steps": the R steps, counted from 1,
    - "readout_step": the step at which the decoder had its answer.

    A :class:`rpanoptic.modeling.backbone.ConvRNN` with gradients through all steps is read out at
    many; of any other backbone there is one readout. For the steps by call see
    :class:`RecurrentModel`.

    Args:
        backbone: any.
        head: reads the feature out.
        in_feature: the feature; "" takes the last of the largest stride.
        readout_steps: steps of the readouts, rising, from 1; none takes each one from the image's
            arrival on.
        decoder: from the readouts to one answer, by its name in :data:`DECODERS`. As published,
            "last"; the paper's variant with a trained temperature is not there.
        threshold: of the decoder "threshold", a probability.
        step_loss: whether the loss is the mean over all readouts.
        label_smoothing: part of a label's weight that is spread over all classes.
        mixup: parameter of the beta distribution from which a batch draws the weight, one for all,
            with which each picture is mixed with the one before it (Zhang et al., ICLR 2018); 0:
            none. A batch of one is left as it is. The weight comes from PyTorch's global generator
            of the CPU. Only pictures are mixed that a process takes in one pass.
        pixel_mean, pixel_std: of each channel of the pictures.

    Raises:
        ValueError: an unknown feature (the known ones are listed) or decoder, or steps at which the
            backbone cannot be read out; the same as a ConfigError where a config is at fault.
    """

    ground_truth = ("label",)
    #: See :func:`rpanoptic.modeling.outputs.outputs_of`.
    outputs: ClassVar[frozenset[str]] = frozenset({"classification"})
