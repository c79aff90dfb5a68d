"""The profiler: goes through a few steps of a run, window by window, and writes down what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from treadle.data.loader import Loader
from treadle.profile.loading import measure
from treadle.profile.measured import Measured
from treadle.profile.phases import WAIT, Clock
from treadle.profile.seams import seams
from treadle.profile.times import Times
from treadle.profile.windows import INSIDE, TRACED, Inside, Timed, Traced, Warmup, Window
from treadle.system.cores import cores
from treadle.system.stage import Profiled

REPORT, TRACE = "profile.json", "trace.json"
"""Files in the folder that the profile is written to."""
AFTER = INSIDE + TRACED
"""Steps that follow those that are timed."""


class Profiler:
    """Measures one run.

    Args:
        run: the `Run`, before its first step.
        wish: how many steps, and where to write.
        end: called when all is written: nothing more is wanted of the program.
        times: gives stamps; those of the run's device unless told.
    """

    def __init__(self, run: Any, wish: Profiled, end: Callable[[], object], times: Times | None = None) -> None:
        self._run, self._wish, self._end = run, wish, end
        self._folder = Path(wish.folder)
        self._times = times or Times(run.device)
        self._facts: dict[str, Any] = {}
        self._loader: Loader | None = None
        self._number = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure as long as this context is open."""
        clock = Clock(self._times.stamp)
        with seams(clock, self._run, self._turn, self._loaded) as calls:
            self._windows: list[Window] = [
                Warmup(self._wish.warmup),
                Timed(self._run, clock, self._times, calls, self._wish.steps),
                Inside(self._run, clock, self._times),
                Traced(self._run, clock, self._folder / TRACE),
            ]
            self._left = self._windows[0].steps
            yield

    def _loaded(self, loader: Loader) -> None:
        self._loader = loader

    def _turn(self) -> None:
        """The body of a step is about to begin; one that is begun again with smaller parts is the same."""
        if not self._windows or self._run.step.number == self._number:
            return
        self._number = self._run.step.number
        if self._left == 0:
            self._facts |= self._windows.pop(0).close()
            if not self._windows:
                self._write()
                self._end()
                return
            self._left = self._windows[0].steps
            self._windows[0].open()
        self._left -= 1
        self._windows[0].turn()

    def _write(self) -> None:
        run, config = self._run, self._run.config
        waited_s = self._facts["host"].get(WAIT, 0.0) / self._facts["steps"]
        settings = {
            "batch_size": config.batch_size,
            "log.every": config.log.every,
            "log.train_metrics": config.log.train_metrics,
            "machine.compile": config.machine.compile,
            "machine.precision": config.machine.precision,
            "machine.resident": config.machine.resident,
            "checkpoint.every": config.checkpoint.every,
            "evaluate.every": config.evaluate.every,
        }
        Measured(
            **self._facts,
            device=str(run.device),
            gpu=torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else None,
            threads=torch.get_num_threads(),
            cores=cores(),
            settings=settings,
            data=measure(self._loader, run.progress, waited_s, self._times.now),
        ).save(self._folder / REPORT)
