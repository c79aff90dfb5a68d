"""A snapshot: whose memory is kept or made ready before, and in which weights that are not finite are seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.checkpoint import snapshot
from treadle.checkpoint.snapshot import Place, Snapshots, place_of
from treadle.checkpoint.store import Checkpoints
from treadle.checkpoint.tracked import Tracked
from treadle.core.errors import NonFiniteLoss
from treadle.core.when import Duration, Progress
from treadle.system.background import Job

STATES = {"model": {"weight": torch.arange(6.0).view(2, 3), "half": torch.ones(3, dtype=torch.bfloat16), "empty": torch.zeros(0, 3)}}
TENSORS = list(STATES["model"].values())


@pytest.fixture
def always_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_WORTH", 1)


def no_memory(*_: Any, **__: Any) -> torch.Tensor:
    raise MemoryError


def is_right(found: dict[str, Any]) -> bool:
    _, tensors = found["model"]
    return all(torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in STATES["model"].items())


def test_a_second_snapshot_is_made_in_the_memory_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = Snapshots()
    snapshots.take(STATES)
    monkeypatch.setattr(torch, "empty", no_memory)
    found, _ = snapshots.take(STATES)
    assert is_right(found)


@pytest.mark.usefixtures("always_worth")
def test_a_first_snapshot_is_made_in_memory_that_was_made_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = Snapshots()
    snapshots.reserve([*TENSORS, TENSORS[0]])  # tied weights are one
    assert snapshots._reserving is not None
    snapshots._reserving.result()
    monkeypatch.setattr(torch, "empty", no_memory)
    assert is_right(snapshots.take(STATES)[0])


def never_ends(memory: Any, sizes: Any, check: Callable[[], None]) -> None:
    while True:
        check()


@pytest.mark.usefixtures("always_worth")
@pytest.mark.parametrize("fill", [no_memory, never_ends])
def test_a_snapshot_needs_no_memory_made_ready(monkeypatch: pytest.MonkeyPatch, fill: Any) -> None:
    monkeypatch.setattr(snapshot, "_fill", fill)
    snapshots = Snapshots()
    snapshots.reserve(TENSORS)
    assert is_right(snapshots.take(STATES)[0])


@pytest.mark.usefixtures("always_worth")
def test_closing_ends_what_makes_memory_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_fill", never_ends)
    snapshots = Snapshots()
    snapshots.reserve(TENSORS)
    job = snapshots._reserving
    snapshots.close()
    assert isinstance(job, Job) and job.done


def test_little_memory_needs_no_thread() -> None:
    snapshots = Snapshots()
    snapshots.reserve(TENSORS)
    assert snapshots._reserving is None


@pytest.mark.parametrize(
    ("every", "duration", "steps", "reserved"),
    [
        ("11 steps", "23 steps", 1, True),
        ("10 steps", "20 steps", 9, True),
        ("10 steps", "20 steps", 10, False),  # the one that is left is the last
        ("10 steps", "10 steps", 1, False),
        ("1 epoch", "1 epoch", 1, False),
        ("1 epoch", "2 epochs", 1, True),
        ("1 epoch", "2 epochs", 0, False),  # no optimizer has a state yet
    ],
)
def test_memory_is_made_ready_where_a_checkpoint_beside_training_will_fall_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: str, duration: str, steps: int, reserved: bool
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Snapshots, "reserve", lambda self, tensors: asked.append(len(tensors)))
    checkpoints = Checkpoints(tmp_path, treadle.CheckpointConfig(every=every), print)
    progress = Progress(Duration.parse(duration), 20, 20, 20, steps=steps, samples=steps, into_epoch=steps)
    for _ in range(2):
        checkpoints.prepare(progress, lambda: TENSORS)
    assert asked == ([3] if reserved else [])


def test_none_is_made_ready_where_training_waits_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshots, "reserve", no_memory)
    checkpoints = Checkpoints(tmp_path, treadle.CheckpointConfig(every="1 step", background=False), print)
    checkpoints.prepare(Progress(Duration.parse("9 steps"), steps=1), lambda: TENSORS)


# --- finite ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [None, 0, 3, 4, 9])
def test_a_weight_that_is_not_finite_is_seen_in_whatever_part(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bad: float, where: int | None
) -> None:
    monkeypatch.setattr(snapshot, "_PART", 4)
    weight = torch.arange(10).to(dtype)
    if where is not None:
        weight[where] = bad
    here: set[Place | None] = {place_of(weight)}
    found, finite = Snapshots().take({"model": {"weight": weight, "other": torch.ones(2)}}, here)  # type: ignore[arg-type]
    assert finite == (here if where is None else set())
    assert torch.equal(found["model"][1]["weight"].view(torch.uint8), weight.view(torch.uint8)), "each part is copied"


def test_what_is_known_to_be_finite_is_not_looked_at_again() -> None:
    model, tracked = nn.Linear(2, 1), Tracked()
    tracked.add("model", model)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    assert tracked.weights() == {place_of(model.weight), place_of(model.bias)}
    tracked.check_finite(1, None, tracked.weights())
    with pytest.raises(NonFiniteLoss, match="'model' are not finite after step 1: weight; "):
        tracked.check_finite(1, None, {place_of(model.bias)})  # type: ignore[arg-type]


class Reversed(nn.Module):
    """A weight that lies in memory in another order than it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2).t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


class Elsewhere(nn.Linear):
    """A module that saves copies of its weights."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {name: value.clone() for name, value in super().state_dict(*args, **kwargs).items()}


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("build", [lambda: nn.Linear(2, 2), Reversed, lambda: Elsewhere(2, 2)])
def test_weights_that_are_not_finite_end_the_run_at_the_step_of_the_checkpoint(
    tmp_path: Path, build: Callable[[], nn.Module], background: bool
) -> None:
    config = treadle.Config(
        run_dir=str(tmp_path / "run"),
        duration="9 steps",
        batch_size=2,
        checkpoint=treadle.CheckpointConfig(every="2 steps", background=background),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    with pytest.raises(NonFiniteLoss, match="'model' are not finite after step 4: weight"), treadle.Run(config) as run:
        model, optimizer = run.prepare(build(), lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(run.loader((torch.ones(8, 2),))):
            for (x,) in step:
                step.backward(model(x).sum())
            step.update(optimizer)
            if step.number == 4:
                with torch.no_grad():
                    model.weight[0, 1] = float("inf")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")) == ["step-000000", "step-000002"]


@pytest.mark.parametrize(("listener", "reserved"), [(False, True), (True, False)])
def test_a_run_makes_memory_ready_for_weights_and_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: bool, reserved: bool) -> None:
    asked: list[list[tuple[int, ...]]] = []
    monkeypatch.setattr(Snapshots, "reserve", lambda self, tensors: asked.append([tuple(one.shape) for one in tensors]))
    config = treadle.Config(
        run_dir=str(tmp_path / "run"),
        duration="6 steps",
        batch_size=2,
        checkpoint=treadle.CheckpointConfig(every="3 steps"),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    trainer = treadle.Trainer(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(8, 2), torch.ones(8, 1)), optimizer=torch.optim.Adam, config=config)
    if listener:  # training waits for each, and nothing is copied
        trainer.on("checkpoint_saved")(lambda run: None)
    trainer.fit()
    assert [sorted(shapes) for shapes in asked] == ([sorted([(1, 2), (1,)] * 3 + [()] * 2)] if reserved else [])
