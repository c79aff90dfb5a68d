"""How long training stands still for a checkpoint: Treadle against what people write by hand, in turn, and against memory and disk.

    python benchmarks/checkpoint_stall.py [--rounds 5] [--width 2000] [--folder DISK]

25 layers of 2000 x 2000 with AdamW make 1.2 GB a checkpoint. 23 steps on a batch of 1; a checkpoint after steps 11 and 22, and at the
end.

early   what steps 2 to 10 lose while memory for the first checkpoint is made ready in the background.
first   from the end of the step of the first checkpoint to the begin of the next step.
stall   the same of the second one; / copy: over what a copy of as many bytes into memory that was used before takes.
drag    what the ten steps after the first checkpoint lose while it is written in the background. As early, against the median of a step
        without checkpoints in the same round.
end     from the last forward pass to where everything is written that will be.

Beside it, on the same disk in the same rounds: dd with conv=fsync, Treadle's write of such a checkpoint with nobody training, and its
verification. Targets: a stall of 1.2 copies, a write of 80 % of dd's speed, a verification of 1 GB/s.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import nn
from torch.nn.functional import mse_loss

import treadle
from treadle.checkpoint.restore import verify
from treadle.checkpoint.save import write_checkpoint
from treadle.checkpoint.tree import encode

LAYERS, STEPS, EVERY, LR = 25, 23, 11, 1e-5
MOST_COPIES, LEAST_OF_DD, LEAST_VERIFIED = 1.2, 0.8, 1.0
Pairs = list[tuple[torch.Tensor, torch.Tensor]]
Done = Callable[[], None]
"""Called at the end of each step."""
Entrant = Callable[[nn.Module, Pairs, Path, Done], None]


# --- by hand ---


def write(state: Any, path: Path) -> None:
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


class Foreground:
    """Write, then go on."""

    def save(self, state: Any, path: Path) -> None:
        write(state, path)

    def finish(self) -> None:
        pass


class Background:
    """What an expert writes: copy into memory that is kept from one checkpoint to the next, and let a thread write the copy."""

    def __init__(self) -> None:
        self._copy: Any = None
        self._writer: Thread | None = None

    def save(self, state: Any, path: Path) -> None:
        self.finish()  # the copy is in use until the checkpoint before is written
        self._copy = copied(state, self._copy)
        self._writer = Thread(target=write, args=(self._copy, path))
        self._writer.start()

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.join()


class Never:
    """No checkpoint: what a step lasts."""

    def save(self, state: Any, path: Path) -> None:
        pass

    def finish(self) -> None:
        pass


def copied(value: Any, place: Any) -> Any:
    """A state with tensors of its own: those of an earlier copy, where there is one."""
    if isinstance(value, torch.Tensor):
        return (torch.empty_like(value) if place is None else place).copy_(value)
    if isinstance(value, dict):
        return {key: copied(item, place and place[key]) for key, item in value.items()}
    return value


def by_hand(saver: Callable[[], Any], model: nn.Module, batches: Pairs, folder: Path, done: Done) -> None:
    optimizer, saving = torch.optim.AdamW(model.parameters(), lr=LR), saver()
    for number, (x, y) in enumerate(batches, 1):
        loss = mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        done()
        if number % EVERY == 0 or number == STEPS:
            saving.save({"step": number, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"{number}.pt")
    saving.finish()


# --- Treadle ---


def by_treadle(model: nn.Module, batches: Pairs, folder: Path, done: Done) -> None:
    """The same loop at level 3. Nothing is removed, as by hand; the checkpoint of the beginning is written before the first step."""
    config = treadle.Config(
        run_dir=str(folder / "run"),
        duration=f"{STEPS} steps",
        checkpoint=treadle.CheckpointConfig(every=f"{EVERY} steps", keep_last=STEPS),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    with treadle.Run(config) as run:
        model, optimizer = run.prepare(model, partial(torch.optim.AdamW, lr=LR))
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(treadle.Batches(batches)):
            for x, y in step:
                step.backward(mse_loss(model(x), y))
            step.update(optimizer)
            done()


ENTRANTS: dict[str, Entrant] = {
    "no checkpoint": partial(by_hand, Never),
    "torch.save": partial(by_hand, Foreground),
    "copy, thread: torch.save": partial(by_hand, Background),
    "treadle": by_treadle,
}


# --- the measurement ---


@dataclass(frozen=True)
class Cost:
    """What the checkpoints of one run cost, in seconds; `early` and `after` are whole steps 2 to 10 and 12 to 21."""

    plain: float
    early: float
    first: float
    stall: float
    after: float
    end: float


@dataclass(frozen=True)
class Limits:
    """What the machine takes for as many bytes, and what Treadle takes to write and to verify them, in seconds."""

    copy: float
    dd: float
    write: float
    verify: float


def timed(entrant: Entrant, batches: Pairs, disk: str | None) -> Cost:
    """One run."""
    torch.manual_seed(0)
    model = build(batches[0][0].shape[1])
    starts: list[float] = []
    ends: list[float] = []
    model.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
    os.sync()  # what was written before must not slow this down
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        entrant(model, batches, Path(folder), lambda: ends.append(time.perf_counter()))
        end = time.perf_counter() - starts[-1]
    steps = [after - before for before, after in pairwise(starts)]  # step n is steps[n - 1]
    early, after = steps[1 : EVERY - 1], steps[EVERY : 2 * EVERY - 1]
    first, stall = (starts[number] - ends[number - 1] for number in (EVERY, 2 * EVERY))
    return Cost(statistics.median(early), sum(early), first, stall, sum(after), end)


def limits(width: int, disk: str | None) -> Limits:
    """Memory and disk, without a loop."""
    weights = build(width).state_dict()
    states = {"model": weights, "optimizer": {name: {"mean": w.clone(), "square": w.clone()} for name, w in weights.items()}}
    place = copied(states, None)
    copy = statistics.median(seconds(lambda: copied(states, place)) for _ in range(3))
    encoded = {name: encode(state, name) for name, state in states.items()}
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        size = 12 * sum(weight.numel() for weight in weights.values())
        blocks = ["dd", "if=/dev/zero", f"of={folder}/dd", "bs=1M", f"count={size}", "iflag=count_bytes", "conv=fsync", "status=none"]
        os.sync()
        dd = seconds(lambda: subprocess.run(blocks, check=True))
        os.sync()
        written = seconds(lambda: write_checkpoint(Path(folder), 1, encoded, {}))
        return Limits(copy, dd, written, seconds(lambda: verify(Path(folder) / "step-000001")))


def build(width: int) -> nn.Module:
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(LAYERS)])


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=2000, help="of a layer; a checkpoint has 300 bytes times its square")
    parser.add_argument("--folder", help="where to write; the folder for temporary files unless told")
    options = parser.parse_args()
    torch.set_num_threads(1)
    batches = [(torch.randn(1, options.width), torch.randn(1, options.width)) for _ in range(STEPS)]
    costs: dict[str, list[Cost]] = {name: [] for name in ENTRANTS}
    bounds = []
    for number in range(options.rounds):
        bounds.append(limits(options.width, options.folder))
        for name, entrant in in_turn(number):
            costs[name].append(timed(entrant, batches, options.folder))
    size = 3 * 4 * LAYERS * options.width * (options.width + 1)  # weights and two moments, in fp32
    report(size, costs, bounds)


def in_turn(number: int) -> list[tuple[str, Entrant]]:
    """The entrants, forwards in one round and backwards in the next."""
    entrants = list(ENTRANTS.items())
    return entrants if number % 2 == 0 else entrants[::-1]


def report(size: int, costs: dict[str, list[Cost]], bounds: list[Limits]) -> None:
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, {size / 1e9:.2f} GB a checkpoint, {len(bounds)} rounds in turn, medians")
    print(f"{'seconds':26} {'step':>7} {'first':>7} {'/ copy':>7} {'stall':>7} {'/ copy':>7} {'early':>7} {'drag':>7} {'end':>7}")
    for name, found in costs.items():
        plain, first, stall, end = (middle(found, part) for part in ("plain", "first", "stall", "end"))
        early, drag = lost(found, costs, "early", EVERY - 2), lost(found, costs, "after", EVERY - 1)
        print(f"{name:26} {plain:7.3f} {first:7.3f} {copies(found, bounds, 'first'):7.2f} ", end="")
        print(f"{stall:7.3f} {copies(found, bounds, 'stall'):7.2f} {early:7.2f} {drag:7.2f} {end:7.2f}")
    for name, took in {"a copy in memory": "copy", "dd conv=fsync": "dd", "treadle's write": "write", "treadle's verification": "verify"}.items():
        print(f"{name:26} {middle(bounds, took):7.3f} s   {size / 1e9 / middle(bounds, took):.2f} GB/s")
    treadle_ = costs["treadle"]
    of_dd = statistics.median(one.dd / one.write for one in bounds)
    verified = size / 1e9 / middle(bounds, "verify")
    stall = copies(treadle_, bounds, "stall")
    judge("the stall, in copies", stall, stall <= MOST_COPIES, f"at most {MOST_COPIES}")
    judge("the write, of dd's speed", of_dd, of_dd >= LEAST_OF_DD, f"at least {LEAST_OF_DD}")
    judge("the verification, in GB/s", verified, verified >= LEAST_VERIFIED, f"at least {LEAST_VERIFIED}")
    values = {"stall / copy": stall, "first stall / copy": copies(treadle_, bounds, "first")}
    values |= {"early, s": lost(treadle_, costs, "early", EVERY - 2), "drag of ten steps, s": lost(treadle_, costs, "after", EVERY - 1)}
    print(json.dumps({name: round(value, 4) for name, value in {**values, "write / dd": of_dd, "verified, GB/s": verified}.items()}))


def middle(found: list[Any], part: str) -> float:
    return statistics.median(getattr(one, part) for one in found)


def lost(found: list[Cost], costs: dict[str, list[Cost]], part: str, steps: int) -> float:
    """What some steps took longer than as many without a checkpoint in the same round."""
    return statistics.median(getattr(one, part) - steps * never.plain for one, never in zip(found, costs["no checkpoint"], strict=True))


def copies(found: list[Cost], bounds: list[Limits], part: str) -> float:
    """A time over that of a copy in the same round."""
    return statistics.median(getattr(one, part) / bound.copy for one, bound in zip(found, bounds, strict=True))


def judge(what: str, value: float, met: bool, target: str) -> None:
    print(f"{what}: {value:.2f}, {target}: target {'met' if met else 'missed'}")


if __name__ == "__main__":
    main()
