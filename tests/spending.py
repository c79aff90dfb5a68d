"""Programs whose time is planted: they spend the seconds of a clock that nothing else moves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.profile import profiler
from treadle.profile.measured import Measured
from treadle.profile.times import Times
from treadle.system.stage import VARIABLE, Profiled, Stage


class Seconds:
    """A clock for tests. It stands still unless somebody spends time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


TIME = Seconds()


class Spends(nn.Module):
    """A layer that takes its time, forward and backward."""

    def __init__(self, forward_s: float = 0.0, backward_s: float = 0.0) -> None:
        super().__init__()
        self.forward_s, self.backward_s = forward_s, backward_s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        TIME.spend(self.forward_s)
        return Spend.apply(x, self.backward_s)  # type: ignore[no-any-return]


class Spend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seconds: float) -> torch.Tensor:
        ctx.seconds = seconds
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        TIME.spend(ctx.seconds)
        return grad, None


class Net(nn.Module):
    """Two layers that spend, a loss outside."""

    def __init__(self, thin: float = 0.001, fat: float = 0.002) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)  # in place, behind a view: a graph with hooks of modules in it would not allow it
        self.thin, self.fat = Spends(thin, thin), Spends(fat, 2 * fat)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fat(self.thin(self.act(self.linear(x)))).mean(1)  # type: ignore[no-any-return]


class Slow:
    """A dataset whose items take their time."""

    def __init__(self, seconds: float, length: int = 400) -> None:
        self.seconds, self.length = seconds, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        TIME.spend(self.seconds)
        return torch.full((4,), place / self.length), torch.tensor(1.0)


class SlowSGD(torch.optim.SGD):
    """An optimizer that takes its time."""

    seconds = 0.05

    def step(self, closure: Any = None) -> Any:
        TIME.spend(self.seconds)
        return super().step(closure)


class SlowWriter:
    """A writer that takes its time for every row."""

    def open(self, folder: Path, rows: Any) -> None:
        pass

    def write(self, row: Any) -> None:
        TIME.spend(0.02)

    def close(self) -> None:
        pass


def config(**more: Any) -> treadle.Config:
    log = {"console": "quiet", "tensorboard": False, **more.pop("log", {})}
    return treadle.Config(**{"run_dir": "results/a", "duration": "40 steps", "batch_size": 8, "log": log, **more})


def trainer(data: Any = None, model: Any = Net, optimizer: Any = torch.optim.SGD, **more: Any) -> treadle.Trainer:
    made, parts = more.pop("config", None) or config(), {**more}
    return treadle.Trainer(model, nn.MSELoss(), Slow(0.0001) if data is None else data, optimizer=optimizer, config=made, **parts)


def profiled(program: Callable[[], object], monkeypatch: pytest.MonkeyPatch, **wish: Any) -> Measured:
    """What is measured of a program, by the clock of these tests."""
    out = Path("out").absolute()
    out.mkdir(exist_ok=True)
    stage = Path("stage.json")
    Stage(str(Path("runs").absolute()), profile=Profiled(str(out), **{"steps": 4, "warmup": 2, **wish})).save(stage)
    monkeypatch.setattr(profiler, "Times", lambda device: Times(device, TIME))
    monkeypatch.setenv(VARIABLE, str(stage))
    with pytest.raises(SystemExit) as end:
        program()
    monkeypatch.delenv(VARIABLE)
    assert not end.value.code
    assert json.loads((out / profiler.TRACE).read_text())["traceEvents"]
    return Measured.load(out / profiler.REPORT)
