"""Windows: a few steps each, since who looks closer makes what he looks at slower. Each gives facts when it is closed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from treadle.profile.measured import Module
from treadle.profile.memory import Held, Peaks, held_by, sums
from treadle.profile.modules import Modules
from treadle.profile.phases import BACKWARD, FORWARD, OPTIMIZER, Clock, spans, totals
from treadle.profile.seams import timed
from treadle.profile.times import Times
from treadle.profile.trace import Trace

INSIDE, TRACED = 3, 2
"""Steps in which modules and memory are looked at, and steps under torch's profiler."""
_LARGEST = 20
_SEVERAL = "model-"
"""How a trainer of several models begins the name of each."""
_TRIES = 1000


class Window(Protocol):
    """A few steps."""

    steps: int

    def open(self) -> None:
        """Begin; the body of the first step follows."""

    def turn(self) -> None:
        """The body of a step is about to begin."""

    def close(self) -> dict[str, Any]:
        """End; the last step is over. Gives fields of `Measured`."""


class Warmup:
    """Steps that nobody looks at.

    Args:
        steps: how many.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def open(self) -> None:
        """Nothing."""

    def turn(self) -> None:
        """Nothing."""

    def close(self) -> dict[str, Any]:
        """How many."""
        return {"warmup": self.steps}


class Timed:
    """Steps whose phases are timed, and nothing else.

    Args:
        run: the `Run`.
        clock: the clock of the phases.
        times: who made its stamps.
        calls: how often each seam was called.
        steps: how many.
    """

    def __init__(self, run: Any, clock: Clock, times: Times, calls: Counter[str], steps: int) -> None:
        self._run, self._clock, self._times, self._calls, self.steps = run, clock, times, calls, steps
        self._starts: list[int] = []
        self._samples = 0

    def open(self) -> None:
        """Start the clock."""
        self._rows = self._calls["Log.flush"]
        self._clock.start()

    def turn(self) -> None:
        """Count a step."""
        self._starts.append(len(self._clock.marks))
        self._samples += self._run.step.samples

    def close(self) -> dict[str, Any]:
        """Phases and steps."""
        self._clock.stop()
        marks, self._clock.marks = self._clock.marks, []
        moments = self._times.seconds([stamp for _, stamp in marks])
        found = spans([(name, at) for (name, _), at in zip(marks, moments, strict=True)])
        bounds = [0.0, *(moments[place] for place in self._starts[1:]), moments[-1]]
        return {
            "steps": self.steps,
            "samples": self._samples,
            "wall_s": moments[-1],
            "phases": totals(found),
            "host": totals(spans([(name, stamp.host) for name, stamp in marks])),
            "step_s": [end - start for start, end in pairwise(bounds)],
            "timeline": [(span.name, span.start, span.end) for span in found],
            "rows": self._calls["Log.flush"] - self._rows,
            "cost_s": _cost(self._times) * len(marks) / self.steps,
        }


class Inside:
    """Steps in which modules and memory are looked at.

    Args:
        run: the `Run`.
        clock: the clock of the phases.
        times: who makes stamps.
    """

    steps = INSIDE

    def __init__(self, run: Any, clock: Clock, times: Times) -> None:
        self._run, self._clock, self._times = run, clock, times
        self._held: list[Held] = []

    def open(self) -> None:
        """Begin to look."""
        self._models = {name.removeprefix(_SEVERAL): model for name, model in self._run._loop.tracked.models().items()}
        # What is compiled runs as a whole: hooks in it would be left out, or make it be compiled anew.
        seen = {} if self._run.config.machine.compile else self._models
        self._modules = Modules(seen, self._times.stamp, lambda: self._clock.top in (FORWARD, BACKWARD))
        self._peaks = Peaks(self._run.device)
        self._modules.open()
        self._clock.changed = self._changed

    def turn(self) -> None:
        """Nothing."""

    def close(self) -> dict[str, Any]:
        """Modules and tensors."""
        self._clock.changed = None
        self._modules.close()
        held = [*self._held, *self._modules.saved.most]
        return {
            "inside": self.steps,
            "modules": self._table(),
            "memory": sums(held),
            "peaks": self._peaks.peaks,
            "largest": sorted(held, key=lambda one: -one.bytes)[:_LARGEST],
        }

    def _changed(self, before: str, after: str) -> None:
        self._modules.changed(before, after)
        self._peaks.changed(before, after)
        if after == OPTIMIZER:
            self._look()

    def _look(self) -> None:
        """An update begins: gradients are there, and from the second step on the optimizer's state."""
        optimizers = [item for item in self._run._loop.tracked.objects() if isinstance(item, Optimizer)]
        found = held_by(self._models, optimizers, self._run.step.parts)
        if sum(one.bytes for one in found) >= sum(one.bytes for one in self._held):
            self._held = found

    def _table(self) -> list[Module]:
        forward, backward = self._modules.seconds(self._times)
        saved = dict.fromkeys(self._modules.named, 0)
        for one in self._modules.saved.most:
            saved[one.name] = saved.get(one.name, 0) + one.bytes
        rows = []
        for name, module in self._modules.named.items():
            members = set(map(id, module.modules()))
            within = [other for other, one in self._modules.named.items() if id(one) in members]
            rows.append(
                Module(
                    name,
                    type(module).__name__,
                    sum(parameter.numel() for parameter in module.parameters()),
                    forward_s=sum(forward.get(other, 0.0) for other in within) / self.steps,
                    backward_s=sum(backward.get(other, 0.0) for other in within) / self.steps,
                    own_forward_s=forward.get(name, 0.0) / self.steps,
                    own_backward_s=backward.get(name, 0.0) / self.steps,
                    saved_bytes=sum(saved[other] for other in within),
                    own_saved_bytes=saved[name],
                    container=type(module).forward is nn.Sequential.forward,
                )
            )
        return rows if self._modules.saw else []


class Traced:
    """Steps under torch's profiler.

    Args:
        run: the `Run`.
        clock: the clock of the phases.
        path: the file of the trace.
    """

    steps = TRACED

    def __init__(self, run: Any, clock: Clock, path: Path) -> None:
        self._run, self._clock, self._path = run, clock, path

    def open(self) -> None:
        """Begin to record."""
        self._trace = Trace(self._run.device)
        self._trace.open(self._clock.top)
        self._clock.changed = self._trace.changed

    def turn(self) -> None:
        """Nothing."""

    def close(self) -> dict[str, Any]:
        """How long the GPU was busy."""
        self._clock.changed = None
        busy = self._trace.close(self._path)
        return {"busy_s": busy / self.steps if self._run.device.type == "cuda" else None}


def _cost(times: Times) -> float:
    """Seconds that one mark takes, about, with its share of the wrapper around it."""
    clock = Clock(times.stamp)
    call = timed(lambda: None, "", FORWARD, clock, Counter())
    clock.start()
    for _ in range(_TRIES):
        call()
    clock.stop()
    first, last = clock.marks[0][1], clock.marks[-1][1]
    return float(last.host - first.host) / len(clock.marks)
