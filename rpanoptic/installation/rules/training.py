"""Mends of the training loop: what a checkpoint holds, schedules, several processes."""

from __future__ import annotations

from rpanoptic.installation.mend import Edit, Need, Rule

RULES = (
    Rule(
        name="checkpoint-trainer-state",
        need=Need.SHOULD,
        file="engine/defaults.py",
        why="Checkpoints held no optimizer and no AMP scaler state, so a resumed run went astray.",
        edits=(
            Edit(
                """        self._trainer.iter = self.iter
        self._trainer.run_step()

    @classmethod
    def build_model(cls, cfg):
""",
                """        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self):
        state = super().state_dict()
        # The inner trainer owns the optimizer and, with mixed precision, the loss scaler.
        state["_trainer"] = self._trainer.state_dict()
        return state

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            logging.getLogger(__name__).warning(
                "This checkpoint holds no optimizer state, as Detectron2 0.6 wrote them. "
                "The optimizer starts afresh."
            )

    @classmethod
    def build_model(cls, cfg):
""",
            ),
        ),
        upstream="0ce0e0cc180f, ac6774fe1d18",
    ),
    Rule(
        name="ddp-on-cpu",
        need=Need.SHOULD,
        file="engine/defaults.py",
        why="DistributedDataParallel takes no device ids for a model on the CPU.",
        edits=(
            Edit(
                """    if "device_ids" not in kwargs:
        kwargs["device_ids"] = [comm.get_local_rank()]
""",
                """    on_gpu = any(p.is_cuda for p in model.parameters())
    if on_gpu and "device_ids" not in kwargs:
        kwargs["device_ids"] = [comm.get_local_rank()]
""",
            ),
        ),
    ),
    Rule(
        name="launch-on-cpu",
        need=Need.SHOULD,
        file="engine/launch.py",
        why="Several processes run on a machine without a GPU, through gloo.",
        edits=(
            Edit(
                "    assert torch.cuda.is_available(), "
                '"cuda is not available. Please check your installation."\n'
                "    global_rank",
                """    has_gpu = torch.cuda.is_available()
    if has_gpu:
        assert num_gpus_per_machine <= torch.cuda.device_count(), (
            f"{num_gpus_per_machine} processes need as many GPUs, but this machine has "
            f"{torch.cuda.device_count()}."
        )
    global_rank""",
            ),
            Edit(
                '            backend="NCCL",\n            init',
                '            backend="nccl" if has_gpu else "gloo",\n            init',
            ),
            Edit(
                """    assert num_gpus_per_machine <= torch.cuda.device_count()
    torch.cuda.set_device(local_rank)
""",
                """    if has_gpu:
        torch.cuda.set_device(local_rank)
""",
            ),
            Edit(
                "    comm.synchronize()\n\n    main_func(*args)\n",
                """    comm.synchronize()
    main_func(*args)
    # The threads of a group that lives on can abort a process which ends.
    dist.destroy_process_group()
""",
            ),
        ),
        upstream="b4b6cc9cba37",
    ),
    Rule(
        name="scheduler-base-class",
        need=Need.SHOULD,
        file="solver/lr_scheduler.py",
        why="PyTorch 2 renamed the base class of the schedules.",
        edits=(
            Edit(
                "    ParamScheduler,\n)\n\nlogger = logging.getLogger(__name__)\n",
                """    ParamScheduler,
)

try:
    from torch.optim.lr_scheduler import LRScheduler
except ImportError:  # before PyTorch 2.0
    from torch.optim.lr_scheduler import _LRScheduler as LRScheduler

logger = logging.getLogger(__name__)
""",
            ),
            Edit(
                "class LRMultiplier(torch.optim.lr_scheduler._LRScheduler):",
                "class LRMultiplier(LRScheduler):",
            ),
            Edit(
                "class WarmupMultiStepLR(torch.optim.lr_scheduler._LRScheduler):",
                "class WarmupMultiStepLR(LRScheduler):",
            ),
            Edit(
                "class WarmupCosineLR(torch.optim.lr_scheduler._LRScheduler):",
                "class WarmupCosineLR(LRScheduler):",
            ),
        ),
        upstream="210809711838",
    ),
    Rule(
        name="scheduler-exported",
        need=Need.SHOULD,
        file="solver/__init__.py",
        why="The base class of the schedules is found under one name, whatever the PyTorch.",
        edits=(
            Edit(
                "from .lr_scheduler import WarmupCosineLR, WarmupMultiStepLR, LRMultiplier, "
                "WarmupParamScheduler\n",
                """from .lr_scheduler import (
    LRMultiplier,
    LRScheduler,
    WarmupCosineLR,
    WarmupMultiStepLR,
    WarmupParamScheduler,
)
""",
            ),
        ),
        upstream="210809711838",
    ),
    Rule(
        name="scheduler-annotation",
        need=Need.SHOULD,
        file="solver/build.py",
        why="The return type names the class that the schedules derive from.",
        edits=(
            Edit(
                "from .lr_scheduler import LRMultiplier, WarmupParamScheduler\n",
                "from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler\n",
            ),
            Edit(") -> torch.optim.lr_scheduler._LRScheduler:", ") -> LRScheduler:"),
        ),
        upstream="210809711838",
    ),
    Rule(
        name="scheduler-state",
        need=Need.SHOULD,
        file="engine/hooks.py",
        why="PyTorch 2's own schedules were not recognised: their state was saved empty.",
        edits=(
            Edit(
                "from detectron2.solver import LRMultiplier\nfrom detectron2.utils.events",
                "from detectron2.solver import LRMultiplier\n"
                "from detectron2.solver import LRScheduler as _LRScheduler\n"
                "from detectron2.utils.events",
            ),
            Edit(
                "isinstance(self.scheduler, torch.optim.lr_scheduler._LRScheduler)",
                "isinstance(self.scheduler, _LRScheduler)",
                count=2,
            ),
        ),
        upstream="210809711838",
    ),
    Rule(
        name="lazy-loader-iterator",
        need=Need.SHOULD,
        file="engine/train_loop.py",
        why="The loader's workers start at the first step, not when the trainer is built.",
        edits=(
            Edit(
                "        self._data_loader_iter = iter(data_loader)\n"
                "        self.optimizer = optimizer\n\n",
                """        self._loader_iter = None
        self.optimizer = optimizer

    @property
    def _data_loader_iter(self):
        if self._loader_iter is None:
            self._loader_iter = iter(self.data_loader)
        return self._loader_iter

    @_data_loader_iter.setter
    def _data_loader_iter(self, iterator):
        self._loader_iter = iterator

""",
            ),
        ),
        upstream="e566079fb853",
    ),
    Rule(
        name="amp-precision",
        need=Need.SHOULD,
        file="engine/train_loop.py",
        why="Mixed precision takes the number format as an argument, and no deprecated name.",
        edits=(
            Edit(
                "    def __init__(self, model, data_loader, optimizer, grad_scaler=None):\n",
                """    def __init__(
        self, model, data_loader, optimizer, grad_scaler=None, precision=torch.float16
    ):
""",
            ),
            Edit(
                'to automatically scale gradients.\n        """\n',
                "to automatically scale gradients.\n            precision (torch.dtype): "
                'float16 or bfloat16, for the forward pass.\n        """\n',
            ),
            Edit(
                """            from torch.cuda.amp import GradScaler

            grad_scaler = GradScaler()
        self.grad_scaler = grad_scaler
""",
                """            if hasattr(torch.amp, "GradScaler"):
                grad_scaler = torch.amp.GradScaler("cuda")
            else:  # before PyTorch 2.3
                grad_scaler = torch.cuda.amp.GradScaler()
        self.grad_scaler = grad_scaler
        self.precision = precision
""",
            ),
            Edit(
                'for AMP training!"\n        from torch.cuda.amp import autocast\n\n',
                'for AMP training!"\n\n',
            ),
            Edit(
                "        with autocast():\n",
                '        with torch.autocast("cuda", dtype=self.precision):\n',
            ),
        ),
        upstream="96c752ce821a",
    ),
)
