"""What follows a training, and only one that has reached its end."""

from __future__ import annotations

from detectron2.engine import TrainerBase, hooks


def ended_well(trainer: TrainerBase) -> bool:
    """Whether a trainer's loop is over without an error.

    To be asked in ``after_train``, which is called after an error as well. A loop that stops in
    its last iteration leaves that iteration's number, one that is done leaves ``max_iter``.
    """
    return bool(trainer.iter >= trainer.max_iter)


class Evaluation(hooks.EvalHook):
    """Detectron2's evaluation hook, which evaluates no training that failed in its last iteration.

    Detectron2's own takes such a training for a finished one. The results would be those of a
    spoilt model, and with several processes one that evaluates leaves the others waiting.
    """

    def after_train(self) -> None:
        """Evaluate what has been trained to its end."""
        if ended_well(self.trainer):
            super().after_train()
