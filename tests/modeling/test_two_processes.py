"""Every component in two processes that exchange gradients, against one process."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.modeling.components import COMPONENTS, Training
from tests.modeling.meta_arch.models import MODELS

PROCESSES = 2
# By step and process the samples; picture 0 has no instances, so that a process has no region.
BATCHES = ([[2], [0]], [[0], [1]])
RATE = 1e-3
EACH = pytest.mark.parametrize("key", COMPONENTS)


def training(key: str, folder: Path) -> Training:
    """A component with the weights that all processes begin with.

    They are read from a file: the QR decomposition of an orthogonal initialisation depends on the
    number of threads, by a rounding error of float32.
    """
    component = COMPONENTS[key]
    module = component.build(component.cfg(folder))
    module.load_state_dict(torch.load(first_weights(key, folder), weights_only=True))
    # Detectron2's models know float32 alone. There the order of sums costs far more.
    return Training(component, module if key in MODELS else module.double())


def first_weights(key: str, folder: Path) -> Path:
    return folder / f"{key}.first.pth"


def train_one_of_two(rank: int, folder: Path) -> None:
    """Train each component for two steps, and write its gradients and weights."""
    dist.init_process_group(
        "gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=PROCESSES
    )
    torch.set_num_threads(1)
    for key in COMPONENTS:
        model = training(key, folder)
        # As the trainer wraps models: a parameter without a gradient would be an error.
        wrapped = DistributedDataParallel(model, broadcast_buffers=False)
        optimizer = torch.optim.SGD(model.parameters(), RATE)
        gradients = []
        for step, batch in enumerate(BATCHES):
            optimizer.zero_grad()
            wrapped(batch[rank], seed=rank + PROCESSES * step).backward()
            gradients.append(gradients_of(model))
            optimizer.step()
        torch.save((gradients, model.state_dict()), folder / f"{key}.{rank}.pth")
    dist.destroy_process_group()


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What both processes wrote, ``{component}.{rank}.pth``."""
    made = tmp_path_factory.mktemp("two_processes")
    for key, component in COMPONENTS.items():
        torch.save(component.build(component.cfg(made)).state_dict(), first_weights(key, made))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        mp.spawn(train_one_of_two, args=(made,), nprocs=PROCESSES)
    yield made


def written(key: str, folder: Path, rank: int) -> Any:
    return torch.load(folder / f"{key}.{rank}.pth", weights_only=True)


@EACH
def test_processes_have_the_same_gradients_and_weights(key: str, folder: Path) -> None:
    (gradients, weights), (others, other_weights) = (written(key, folder, r) for r in range(2))
    for one, other in zip(gradients, others, strict=True):
        for name, gradient in one.items():
            assert torch.equal(gradient, other[name]), name
    for name, weight in weights.items():
        # In training each process keeps running statistics of its own share.
        if "running_" not in name:
            assert torch.equal(weight, other_weights[name]), name


@EACH
def test_gradients_are_the_mean_of_single_processes(key: str, folder: Path) -> None:
    gradients, weights = written(key, folder, 0)
    # What a model keeps beside its weights, such as a running normaliser, each keeps for itself.
    models = [training(key, folder)]
    models.append(copy.deepcopy(models[0]))
    for step, batch in enumerate(BATCHES):
        for rank, model in enumerate(models):
            model.zero_grad()
            model(batch[rank], seed=rank + PROCESSES * step).backward()
        one, other = (gradients_of(model) for model in models)
        mean = {name: (gradient + other[name]) / 2 for name, gradient in one.items()}
        assert_close(gradients[step], mean)
        with torch.no_grad():
            for model in models:
                for name, parameter in model.named_parameters():
                    if parameter.requires_grad:
                        parameter -= RATE * gradients[step][name]
    assert any(not torch.equal(weights[n], p) for n, p in training(key, folder).named_parameters())
    for name, parameter in models[0].named_parameters():
        torch.testing.assert_close(parameter, weights[name], msg=name)


@pytest.mark.parametrize("key", [key for key, c in COMPONENTS.items() if c.separable])
def test_gradients_are_those_of_one_process_with_the_whole_batch(key: str, folder: Path) -> None:
    model = training(key, folder)
    model([number for share in BATCHES[0] for number in share], seed=0).backward()
    assert_close(written(key, folder, 0)[0][0], gradients_of(model))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal to within sums in another order, through 50 layers and a recurrence."""
    assert found.keys() == expected.keys()
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        tolerance = 1e-8 if gradient.dtype == torch.float64 else 1e-3
        error = (found[name] - gradient).norm()
        assert error <= tolerance * gradient.norm() + 1e-4 * tolerance * largest, name
