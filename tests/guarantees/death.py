"""Kill -9 from within, at a call that is hard to meet from without: ``<place>:<n>`` is the n-th call there."""

import os
import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from guarantees.witness import Witness


def die_in(aim: str) -> None:
    """Have this process killed before the n-th call of a place.

    Args:
        aim: "save:n": calls that write, sync, move or remove something in `checkpoints/`; "evaluation:n": a model's forward passes in evaluation
            mode (a Trainer tries one batch before it begins); "resume:n": objects getting their state back.
    """
    place, number = aim.split(":")
    _Countdown(int(number)).patch(*_PLACES[place])


class _Countdown:
    """Functions that share one number of calls; the last of these is not lived to see."""

    def __init__(self, number: int) -> None:
        self.left = number

    def patch(self, functions: list[tuple[Any, str]], counts: Callable[..., bool]) -> None:
        for owner, name in functions:
            setattr(owner, name, self._counted(getattr(owner, name), counts))

    def _counted(self, function: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if counts(*args, **kwargs):
                self.left -= 1
                if self.left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call


def _touches_checkpoints(*args: Any, dir_fd: int | None = None, **_: Any) -> bool:
    named = [Path(arg) for arg in args if isinstance(arg, (str, Path))]
    opened = [Path("/proc/self/fd", str(handle)).readlink() for handle in ([dir_fd] if named else args[:1]) if handle is not None]
    return any("checkpoints" in path.parts for path in [*named, *opened])


_WRITING = [(os, name) for name in ("write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")]
_PLACES: dict[str, tuple[list[tuple[Any, str]], Callable[..., bool]]] = {
    "save": (_WRITING, _touches_checkpoints),
    "evaluation": ([(nn.Sequential, "forward")], lambda model, *_: not model.training),
    "resume": ([(owner, "load_state_dict") for owner in (nn.Module, Optimizer, Witness)], lambda *_, **__: True),
}
