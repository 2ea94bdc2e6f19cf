"""Hooks of the trainer: what the recurrent blocks did."""

from __future__ import annotations

from detectron2.engine import HookBase
from torch import Tensor

from rpanoptic.recurrent import StopReason, recurrent_blocks


class RecurrenceLogger(HookBase):
    """Puts the diagnostics of every :class:`RecurrentBlock` into the event storage.

    For a block at ``roi_heads.mask_head.recurrence`` these are, as means over the samples (RoIs)
    of its latest run, under ``recurrence/roi_heads.mask_head.recurrence/``:

    * ``steps``: steps that were taken;
    * ``residual``: relative change of the state in the last step, 0 at an equilibrium;

    and, where the gradient method solves an adjoint system,

    * ``adjoint_terms``: vector-Jacobian products that the solution is made of;
    * ``adjoint_residual``: its relative residual;
    * ``adjoint_failed``: share of the samples whose solve diverged or broke down;
    * ``adjoint_stop/converged`` and so on: share of the samples whose solve ended for that reason,
      for each :class:`~rpanoptic.recurrent.StopReason`; together they are 1.

    The writers take them as they are: a median over earlier records would lag behind, and medians
    of shares have no sum.

    Args:
        period: iterations between two records; the last iteration is recorded, too.
    """

    def __init__(self, period: int = 20) -> None:
        self._period = period

    def after_step(self) -> None:
        """Record, every ``period`` iterations and after the last."""
        done = self.trainer.iter + 1
        if done % self._period and done != self.trainer.max_iter:
            return
        for name, block in recurrent_blocks(self.trainer.model).items():
            prefix = f"recurrence/{name}"
            last = block.last
            if last is None:
                continue
            self._put(f"{prefix}/steps", last.steps)
            self._put(f"{prefix}/residual", last.residual)
            if last.adjoint is not None:
                self._put(f"{prefix}/adjoint_terms", last.adjoint.terms)
                self._put(f"{prefix}/adjoint_residual", last.adjoint.residual)
                self._put(f"{prefix}/adjoint_failed", last.adjoint.failed)
                if last.adjoint.reason is not None:
                    for reason in StopReason:
                        share = last.adjoint.reason.eq(int(reason))
                        self._put(f"{prefix}/adjoint_stop/{reason.name.lower()}", share)

    def _put(self, name: str, values: Tensor | None) -> None:
        if values is None:  # no backward pass, no adjoint
            return
        values = values.float()
        values = values[values.isfinite()]
        if values.numel():  # no foreground box, no sample
            self.trainer.storage.put_scalar(name, values.mean().item(), smoothing_hint=False)
