"""The task-driven ConvRNN (Nayebi et al., NeurIPS 2018) as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor, nn

from rpanoptic.errors import naming
from rpanoptic.modeling.backbone.conv_rnn_build import CONFIG_KEY, conv_rnn_options
from rpanoptic.modeling.backbone.conv_rnn_cell import ConvRNNCell
from rpanoptic.modeling.backbone.conv_rnn_frames import Frames
from rpanoptic.modeling.backbone.conv_rnn_graph import ConvRNNGraph
from rpanoptic.modeling.backbone.conv_rnn_parts import Connection, ConvLayer
from rpanoptic.modeling.backbone.conv_rnn_schedule import run_pruned
from rpanoptic.modeling.backbone.pyramid import build_fpn_on, last_level_p6p7
from rpanoptic.modeling.penalty import PenaltySource
from rpanoptic.recurrent import RecurrentBlock, RecurrentCell
from rpanoptic.recurrent.checks import check_choice, check_count
from rpanoptic.recurrent.gradients import BPTT

PENALTY_NAME = "loss_lipschitz_convrnn"
READOUTS = ("last", "mean")
SCHEDULES = ("faithful", "pruned")


class ConvRNN(PenaltySource, Backbone):
    """A chain of convolutional layers with cells and long-range feedback, run in time.

    Driven by the output of the layers before the loop, one recurrent block runs all others, see
    :class:`ConvRNNCell`. An output is what a layer puts out before its pooling; in the ten-layer
    network "res2" is conv4 (stride 4), "res3" conv6 (8), "res4" conv7 (16) and "res5" conv10 (32).
    Images may have any size: strides round up.

    Steps are those of the loop, from 1 on: in step 1 its first layer sees the image. With delay 1
    the image has passed d layers by then, a step each, and the loop has run meanwhile on what these
    make of zeros, as published: step k is the paper's t = k + d - 1, counted from 0. An image that
    goes off after n steps leaves a blank to the steps from n + 1 on, and to the layers before the
    loop each a step earlier.

    Its penalty is "loss_lipschitz_convrnn"; see :class:`PenaltySource` for how it reaches the
    losses. It concerns the Jacobian of the whole step. With a delay that holds the feed-forward
    connections of the loop too, without one only what comes back to a layer.

    Args:
        graph: the network. Layers that no output depends on should not be in it, see
            :meth:`ConvRNNGraph.reduced_to`: their parameters would have no gradient.
        cells: the local cells by the names of the layers that hold one.
        delay: 1: each edge takes a step; 0: a step is a sweep through all layers, with feedback
            from the step before.
        connection: how feedback reaches the layers; as published by default.
        out_features: names of outputs: "res2" to "res5", or of layers.
        readout: "last", the outputs after the last step; or "mean", over the steps from that on
            in which the image first has a part in an output. An equilibrium is its own mean, so
            "mean" is for gradients through all steps, "bptt" and "checkpointed_bptt", and for
            runs that neither stop early nor are accelerated.
        image_steps: steps that see the image; 0: all. Else as for "mean": an equilibrium needs a
            constant image. A network without a loop has one step, which sees it.
        blank: what follows it, in each channel of the normalised image.
        schedule: "faithful", all layers of the loop at every step; or "pruned", those that the
            outputs depend on, and for one sample of a batch what no image has reached yet. The
            outputs are equal, and so are the gradients. "pruned" is for the gradients and runs
            that "mean" is for. It records nothing: it runs the cell's layers and not the block,
            whose ``last`` is then None, so that logs have no residuals; the dynamics of a model
            are measured under "faithful".
        make_block: puts the loop into a recurrent block: steps, gradient method, penalty. It is
            not called for a network without cells and feedback.
        output_norm: normalisation of each output, outside the recurrence, as
            :func:`detectron2.layers.get_norm` takes it; "" for none, as published.

    Raises:
        ValueError: an unknown output, one that stands twice, an unknown readout or schedule, cells
            that do not fit the graph, a block that takes too few steps for the image to arrive at
            an output (the least number is named), or one whose steps cannot be seen one by one
            where they must be.
    """

    @configurable
    def __init__(
        self,
        *,
        graph: ConvRNNGraph,
        cells: Mapping[str, RecurrentCell],
        delay: int = 1,
        connection: Connection | None = None,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        readout: str = "last",
        image_steps: int = 0,
        blank: Sequence[float] = (0.5,),
        schedule: str = "faithful",
        make_block: Callable[[RecurrentCell], RecurrentBlock] = RecurrentBlock,
        output_norm: str = "",
    ) -> None:
        super().__init__()
        check_choice("readout", readout, READOUTS)
        check_choice("schedule", schedule, SCHEDULES)
        self.graph = graph
        self.delay = delay
        self.readout = readout
        check_count("image_steps", image_steps, least=0)
        self.image_steps = image_steps if graph.loop else 0
        if len(blank) not in (1, graph.input_channels):
            raise ValueError(
                f"blank must be a number for each of {graph.input_channels} channels, or one for "
                f"all; got {len(blank)}"
            )
        self.blank = tuple(blank)
        self.schedule = schedule
        if len(set(out_features)) < len(out_features):
            raise ValueError(f"out_features has an output twice: {', '.join(out_features)}")
        self._layer_of = {feature: graph.layer_of(feature) for feature in out_features}
        # Of the outputs that come out of the loop.
        loop = [layer.name for layer in graph.loop]
        self._looped = [name for name in loop if name in self._layer_of.values()]
        self.layers = nn.ModuleDict(
            {layer.name: ConvLayer(layer, graph.in_channels(layer.name)) for layer in graph.before}
        )
        self.recurrence: RecurrentBlock | None = None
        if graph.loop:
            cell = ConvRNNCell(
                graph, cells, delay=delay, outputs=self._looped, connection=connection
            )
            self.recurrence = make_block(cell)
            self._check_stepwise(self.recurrence)
        self._out_features = list(out_features)
        self._out_feature_strides = {f: graph.stride(name) for f, name in self._layer_of.items()}
        self._out_feature_channels = {
            f: graph[name].out_channels for f, name in self._layer_of.items()
        }
        self.output_norm = nn.ModuleDict(
            {
                feature: get_norm(output_norm, channels) or nn.Identity()
                for feature, channels in self._out_feature_channels.items()
            }
        )

    def _check_stepwise(self, block: RecurrentBlock) -> None:
        if self.readout == "mean":
            # At an equilibrium the mean is the last state.
            block.check_stepwise("readout 'mean'")
        if self.schedule == "pruned":
            block.check_stepwise("schedule 'pruned'")
        if self.image_steps:
            try:
                block.check_stepwise(f"image_steps {self.image_steps}, an image that goes off,")
            except ValueError as error:
                raise ValueError(f"{error}. An equilibrium needs a constant image") from error

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Map a config to constructor arguments.

        Raises:
            ConfigError: a key has an impossible value.
        """
        return conv_rnn_options(cfg, input_shape.channels or 3)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Run the network.

        Args:
            image: ``(N, C, H, W)``, normalised.

        Returns:
            The outputs by name, ``(N, C, H / stride, W / stride)``, rounded up.

        Raises:
            ValueError: an image of another shape, or steps, as set for inference, that are too
                few for the image to arrive at an output.
        """
        last = self._steps()
        if self.readout == "last":
            return self._normed(self._outputs(image, {name: {last} for name in self._names})[last])
        wanted = {name: {*self._steps_of(name, last)} for name in self._names}
        if not self.image_steps:
            # The others put out the same in all steps.
            wanted |= {name: {last} for name in self._names if name not in self._looped}
        sums: dict[str, Tensor] = {}
        for outputs in self._outputs(image, wanted).values():
            for name, output in outputs.items():
                sums[name] = sums[name] + output if name in sums else output
        return self._normed({name: x / len(wanted[name]) for name, x in sums.items()})

    def unrolled(
        self, image: Tensor, steps: Sequence[int] | None = None
    ) -> dict[int, dict[str, Tensor]]:
        """Run the network and give its outputs after several steps, whatever :attr:`readout` says.

        Args:
            image: ``(N, C, H, W)``, normalised.
            steps: of the loop, from 1 to those now in force; None for all from the image's arrival
                at the last output on, as far as :meth:`readout_steps` goes. With a gradient method
                that sees the last state alone, the last one only. A network without a loop has one.

        Returns:
            As :meth:`forward`, for each step, in rising order.

        Raises:
            ValueError: a step that cannot be given, or see :meth:`forward`.
        """
        last = self._steps()
        known = range(1, last + 1) if self._sees_steps else range(last, last + 1)
        if steps is None:
            first = max(self.readout_steps(feature)[0] for feature in self._out_features)
            steps = range(first, last + 1)
        strange = [step for step in steps if step not in known]
        if strange or not len(steps):
            wanted = f"from {known[0]} to {last}" if len(known) > 1 else f"only {last}"
            given = strange[0] if strange else "none"
            raise ValueError(f"steps to read the network out after may be {wanted}, got {given}")
        found = self._outputs(image, {name: {*steps} for name in self._names})
        return {step: self._normed(found[step]) for step in sorted(found)}

    def readout_steps(self, feature: str) -> range:
        """The steps after which an output can be read, rising: from the image's arrival on.

        With a gradient method that sees the last state alone, that one; 1 without a loop.

        Args:
            feature: a name among the outputs.

        Raises:
            ValueError: there is no such output (the known ones are listed).
        """
        check_choice("output", feature, tuple(self._out_features))
        last = self._steps()
        if not self._sees_steps:
            return range(last, last + 1)
        return self._steps_of(self._layer_of[feature], last)

    @property
    def _names(self) -> Collection[str]:
        """The layers behind the outputs."""
        return dict.fromkeys(self._layer_of.values())

    @property
    def _sees_steps(self) -> bool:
        """Whether the outputs after each step are there, and not after the last alone."""
        return self.recurrence is None or self.recurrence.stepwise

    def _steps(self) -> int:
        """Steps now in force, checked."""
        if self.recurrence is None:
            return 1
        return self.recurrence.check_steps("steps", self.recurrence.steps_in_force)

    def _steps_of(self, name: str, last: int) -> range:
        return range(max(self.graph.arrival(name, self.delay), 1), last + 1)

    def _normed(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f: self.output_norm[f](outputs[name]) for f, name in self._layer_of.items()}

    def _outputs(
        self, image: Tensor, wanted: Mapping[str, Collection[int]]
    ) -> dict[int, dict[str, Tensor]]:
        """Outputs of layers, by step and name.

        Args:
            image: ``(N, C, H, W)``.
            wanted: steps by the names of the layers.
        """
        if image.dim() != 4 or image.shape[1] != self.graph.input_channels:
            raise ValueError(
                f"image must be (N, {self.graph.input_channels}, H, W), got {tuple(image.shape)}"
            )
        self.clear_penalties()
        layers = cast("list[ConvLayer]", list(self.layers.values()))
        frames = Frames(
            layers, image, blank=self.blank, image_steps=self.image_steps, delay=self.delay
        )
        found: dict[int, dict[str, Tensor]] = {}
        looped = {name: steps for name, steps in wanted.items() if name in self._looped}
        if self.recurrence is not None:
            run = self._pruned if self.schedule == "pruned" else self._faithful
            found = run(self.recurrence, frames, looped)
        for place, name in enumerate(self.layers):
            for step in wanted.get(name, ()):
                found.setdefault(step, {})[name] = frames.output(place, step)
        return found

    def _faithful(
        self, block: RecurrentBlock, frames: Frames, wanted: Mapping[str, Collection[int]]
    ) -> dict[int, dict[str, Tensor]]:
        """Outputs of the loop, by step and layer."""
        cell = cast(ConvRNNCell, block.cell)
        drive = frames.drive(1)
        last = max(step for steps in wanted.values() for step in steps)
        with torch.set_grad_enabled(torch.is_grad_enabled() and isinstance(block.method, BPTT)):
            # An equilibrium has forgotten its first state.
            first = cell.first_state(frames.earlier, drive)
        if {step for steps in wanted.values() for step in steps} == {last} and not self.image_steps:
            result = block(drive, first, steps=last)
            self.put_penalty(PENALTY_NAME, result.penalty)
            return {last: cell.features(result.state)}
        found: dict[int, dict[str, Tensor]] = {}
        for step, state in enumerate(self._states(block, frames, first, last), start=1):
            here = [name for name, steps in wanted.items() if step in steps]
            if here:
                outputs = cell.features(state)
                found[step] = {name: outputs[name] for name in here}
        return found

    def _states(
        self, block: RecurrentBlock, frames: Frames, first: Any, last: int
    ) -> Iterator[Any]:
        """The state after step 1, 2, ..., last."""
        state, taken = first, 0
        for end in (min(self.image_steps or last, last), last):
            if end > taken:
                drive = frames.drive(taken + 1)
                for result in block.run_stepwise(drive, end - taken, state=state, taken=taken):
                    state = result.state
                    yield state
                taken = end

    def _pruned(
        self, block: RecurrentBlock, frames: Frames, wanted: Mapping[str, Collection[int]]
    ) -> dict[int, dict[str, Tensor]]:
        """As :meth:`_faithful`."""
        block.last = None
        graded = torch.is_grad_enabled()
        return run_pruned(
            cast(ConvRNNCell, block.cell),
            frames.drive,
            wanted,
            samples=frames.samples,
            taped=cast(BPTT, block.method).taped if graded else lambda step: step,
        )


@BACKBONE_REGISTRY.register()
def build_convrnn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ConvRNN:
    """The ConvRNN that ``MODEL.RECURRENT.CONVRNN`` describes.

    All its layers are trained, whatever ``MODEL.BACKBONE.FREEZE_AT`` says.

    Raises:
        ConfigError: a key has an impossible value.
    """
    with naming(CONFIG_KEY):
        return ConvRNN(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_convrnn_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A ConvRNN under Detectron2's FPN with p6, for Mask R-CNN and panoptic models."""
    return build_fpn_on(build_convrnn_backbone(cfg, input_shape), cfg, LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_convrnn_retinanet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A ConvRNN under Detectron2's FPN with p6 and p7 of res5, for RetinaNet."""
    bottom_up = build_convrnn_backbone(cfg, input_shape)
    return build_fpn_on(bottom_up, cfg, last_level_p6p7(cfg, bottom_up))
