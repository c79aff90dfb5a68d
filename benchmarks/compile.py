"""What each setting of `machine.compile` gives, on LeNet-5 and on the small GPT: a step, once everything is compiled.

    python benchmarks/compile.py [--rounds 7] [--only 'lenet, False'] [--save]

The settings are those of the config. The last half of the steps is timed; compiling, and what "auto" tries, comes before.
"""

import typing
from collections.abc import Callable
from functools import partial
from typing import Any

import lenet_epoch
import small_gpt
from harness import Benchmark
from tasks import Clock, Task, by_treadle

import treadle

TASKS: dict[str, Callable[[int], Task]] = {"lenet": lambda steps: lenet_epoch.task(steps * lenet_epoch.BATCH), "gpt": small_gpt.task}


def settings(annotation: Any) -> list[Any]:
    """The values that a field may have: `bool | Literal["step"]` -> False, True, "step"."""
    if annotation is bool:
        return [False, True]
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for part in typing.get_args(annotation) for value in settings(part)]


def run(workload: str, setting: Any, steps: int) -> Callable[[], Any]:
    task = TASKS[workload](steps)
    task.config["machine"] = treadle.MachineConfig(compile=setting, micro_batch=task.config.get("machine", treadle.MachineConfig()).micro_batch)
    clock = Clock(steps // 2, steps)
    fit = by_treadle(task, everything=False, handlers=[clock])
    return lambda: {"loss": fit()(), **clock.told()}


BENCH = Benchmark(__file__, lambda steps: steps, sizes=(80,), small=(2,), unit="ms a step", scale=1e-3)
for workload in TASKS:
    for setting in settings(typing.get_type_hints(treadle.MachineConfig)["compile"]):
        BENCH.add(f"{workload}, {setting}", partial(run, workload, setting), base=f"{workload}, False")

if __name__ == "__main__":
    BENCH.main()
