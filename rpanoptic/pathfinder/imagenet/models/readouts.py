"""Which feature of a backbone a classifier reads, and after which steps."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling import Backbone
from torch import Tensor

from rpanoptic.modeling.backbone.conv_rnn import ConvRNN
from rpanoptic.pathfinder.imagenet.models.settings import check_readout_steps


class Readouts:
    """The readouts of one feature of a backbone, by steps.

    A :class:`ConvRNN` whose gradient goes through all steps, and that is not averaged over them
    itself, can be read out after each one from the image's arrival on. Any other backbone has one
    readout, called step 1, or by the number of its last step.

    Args:
        backbone: any.
        feature: its name; "" takes the last of the largest stride.
        steps: after which steps of the loop, rising; none takes all.
        step_loss: whether a loss on all readouts is wanted.

    Raises:
        ValueError: an unknown feature (the known ones are listed), steps at which the backbone
            cannot be read out, or a loss on all steps of a network that only has the last.
    """

    def __init__(
        self,
        backbone: Backbone,
        feature: str = "",
        steps: Sequence[int] = (),
        *,
        step_loss: bool = False,
    ) -> None:
        self.backbone = backbone
        self.feature = _feature(backbone, feature)
        self._wanted = check_readout_steps("readout_steps", [*steps])
        self._unrolls = False
        if isinstance(backbone, ConvRNN) and backbone.recurrence is not None:
            purpose = "step_loss" if step_loss else "readout_steps" if self._wanted else ""
            self._unrolls = _can_unroll(backbone, purpose)
        # Wrong ones are to be named before the first picture.
        self.steps()
        if self._unrolls and self._wanted:
            assert isinstance(backbone, ConvRNN) and backbone.recurrence is not None
            last = backbone.recurrence.steps_test or backbone.recurrence.steps
            if self._wanted[-1] > last:
                raise ValueError(
                    f"readout_steps must not exceed the {last} steps of a run at test, got "
                    f"{self._wanted[-1]}"
                )

    def steps(self) -> tuple[int, ...]:
        """The steps of the readouts, with the number of steps now in force.

        Raises:
            ValueError: the backbone cannot be read out at one of them.
        """
        known = range(1, 2)
        if isinstance(self.backbone, ConvRNN):
            known = self.backbone.readout_steps(self.feature)
            if not self._unrolls:
                known = known[-1:]
        strange = [step for step in self._wanted if step not in known]
        if strange:
            raise ValueError(
                f"readout_steps must be among {known[0]} to {known[-1]}, at which "
                f"{self.feature!r} can be read out; got {strange[0]}"
            )
        return self._wanted or tuple(known)

    def features(self, images: Tensor, steps: Sequence[int]) -> list[Tensor]:
        """The feature ``(N, C, H, W)`` after each of ``steps``.

        Args:
            images: ``(N, C, S, S)``, normalised.
            steps: some of :meth:`steps`.
        """
        if self._unrolls:
            assert isinstance(self.backbone, ConvRNN)
            found = self.backbone.unrolled(images, steps)
            return [found[step][self.feature] for step in steps]
        return [self.backbone(images)[self.feature]]


def _can_unroll(backbone: ConvRNN, purpose: str) -> bool:
    """Whether a network gives the features of each step.

    Raises:
        ValueError: it does not, though something needs it.
    """
    assert backbone.recurrence is not None
    try:
        if backbone.readout == "mean":
            raise ValueError(f"{purpose} needs a network with readout 'last', not 'mean'")
        backbone.recurrence.check_stepwise(purpose)
    except ValueError:
        if purpose:
            raise
        return False
    return True


def _feature(backbone: Backbone, name: str) -> str:
    shapes = backbone.output_shape()
    if not name:
        strides = {key: shape.stride or 1 for key, shape in shapes.items()}
        return [key for key, stride in strides.items() if stride == max(strides.values())][-1]
    if name not in shapes:
        raise ValueError(f"in_feature {name!r} is unknown; the backbone has {', '.join(shapes)}")
    return name
