"""Code that people write, and moments at which a run dies: where the simple way of doing things goes wrong."""

import json
import os
import random
import shutil
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import treadle
from treadle import errors
from treadle.cli.main import main

SGD = partial(torch.optim.SGD, lr=0.1)
X = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
Y = torch.randn(16, 1, generator=torch.Generator().manual_seed(2))
QUIET = treadle.LogConfig(console="quiet", tensorboard=False, every="1 step")


def config(**values: Any) -> treadle.Config:
    return treadle.Config(**{"run_dir": "run", "duration": "4 steps", "batch_size": 4, "log": QUIET, **values})


def linear() -> nn.Module:
    return nn.Linear(2, 1)


def trainer(**given: Any) -> treadle.Trainer:
    parts = {"model": linear, "objective": nn.MSELoss(), "data": (X, Y), "optimizer": SGD, "config": config(), **given}
    return treadle.Trainer(parts.pop("model"), parts.pop("objective"), parts.pop("data"), **parts)


def weights(model: nn.Module) -> list[list[float]]:
    return [p.detach().flatten().tolist() for p in model.state_dict().values()]


def own_loop(objective: Any, model: Any = linear, **values: Any) -> nn.Module:
    """The same in an own loop, which checks nothing before it starts."""
    with treadle.Run(config(**{"run_dir": "own", **values})) as run:
        net, opt = run.prepare(model(), SGD)
        run.track(model=net, optimizer=opt)
        for step in run.steps((X, Y)):
            for batch in step:
                step.backward(objective(net, batch))
            step.update(opt)
    return net


def stop_at(one: treadle.Trainer, step: int) -> None:
    one.on("step_finished")(lambda run: os.kill(os.getpid(), signal.SIGTERM) if run.step.number == step else None)


# --- the check before the first update leaves no trace ---


def test_an_objective_that_changes_its_batch_in_place_sees_it_as_it_came() -> None:
    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(model(x.mul_(10.0)), y)

    one = trainer(objective=objective)
    one.fit()
    assert weights(one.model) == weights(own_loop(objective))


class Counting(nn.Module):
    """Rebinds a buffer and moves a parameter's data in its forward pass, as moving averages do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.average = nn.Parameter(torch.zeros(2))
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.n = self.n + 1
            self.average.data = self.average.data * 0.9 + 0.1 * x.mean(0)
        return self.layer(x) + self.average.detach().sum()


def test_a_forward_pass_that_rebinds_buffers_and_moves_parameters_is_counted_once_a_step() -> None:
    one = trainer(model=Counting)
    one.fit()
    assert float(one.model.n) == 4
    assert weights(one.model) == weights(own_loop(lambda model, batch: nn.functional.mse_loss(model(batch[0]), batch[1]), Counting))


def test_gradients_from_before_the_run_are_not_used() -> None:
    def used() -> nn.Module:
        model = nn.Linear(2, 1)
        nn.functional.mse_loss(model(X), Y).backward()
        return model

    clean, dirty = trainer(), trainer(model=used, config=config(run_dir="b"))
    clean.fit()
    dirty.fit()
    assert weights(clean.model) == weights(dirty.model)


# --- what is frozen stays ---


def test_a_frozen_part_in_evaluation_mode_keeps_its_statistics() -> None:
    body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).requires_grad_(False).eval()
    before = weights(body)
    model = nn.Sequential(body, nn.Linear(2, 1))
    trainer(model=model).fit()
    assert weights(body) == before and not any(module.training for module in body.modules())
    assert model[1].training


def test_a_tracked_teacher_stays_in_its_mode() -> None:
    teacher = nn.Linear(2, 1).eval()
    with treadle.Run(config()) as run:
        model, opt = run.prepare(nn.Linear(2, 1), SGD)
        run.track(model=model, optimizer=opt, teacher=teacher)
        for step in run.steps((X, Y)):
            assert model.training and not teacher.training
            for x, y in step:
                step.backward(nn.functional.mse_loss(model(x), y))
            step.update(opt)


# --- dying at a bad moment ---


def test_a_stop_is_not_forgotten_where_the_process_dies_before_it_is_written_down() -> None:
    one = trainer()
    one.on("step_finished")(lambda run: run.stop("enough") if run.step.number == 2 else None)
    one.fit()
    record = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps({**record, "status": "running", "reason": ""}))
    result = trainer().fit()
    assert (result.status, result.steps) == ("stopped: enough", 2)


def test_a_run_goes_on_though_its_record_is_lost_or_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    plain = treadle.LogConfig(console="plain", tensorboard=False, every="1 step")
    whole = trainer(config=config(run_dir="whole"))
    whole.fit()
    for damage in (lambda path: path.unlink(), lambda path: path.write_text('{"sta')):
        shutil.rmtree("run", ignore_errors=True)
        one = trainer()
        stop_at(one, 2)
        one.fit()
        damage(Path("run/run.json"))
        two = trainer(config=config(log=plain))
        assert two.fit().status == "finished"
        assert "going on after step 2" in capsys.readouterr().out
        assert weights(two.model) == weights(whole.model)
    other = trainer(config=config(seed=9))
    Path("run/run.json").unlink()
    with pytest.raises(errors.RunChanged, match="seed: 0 -> 9"):
        other.fit()


@pytest.mark.parametrize("content", ["", "\x07 garbage: ["])
def test_a_damaged_config_file_is_said_and_not_compared(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = trainer()
    stop_at(one, 2)
    one.fit()
    Path("run/config.yaml").write_text(content)
    assert trainer().fit(accept_changes=content == "").status == "finished"
    assert content == "" or "cannot be read, so it was not compared" in capsys.readouterr().err


def test_a_damaged_journal_is_said_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    one = trainer()
    stop_at(one, 2)
    one.fit()
    journal = Path("run/metrics.jsonl")
    journal.write_bytes(b"\xff" + journal.read_bytes()[1:])
    assert trainer().fit().status == "finished"
    assert "line 1 of" in capsys.readouterr().err
    with pytest.raises(errors.RunFolderError, match=r"line 1 of .* is damaged"):
        list(treadle.read_journal("run"))


def test_an_exception_at_the_very_end_leaves_the_end_to_be_done_again() -> None:
    one = trainer()

    @one.on("run_finished")
    def export(run: Any) -> None:
        raise OSError("no room for the export")

    with pytest.raises(OSError, match="no room"):
        one.fit()
    done = []
    two = trainer()
    two.on("run_finished")(lambda run: done.append(run.progress.steps))
    assert two.fit().status == "finished" and done == [4]


def test_a_changed_working_folder_does_not_scatter_a_run(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    one = trainer(config=config(run_dir="here/run"))
    one.on("step_finished", once=True)(lambda run: os.chdir(tmp_path / "elsewhere"))
    one.fit()
    assert json.loads((tmp_path / "here/run/run.json").read_text())["status"] == "finished"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_weights_that_are_not_finite_never_take_the_place_of_a_checkpoint() -> None:
    keep = treadle.CheckpointConfig(every="1 step", keep_last=1)
    with pytest.raises(errors.NonFiniteLoss, match="weights of 'model' are not finite after step 1: weight"):  # loss and gradient are
        trainer(optimizer=partial(torch.optim.SGD, lr=1e30, weight_decay=1e30), config=config(checkpoint=keep)).fit()
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["step-000000"]


# --- handlers and generators ---


def test_handlers_that_draw_random_numbers_do_not_move_the_run() -> None:
    def build(folder: str) -> treadle.Trainer:
        model = lambda: nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))  # noqa: E731
        one = trainer(model=model, config=config(run_dir=folder, checkpoint=treadle.CheckpointConfig(every="1 step")))
        for event in ("run_started", "checkpoint_saved"):
            one.on(event)(lambda run: (torch.rand(1), np.random.rand(), random.random()))
        return one

    whole, cut, rest = build("a"), build("b"), build("b")
    whole.fit()
    stop_at(cut, 2)
    cut.fit()
    rest.fit()
    assert weights(rest.model) == weights(whole.model)


def test_a_run_leaves_the_generators_of_its_process_as_it_found_them() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate()
    trainer(model=nn.Linear(2, 1)).fit()
    torch.manual_seed(3)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


def test_evaluations_in_handlers_are_told_once_and_at_their_own_step() -> None:
    told: list[tuple[str, int]] = []
    one = trainer(valid=(X, Y), config=config(duration="8 steps"))
    one.on("evaluated")(lambda run: (told.append(("evaluated", run.step.number)), run.evaluate(one.model, one.objective, (X, Y))))
    one.fit()
    assert told == [("evaluated", 4), ("evaluated", 8)]
    seen: list[int] = []
    two = trainer(config=config(run_dir="b", duration="8 steps"))
    two.on("epoch_finished")(lambda run: run.log(run.evaluate(two.model, two.objective, (X, Y)), prefix="own"))
    two.on("evaluated")(lambda run: seen.append(run.step.number if run.latest("own/loss", step=run.progress.steps) is not None else -1))
    two.fit()
    assert seen == [4, 8]


# --- data ---


def test_batches_from_a_buffer_that_is_used_again_arrive_as_they_were_made() -> None:
    def made() -> Any:
        buffer = torch.zeros(4, 2)
        for number in range(4):
            yield buffer.fill_(number), torch.zeros(4, 1)

    seen: list[float] = []

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(float(batch[0].mean()))
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    trainer(data=treadle.Batches(made), objective=objective).fit()
    assert seen[1:] == [0.0, 1.0, 2.0, 3.0]


def test_lists_of_one_item_a_sample_are_cut_with_the_samples() -> None:
    pairs: list[tuple[list[float], list[Any]]] = []

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        images, targets = batch
        pairs.append((images[:, 0].tolist(), [t["id"] for t in targets]))
        return model(images).mean()

    images = torch.arange(8.0).view(4, 2)
    batch = (images, [{"id": float(row[0]), "boxes": torch.zeros(place, 4)} for place, row in enumerate(images)])
    trainer(data=treadle.Batches([batch]), objective=objective, config=config(duration="1 step", machine=treadle.MachineConfig(micro_batch=2))).fit()
    assert all(ids == [float(v) for v in first] for first, ids in pairs) and len(pairs) == 3


CROSS_ENTROPY = nn.functional.cross_entropy
LOSSES = {
    "function": CROSS_ENTROPY,
    "ignore_index": partial(CROSS_ENTROPY, ignore_index=1),
    "weight": partial(CROSS_ENTROPY, weight=torch.tensor([1.0, 3.0, 2.0])),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_torchs_loss_functions_count_as_its_modules_do(loss: Any) -> None:
    labels = torch.tensor([0, 1, -100, 2, 1, 1, 0, -100, 2, 0, 1, 2, -100, -100, 0, 1])
    if "ignore_index" in getattr(loss, "keywords", {}):
        labels = labels.clamp(min=0)
    found = []
    for size in (None, 1, 3):
        given = config(run_dir=f"r{size}", machine=treadle.MachineConfig(micro_batch=size))
        one = trainer(model=lambda: nn.Linear(2, 3), objective=treadle.supervised(loss), data=(X, labels), config=given)
        one.fit()
        found.append(torch.cat([p.detach().flatten() for p in one.model.parameters()]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


# --- state beside the model ---


def test_the_state_of_a_loss_module_is_restored() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centre", torch.zeros(1))

        def forward(self, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self.centre = self.centre * 0.9 + 0.1 * out.detach().mean(0)
            return (out - y - self.centre).square().mean()

    whole, cut, rest = (trainer(objective=Centred(), config=config(run_dir=folder)) for folder in "abb")
    whole.fit()
    stop_at(cut, 2)
    cut.fit()
    rest.fit()
    assert weights(rest.model) == weights(whole.model)
    assert torch.equal(rest.objective.loss.centre, whole.objective.loss.centre)


def test_a_metric_that_keeps_a_counter_survives_a_resume() -> None:
    class Bins:
        def __init__(self) -> None:
            self.reset()

        def reset(self) -> None:
            self.counts: Counter[int] = Counter()

        def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
            for value in target.flatten().tolist():
                self.counts[int(value > 0)] += 1

        def compute(self) -> float:
            return self.counts[1] / sum(self.counts.values())

    whole, cut, rest = (trainer(metrics={"share": Bins()}, config=config(run_dir=folder)) for folder in "abb")
    stop_at(cut, 2)
    results = [one.fit() for one in (whole, cut, rest)]
    assert results[2].metrics["train/share"] == results[0].metrics["train/share"] == float((Y > 0).float().mean())


def test_the_number_format_may_change_when_a_run_goes_on() -> None:
    one = trainer(config=config(machine=treadle.MachineConfig(precision="fp16")))
    stop_at(one, 2)
    one.fit()
    assert trainer(config=config(machine=treadle.MachineConfig(precision="fp32"))).fit().status == "finished"


def test_a_model_that_is_compiled_already_is_taken_and_saved_under_plain_keys() -> None:
    model = torch.compile(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), backend="eager")
    result = trainer(model=model).fit()
    fresh = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    treadle.load_weights(result.last, fresh)
    assert weights(fresh) == weights(model._orig_mod)
    part = nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager"), nn.Linear(2, 1))
    treadle.load_weights(trainer(model=part, config=config(run_dir="b")).fit().last, fresh)
    assert weights(fresh) == weights(part)


def test_one_optimizer_may_move_twice_in_a_step_in_fp16_too() -> None:
    """As a critic does; each gradient is divided by the scale that it was multiplied with."""

    def twice(precision: str) -> nn.Module:
        def step(step: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            for _ in range(2):
                for x, y in step:
                    step.backward(nn.functional.mse_loss(model(x), y))
                step.update(optimizer)

        one = trainer(objective=None, step=step, config=config(run_dir=precision, machine=treadle.MachineConfig(precision=precision)))

        @one.on("run_started")
        def grow_each_time(run: Any) -> None:
            if run.precision.scaler is not None:
                state = {"scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 1, "_growth_tracker": 0}
                run.precision.scaler.load_state_dict(state)

        one.fit()
        return one.model

    half, full = twice("fp16"), twice("fp32")
    for key, value in full.state_dict().items():
        torch.testing.assert_close(half.state_dict()[key], value, rtol=2e-2, atol=2e-2)


# --- values ---


def test_what_is_logged_is_what_it_was_and_what_cannot_be_is_named() -> None:
    counts, history = np.zeros(2), [0]
    one = trainer()

    @one.on("step_finished")
    def watch(run: Any) -> None:
        counts[0] += 1
        history.append(run.step.number)
        run.log({"counts": counts, "history": history})

    one.fit()
    rows = [row for row in treadle.read_journal("run") if "counts" in row]
    assert [row["counts"] for row in rows] == [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]
    assert [row["history"] for row in rows] == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    for value in ({"a": torch.ones(1)}, [torch.ones(1)], torch.ones(1, dtype=torch.complex64), {1, 2}):
        two = trainer(config=config(run_dir="b"))
        two.on("step_finished")(lambda run, value=value: run.log({"odd": value}))
        with pytest.raises(errors.UsageError, match="'odd' cannot be logged"):
            two.fit(accept_changes=True)


def test_a_best_that_is_no_number_is_named() -> None:
    checkpoint = treadle.CheckpointConfig(best="valid/table")
    one = trainer(
        model=lambda: nn.Linear(2, 3), objective=nn.CrossEntropyLoss(), data=(X, (X[:, 0] > 0).long()), valid=(X, (X[:, 0] > 0).long()),
        metrics={"table": treadle.metrics.ConfusionMatrix(3)}, config=config(checkpoint=checkpoint),
    )  # fmt: skip
    with pytest.raises(errors.ConfigError, match="'valid/table' is no single number"):
        one.fit()


def test_a_value_of_a_handler_may_be_the_best_though_another_name_is_near() -> None:
    one = trainer(valid=(X, Y), config=config(checkpoint=treadle.CheckpointConfig(best="ema/loss")))
    one.on("step_finished")(lambda run: run.log({"ema/loss": 1.0 / run.step.number}))
    result = one.fit()
    assert result.best is not None and result.best.name == "step-000004"


def test_an_objective_is_evaluated_with_the_schedule_values_of_its_training(capsys: pytest.CaptureFixture[str]) -> None:
    Path("main.py").write_text(
        "import torch, treadle\nfrom torch import nn\n"
        "def objective(model, batch, temperature):\n    return (model(batch[0]) - batch[1]).square().mean() * temperature\n"
        "def experiment(config: treadle.Config) -> treadle.Trainer:\n"
        "    data = (torch.ones(8, 2), torch.ones(8, 1))\n"
        "    return treadle.Trainer(lambda: nn.Linear(2, 1), objective, data, valid=data, optimizer=torch.optim.SGD, config=config,\n"
        "        schedules={'temperature': treadle.schedules.linear(4.0, 1.0)})\n"
    )
    assert main(["train", "main.py", "run_dir=r", "duration=3 steps", "--quiet"]) == 0
    logged = list(treadle.read_journal("r"))[-1]["valid/loss"]
    assert main(["evaluate", "r", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == logged


@pytest.mark.parametrize("text", ["r5 #3", "a: b", "1e3", "no", "[x]"])
def test_a_text_on_the_command_line_is_taken_as_it_was_typed(text: str) -> None:
    assert treadle.load_config(treadle.Config, {"duration": "1 epoch"}, overrides=[f"run_dir={text}"]).run_dir == text


def test_a_path_is_a_text_too() -> None:
    assert config(run_dir=Path("a/b")).run_dir == "a/b"
    with pytest.raises(errors.ConfigError, match="at least 1 character"):
        config(run_dir="")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        one = trainer()
        one.on("step_finished", once=True)(lambda run: os.kill(os.getpid(), signal.SIGINT))
        assert one.fit().status == "finished"
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_child_process_does_not_hold_the_folder() -> None:
    """Forked workers outlive a killed run by seconds; the next one must not have to wait for them."""
    to_child, to_parent = os.pipe(), os.pipe()
    with treadle.Run(config()):
        child = os.fork()
        if child == 0:
            os.write(to_parent[1], b"born")
            os.read(to_child[0], 1)
            os._exit(0)
        os.read(to_parent[0], 4)
    try:
        with treadle.Run(config()):
            pass
    finally:
        os.write(to_child[1], b"x")
        os.waitpid(child, 0)
