"""The general Reciprocal Gated Cell against an independent statement of its equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import RecurrentBlock, build_cell
from rpanoptic.recurrent.cells import MEDIAN_RECIPROCAL_GATED, SHALLOW_RECIPROCAL_GATED
from rpanoptic.recurrent.cells.base import RecurrentCell
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import (
    Parameters,
    assert_xavier_uniform,
    layer_norm,
    parameters_off_their_start,
    sigma,
)

NAME = "general_reciprocal_gated"
CHANNELS, INPUT_CHANNELS, MEMORY_CHANNELS = 4, 3, 5
HEIGHT, WIDTH = 5, 6
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda v: v,
    "elu": lambda v: torch.where(v > 0, v, torch.exp(v.clamp(max=0)) - 1),
    "relu": lambda v: v.clamp(min=0),
    "tanh": lambda v: 1 - 2 / (torch.exp(2 * v) + 1),
    "sigmoid": sigma,
}
RAW = {"input_channels": INPUT_CHANNELS}
FEEDBACK = {"feedback": True, "memory_channels": MEMORY_CHANNELS}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"memory_channels": MEMORY_CHANNELS},
    {"memory_kernel_size": 2},
    {"input_to_output": True, "output_kernel_size": 4},
    {"tau_kernel_size": 4},
    {"memory_tau_kernel_size": 1},
    {"gate_kernel_size": 2},
    {"memory_separable": True, "memory_channels": MEMORY_CHANNELS},
    {"input_to_output": True, "output_separable": True},
    {"tau_separable": True, "tau_kernel_size": 7},
    {"gate_separable": True, "memory_channels": MEMORY_CHANNELS},
    {"memory_to_output": True, "memory_channels": MEMORY_CHANNELS},
    {"memory_to_output": True, "gate_nonlinearity": "tanh", "gate_gain": 0.7},
    {"residual_to_memory": True, **RAW},
    {"residual_to_memory": True, "input_to_memory": False, **RAW},
    {"residual_to_output": True, **RAW},
    {"residual_to_output": True, "input_channels": CHANNELS},
    {"input_to_tau": True},
    {"input_to_gate": True},
    {"residual_to_memory_tau": True, "memory_tau_kernel_size": 5, **RAW},
    {"residual_to_memory_gate": True, **RAW},
    {"residual_to_output_tau": True, **RAW},
    {"residual_to_output_gate": True, **RAW},
    {"tau_gain": 0.9, "tau_nonlinearity": "tanh"},
    {"gate_gain": 0.4, "gate_nonlinearity": "tanh"},
    {"tau_bias": 1.5, "gate_bias": -0.5},
    {"input_nonlinearity": "elu"},
    {"memory_nonlinearity": "relu"},
    {"output_nonlinearity": ""},
    {"norm": "LN"},
    {"feedback_entry": "input", "input_nonlinearity": "elu", **FEEDBACK},
    {"feedback_entry": "memory", **FEEDBACK},
    {"feedback_entry": "memory", "feedback": True},
    {"feedback_entry": "output", **FEEDBACK},
    {"memory_channels": 0},
    {"memory_channels": 0, "residual_to_output_gate": True, "input_to_output": True, **RAW},
    {**SHALLOW_RECIPROCAL_GATED, **RAW},
    {**MEDIAN_RECIPROCAL_GATED, "feedback": True, **RAW},
]


def option_id(options: dict[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in options.items())[:80] or "default"


class Restated:
    """The equations; the names under which a parameter is looked up are kept in ``used``."""

    def __init__(self, p: Parameters, options: dict[str, Any]) -> None:
        self.p, self.options, self.used = p, options, set()

    def says(self, option: str) -> bool:
        return bool(self.options.get(option, False))

    def conv(self, name: str, value: Tensor, *, separable: str) -> Tensor:
        name = name.replace(".", ".terms.")
        self.used.add(name)
        if self.says(separable):
            value = plain.conv(self.p, f"{name}.depthwise", value)
            name = f"{name}.pointwise"
        assert f"{name}.bias" in self.p
        return plain.conv(self.p, name, value)

    def as_it_is(self, name: str, value: Tensor, channels: int) -> Tensor:
        if value.shape[1] == channels:
            return value
        name = name.replace(".", ".terms.")
        self.used.add(name)
        assert f"{name}.bias" not in self.p
        return torch.einsum("oi,nihw->nohw", self.p[f"{name}.weight"][:, :, 0, 0], value)

    def function(self, option: str, default: str) -> Callable[[Tensor], Tensor]:
        return FUNCTIONS[self.options.get(option, default)]

    def gate(self, kind: str, logit: Tensor | float, like: Tensor) -> Tensor:
        logit = torch.zeros_like(like) + logit
        gain = self.options.get(f"{kind}_gain", 1.0)
        return gain - gain * self.function(f"{kind}_nonlinearity", "sigmoid")(logit)

    def normalised(self, name: str, value: Tensor) -> Tensor:
        if not self.says("norm"):
            return value
        self.used.add(name)
        return layer_norm(self.p, name, value)

    def step(
        self, u: Tensor, r: Tensor | None, f: Tensor | None, h: Tensor, c: Tensor | None
    ) -> tuple[Tensor, ...]:
        entry = self.options.get("feedback_entry", "output") if f is not None else ""
        u = self.function("input_nonlinearity", "")(u + f if entry == "input" else u)
        return (
            self.output(u, r, f if entry == "output" else None, h, c),
            *([] if c is None else [self.memory(u, r, f if entry == "memory" else None, h, c)]),
        )

    def output(
        self, u: Tensor, r: Tensor | None, f: Tensor | None, h: Tensor, c: Tensor | None
    ) -> Tensor:
        v = u
        if self.says("input_to_output"):
            v = self.conv("output_drive.drive", u, separable="output_separable")
        if self.says("memory_to_output"):
            v = v + self.conv("output_drive.memory", c, separable="gate_separable")
        if self.says("residual_to_output"):
            v = v + self.as_it_is("output_drive.input", r, h.shape[1])
        if f is not None:
            v = v + f
        t = self.conv("output_tau.output", h, separable="tau_separable")
        if self.says("input_to_tau"):
            t = t + self.conv("output_tau.drive", u, separable="tau_separable")
        if self.says("residual_to_output_tau"):
            t = t + self.conv("output_tau.input", r, separable="tau_separable")
        g: Tensor | float = 0.0
        if c is not None and not self.says("memory_to_output"):
            g = self.conv("output_gate.memory", c, separable="gate_separable")
        if self.says("input_to_gate"):
            g = g + self.conv("output_gate.drive", u, separable="gate_separable")
        if self.says("residual_to_output_gate"):
            g = g + self.conv("output_gate.input", r, separable="gate_separable")
        h = self.gate("tau", t, h) * h + self.gate("gate", g, v) * v
        return self.function("output_nonlinearity", "elu")(self.normalised("output_norm", h))

    def memory(self, u: Tensor, r: Tensor | None, f: Tensor | None, h: Tensor, c: Tensor) -> Tensor:
        m = torch.zeros_like(c)
        if self.options.get("input_to_memory", True):
            m = m + self.conv("memory_drive.drive", u, separable="memory_separable")
        if self.says("residual_to_memory"):
            m = m + self.conv("memory_drive.input", r, separable="memory_separable")
        if f is not None:
            m = m + self.as_it_is("memory_drive.feedback", f, c.shape[1])
        t = self.conv("memory_tau.memory", c, separable="tau_separable")
        if self.says("input_to_tau"):
            t = t + self.conv("memory_tau.drive", u, separable="tau_separable")
        if self.says("residual_to_memory_tau"):
            t = t + self.conv("memory_tau.input", r, separable="tau_separable")
        g = self.conv("memory_gate.output", h, separable="gate_separable")
        if self.says("input_to_gate"):
            g = g + self.conv("memory_gate.drive", u, separable="gate_separable")
        if self.says("residual_to_memory_gate"):
            g = g + self.conv("memory_gate.input", r, separable="gate_separable")
        c = self.gate("tau", t, c) * c + self.gate("gate", g, m) * m
        return self.function("memory_nonlinearity", "elu")(self.normalised("memory_norm", c))


@pytest.mark.parametrize("options", OPTIONS, ids=option_id)
def test_equals_its_equations(options) -> None:
    torch.manual_seed(0)
    cell = build_cell(NAME, CHANNELS, **options).double()
    restated = Restated(parameters_off_their_start(cell), options)
    drive = tuple(
        torch.randn(2, c, HEIGHT, WIDTH, dtype=torch.float64) for c in cell.part_channels()
    )
    parts = dict(zip(cell.drive_parts, drive, strict=True))
    given = drive if len(drive) > 1 else drive[0]
    cell.check_drive(given)
    start = cell.initial_state(given)
    state = tuple(map(torch.randn_like, start if isinstance(start, tuple) else (start,)))
    expected = state
    for _ in range(2):
        moved = cell(given, state if len(state) > 1 else state[0])
        state = moved if isinstance(moved, tuple) else (moved,)
        h, c = (*expected, None)[:2]
        expected = restated.step(parts["drive"], parts.get("input"), parts.get("feedback"), h, c)
        for one, other in zip(state, expected, strict=True):
            # Two formulas for the same float64 numbers differ by rounding alone.
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert cell.output(moved) is state[0]
    unused = [
        name for name in restated.p if not any(name.startswith(f"{u}.") for u in restated.used)
    ]
    assert not unused


def test_is_the_printed_form_where_the_memory_is_driven_by_u_itself() -> None:
    """By its options alone it is not: W_ic is a convolution, which the printed form leaves out."""
    torch.manual_seed(0)
    printed = build_cell("reciprocal_gated", CHANNELS).double()
    general = build_cell(NAME, CHANNELS, memory_kernel_size=1).double()
    parameters_off_their_start(printed)
    terms = {
        "hidden_tau": general.output_tau.terms["output"],
        "hidden_gate": general.output_gate.terms["memory"],
        "memory_tau": general.memory_tau.terms["memory"],
        "memory_gate": general.memory_gate.terms["output"],
    }
    for name, layer in terms.items():
        layer.load_state_dict(printed.get_submodule(name).state_dict())
    torch.nn.init.dirac_(general.memory_drive.terms["drive"].weight)
    u, h, c = torch.randn(3, 2, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)
    for one, other in zip(general(u, (h, c)), printed(u, (h, c)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_each_convolution_has_the_kernel_of_its_option() -> None:
    cell = build_cell(
        NAME,
        CHANNELS,
        **RAW,
        memory_kernel_size=1,
        output_kernel_size=2,
        tau_kernel_size=3,
        memory_tau_kernel_size=4,
        gate_kernel_size=5,
        input_to_output=True,
        memory_to_output=True,
        residual_to_memory=True,
        input_to_tau=True,
        input_to_gate=True,
        residual_to_memory_tau=True,
        residual_to_memory_gate=True,
        residual_to_output_tau=True,
        residual_to_output_gate=True,
    )
    sizes = {
        place: {
            name: layer.kernel_size[0] for name, layer in cell.get_submodule(place).terms.items()
        }
        for place in (
            *("output_drive", "output_tau", "output_gate"),
            *("memory_drive", "memory_tau", "memory_gate"),
        )
    }
    assert sizes == {
        "output_drive": {"drive": 2, "memory": 5},
        "output_tau": {"output": 3, "drive": 3, "input": 3},
        "output_gate": {"drive": 5, "input": 5},
        "memory_drive": {"drive": 1, "input": 1},
        "memory_tau": {"memory": 4, "drive": 4, "input": 4},
        "memory_gate": {"output": 5, "drive": 5, "input": 5},
    }


def count_of(channels: int, **options: Any) -> int:
    """The parameters of a cell, of which none is filled."""
    with torch.device("meta"):
        return plain.count(build_cell(NAME, channels, **options))


@pytest.mark.parametrize(("channels", "input_channels"), [(128, 128), (256, 128)])
def test_parameter_count_of_the_median(channels, input_channels) -> None:
    options = {"input_channels": input_channels, "feedback": True, **MEDIAN_RECIPROCAL_GATED}
    drives = 4 * channels * 64 + 64 + 9 * channels**2 + channels
    taus = 49 * 64 + 64 * 64 + 64 + 49 * channels + channels**2 + channels
    gates = 49 * channels + channels * 64 + 64 + 49 * 64 + 64 * channels + channels
    residual = 0 if input_channels == channels else input_channels * channels
    assert count_of(channels, **options) == drives + taus + gates + residual


def test_parameter_count_of_the_shallow_network() -> None:
    """23,962,984, of which 4,197,736 are not its cells'."""
    counts = [
        count_of(channels, input_channels=input_channels, **SHALLOW_RECIPROCAL_GATED)
        for input_channels, channels in ((128, 256), (256, 256), (256, 512))
    ]
    assert 4_197_736 + sum(counts) == 23_962_984


def test_parameter_count_of_the_deeper_network() -> None:
    """15,445,800 with its ten convolutions, five feedback connections and the readout."""
    widths = [3, 64, 128, 128, 128, 128, 256, 256, 256, 512, 512]
    count = 512 * 1000 + 1000
    for layer in range(1, 11):
        before, channels = widths[layer - 1], widths[layer]
        count += (49 if layer == 1 else 9) * before * channels + channels
        if layer >= 4:
            count += count_of(channels, input_channels=before, **MEDIAN_RECIPROCAL_GATED)
    for sources, target in (([8], 5), ([9, 7], 6), ([10], 7), ([10], 9)):
        count += sum(widths[source] for source in sources) * widths[target] + widths[target]
    assert count == 15_445_800


def test_a_kernel_larger_than_the_map_acts_by_its_middle() -> None:
    torch.manual_seed(0)
    large = build_cell(NAME, 4, tau_separable=True, tau_kernel_size=9).double()
    small = build_cell(NAME, 4, tau_separable=True, tau_kernel_size=5).double()
    weights = large.state_dict()
    for name in [n for n in weights if n.endswith("depthwise.weight")]:
        weights[name] = weights[name][..., 2:-2, 2:-2]
    small.load_state_dict(weights)
    u, h, c = torch.randn(3, 1, 4, 3, 3, dtype=torch.float64)
    for one, other in zip(large(u, (h, c)), small(u, (h, c)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def convolutions(cell: RecurrentCell) -> list[torch.nn.Conv2d]:
    return [module for module in cell.modules() if isinstance(module, torch.nn.Conv2d)]


def test_starting_values() -> None:
    torch.manual_seed(0)
    shallow = build_cell(NAME, 32, input_channels=16, **SHALLOW_RECIPROCAL_GATED)
    assert len(convolutions(shallow)) == 6
    for layer in convolutions(shallow):
        assert not layer.bias.any()
        assert_xavier_uniform(layer.weight)


def test_biases_start_where_they_are_told() -> None:
    cell = build_cell(NAME, 4, tau_bias=4.1, gate_bias=-2.7, tau_separable=True, input_to_tau=True)
    starts = {name: p for name, p in cell.named_parameters() if name.endswith("bias")}
    taus = {"output_tau.terms.output.pointwise.bias", "memory_tau.terms.memory.pointwise.bias"}
    gates = {"output_gate.terms.memory.bias", "memory_gate.terms.output.bias"}
    for name, bias in starts.items():
        expected = 4.1 if name in taus else -2.7 if name in gates else 0.0
        assert torch.equal(bias, torch.full_like(bias, expected)), name
    assert taus | gates <= set(starts)


def test_variance_scaling() -> None:
    """The variance is the scale over the fan-in, which counts every channel."""
    torch.manual_seed(0)
    cell = build_cell(NAME, 128, input_channels=64, **MEDIAN_RECIPROCAL_GATED)
    for layer in convolutions(cell):
        fan_in = layer.in_channels * layer.weight[0, 0].numel()
        scaled = layer.weight.detach() * (fan_in / 0.63934) ** 0.5
        # From 3136 draws on: the deviation is known to 1 / sqrt(2 * 3136) = 1.3 % (one sigma).
        assert float(scaled.std()) == pytest.approx(1, abs=0.06)
        assert float(scaled.abs().max()) < 2 / 0.8796 + 1e-4


def test_parts_of_the_drive_are_those_that_are_read() -> None:
    def parts(**options: Any) -> tuple[str, ...]:
        return build_cell(NAME, 4, **options).drive_parts

    assert parts() == parts(input_channels=3) == ("drive",)
    assert parts(feedback=True) == ("drive", "feedback")
    assert parts(residual_to_output=True, input_channels=3) == ("drive", "input")
    cell = build_cell(NAME, 4, residual_to_output=True, input_channels=3, feedback=True)
    assert cell.drive_parts == ("drive", "input", "feedback")
    assert cell.part_channels() == (4, 3, 4)


def test_a_drive_that_does_not_fit_is_described() -> None:
    cell = build_cell(NAME, 4, residual_to_output=True, input_channels=3)
    u, r = torch.randn(2, 4, 5, 6), torch.randn(2, 3, 5, 6)
    cell.check_drive((u, r))
    wanted = r"a tuple \(drive \(N, 4, H, W\), input \(N, 3, H, W\)\).*got "
    for drive in (u, (u,), (r, u), (u, r[..., :5]), (u, r[:1]), (u, r, u), ()):
        with pytest.raises(ValueError, match=wanted):
            cell.check_drive(drive)
    with pytest.raises(ValueError, match=r"drive must be \(N, 4, H, W\).*got \[\(2, 4, 5, 6\)\]"):
        build_cell(NAME, 4).check_drive((u,))


def test_runs_in_a_block_on_a_drive_of_three_tensors() -> None:
    torch.manual_seed(0)
    options = {**MEDIAN_RECIPROCAL_GATED, "memory_channels": 2, **RAW, "feedback": True}
    cell = build_cell(NAME, CHANNELS, **options)
    drive = tuple(
        torch.randn(2, c, HEIGHT, WIDTH, requires_grad=True) for c in cell.part_channels()
    )
    for gradient in ("bptt", "crbp"):
        block = RecurrentBlock(cell, steps=3, gradient=gradient, on_failure="record")
        grads = torch.autograd.grad(block(drive).output.square().sum(), drive)
        assert all(grad.isfinite().all() and grad.any() for grad in grads)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drive_channels": 4}, ["drive_channels must equal channels (8)", "4"]),
        ({"input_to_memory": False}, ["input_to_memory or residual_to_memory must be True"]),
        ({"residual_to_output": True}, ["residual_to_output", "input_channels"]),
        ({"residual_to_memory_tau": True}, ["residual_to_memory_tau", "input_channels"]),
        ({"memory_channels": -1}, ["memory_channels", "at least 0", "-1"]),
        ({"memory_channels": 0, "memory_to_output": True}, ["memory_to_output", "memory_channels"]),
        (
            {"memory_channels": 0, "residual_to_memory_gate": True, "input_channels": 3},
            ["residual_to_memory_gate needs a memory", "memory_channels is 0"],
        ),
        (
            {"memory_channels": 0, "feedback": True, "feedback_entry": "memory"},
            ["feedback_entry 'memory' needs a memory"],
        ),
        ({"input_channels": 0}, ["input_channels", "at least 1", "0"]),
        ({"feedback_entry": "cell"}, ["feedback_entry", "'memory'", "'cell'"]),
        ({"memory_kernel_size": 0}, ["memory_kernel_size", "at least 1", "0"]),
        ({"output_kernel_size": 2.5}, ["output_kernel_size", "integer", "2.5"]),
        ({"tau_kernel_size": 0}, ["tau_kernel_size", "at least 1", "0"]),
        ({"memory_tau_kernel_size": 0}, ["memory_tau_kernel_size", "at least 1", "0"]),
        ({"gate_kernel_size": 0}, ["gate_kernel_size", "at least 1", "0"]),
        ({"tau_gain": -0.1}, ["tau_gain", "at least 0", "-0.1"]),
        ({"gate_gain": float("nan")}, ["gate_gain", "at least 0", "nan"]),
        ({"tau_nonlinearity": "elu"}, ["tau_nonlinearity", "'tanh'", "'elu'"]),
        ({"gate_nonlinearity": ""}, ["gate_nonlinearity", "'sigmoid'", "''"]),
        ({"input_nonlinearity": "swish"}, ["input_nonlinearity", "'elu'", "'swish'"]),
        ({"memory_nonlinearity": "swish"}, ["memory_nonlinearity", "'elu'", "'swish'"]),
        ({"output_nonlinearity": "swish"}, ["output_nonlinearity", "'elu'", "'swish'"]),
        ({"norm": "batch"}, ["norm", "LN", "batch"]),
        ({"init": "kaiming"}, ["init", "'xavier'", "'kaiming'"]),
        ({"init_scale": 0}, ["init_scale", "0"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell(NAME, 8, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)
