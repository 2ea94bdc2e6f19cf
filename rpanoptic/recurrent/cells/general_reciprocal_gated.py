"""The Reciprocal Gated Cell with all choices that were searched over (Nayebi et al. 2018, 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from rpanoptic.recurrent.cells.base import CELLS, Drive, RecurrentCell, zero_state
from rpanoptic.recurrent.cells.parts import NONLINEARITIES, cell_norm, check_equal_channels
from rpanoptic.recurrent.cells.terms import AsItIs, Kernel, Terms
from rpanoptic.recurrent.checks import check_choice, check_count, check_number
from rpanoptic.recurrent.state import State, to_tensors

GATE_NONLINEARITIES = ("sigmoid", "tanh")
FEEDBACK_ENTRIES = ("input", "memory", "output")
INITS = ("xavier", "variance_scaling")


@CELLS.register("general_reciprocal_gated")
class GeneralReciprocalGated(RecurrentCell):
    """Two states that each gate what the other takes up, wired in any of the ways searched over.

    The form of the code that Nayebi et al. released (NeurIPS 2018; Neural Computation 2022). It is
    driven by u, what the layer's convolution makes of the raw input r of the layer, by r itself
    where an option asks for it, and by the feedback f. One step, with output h and memory c
    (``#`` convolution, ``.`` product; what stands in brackets is optional, and f enters at one of
    three places)::

        u' = nl_i(u [+ f])
        m  = [W_ic # u'] [+ W_rc # r] [+ f]                               drives the memory
        v  = u' or W_io # u' [+ W_co # c] [+ Res(r)] [+ f]                drives the output
        c' = nl_c(N(t(T_c # c [+ ..]) . c + g(G_c # h [+ ..]) . m))
        h' = nl_o(N(t(T_h # h [+ ..]) . h + g(G_h # c [+ ..]) . v))
        t(x) = a_t (1 - phi_t(x)),    g(x) = a_g (1 - phi_g(x))

    Both take the old h and c. T sets the time constant of a state and G gates its drive; at ``..``
    convolutions of u' or r may be added. With ``memory_to_output`` there is no G_h, and g then
    takes what else there is, or 0. Res is the identity, or a 1 x 1 convolution without bias where
    r has another number of channels; what brings f to another number of channels of the memory is
    one too. All other convolutions have a bias.

    :class:`ReciprocalGated`, the form printed in the paper, is the default with W_ic the identity.
    ``SHALLOW_RECIPROCAL_GATED`` and ``MEDIAN_RECIPROCAL_GATED`` are the options of the two
    published networks. With phi "sigmoid" and ``tau_gain`` of at most 1 no state is carried on by a
    factor above 1; "tanh" makes it up to 2 a.

    Kernels may be even; the larger half of their padding stands right and below. Those larger than
    the map act through their middle alone, since zeros surround it; the released code cuts its
    separable ones to the size of the map.

    Args:
        channels: C of u, h and f.
        drive_channels: None or C, since the drive is blended with the states.
        memory_channels: of c; None for C. 0: there is no memory, the state is h alone, and g takes
            what is added to G_h, or 0.
        input_channels: C_r, channels of r. It may be given whether r is read or not;
            :attr:`drive_parts` says.
        feedback: whether f is a part of the drive. Its convolution and nonlinearity are its
            connection's own.
        feedback_entry: where f is added: "input", "memory" or "output".
        memory_kernel_size, memory_separable: of W_ic and W_rc: side of the kernel in pixels, and
            whether they are depth-separable (k x k within the channels, then 1 x 1 between them).
        output_kernel_size, output_separable: of W_io.
        tau_kernel_size, tau_separable: of T_h and what is added to it, and of T_c.
        memory_tau_kernel_size: of T_c and what is added to it; None for ``tau_kernel_size``.
        gate_kernel_size, gate_separable: of G_c, G_h, W_co and what is added to the gates.
        input_to_memory, input_to_output, memory_to_output: whether W_ic, W_io and W_co are there.
        residual_to_memory, residual_to_output: whether W_rc and Res are.
        input_to_tau, input_to_gate: whether u' is added, by convolutions, to T_c and T_h, or to G_c
            and G_h.
        residual_to_memory_tau, residual_to_memory_gate, residual_to_output_tau,
        residual_to_output_gate: whether r is added to T_c, G_c, T_h, G_h.
        tau_gain, gate_gain: a_t and a_g, at least 0.
        tau_nonlinearity, gate_nonlinearity: phi_t and phi_g, "sigmoid" or "tanh".
        tau_bias, gate_bias: what the biases of T_c and T_h, and of G_c and G_h, start at. The
            released code adds them as constants, and forgets to with separable kernels: those of
            its median network have no effect there.
        input_nonlinearity, memory_nonlinearity, output_nonlinearity: nl_i, nl_c, nl_o: one of
            "softplus", "tanh", "relu", "sigmoid", "elu", or "" for none. For nl_i of a drive that
            has passed one already take none.
        norm: the N, as :func:`cell_norm` takes it.
        init: of the weights, "xavier" (uniform) or "variance_scaling" (truncated normal, of
            variance ``init_scale`` / fan-in; the fan-in of a kernel within the channels counts all
            of them, as TensorFlow has it).
        init_scale: see ``init``; above 0. "xavier" does not read it.

    Raises:
        ValueError: an impossible value, nothing that drives the memory, r read without
            ``input_channels``, or a memory spoken of that is not there.
    """

    drive_parts: tuple[str, ...] = ("drive", "input", "feedback")
    state_tensors = 2

    def __init__(
        self,
        channels: int,
        drive_channels: int | None = None,
        *,
        memory_channels: int | None = None,
        input_channels: int | None = None,
        feedback: bool = False,
        feedback_entry: str = "output",
        memory_kernel_size: int = 3,
        memory_separable: bool = False,
        output_kernel_size: int = 3,
        output_separable: bool = False,
        tau_kernel_size: int = 3,
        tau_separable: bool = False,
        memory_tau_kernel_size: int | None = None,
        gate_kernel_size: int = 3,
        gate_separable: bool = False,
        input_to_memory: bool = True,
        input_to_output: bool = False,
        memory_to_output: bool = False,
        residual_to_memory: bool = False,
        residual_to_output: bool = False,
        input_to_tau: bool = False,
        input_to_gate: bool = False,
        residual_to_memory_tau: bool = False,
        residual_to_memory_gate: bool = False,
        residual_to_output_tau: bool = False,
        residual_to_output_gate: bool = False,
        tau_gain: float = 1.0,
        gate_gain: float = 1.0,
        tau_nonlinearity: str = "sigmoid",
        gate_nonlinearity: str = "sigmoid",
        tau_bias: float = 0.0,
        gate_bias: float = 0.0,
        input_nonlinearity: str = "",
        memory_nonlinearity: str = "elu",
        output_nonlinearity: str = "elu",
        norm: str = "",
        init: str = "xavier",
        init_scale: float = 1.0,
    ) -> None:
        super().__init__(channels, drive_channels)
        check_equal_channels(self.channels, self.drive_channels)
        self.memory_channels = channels if memory_channels is None else memory_channels
        check_count("memory_channels", self.memory_channels, least=0)
        if memory_tau_kernel_size is None:
            memory_tau_kernel_size = tau_kernel_size
        for option, size in (
            ("memory_kernel_size", memory_kernel_size),
            ("output_kernel_size", output_kernel_size),
            ("tau_kernel_size", tau_kernel_size),
            ("memory_tau_kernel_size", memory_tau_kernel_size),
            ("gate_kernel_size", gate_kernel_size),
        ):
            check_count(option, size, least=1)
        check_number("tau_gain", tau_gain, least=0)
        check_number("gate_gain", gate_gain, least=0)
        check_choice("tau_nonlinearity", tau_nonlinearity, GATE_NONLINEARITIES)
        check_choice("gate_nonlinearity", gate_nonlinearity, GATE_NONLINEARITIES)
        check_choice("feedback_entry", feedback_entry, FEEDBACK_ENTRIES)
        check_choice("init", init, INITS)
        check_number("init_scale", init_scale, least=1e-6)
        residuals = {
            "residual_to_memory": residual_to_memory,
            "residual_to_memory_tau": residual_to_memory_tau,
            "residual_to_memory_gate": residual_to_memory_gate,
            "residual_to_output": residual_to_output,
            "residual_to_output_tau": residual_to_output_tau,
            "residual_to_output_gate": residual_to_output_gate,
        }
        of_input = [option for option, chosen in residuals.items() if chosen]
        of_memory = [option for option in of_input if "memory" in option]
        of_memory += ["memory_to_output"] * memory_to_output
        of_memory += ["feedback_entry 'memory'"] * (feedback and feedback_entry == "memory")
        if of_memory and not self.memory_channels:
            raise ValueError(f"{of_memory[0]} needs a memory, but memory_channels is 0")
        if self.memory_channels and not (input_to_memory or residual_to_memory):
            raise ValueError(
                "nothing drives the memory: input_to_memory or residual_to_memory must be True"
            )
        if input_channels is not None:
            check_count("input_channels", input_channels, least=1)
        elif of_input:
            raise ValueError(
                f"{of_input[0]} reads the raw input of the layer; input_channels must say how many "
                "channels it has"
            )

        self.input_channels = input_channels or 0
        self.state_tensors = 2 if self.memory_channels else 1
        self.drive_parts = (
            "drive",
            *(["input"] if of_input else []),
            *(["feedback"] if feedback else []),
        )
        self.feedback_to_input = feedback and feedback_entry == "input"
        self.tau_gain, self.gate_gain = tau_gain, gate_gain
        self.tau_nonlinearity = NONLINEARITIES[tau_nonlinearity]
        self.gate_nonlinearity = NONLINEARITIES[gate_nonlinearity]
        self.input_nonlinearity = _nonlinearity("input_nonlinearity", input_nonlinearity)
        self.memory_nonlinearity = _nonlinearity("memory_nonlinearity", memory_nonlinearity)
        self.output_nonlinearity = _nonlinearity("output_nonlinearity", output_nonlinearity)

        tau, gate = Kernel(tau_kernel_size, tau_separable), Kernel(gate_kernel_size, gate_separable)
        terms = partial(Terms, channels=self._channels(), init=init, scale=init_scale)
        self.output_drive = terms(
            channels,
            {
                "drive": Kernel(output_kernel_size, output_separable)
                if input_to_output
                else AsItIs(),
                "memory": gate if memory_to_output else None,
                "input": AsItIs() if residual_to_output else None,
                "feedback": AsItIs() if feedback and feedback_entry == "output" else None,
            },
        )
        self.output_tau = terms(
            channels,
            {
                "output": replace(tau, bias=tau_bias),
                "drive": tau if input_to_tau else None,
                "input": tau if residual_to_output_tau else None,
            },
        )
        gated_by_memory = self.memory_channels and not memory_to_output
        self.output_gate = terms(
            channels,
            {
                "memory": replace(gate, bias=gate_bias) if gated_by_memory else None,
                "drive": gate if input_to_gate else None,
                "input": gate if residual_to_output_gate else None,
            },
        )
        self.output_norm = cell_norm(norm, channels, weight=1.0)
        if not self.memory_channels:
            return
        to_memory = Kernel(memory_kernel_size, memory_separable)
        memory_tau = replace(tau, size=memory_tau_kernel_size)
        self.memory_drive = terms(
            self.memory_channels,
            {
                "drive": to_memory if input_to_memory else None,
                "input": to_memory if residual_to_memory else None,
                "feedback": AsItIs() if feedback and feedback_entry == "memory" else None,
            },
        )
        self.memory_tau = terms(
            self.memory_channels,
            {
                "memory": replace(memory_tau, bias=tau_bias),
                "drive": memory_tau if input_to_tau else None,
                "input": memory_tau if residual_to_memory_tau else None,
            },
        )
        self.memory_gate = terms(
            self.memory_channels,
            {
                "output": replace(gate, bias=gate_bias),
                "drive": gate if input_to_gate else None,
                "input": gate if residual_to_memory_gate else None,
            },
        )
        self.memory_norm = cell_norm(norm, self.memory_channels, weight=1.0)

    def forward(self, drive: Drive, state: State) -> State:
        """Take one step.

        Args:
            drive: u, or a tuple of what :attr:`drive_parts` names: u ``(N, C, H, W)``, r
                ``(N, C_r, H, W)`` and f ``(N, C, H, W)``.
            state: (h, c), ``(N, C, H, W)`` and ``(N, C_memory, H, W)``; h alone without a memory.

        Returns:
            The next state, in the form of ``state``.
        """
        tensors = dict(zip(self.drive_parts, to_tensors(drive), strict=True))
        tensors |= zip(("output", "memory"), to_tensors(state), strict=False)
        if self.feedback_to_input:
            tensors["drive"] = tensors["drive"] + tensors["feedback"]
        tensors["drive"] = self.input_nonlinearity(tensors["drive"])
        output = self.output_nonlinearity(
            self.output_norm(
                self._carried(self.output_tau(tensors)) * tensors["output"]
                + self._taken_up(self.output_gate(tensors)) * self.output_drive(tensors)
            )
        )
        if not self.memory_channels:
            return output
        memory = self.memory_nonlinearity(
            self.memory_norm(
                self._carried(self.memory_tau(tensors)) * tensors["memory"]
                + self._taken_up(self.memory_gate(tensors)) * self.memory_drive(tensors)
            )
        )
        return output, memory

    def _carried(self, logit: Tensor) -> Tensor:
        """t, the share of a state that is kept."""
        return self.tau_gain * (1 - self.tau_nonlinearity(logit))

    def _taken_up(self, logit: Tensor) -> Tensor:
        """g, the share of its drive that a state takes up."""
        return self.gate_gain * (1 - self.gate_nonlinearity(logit))

    def _channels(self) -> dict[str, int]:
        return {
            "drive": self.channels,
            "input": self.input_channels,
            "feedback": self.channels,
            "output": self.channels,
            "memory": self.memory_channels,
        }

    def part_channels(self) -> tuple[int, ...]:
        """Channels of each of the :attr:`drive_parts`."""
        channels = self._channels()
        return tuple(channels[part] for part in self.drive_parts)

    def initial_state(self, drive: Drive) -> State:
        """Zeros: (h, c), ``(N, C, H, W)`` and ``(N, C_memory, H, W)``; h alone without a memory."""
        u = to_tensors(drive)[0]
        output = zero_state(u, self.channels)
        return (output, zero_state(u, self.memory_channels)) if self.memory_channels else output


def _nonlinearity(option: str, name: str) -> Callable[[Tensor], Tensor]:
    check_choice(option, name, (*NONLINEARITIES, ""))
    return NONLINEARITIES[name] if name else nn.Identity()


#: Options of the cells in the shallow network of Nayebi et al., but for ``input_channels``.
SHALLOW_RECIPROCAL_GATED: dict[str, Any] = {
    "memory_kernel_size": 3,
    "tau_kernel_size": 3,
    "gate_kernel_size": 3,
    "residual_to_output_gate": True,
    "tau_nonlinearity": "sigmoid",
    "gate_nonlinearity": "sigmoid",
    "tau_gain": 1.0,
    "gate_gain": 1.0,
    "init": "xavier",
}

#: Options of the cells in their deeper one, the median of those found best in the search. Its
#: layers' convolutions end in the ELU, so that the cells have none for what comes in.
MEDIAN_RECIPROCAL_GATED: dict[str, Any] = {
    "memory_channels": 64,
    "memory_kernel_size": 2,
    "input_to_output": True,
    "output_kernel_size": 3,
    "tau_kernel_size": 7,
    "tau_separable": True,
    "gate_kernel_size": 7,
    "gate_separable": True,
    "residual_to_output": True,
    "feedback_entry": "output",
    "tau_nonlinearity": "sigmoid",
    "tau_gain": 0.92193,
    "gate_nonlinearity": "tanh",
    "gate_gain": 0.70066,
    "init": "variance_scaling",
    "init_scale": 0.63934,
}
