"""A run's checkpoints: numbered ones, the last one, and one of a run that was asked to stop."""

from __future__ import annotations

from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..checkpoint.checkpointer import FINAL, STOPPED, Checkpointer, numbered_checkpoints


class Checkpoints(HookBase):
    """Save the run every `period` iterations, after the last one, and when it is asked to stop.

    List it after everything whose state it saves. What a killed process did not get to do after its last
    checkpoint is done when the run goes on.

    Args:
        period: iterations.
        max_to_keep: how many numbered checkpoints stay; None keeps all.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, max_to_keep: int | None = None):
        self.checkpointer, self.period, self.max_to_keep = checkpointer, period, max_to_keep

    def before_train(self) -> None:
        trainer = self.trainer
        if trainer.start_iter == 0:
            return
        self._remove_old(trainer.start_iter - 1)
        if (
            trainer.start_iter >= trainer.max_iter
            and Path(self.checkpointer.get_checkpoint_file()).name != FINAL
        ):
            with trainer.at(trainer.start_iter - 1):
                self._save(FINAL)

    def after_step(self) -> None:
        iteration = self.trainer.iter
        saved = (iteration + 1) % self.period == 0
        if saved:
            self._save(f"model_{iteration:07d}.pth")
        if iteration + 1 >= self.trainer.max_iter:
            self._save(FINAL)
        elif self.trainer.stopping and not saved:
            self._save(STOPPED)

    def _save(self, name: str) -> None:
        # All processes take part in saving; one of them removes old files.
        iteration = self.trainer.iter
        self.trainer.settle()
        self.checkpointer.save(name.removesuffix(".pth"), iteration=iteration)
        self._remove_old(iteration)

    def _remove_old(self, iteration: int) -> None:
        """Remove all but the newest checkpoints of the steps up to `iteration`."""
        if not comm.is_main_process():
            return
        last = Path(self.checkpointer.get_checkpoint_file())
        if last.name != STOPPED:
            last.with_name(STOPPED).unlink(missing_ok=True)
        if self.max_to_keep is None:
            return
        numbered = numbered_checkpoints(last.parent)
        # Later ones are of a process that was killed, or of a run that was set back; they are written again.
        earlier = sorted(number for number in numbered if number <= iteration)
        for number in earlier[: -self.max_to_keep]:
            if numbered[number] != last:
                numbered[number].unlink()
