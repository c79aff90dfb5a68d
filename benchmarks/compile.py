"""What each setting of `machine.compile`, and `channels_last`, gives on LeNet-5 and on the small GPT: a step, once everything is compiled.

    python benchmarks/compile.py [--rounds 7] [--only 'lenet, channels_last=True'] [--save]

The settings are those of the config. The last half of the steps is timed; compiling, and what "auto" tries, comes before: `start_s` is the
time of a run, in seconds, beyond that of its steps; torch keeps what it compiled, so only the first round, which is not counted, compiles all.
"""

import time
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


def values(annotation: Any) -> list[Any]:
    """The values that a field may have: `bool | Literal["step"]` -> False, True, "step"."""
    if annotation is bool:
        return [False, True]
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for part in typing.get_args(annotation) for value in values(part)]


def run(workload: str, setting: dict[str, Any], steps: int) -> Callable[[], Any]:
    task = TASKS[workload](steps)
    task.config["machine"] = treadle.MachineConfig(**setting, micro_batch=task.config.get("machine", treadle.MachineConfig()).micro_batch)
    clock = Clock(steps // 2, steps)
    fit = by_treadle(task, everything=False, handlers=[clock])

    def timed() -> dict[str, float]:
        began = time.perf_counter()
        final_loss = fit()
        whole, told = time.perf_counter() - began, clock.told()
        return {"loss": final_loss(), **told, "start_s": whole - steps * told["wall"] / told["work"]}

    return timed


BENCH = Benchmark(__file__, lambda steps: steps, sizes=(80,), small=(2,), unit="ms a step", scale=1e-3)
SETTINGS = [("compile", value) for value in values(typing.get_type_hints(treadle.MachineConfig)["compile"])]
for workload, more in {"lenet": [("channels_last", True)], "gpt": []}.items():
    for field, value in [*SETTINGS, *more]:
        BENCH.add(f"{workload}, {field}={value}", partial(run, workload, {field: value}), base=f"{workload}, compile=False")

if __name__ == "__main__":
    BENCH.main()
