"""What the layers before the loop of a ConvRNN make of its frames: the image, a blank, nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from rpanoptic.modeling.backbone.conv_rnn_parts import ConvLayer


class Frames:
    """The layers before the loop, which hold no state, run once for each distinct frame.

    Step 1 is that in which the loop sees the first frame. With delay 1 and d layers, a frame
    reaches the layer number p, counted from 0, d - p steps before the loop.

    Args:
        layers: the d layers, in their order; there may be none.
        image: ``(N, C, H, W)``: the frame of the first ``image_steps`` steps.
        blank: the frame of all later ones: a number for each channel, or one for all.
        image_steps: 0: the image is the frame of all steps.
        delay: 1: each edge takes a step; 0: none does.
    """

    def __init__(
        self,
        layers: Sequence[ConvLayer],
        image: Tensor,
        *,
        blank: Sequence[float],
        image_steps: int,
        delay: int,
    ) -> None:
        self.samples = image.shape[0]
        self._layers = layers
        self._image_steps = image_steps
        self._delay = delay
        self._blank_frame = image.new_tensor(blank).view(1, -1, 1, 1).expand_as(image[:1])
        # Of each layer what goes in and what comes out; the last entry goes into the loop.
        self._inputs: list[Tensor] = [image]
        self._outputs: list[Tensor] = []
        self._run(self._inputs, self._outputs)
        self._blank_inputs: list[Tensor] = []
        self._blank_outputs: list[Tensor] = []

    def drive(self, step: int) -> Tensor:
        """What drives the loop, ``(N, C, H, W)``; of steps below 1 ``(1, C, H, W)``."""
        if step < 1:
            return self.earlier[step - 1]
        if self._of_image(step - 1):
            return self._inputs[-1]
        self._see_blank()
        return self._for_all(self._blank_inputs[-1])

    def output(self, place: int, step: int) -> Tensor:
        """What a layer puts out in a step of the loop, before its pooling, ``(N, C, H, W)``.

        Args:
            place: of the layer, from 0.
            step: from 1.
        """
        ahead = len(self._layers) - place if self._delay else 0
        if self._of_image(step - 1 + ahead):
            return self._outputs[place]
        self._see_blank()
        return self._for_all(self._blank_outputs[place])

    @cached_property
    def earlier(self) -> list[Tensor]:
        """What drives the loop before the first frame arrives, each ``(1, C, H, W)``.

        Zeros, then what the last layer makes of zeros, what the last two do, and so on. Nothing
        without a delay, which the first frame arrives without.
        """
        drives = []
        for count in range(len(self._layers) if self._delay else 0):
            first = len(self._layers) - count
            x = torch.zeros_like(self._inputs[first][:1])
            for layer in self._layers[first:]:
                x = layer.pooled(layer(x))
            drives.append(x)
        return drives

    def _of_image(self, frame: int) -> bool:
        """Whether a frame, counted from 0, is the image."""
        return not self._image_steps or frame < self._image_steps

    def _see_blank(self) -> None:
        if not self._blank_inputs:
            self._blank_inputs.append(self._blank_frame)
            self._run(self._blank_inputs, self._blank_outputs)

    def _run(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        for layer in self._layers:
            outputs.append(layer(inputs[-1]))
            inputs.append(layer.pooled(outputs[-1]))

    def _for_all(self, x: Tensor) -> Tensor:
        return x.expand(self.samples, *x.shape[1:])
