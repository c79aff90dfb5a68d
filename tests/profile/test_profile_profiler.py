"""The profiler: what was planted is found, under its name, and the run is what it would have been."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import treadle
from spending import TIME, Net, Slow, Spends, config, profiled, trainer
from treadle.profile.memory import Tensors
from treadle.profile.modules import Modules
from treadle.profile.phases import BACKWARD, CHECKPOINT, EVALUATION, FORWARD, HANDLERS, LOGGING, METRICS, OPTIMIZER, OTHER, WAIT, Clock
from treadle.profile.seams import SEAMS, seams

near = pytest.approx


def test_the_phases_are_those_that_were_planted_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = profiled(lambda: trainer(Slow(0.001)).fit(), monkeypatch)
    assert found.phases == found.host == {WAIT: near(4 * 0.008), FORWARD: near(4 * 0.003), BACKWARD: near(4 * 0.005)}
    assert found.wall_s == near(sum(found.phases.values())) == near(4 * 0.016)
    assert found.step_s == near([0.016] * 4)
    assert (found.steps, found.warmup, found.samples, found.rate) == (4, 2, 32, near(500))
    assert (found.data.kind, found.data.workers, found.data.load_s) == ("indexed", 0, near(0.008))
    assert sum(end - start for _, start, end in found.timeline) == near(found.wall_s)


def test_modules_are_told_apart_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    found = profiled(lambda: trainer(model=Net).fit(), monkeypatch)
    modules = {one.name: one for one in found.modules}
    assert list(modules) == ["Net", "linear", "act", "thin", "fat"]
    assert (modules["fat"].own_forward_s, modules["fat"].own_backward_s) == (near(0.002), near(0.004))
    assert (modules["thin"].own_forward_s, modules["thin"].own_backward_s) == (near(0.001), near(0.001))
    assert (modules["Net"].own_s, modules["Net"].forward_s, modules["Net"].backward_s) == (near(0), near(0.003), near(0.005))
    assert (modules["Net"].type, modules["Net"].parameters, modules["linear"].parameters) == ("Net", 20, 20)


class Between(nn.Module):
    """Work of its own between its parts, and a part that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.Linear(4, 4), Spends(0.001, 0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = Spends(0.003, 0.007)
        return self.twice(own(self.twice(self.first(x)))).mean(1)  # type: ignore[no-any-return]


def test_what_a_module_does_between_its_parts_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {one.name: one for one in profiled(lambda: trainer(model=Between).fit(), monkeypatch).modules}
    assert (modules["Between"].own_forward_s, modules["Between"].own_backward_s) == (near(0.003), near(0.007))
    assert (modules["twice"].own_forward_s, modules["twice"].own_backward_s) == (near(0.002), near(0.002))
    assert modules["Between"].backward_s == near(0.009)


@pytest.mark.parametrize("watcher", [(Modules, "_own"), (Tensors, "add")], ids=["nodes", "saved tensors"])
def test_what_watching_takes_is_no_time_of_any_module(watcher: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    home, name = watcher
    watches, calls = getattr(home, name), []

    def slow(*arguments: Any) -> None:
        TIME.spend(0.5)
        calls.append(name)
        watches(*arguments)

    def build() -> nn.Module:
        return nn.Sequential(nn.Sequential(nn.Linear(4, 4), Spends(0.001, 0.002)), nn.Sequential(nn.ReLU(), nn.Linear(4, 1)), nn.Flatten(0))

    monkeypatch.setattr(home, name, slow)
    found = profiled(lambda: trainer(model=build).fit(), monkeypatch)
    assert calls
    assert {one.name: one.own_s for one in found.modules if one.own_s > 1e-9} == {"0.1": near(0.003)}
    assert [one.name for one in found.modules if one.container] == ["Sequential", "0", "1"]
    assert (found.modules[0].forward_s, found.modules[0].backward_s) == (near(0.001), near(0.002))


def test_what_hooks_of_nodes_take_is_no_time_of_any_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stamp is the last that is done before a node, and the first after it."""
    timing = Modules._time

    def slow(self: Modules, node: Any, owner: str) -> None:
        node.register_prehook(lambda _: TIME.spend(0.5))
        timing(self, node, owner)
        node.register_hook(lambda *_: TIME.spend(0.5))

    monkeypatch.setattr(Modules, "_time", slow)
    modules = {one.name: one for one in profiled(lambda: trainer().fit(), monkeypatch).modules}
    assert {name: one.own_backward_s for name, one in modules.items() if one.own_backward_s > 1e-9} == {"thin": near(0.001), "fat": near(0.004)}


def test_a_forward_pass_that_raises_leaves_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is begun again in smaller parts while modules are watched: what follows is not taken for a part of what raised."""

    class Grows(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += self.training
            if calls == 8 and len(x) > 4:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        loss = nn.functional.mse_loss(model(batch[0]), batch[1])
        TIME.spend(0.1)
        return loss

    calls = 0

    def program() -> None:
        treadle.Trainer(Grows, objective, Slow(0.0), optimizer=torch.optim.SGD, config=config(machine={"micro_batch": "auto"})).fit()

    modules = {one.name: one for one in profiled(program, monkeypatch).modules}
    assert calls > 8
    assert modules["Grows"].own_forward_s == near(0)


def test_memory_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 1000), nn.ReLU(), nn.Linear(1000, 1), nn.Flatten(0))

    found = profiled(lambda: trainer(model=build, optimizer=torch.optim.Adam).fit(), monkeypatch)
    weights = 4 * (4 * 1000 + 1000 + 1000 + 1)
    assert found.memory["parameters"] == found.memory["gradients"] == weights
    assert found.memory["optimizer state"] == 2 * weights + 4 * 4  # two moments, and a count of steps for each of four tensors
    assert found.memory["batch"] == 8 * 4 * 4 + 8 * 4
    # The output of the ReLU is saved once, by who saved it first, and weights are not counted again.
    saved = [one for one in found.largest if one.kind == "saved for backward"]
    assert (saved[0].name, saved[0].shape, saved[0].bytes) == ("1", [8, 1000], 32000)
    assert {one.name for one in found.largest[:1]} == {"1"}
    assert {one.own_saved_bytes for one in found.modules if one.name == "1"} == {32000}
    assert "exp_avg of 0.weight" in {one.name for one in found.largest}
    assert found.peaks.keys() >= {FORWARD, BACKWARD, OPTIMIZER} or not Path("/proc/self/clear_refs").exists()


class Again(nn.Module):
    """Computes its first part again in the backward pass, so that it saves nothing but its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 64), nn.Linear(64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(checkpoint(self.first, x, use_reentrant=False)).flatten()  # type: ignore[no-any-return]


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.cell(x[:, None].expand(-1, 5, -1))[0][:, -1]).flatten()  # type: ignore[no-any-return]


class Tied(nn.Module):
    """One part under two names, and an operation in place on a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)
        self.other = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        self.act(y.view(-1))
        return self.other(y).mean(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "names", "saves"),
    [
        (Again, ["Again", "first", "last"], {"Again": 3 * 4 * 4, "first": 0, "last": 3 * 64 * 4}),
        (Steps, ["Steps", "cell", "last"], {"Steps": 0}),
        (Tied, ["Tied", "first", "act"], {"Tied": 0}),
    ],
)
def test_modules_of_every_kind(model: Any, names: list[str], saves: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With micro-batches of 3 of 8 samples: what the largest of them saves is what has to be there at once."""
    found = profiled(lambda: trainer(model=model, config=config(machine={"micro_batch": 3})).fit(), monkeypatch)
    assert [one.name for one in found.modules] == names
    assert {one.name: one.own_saved_bytes for one in found.modules if one.name in saves} == saves


def test_a_compiled_model_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.form.forms.compiled", lambda model, *options: model)  # whatever compiles it: it is not looked into
    found = profiled(lambda: trainer(config=config(machine={"compile": True})).fit(), monkeypatch)
    assert (found.modules, found.settings["machine.compile"]) == ([], True)
    assert found.memory["parameters"] == 80


def test_rare_things_have_phases_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slowly:
        def update(self, output: Any, target: Any) -> None:
            TIME.spend(0.1)

        def compute(self) -> float:
            return 1.0

        def reset(self) -> None:
            pass

    def watch(run: treadle.Run) -> None:
        TIME.spend(0.2)

    def program() -> None:
        made = config(checkpoint={"every": "2 steps"}, evaluate={"every": "2 steps"}, log={"every": "2 steps"})
        one = trainer(valid=Slow(0.01, length=8), metrics={"slowly": Slowly()}, config=made)
        one.on("step_finished")(watch)
        one.fit()

    from treadle.checkpoint import store

    write = store.Checkpoints.begin

    def slow(self: Any, *arguments: Any, **more: Any) -> None:
        TIME.spend(0.5)
        write(self, *arguments, **more)

    monkeypatch.setattr(store.Checkpoints, "begin", slow)
    found = profiled(program, monkeypatch)
    assert found.phases[METRICS] == near(4 * 0.1)
    assert found.phases[HANDLERS] == near(4 * 0.2)
    assert found.phases[CHECKPOINT] == near(2 * 0.5)
    assert found.phases[EVALUATION] == near(2 * (8 * 0.01 + 0.1 + 0.003))  # its data, metrics and forward pass are all its own
    assert found.rows >= 2
    assert sum(found.phases.values()) == near(found.wall_s)


def test_preparing_a_batch_is_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(batch: Any, draw: Any) -> Any:
        TIME.spend(0.2)
        return batch[0] + draw(4), batch[1]

    found = profiled(lambda: trainer(treadle.Samples(Slow(0.001), prepare=prepare)).fit(), monkeypatch)
    assert (found.phases["preparing batches"], found.phases[WAIT]) == (near(4 * 0.2), near(4 * 0.008))
    assert found.data.load_s == near(0.008)


def test_a_step_that_is_begun_again_is_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not fit at first: half of it does."""

    class Large(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 4 and self.training:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    found = profiled(lambda: trainer(Slow(0.0), model=Large, config=config(machine={"micro_batch": "auto"})).fit(), monkeypatch, warmup=1)
    assert (found.samples, found.steps) == (32, 4)
    assert found.phases[FORWARD] == near(4 * 2 * 0.003)


def test_what_is_kept_before_a_body_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from treadle.step.before import Before

    monkeypatch.setattr(Before, "mark", lambda self: TIME.spend(0.3))
    found = profiled(lambda: trainer(Slow(0.0)).fit(), monkeypatch)
    assert found.phases == {FORWARD: near(4 * 0.003), BACKWARD: near(4 * 0.005), OTHER: near(4 * 0.3)}


def test_a_loop_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the body and is neither backward nor update nor logging is forward."""

    def program() -> None:
        with treadle.Run(config()) as run:
            model, optimizer = run.prepare(Net(), torch.optim.SGD)
            run.track(model=model, optimizer=optimizer)
            for step in run.steps(run.loader(Slow(0.0))):
                for x, y in step:
                    TIME.spend(0.1)
                    step.backward(((model(x) - y) ** 2).mean())
                step.update(optimizer)
                run.log({"mine": 1.0})

    found = profiled(program, monkeypatch)
    assert found.phases == {FORWARD: near(4 * 0.103), BACKWARD: near(4 * 0.005)}


def test_a_loop_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def program() -> None:
        with treadle.Run(config(checkpoint={"every": "40 steps"})) as run:
            model, optimizer = run.prepare(Net(), torch.optim.SGD)
            run.track(model=model, optimizer=optimizer)
            for step in run.steps():
                step.backward(model(torch.ones(8, 4)).mean())
                step.update(optimizer)

    found = profiled(program, monkeypatch)
    assert (found.data.kind, found.data.load_s, WAIT in found.phases) == ("none", None, False)
    assert found.phases[BACKWARD] == near(4 * 0.005)


def test_two_models_and_two_updates_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(step: treadle.Step, models: Any, optimizers: Any) -> None:
        for x, _ in step:
            step.backward(models["D"](models["G"](x).detach()[:, None].expand(-1, 4)).mean())
        step.update(optimizers["D"])
        for x, _ in step:
            step.backward(models["D"](models["G"](x)[:, None].expand(-1, 4)).mean())
        step.update(optimizers["G"])

    def program() -> None:
        made = {"G": Net, "D": Net}
        treadle.Trainer(made, None, Slow(0.0), optimizer=dict.fromkeys(made, torch.optim.SGD), step=body, config=config()).fit()

    modules = {one.name: one for one in profiled(program, monkeypatch).modules}
    assert (modules["G.fat"].own_forward_s, modules["G.fat"].own_backward_s) == (near(2 * 0.002), near(0.004))
    assert (modules["D.fat"].own_forward_s, modules["D.fat"].own_backward_s) == (near(2 * 0.002), near(2 * 0.004))
    assert modules["D"].forward_s == near(2 * 0.003)


def test_the_first_run_that_is_long_enough_is_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def program() -> None:
        trainer(config=config(run_dir="results/short", duration="3 steps")).fit()
        trainer(config=config(run_dir="results/long")).fit()

    assert profiled(program, monkeypatch).steps == 4
    assert {path.name for path in Path("runs/results").iterdir()} == {"short", "long"}
    assert not Path("results").exists()


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


def test_who_is_watched_computes_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of a run with dropout, noise and statistics, step by step through every window."""
    seen: list[list[float]] = []

    def program() -> None:
        losses: list[float] = []
        seen.append(losses)

        def build() -> nn.Module:
            return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), Noise(), nn.ReLU(inplace=True), nn.Linear(8, 1), nn.Flatten(0))

        def objective(model: nn.Module, batch: Any) -> torch.Tensor:
            loss = nn.functional.mse_loss(model(batch[0]), batch[1])
            losses.append(loss.item())
            return loss

        treadle.Trainer(build, objective, Slow(0.0), optimizer=torch.optim.Adam, config=config()).fit()

    program()
    profiled(program, monkeypatch)
    plain, watched = seen
    assert len(watched) == 1 + 2 + 4 + 3 + 2  # the check before the start, and every window
    assert watched == plain[: len(watched)]


def test_everything_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before, call = [getattr(home, name) for home, name, _ in SEAMS], nn.Module.__call__
    made: list[nn.Module] = []

    def build() -> nn.Module:
        made.append(Net())
        return made[-1]

    profiled(lambda: trainer(model=build).fit(), monkeypatch)
    assert [getattr(home, name) for home, name, _ in SEAMS] == before
    assert nn.Module.__call__ is call
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made[0].modules())


def test_a_run_without_a_stage_is_not_touched() -> None:
    assert trainer(config=config(duration="2 steps")).fit().status == "finished"
    assert all("treadle.profile" not in getattr(getattr(home, name), "__module__", "") for home, name, _ in SEAMS)


def test_a_batch_on_its_way_to_a_device_is_no_waiting() -> None:
    from treadle.data import loader

    class Run:
        step, evaluate, _loop = None, None, SimpleNamespace(_failures=SimpleNamespace(mark=None))

    clock, changes = Clock(), []
    clock.changed = lambda before, after: changes.append(after)
    with seams(clock, Run(), lambda: None, lambda loader: None):
        next(iter(loader.Loader((torch.zeros(4, 1),), batch_size=4, device=torch.device("meta"), resident=False).batches()))
    assert changes[:3] == [WAIT, "host to device", WAIT]
    assert changes[-1] == OTHER


def test_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = profiled(lambda: trainer(config=config(log={"every": "1 step"})).fit(), monkeypatch)
    assert found.rows == 4
    assert LOGGING not in found.phases  # nothing was planted there
