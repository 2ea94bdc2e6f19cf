from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rpanoptic.engine import build_optimizer, setup_config
from rpanoptic.engine.train_step import TrainStep, amp_dtype, build_train_step, check_batch
from rpanoptic.engine.trainer import Trainer
from rpanoptic.errors import ConfigError, NonFiniteError
from tests.engine.tiny import tiny_cfg


def make_cfg(**changes: Any) -> CfgNode:
    options = {"MODEL__DEVICE": "cpu"} | changes
    return setup_config(
        None, [str(w) for k, v in options.items() for w in (k.replace("__", "."), v)]
    )


class Regression(nn.Module):
    """A model without coupling in the batch: two losses that are means over its samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def forward(self, data: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        output = self.layers(torch.stack([sample["x"] for sample in data]))
        target = torch.stack([sample["y"] for sample in data])
        return {"loss_a": (output - target).square().mean(), "loss_b": output.abs().mean()}


def batches(size: int = 4) -> Iterator[list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    while True:
        yield [
            {
                "x": torch.randn(3, generator=generator, dtype=torch.float64),
                "y": torch.randn(1, generator=generator, dtype=torch.float64),
            }
            for _ in range(size)
        ]


def trained(
    model: nn.Module, steps: int = 3, scaler: torch.amp.GradScaler | None = None, **cfg: Any
) -> tuple[dict[str, float], list[Tensor]]:
    """Logged numbers of the last step, and the parameters after ``steps`` steps."""
    built = make_cfg(SOLVER__BASE_LR=0.1, **cfg)
    step = TrainStep(
        model,
        batches(),
        build_optimizer(built, model),
        parts=built.RPANOPTIC.ACCUMULATION,
        scaler=scaler,
    )
    with EventStorage() as storage:
        for _ in range(steps):
            step.run_step()
        logged = {key: value for key, (value, _) in storage.latest().items()}
    return logged, [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_parts_give_the_step_of_the_whole_batch(parts: int, optimizer: str) -> None:
    whole, expected = trained(Regression(), RPANOPTIC__OPTIMIZER=optimizer)
    logged, found = trained(
        Regression(), RPANOPTIC__OPTIMIZER=optimizer, RPANOPTIC__ACCUMULATION=parts
    )
    # Sums in another order, in float64.
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for name in ("loss_a", "loss_b", "total_loss"):
        assert logged[name] == pytest.approx(whole[name], rel=1e-10)


def test_parts_give_the_step_of_the_whole_batch_on_a_panoptic_model(
    tiny_data: Path, tmp_path: Path
) -> None:
    """The same picture twice, and no random choice: all its boxes are within the limits.

    Then both parts have as many samples in each mean, and draw nothing that the whole does not.
    """
    cfg = tiny_cfg(
        tmp_path,
        MODEL__RESNETS__NORM="FrozenBN",
        MODEL__FPN__NORM="GN",
        MODEL__RECURRENT__MASK_HEAD__OUTPUT_NORM="GN",
        MODEL__RECURRENT__MASK_HEAD__LIPSCHITZ__REDUCTION="mean",
        MODEL__RPN__BATCH_SIZE_PER_IMAGE=100000,
        MODEL__RPN__POST_NMS_TOPK_TRAIN=0,
        MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE=64,
        SOLVER__CLIP_GRADIENTS__ENABLED=False,
    )
    sample = next(iter(Trainer.build_train_loader(cfg)))[0]
    assert len(sample["instances"]) > 0
    gradients = []
    for parts in (1, 2):
        cfg.RPANOPTIC.ACCUMULATION = parts
        torch.manual_seed(0)
        model = build_model(cfg)
        step = build_train_step(cfg, model, itertools.repeat([sample, sample]), Keep(model))
        with EventStorage() as storage:
            step.run_step()
            total = storage.latest()["total_loss"][0]
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    whole, parted = gradients
    assert total > 0
    assert whole.keys() == parted.keys()
    for name, gradient in whole.items():
        # Sums in another order through 50 layers, in float32.
        error = (parted[name] - gradient).norm() / gradient.norm().clamp_min(1e-6)
        assert error < 1e-3, name


class Keep(torch.optim.SGD):
    """An optimizer that changes nothing, so that the gradients can be looked at."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.0)


def gradients_of(cfg: CfgNode, sample: list[dict[str, Any]]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.manual_seed(1)
    with EventStorage():
        build_train_step(cfg, model, itertools.repeat(sample), Keep(model)).run_step()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "block",
    [
        {"GRADIENT": "crbp"},
        {"GRADIENT": "crbp", "BACKEND": "functional"},
        {"GRADIENT": "bptt"},
    ],
)
def test_gradients_in_bfloat16_are_those_of_float32(
    tiny_data: Path, tmp_path: Path, block: dict[str, str]
) -> None:
    """Without batch statistics over a handful of values, and on the same boxes."""
    changes = {f"MODEL__RECURRENT__MASK_HEAD__{key}": value for key, value in block.items()}
    cfg = tiny_cfg(
        tmp_path,
        MODEL__RESNETS__NORM="FrozenBN",
        MODEL__FPN__NORM="GN",
        MODEL__RECURRENT__MASK_HEAD__OUTPUT_NORM="GN",
        MODEL__RPN__POST_NMS_TOPK_TRAIN=0,
        RPANOPTIC__AMP_DTYPE="bfloat16",
        **changes,
    )
    sample = next(iter(Trainer.build_train_loader(cfg)))
    full = gradients_of(cfg, sample)
    cfg.SOLVER.AMP.ENABLED = True
    mixed = gradients_of(cfg, sample)
    assert mixed.keys() == full.keys()
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in mixed.values())

    def cosine(part: str) -> float:
        a, b = (torch.cat([g[n].flatten() for n in full if part in n]) for g in (full, mixed))
        return float(nn.functional.cosine_similarity(a, b, dim=0))

    # bfloat16 has 8 bits: relative errors of 2^-9 an operation, and ReLUs that switch because of
    # them, through the 50 layers below; the recurrence itself takes few steps on top.
    assert cosine("mask_head.recurrence") > 0.98
    assert cosine("") > 0.9


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
def test_training_in_mixed_precision_learns(
    tiny_data: Path, tmp_path: Path, amp: torch.dtype
) -> None:
    cfg = tiny_cfg(tmp_path, SOLVER__BASE_LR=0.003)
    torch.manual_seed(0)
    model = build_model(cfg)
    sample = next(iter(Trainer.build_train_loader(cfg)))
    # A user's float16 needs a GPU, for its speed; the CPU's is as good for a test. A low scale to
    # begin with, since this untrained network has large gradients.
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0) if amp == torch.float16 else None
    optimizer = build_optimizer(cfg, model)
    step = TrainStep(model, itertools.repeat(sample), optimizer, amp=amp, scaler=scaler)
    seen = []
    model.roi_heads.mask_head.deconv.register_forward_hook(lambda *x: seen.append(x[2].dtype))
    losses = []
    with EventStorage() as storage:
        for _ in range(8):
            step.run_step()
            losses.append(storage.latest()["total_loss"][0])
    assert set(seen) == {amp}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    # The same pictures eight times: one step less would do, one more too.
    assert min(losses[-3:]) < losses[0]


def test_config_chooses_precision_and_parts() -> None:
    model = Regression()
    cfg = make_cfg(
        SOLVER__AMP__ENABLED=True, RPANOPTIC__AMP_DTYPE="bfloat16", RPANOPTIC__ACCUMULATION=4
    )
    step = build_train_step(cfg, model, batches(), Keep(model))
    assert (step.amp, step.grad_scaler, step.parts) == (torch.bfloat16, None, 4)
    step = build_train_step(make_cfg(), model, batches(), Keep(model))
    assert (step.amp, step.grad_scaler, step.parts) == (None, None, 1)


def test_clipping_sees_true_gradients_under_a_loss_scale() -> None:
    clip = {
        "SOLVER__CLIP_GRADIENTS__ENABLED": True,
        "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full_model",
        "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 0.1,
    }
    _, expected = trained(Regression(), **clip)
    _, without = trained(Regression())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    logged, found = trained(Regression(), scaler=scaler, **clip)
    assert not torch.allclose(expected[0], without[0])
    # A power of two scales without rounding.
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert logged["amp/loss_scale"] == 1024.0


class Overflow(nn.Module):
    """A finite loss whose gradient is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, data: object) -> Tensor:
        return self.weight.sqrt().sum()


def test_overflow_leaves_the_step_out_and_never_ending_overflow_stops() -> None:
    model = Overflow()
    step = TrainStep(
        model,
        itertools.repeat([{}]),
        torch.optim.SGD(model.parameters(), lr=0.1),
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0**-8),
    )
    with EventStorage() as storage:
        step.run_step()
        assert model.weight.item() == 0.0
        assert storage.latest()["amp/loss_scale"][0] == 2.0**-9
        step.run_step()
        with pytest.raises(NonFiniteError, match="not finite at any loss scale"):
            step.run_step()
    assert model.weight.item() == 0.0


def test_loss_scale_is_saved_and_restored() -> None:
    def make(scaler: torch.amp.GradScaler | None) -> TrainStep:
        model = Regression()
        return TrainStep(
            model, batches(), torch.optim.SGD(model.parameters(), lr=0.1), scaler=scaler
        )

    first = make(torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1))
    with EventStorage():
        first.run_step()
    state = first.state_dict()
    assert state["grad_scaler"]["scale"] == 128.0
    second = make(torch.amp.GradScaler("cpu"))
    second.load_state_dict(state)
    assert second.grad_scaler is not None
    assert second.grad_scaler.get_scale() == 128.0
    # To and from full precision.
    make(None).load_state_dict(state)
    third = make(torch.amp.GradScaler("cpu", init_scale=32.0))
    third.load_state_dict(make(None).state_dict())
    assert third.grad_scaler is not None
    assert third.grad_scaler.get_scale() == 32.0


def test_processes_exchange_gradients_once_a_step(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        model = DistributedDataParallel(Regression())
        exchanged = []

        # PyTorch looks at annotations, and knows none that are text.
        def count(state, bucket):  # type: ignore[no-untyped-def]
            exchanged.append(bucket.index())
            future: torch.futures.Future[Tensor] = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        model.register_comm_hook(None, count)
        _, found = trained(model, steps=1, RPANOPTIC__ACCUMULATION=4)
        assert exchanged == [0]
    finally:
        torch.distributed.destroy_process_group()
    _, expected = trained(Regression(), steps=1)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_loss_that_is_not_finite_stops_before_the_step() -> None:
    model = Regression()
    before = [p.detach().clone() for p in model.parameters()]
    data = next(batches())
    data[3]["y"] = torch.full((1,), torch.nan, dtype=torch.float64)
    step = TrainStep(
        model, itertools.repeat(data), torch.optim.SGD(model.parameters(), lr=0.1), parts=2
    )
    with EventStorage(), pytest.raises(NonFiniteError, match="loss_a"):
        step.run_step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_batch_without_equal_parts() -> None:
    model = Regression()
    step = TrainStep(model, batches(5), torch.optim.SGD(model.parameters(), lr=0.1), parts=2)
    with EventStorage(), pytest.raises(ValueError, match="batch of 5 samples has no 2 equal parts"):
        step.run_step()


@pytest.mark.parametrize(
    ("batch", "processes", "parts", "message"),
    [
        (8, 1, 0, r"ACCUMULATION must be at least 1; got 0"),
        (8, 1, 3, r"IMS_PER_BATCH is 8, but must be a multiple of 3: 1 process.*ACCUMULATION = 3"),
        (8, 8, 2, r"IMS_PER_BATCH is 8, but must be a multiple of 16: 8 process"),
        (0, 1, 1, r"IMS_PER_BATCH is 0"),
    ],
)
def test_batch_that_cannot_be_divided(batch: int, processes: int, parts: int, message: str) -> None:
    cfg = make_cfg(SOLVER__IMS_PER_BATCH=batch, RPANOPTIC__ACCUMULATION=parts)
    with pytest.raises(ConfigError, match=message):
        check_batch(cfg, processes)
    check_batch(make_cfg(SOLVER__IMS_PER_BATCH=16, RPANOPTIC__ACCUMULATION=2), 8)


def test_type_of_mixed_precision() -> None:
    assert amp_dtype(make_cfg()) is None
    on = {"SOLVER__AMP__ENABLED": True}
    assert amp_dtype(make_cfg(RPANOPTIC__AMP_DTYPE="bfloat16", **on)) == torch.bfloat16
    with pytest.raises(
        ConfigError, match=r"float16 needs a GPU, but MODEL.DEVICE is cpu.*bfloat16"
    ):
        amp_dtype(make_cfg(**on))
    with pytest.raises(ConfigError, match=r"AMP_DTYPE 'half' is unknown; known: bfloat16, float16"):
        amp_dtype(make_cfg(RPANOPTIC__AMP_DTYPE="half"))
    cfg = make_cfg(**on)
    cfg.MODEL.DEVICE = "cuda"
    assert amp_dtype(cfg) == torch.float16
