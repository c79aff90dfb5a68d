"""What a run says about itself while it goes on: for each step, which samples it saw and what was in them."""

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Witness:
    """A handler with state that writes down each step, and ends the process after the step that it is told.

    ``<run folder>.ids``: a line a step, with its number, a sum over all steps so far, a hash of what the model saw, and the
    samples' ids. ``<run folder>.doing``: "training" or "evaluation", for whoever finds the process dead.

    Args:
        folder: the run folder.
        kill_at: the step after which it is killed.
        stop_at: the step after which it is asked to stop.
    """

    def __init__(self, folder: str, kill_at: int | None = None, stop_at: int | None = None) -> None:
        self.ids, self.doing = Path(f"{folder}.ids"), Path(f"{folder}.doing")
        self.signals = {kill_at: signal.SIGKILL, stop_at: signal.SIGTERM}
        self.seen = 0
        self._inputs: list[torch.Tensor] = []
        self._now = ""

    def watching(self, model: nn.Module) -> nn.Module:
        """A model, looked at: its input is what was left of the data after all augmentation."""
        model.register_forward_pre_hook(lambda module, inputs: self.see(inputs[0]) if module.training else self._note("evaluation"))
        return model

    def see(self, images: torch.Tensor) -> None:
        """Take the input of one micro-batch."""
        self._note("training")
        self._inputs.append(images)

    def on_step_finished(self, run: Any) -> None:
        parts = sum(1 for _ in run.step)
        inputs, self._inputs = self._inputs[-parts:], []  # before the first step, a batch is tried
        pixels = hashlib.sha256(torch.cat(inputs).numpy().tobytes()).hexdigest()[:12]
        ids = [] if run.step.ids is None else run.step.ids.tolist()
        self.seen += run.step.number + sum(ids)
        with open(self.ids, "a") as file:
            print(run.step.number, self.seen, pixels, *ids, file=file)
        if run.step.number in self.signals:
            os.kill(os.getpid(), self.signals[run.step.number])

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]

    def _note(self, doing: str) -> None:
        if doing != self._now:
            self._now = doing
            self.doing.write_text(doing)
