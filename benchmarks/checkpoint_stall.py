"""How long training stands still for a checkpoint: Treadle against what people write by hand, in turn.

    python benchmarks/checkpoint_stall.py [--rounds 5] [--width 2000] [--folder DISK]

25 layers of 2000 x 2000 with AdamW make 1.2 GB a checkpoint. Fifteen steps on a batch of 1; a checkpoint after steps 6 and 12, and at the
end. A step lasts from the start of its forward pass to the next one's; what it lasts without any checkpoint is measured in the same round.

stall  how much longer a step with a checkpoint is. The first one also allocates what later ones use again.
drag   what the five steps between the two checkpoints lose while one is written in the background.
end    from the last forward pass to where everything is written that will be.
"""

import argparse
import json
import os
import platform
import statistics
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

LAYERS, STEPS, EVERY, LR = 25, 15, 6, 1e-5
Pairs = list[tuple[torch.Tensor, torch.Tensor]]
Entrant = Callable[[nn.Module, Pairs, Path], None]


# --- by hand ---


def write(state: Any, path: Path, durable: bool) -> None:
    with open(path, "wb") as file:
        torch.save(state, file)
        if durable:
            file.flush()
            os.fsync(file.fileno())


class Foreground:
    """Write, then go on."""

    def __init__(self, durable: bool) -> None:
        self._durable = durable

    def save(self, state: Any, path: Path) -> None:
        write(state, path, self._durable)

    def finish(self) -> None:
        pass


class Background:
    """What an expert writes: copy into memory that is kept from one checkpoint to the next, and let a thread write the copy."""

    def __init__(self, durable: bool) -> None:
        self._durable = durable
        self._copy: Any = None
        self._writer: Thread | None = None

    def save(self, state: Any, path: Path) -> None:
        self.finish()  # the copy is in use until the checkpoint before is written
        self._copy = copied(state, self._copy)
        self._writer = Thread(target=write, args=(self._copy, path, self._durable))
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


def by_hand(saver: Callable[[], Any], model: nn.Module, batches: Pairs, folder: Path) -> None:
    optimizer, saving = torch.optim.AdamW(model.parameters(), lr=LR), saver()
    for number, (x, y) in enumerate(batches, 1):
        loss = mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if number % EVERY == 0 or number == STEPS:
            saving.save({"step": number, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"{number}.pt")
    saving.finish()


# --- Treadle ---


def by_treadle(model: nn.Module, batches: Pairs, folder: Path) -> None:
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


ENTRANTS: dict[str, Entrant] = {
    "no checkpoint": partial(by_hand, Never),
    "torch.save": partial(by_hand, partial(Foreground, durable=False)),
    "torch.save + fsync": partial(by_hand, partial(Foreground, durable=True)),
    "copy, thread: torch.save": partial(by_hand, partial(Background, durable=False)),
    "copy, thread: torch.save + fsync": partial(by_hand, partial(Background, durable=True)),
    "treadle": by_treadle,
}


# --- the measurement ---


@dataclass(frozen=True)
class Cost:
    """What the checkpoints of one run cost, in seconds."""

    first: float
    later: float
    drag: float
    end: float


def timed(entrant: Entrant, batches: Pairs, disk: str | None) -> tuple[list[float], float]:
    """Seconds of each step but the last, and from its start to the end."""
    torch.manual_seed(0)
    width = batches[0][0].shape[1]
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(LAYERS)])
    starts: list[float] = []
    model.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
    os.sync()  # what was written before must not slow this down
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        entrant(model, batches, Path(folder))
        end = time.perf_counter() - starts[-1]
    return [after - before for before, after in pairwise(starts)], end


def cost(steps: list[float], end: float, plain: float) -> Cost:
    """Against a step without checkpoints. Step n is ``steps[n - 1]``."""
    first, later = steps[EVERY - 1] - plain, steps[2 * EVERY - 1] - plain
    return Cost(first, later, sum(steps[EVERY : 2 * EVERY - 1]) - (EVERY - 1) * plain, end)


def disk_seconds(size: int, disk: str | None) -> float:
    """What it takes to make so many bytes durable, whoever writes them."""
    os.sync()
    block = os.urandom(2**20)
    with tempfile.NamedTemporaryFile(dir=disk) as file:
        began = time.perf_counter()
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return time.perf_counter() - began


def copy_seconds(size: int) -> float:
    """What it takes to copy so many bytes within memory that was used before."""
    source, target = torch.ones(size // 4), torch.ones(size // 4)
    began = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=2000, help="of a layer; a checkpoint has 300 bytes times its square")
    parser.add_argument("--folder", help="where to write; the folder for temporary files unless told")
    options = parser.parse_args()
    torch.set_num_threads(1)
    batches = [(torch.randn(1, options.width), torch.randn(1, options.width)) for _ in range(STEPS)]
    size = 3 * 4 * LAYERS * options.width * (options.width + 1)  # weights and two moments, in fp32
    plain: list[float] = []
    costs: dict[str, list[Cost]] = {name: [] for name in ENTRANTS}
    disk, copy = [], []
    for number in range(options.rounds):
        disk.append(disk_seconds(size, options.folder))
        copy.append(copy_seconds(size))
        found = {name: timed(entrant, batches, options.folder) for name, entrant in in_turn(number)}
        plain.append(statistics.median(found["no checkpoint"][0]))
        for name, (steps, end) in found.items():
            costs[name].append(cost(steps, end, plain[-1]))
    report(size, options.rounds, plain, costs, disk, copy)


def in_turn(number: int) -> list[tuple[str, Entrant]]:
    """The entrants, forwards in one round and backwards in the next."""
    entrants = list(ENTRANTS.items())
    return entrants if number % 2 == 0 else entrants[::-1]


def report(size: int, rounds: int, plain: list[float], costs: dict[str, list[Cost]], disk: list[float], copy: list[float]) -> None:
    median = statistics.median
    base = median(one.later for one in costs["torch.save"])
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, {size / 1e9:.2f} GB a checkpoint, {rounds} rounds in turn, medians")
    print(f"a step without a checkpoint {median(plain):.3f} s; limits: a copy in memory {median(copy):.3f} s, durable on disk {median(disk):.2f} s")
    print(f"{'seconds':34} {'first stall':>11} {'later stall':>11} {'/ torch.save':>12} {'drag':>6} {'end':>6}")
    ratios = {}
    for name, found in costs.items():
        first, later, drag, end = (median(getattr(one, part) for one in found) for part in ("first", "later", "drag", "end"))
        ratios[name] = later / base
        print(f"{name:34} {first:11.3f} {later:11.3f} {ratios[name]:12.3f} {drag:6.2f} {end:6.2f}")
    print(json.dumps({name: round(ratio, 4) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
