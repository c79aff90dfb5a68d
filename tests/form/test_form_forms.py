"""The form of a step: what machine.compile, cuda_graph and channels_last do in a run, and what is said where they cannot."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import treadle
from treadle import errors
from treadle.checkpoint.restore import read_checkpoint
from treadle.form import forms, trial
from treadle.metrics import Accuracy
from treadle.step.whole import WholeStep

X = torch.randn(44, 6, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()
ADAMW = partial(torch.optim.AdamW, lr=0.01)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return "".join(capsys.readouterr())


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are made as for any backend, and run as they are: what a compiler makes of them is torch's affair."""
    monkeypatch.setattr(forms, "BACKEND", "eager")
    yield
    torch._dynamo.reset()


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))


def trainer(name: str, *, duration: str = "2 epochs", **given: Any) -> treadle.Trainer:
    machine = treadle.MachineConfig(device="cpu", **given.pop("machine", {}))
    config = treadle.Config(
        run_dir=name,
        duration=duration,
        batch_size=8,
        clip=given.pop("clip", 0.5),
        skip_non_finite=given.pop("skip", 0),
        machine=machine,
        data=treadle.DataConfig(leaks="off"),
        log=treadle.LogConfig(console="plain", tensorboard=False, every="1 step"),
    )
    parts = {"optimizer": ADAMW, "metrics": {"accuracy": Accuracy()}, "valid": (X, Y), **given}
    return treadle.Trainer(
        parts.pop("model", build), parts.pop("objective", nn.CrossEntropyLoss()), parts.pop("data", (X, Y)), config=config, **parts
    )


def rows(name: str) -> list[dict[str, Any]]:
    times = ("time/", "throughput/", "memory/", "wall")
    return [{key: value for key, value in row.items() if not key.startswith(times)} for row in treadle.read_journal(name)]


def weights(one: treadle.Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in one.model.parameters()])


def agree(name: str, other: str) -> None:
    for row, expected in zip(rows(name), rows(other), strict=True):
        assert row.keys() == expected.keys()
        assert {key: pytest.approx(value, rel=1e-4, abs=1e-6) for key, value in expected.items()} == row


def test_the_whole_step_gives_the_run_that_the_loop_gives_up_to_rounding() -> None:
    schedules = {"lr": treadle.schedules.cosine(0.01)}
    plain, whole = trainer("plain", schedules=schedules), trainer("whole", schedules=schedules, machine={"compile": "step"})
    plain.fit()
    result = whole.fit()
    agree("whole", "plain")
    torch.testing.assert_close(weights(whole), weights(plain), rtol=1e-4, atol=1e-5)
    assert "_orig_mod" not in "".join(read_checkpoint(result.last)[0]["model"])
    torch.testing.assert_close(whole.predict((X, Y)), plain.predict((X, Y)), rtol=1e-3, atol=1e-4)


def test_a_run_of_whole_steps_goes_on_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    straight = trainer("straight", machine={"compile": "step"})
    straight.fit()
    cut = trainer("cut", machine={"compile": "step"})
    cut.on("step_finished", every="9 steps")(lambda run: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        cut.fit()
    torch._dynamo.reset()
    again = trainer("cut", machine={"compile": "step"})
    again.fit()
    assert rows("cut") == rows("straight")
    assert torch.equal(weights(again), weights(straight))


# --- with a stand-in for the graph: no compiler is asked ---


class Graph:
    """Stands for a compiled step: the function as it is."""

    made: ClassVar[list[WholeStep]] = []

    def __init__(self, function: WholeStep, backend: str) -> None:
        self.function, self.calls = function, 0
        self.made.append(function)

    def __call__(self, batch: Any) -> Any:
        self.calls += 1
        return self.function(batch)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> type[Graph]:
    monkeypatch.setattr(forms, "OneGraph", Graph)
    monkeypatch.setattr(forms, "compiled", lambda model, say, backend: model)
    monkeypatch.setattr(Graph, "made", [])
    return Graph


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "micro-batches": ({"machine": {"compile": "step", "micro_batch": 4}}, "machine.micro_batch cuts the batch"),
    "own body": ({"step": lambda step, model, optimizer: by_hand(step, model, optimizer)}, "the body of the loop is your own"),
    "another optimizer": ({"optimizer": partial(torch.optim.RMSprop, lr=0.01)}, "the update of RMSprop is none of SGD, Adam, AdamW"),
    "scheduled decay": ({"schedules": {"weight_decay": treadle.schedules.constant(0.1)}}, "'weight_decay' of the optimizer is scheduled"),
    "fp16": ({"machine": {"compile": "step", "precision": "fp16"}, "clip": None}, "fp16 has a loss scaler"),
    "keyword": (
        {"objective": lambda model, batch, beta: nn.functional.cross_entropy(model(batch[0]), batch[1]) * beta, "metrics": {}}
        | {"schedules": {"beta": treadle.schedules.constant(1.0)}},
        "the objective takes the schedule 'beta'",
    ),
}


def by_hand(step: Any, model: Any, optimizer: Any) -> None:
    for x, y in step:
        step.backward(nn.functional.cross_entropy(model(x), y))
    step.update(optimizer)


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_one_graph_is_said_and_the_model_is_compiled(case: str, no_compiler: type[Graph], capsys: pytest.CaptureFixture[str]) -> None:
    given, says = REFUSED[case]
    trainer("run", duration="3 steps", **{"machine": {"compile": "step"}, **given}).fit()
    text = said(capsys)
    assert f"warning: the step cannot be one graph, because {says}" in text
    assert "it is made with the model compiled" in text
    assert no_compiler.made == []


def test_a_short_batch_is_made_by_the_standard_body(no_compiler: type[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    call = Graph.__call__
    monkeypatch.setattr(Graph, "__call__", lambda self, batch: (sizes.append(len(batch[0])), call(self, batch))[1])
    one = trainer("whole", machine={"compile": "step"})
    assert one.fit().steps == 12
    assert sizes == [8] * 10
    plain = trainer("plain")
    plain.fit()
    agree("whole", "plain")
    assert one.optimizer.state_dict()["state"][0]["step"].item() == 12


def test_a_step_that_is_not_finite_stops_the_run_before_its_update(no_compiler: type[Graph]) -> None:
    bad = X.clone()
    bad[3] = float("nan")
    moved: list[torch.Tensor] = []
    one = trainer("run", data=(bad, Y), machine={"compile": "step"}, valid=None, clip=None)
    one.on("step_finished")(lambda run: moved.append(weights(one).clone()))
    with pytest.raises(errors.NonFiniteLoss, match="the loss is nan at step"):
        one.fit()
    assert torch.equal(weights(one), moved[-1]) if moved else torch.isfinite(weights(one)).all()


def test_a_step_that_is_not_finite_can_be_left_out(no_compiler: type[Graph]) -> None:
    bad = X.clone()
    bad[3] = float("inf")
    results = []
    for name, compile in (("plain", False), ("whole", "step")):
        one = trainer(name, data=(bad, Y), machine={"compile": compile}, valid=None, skip=5)
        assert one.fit().status == "finished"
        results.append(weights(one))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)
    agree("whole", "plain")


def test_a_graph_that_cannot_be_made_leaves_the_run_to_the_loop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return loss * 2 if loss.item() > 1e9 else loss  # asks for a number in the middle of a graph

    given: dict[str, Any] = {"objective": objective, "metrics": {}, "duration": "3 steps", "valid": None}
    plain, whole = trainer("plain", **given), trainer("whole", machine={"compile": "step"}, **given)
    plain.fit()
    capsys.readouterr()
    whole.fit()
    assert said(capsys).count("warning: the step cannot be one graph, and is made as it would be without that:") == 1
    torch.testing.assert_close(weights(whole), weights(plain), rtol=1e-4, atol=1e-6)


# --- auto ---


def decide(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """All forms are tried; which was the fastest is said here."""

    def choice(seconds: dict[str, float]) -> str:
        assert list(seconds) == ["eager", "model", "step"]
        assert min(seconds.values()) > 0
        return name

    monkeypatch.setattr(trial, "choice", choice)


@pytest.mark.parametrize("fastest", ["eager", "model", "step"])
def test_auto_keeps_the_fastest_form_and_leaves_no_trace(
    fastest: str, no_compiler: type[Graph], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decide(monkeypatch, fastest)
    auto = trainer("auto", machine={"compile": "auto"})
    auto.fit()
    assert f"the step is made {forms.NAMES[fastest]}" in said(capsys)
    assert json.loads(Path("auto/run.json").read_text(encoding="utf-8"))["choices"]["compile"]["form"] == fastest
    known = trainer("known", machine={"compile": {"eager": False, "model": True, "step": "step"}[fastest]})
    known.fit()
    assert rows("auto") == rows("known")
    assert torch.equal(weights(auto), weights(known))


def test_a_run_that_goes_on_keeps_the_form_that_was_chosen(
    no_compiler: type[Graph], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decide(monkeypatch, "step")
    one = trainer("run", machine={"compile": "auto"})
    one.on("step_finished", every="4 steps")(lambda run: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        one.fit()
    decide(monkeypatch, "eager")
    capsys.readouterr()
    trainer("run", machine={"compile": "auto"}).fit()
    assert "as one compiled graph, as when the run was started" in said(capsys)
    trainer("straight", machine={"compile": "step"}).fit()
    assert rows("run") == rows("straight")


def test_auto_says_where_it_cannot_try(capsys: pytest.CaptureFixture[str]) -> None:
    trainer("own", step=by_hand, machine={"compile": "auto"}, duration="2 steps").fit()
    assert "machine.compile='auto' does nothing for a body of your own" in said(capsys)


# --- what is refused, and what is laid out ---


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ({"cuda_graph": True}, "machine.cuda_graph: True needs a CUDA GPU, and this run is on cpu; say False"),
        ({"precision": "tf32"}, "machine.precision: 'tf32' is a format of CUDA GPUs, and this run is on cpu; say fp32 or bf16"),
    ],
)
def test_what_the_cpu_has_not_is_refused_before_anything_is_read(machine: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        trainer("run", machine=machine)
    assert str(caught.value) == says
    config = treadle.Config(run_dir="own", duration="1 step", machine=treadle.MachineConfig(device="cpu", **machine))
    with pytest.raises(errors.ConfigError, match=says.partition(":")[0]), treadle.Run(config) as run:
        run.prepare(build(), ADAMW)


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3))


def test_channels_last_changes_the_layout_and_nothing_else() -> None:
    images = torch.randn(44, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    results, seen = [], set()
    for name, last in (("first", False), ("last", True)):
        one = trainer(name, model=convolutions, data=(images, Y), valid=(images, Y), machine={"channels_last": last})
        one.model[2].register_forward_hook(lambda module, args, output, last=last: seen.add((last, output.stride(1) == 1)))
        one.fit()
        results.append(one)
        assert not one.model._forward_pre_hooks
    assert seen == {(False, False), (True, True)}
    torch.testing.assert_close(weights(results[1]), weights(results[0]), rtol=1e-3, atol=1e-4)
    state = results[1].optimizer.state[results[1].model[0].weight]["exp_avg"]
    assert state.stride(1) == 1


def test_a_run_in_channels_last_goes_on_to_the_same_bits() -> None:
    images = torch.randn(44, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    given: dict[str, Any] = {"model": convolutions, "data": (images, Y), "valid": None, "machine": {"channels_last": True}}
    straight = trainer("straight", **given)
    straight.fit()
    cut = trainer("cut", **given)
    cut.on("step_finished", every="9 steps")(lambda run: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        cut.fit()
    again = trainer("cut", **given)
    again.fit()
    assert again.optimizer.state[again.model[0].weight]["exp_avg"].stride(1) == 1
    assert torch.equal(weights(again), weights(straight))


def test_an_own_loop_is_told_what_it_does_not_get(capsys: pytest.CaptureFixture[str]) -> None:
    machine = treadle.MachineConfig(device="cpu", compile="auto")
    config = treadle.Config(run_dir="own", duration="1 step", machine=machine, log=treadle.LogConfig(console="plain", tensorboard=False))
    with treadle.Run(config) as run:
        model, optimizer = run.prepare(build(), ADAMW)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps((X, Y)):
            by_hand(step, model, optimizer)
    assert "machine.compile='auto' does nothing in a loop of your own" in said(capsys)
