"""LeNet and a ResNet-9 on a GPU: the textbook loop, the script of somebody who knows the machine, and Treadle.

    python benchmarks/gpu_lenet_resnet.py [--rounds 7] [--only lenet]      exits 3 where there is no CUDA device
    python benchmarks/gpu_lenet_resnet.py --device cpu --tiny              only to see that it runs

Images are 3x32x32, synthetic, uint8, 50,000 of them. All entrants train the same model on the same images with SGD (momentum,
weight decay) in batches of 512; the textbook loop in its own batches of the same size. Each round is one epoch of each entrant, in
turn, and in the other order in every second round; ratios are taken within a round, and their median is shown. What is compiled
or recorded is so before the first round.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import treadle

SGD = partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=5e-4)
CLASSES, SEED = 10, 0
Epoch = Callable[[], None]
"""Trains one epoch; the device has finished it when this returns."""


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES),
    )  # fmt: skip


def block(before: int, after: int, pools: bool = True) -> nn.Module:
    pool = nn.MaxPool2d(2) if pools else nn.Identity()
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), pool)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(block(width, width, pools=False), block(width, width, pools=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inside(x)


def resnet9() -> nn.Module:
    """After David Page, How to train your ResNet (2018)."""
    return nn.Sequential(
        block(3, 64, pools=False), block(64, 128), Residual(128), block(128, 256), block(256, 512), Residual(512),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES),
    )  # fmt: skip


MODELS = {"lenet": lenet, "resnet9": resnet9}


def data(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose class is which rows are brighter, so that a loss can fall."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    images = torch.randint(0, 200, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    for label in range(CLASSES):
        images[labels == label, :, 3 * label : 3 * label + 3] += 55
    return images, labels


def as_floats(images: torch.Tensor) -> torch.Tensor:
    return images.float().div_(127.5).sub_(1)


def waits(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Images(Dataset):  # type: ignore[type-arg]
    """As a tutorial has it: one image at a time, made a float when it is asked for."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[index].float().div(127.5).sub(1), self.labels[index]


def textbook(build: Callable[[], nn.Module], given: Any, batch: int, device: torch.device) -> Epoch:
    """A DataLoader, `.to(device)`, `.item()` after each step."""
    loader = DataLoader(Images(*given), batch_size=batch, shuffle=True, drop_last=True)
    model = build().to(device)
    optimizer = SGD(model.parameters())
    criterion = nn.CrossEntropyLoss()

    def epoch() -> None:
        running = 0.0
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            running += loss.item()
        waits(device)

    return epoch


def by_hand(build: Callable[[], nn.Module], given: Any, batch: int, device: torch.device) -> Epoch:
    """Images on the device as floats with the channels last, bf16, a fused optimizer, and the whole step in one CUDA graph."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    images = as_floats(given[0].to(device)).contiguous(memory_format=torch.channels_last)
    labels = given[1].to(device)
    model = build().to(device, memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), fused=True)
    x = torch.empty(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.empty(batch, dtype=torch.int64, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    play: Callable[[], object] = step
    if device.type == "cuda":
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        x.zero_(), y.zero_()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        play = graph.replay

    def epoch() -> None:
        order = torch.randperm(len(labels), device=device)
        for index in order[: len(order) // batch * batch].split(batch):
            x.copy_(images[index])
            y.copy_(labels[index])
            play()
        waits(device)

    return epoch


def with_treadle(build: Callable[[], nn.Module], given: Any, batch: int, device: torch.device, **machine: Any) -> Iterator[None]:
    """A Trainer that goes from epoch to epoch when it is asked to: a round is the time between two ends of an epoch."""
    images, labels = as_floats(given[0]), given[1]
    with tempfile.TemporaryDirectory() as folder:
        config = treadle.Config(
            run_dir=f"{folder}/run",
            duration="1000000 epochs",
            batch_size=batch,
            drop_last=True,
            seed=SEED,
            machine=treadle.MachineConfig(device=str(device), precision="bf16", channels_last=True, resident=True, deterministic=False, **machine),
            data=treadle.DataConfig(leaks="off"),
            checkpoint=treadle.CheckpointConfig(every="1000000 epochs"),
            log=treadle.LogConfig(console="quiet", every="1 epoch"),
        )
        with treadle.Run(config) as run:
            yield from epochs(run, build, (images, labels), device)


def epochs(run: treadle.Run, build: Callable[[], nn.Module], given: Any, device: torch.device) -> Iterator[None]:
    """The loop of a Trainer, which gives the word back after each epoch."""
    from treadle.form.forms import Forms
    from treadle.step.objective import as_objective, as_outcome

    objective = as_objective(nn.CrossEntropyLoss())
    model, optimizer = run._placed(build(), SGD)
    loader = run.loader(given)
    run.track(model=model, optimizer=optimizer)

    def standard(step: Any, model: Any, optimizer: Any) -> None:
        for batch in step:
            step.backward(as_outcome(objective(model, batch), batch))
        step.update(optimizer)

    form = None
    for step in run.steps(loader):
        if form is None:
            form = Forms(run, model, optimizer, objective, standard, None, has_own_step=False, taken=[], scheduled=set()).as_asked(step)
        form.body(step, form.model, optimizer)
        if run.due("1 epoch"):
            waits(device)
            yield


def entrants(device: torch.device) -> dict[str, Callable[..., Epoch]]:
    def through(**machine: Any) -> Callable[..., Epoch]:
        def make(*given: Any) -> Epoch:
            rounds = with_treadle(*given, **machine)
            return lambda: next(rounds)

        return make

    found: dict[str, Callable[..., Epoch]] = {"textbook": textbook, "by hand": by_hand, "treadle": through()}
    if device.type == "cuda":
        found |= {"treadle, cuda_graph": through(cuda_graph=True), "treadle, compile=step": through(compile="step")}
        found |= {"treadle, both": through(compile="step", cuda_graph=True)}
    return found


def measured(name: str, count: int, batch: int, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each entrant's epochs."""
    given, ready = data(count), {}
    for who, make in entrants(device).items():
        torch.manual_seed(SEED)
        ready[who] = make(MODELS[name], given, batch, device)
        for _ in range(2):  # compiled, recorded, warm
            ready[who]()
    seconds: dict[str, list[float]] = {who: [] for who in ready}
    for number in range(rounds):
        for who in ready if number % 2 == 0 else reversed(ready):
            began = time.perf_counter()
            ready[who]()
            seconds[who].append(time.perf_counter() - began)
    return seconds


def shown(name: str, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    rows = []
    for who, own in seconds.items():
        ratio = {other: statistics.median(a / b for a, b in zip(seconds[other], own, strict=True)) for other in ("by hand", "textbook")}
        rows.append(
            {"model": name, "entrant": who, "epoch_s": statistics.median(own)} | {f"speed / {other}": value for other, value in ratio.items()}
        )
        speed = f"{ratio['by hand']:6.3f} x by hand   {ratio['textbook']:7.2f} x textbook"
        print(f"{name:8} {who:22} {rows[-1]['epoch_s']:9.4f} s an epoch   {speed}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=list(MODELS))
    parser.add_argument("--tiny", action="store_true", help="few images and rounds: only to see that it runs")
    parser.add_argument("--json", help="also write the figures to this file")
    asked = parser.parse_args()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured (--device cpu --tiny shows that the script runs)")
        return 3
    device = torch.device(asked.device)
    count, batch, rounds = (64, 16, 2) if asked.tiny else (50_000, 512, asked.rounds)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    print(f"torch {torch.__version__}, {machine or platform.machine()}; {count:,} images, batch {batch}, {rounds} rounds")
    rows: list[dict[str, Any]] = []
    for name in [asked.only] if asked.only else MODELS:
        rows += shown(name, measured(name, count, batch, rounds, device))
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as file:
            json.dump({"torch": torch.__version__, "device": machine, "rounds": rounds, "rows": rows}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
