"""A step that failed is kept: whole, verified, and as it was before the step."""

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import treadle
from faults import full_disk, obeying_permissions
from treadle.checkpoint.restore import read_checkpoint
from treadle.core.errors import CheckpointError, NonFiniteLoss, UsageError
from treadle.step import step
from treadle.system.seed import set_rng_state

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
BAD = 5
"""The step that fails."""


def config(folder, duration="10 steps", **given):
    return treadle.Config(
        run_dir=str(folder),
        duration=duration,
        batch_size=4,
        data=treadle.DataConfig(leaks="off"),
        machine=treadle.MachineConfig(device="cpu", **given.pop("machine", {})),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
        **given,
    )


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 3, generator=generator), torch.randint(0, 2, (40,), generator=generator)


def build():
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))


def loss_of(model, batch):
    x, y = batch
    noise = random.random() + np.random.rand()
    return nn.functional.cross_entropy(model(x + noise), y)


class Failing:
    """An objective that raises, or gives what is not finite, in one step."""

    def __init__(self, what):
        self.what, self.calls, self.losses = what, 0, []

    def __call__(self, model, batch):
        if model.training:
            self.calls += 1
        loss = loss_of(model, batch)
        self.losses.append(loss.item())
        if self.calls != BAD + 1:  # the first call is the look before the first step
            return loss
        if isinstance(self.what, BaseException):
            raise self.what
        return loss * self.what


def fail(folder, what, model=None, **given):
    """The exception of a run whose step fails, and its objective."""
    objective = Failing(what)
    with pytest.raises(BaseException) as caught:
        treadle.train(model or build, objective, given.pop("data", data()), optimizer=SGD, config=config(folder, **given))
    return caught.value, objective


def kept(folder):
    (found,) = (folder / "capsules").glob("step-*")
    return found


KINDS = {
    "loss": float("nan"),
    "exception": ValueError("a sample is wrong"),
    "memory": MemoryError(),
    "device memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "assertion": AssertionError(),
}


@pytest.mark.parametrize("what", KINDS.values(), ids=KINDS)
def test_the_step_can_be_made_again_from_it_to_the_very_same_loss(tmp_path, what):
    error, objective = fail(tmp_path / "run", what)
    states, info = read_checkpoint(kept(tmp_path / "run"))
    ((x, y),) = states["batch"]
    assert torch.equal(x, data()[0][info["ids"]]) and torch.equal(y, data()[1][info["ids"]])
    model = build()
    model.load_state_dict(states["model"])
    set_rng_state(states["run"]["rng"])
    assert loss_of(model, (x, y)).item() == objective.losses[-1]
    assert (info["step"], info["updates"], info["counts"], info["doubtful"], info["doubtful_buffers"]) == (BAD, 0, [4], [], [])
    assert info["error"] == type(error).__name__ and info["message"] == str(error)
    assert type(error).__name__ in info["traceback"]
    assert states["run"]["progress"]["steps"] == BAD - 1
    assert error.__notes__ == [f"the step is kept in {kept(tmp_path / 'run')}; to make it again: treadle replay {kept(tmp_path / 'run')}"]


def test_weights_and_optimizer_are_those_of_the_checkpoint_before(tmp_path):
    """A run that is asked to end before the step saves what the capsule holds."""
    fail(tmp_path / "run", float("nan"))
    last = treadle.train(build, loss_of, data(), optimizer=SGD, config=config(tmp_path / "short", f"{BAD - 1} steps")).last
    states, expected = read_checkpoint(kept(tmp_path / "run"))[0], read_checkpoint(last)[0]
    for name in ("model", "optimizer"):
        assert str(states[name]) == str(expected[name])
    for name in ("python", "numpy", "torch"):
        assert str(states["run"]["rng"][name]) == str(expected["run"]["rng"][name])
    model = treadle.load_weights(kept(tmp_path / "run"), build())
    assert all(torch.equal(value, expected["model"][key]) for key, value in model.state_dict().items())


def test_one_that_is_damaged_is_refused(tmp_path):
    fail(tmp_path / "run", float("nan"))
    file = kept(tmp_path / "run") / "batch.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match=r"batch.safetensors is damaged"):
        read_checkpoint(kept(tmp_path / "run"))


def test_it_stands_beside_the_checkpoints_and_the_run_goes_on_from_those(tmp_path):
    fail(tmp_path / "run", ValueError("now"))
    result = treadle.train(build, loss_of, data(), optimizer=SGD, config=config(tmp_path / "run"))
    whole = treadle.train(build, loss_of, data(), optimizer=SGD, config=config(tmp_path / "whole"))
    assert str(read_checkpoint(result.last)[0]["model"]) == str(read_checkpoint(whole.last)[0]["model"])


def test_parameters_whose_gradient_was_not_finite_are_named(tmp_path):
    def objective(model, batch):
        loss = loss_of(model, batch)
        if loss.requires_grad:
            model[3].bias.register_hook(lambda grad: grad * float("nan"))
        return loss

    with pytest.raises(NonFiniteLoss):
        treadle.train(build, objective, data(), optimizer=SGD, config=config(tmp_path / "run"))
    assert read_checkpoint(kept(tmp_path / "run"))[1]["gradients"] == ["model.3.bias"]


# --- what is no failure of a step ---


@pytest.mark.parametrize("what", [KeyboardInterrupt(), SystemExit(3), UsageError("called wrongly")], ids=repr)
def test_what_is_no_failure_of_the_step_is_not_kept(tmp_path, what):
    error, _ = fail(tmp_path / "run", what)
    assert error is what
    assert not (tmp_path / "run" / "capsules").exists()


def test_at_the_first_step_an_exception_is_not_kept_and_a_nan_is(tmp_path):
    def objective(model, batch, of):
        return of() * loss_of(model, batch)

    def crash():
        raise ValueError

    for name, of, error in (("crash", crash, ValueError), ("nan", lambda: float("nan"), NonFiniteLoss)):
        with pytest.raises(error), treadle.Run(config(tmp_path / name)) as run:
            model, optimizer = run.prepare(build(), SGD)
            run.track(model=model, optimizer=optimizer)
            for turn in run.steps(data()):
                for batch in turn:
                    turn.backward(objective(model, batch, of))
                turn.update(optimizer)
        assert (tmp_path / name / "capsules").exists() == (name == "nan")


@pytest.mark.parametrize("event", ["step_finished", "epoch_finished", "evaluated"])
def test_a_handler_that_raises_is_no_step(tmp_path, event):
    given = config(tmp_path / "run", evaluate=treadle.EvaluateConfig(every="1 epoch"))
    trainer = treadle.Trainer(build(), loss_of, data(), valid=data(), optimizer=SGD, config=given)

    @trainer.on(event)
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert not (tmp_path / "run" / "capsules").exists()


def test_a_loss_of_an_earlier_step_that_is_seen_in_a_body_is_not_kept_as_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr("treadle.step.step.Step._is_free", lambda self, device: False)
    monkeypatch.setattr("treadle.metrics.means._KEPT", BAD + 2)
    error, _ = fail(tmp_path / "run", float("nan"))
    assert isinstance(error, NonFiniteLoss)
    assert not (tmp_path / "run" / "capsules").exists()


# --- exceptions of the user's arrive as they are ---


def test_stop_iteration_arrives(tmp_path):
    what = StopIteration("out of something")
    error, _ = fail(tmp_path / "run", what)
    assert error is what
    assert kept(tmp_path / "run")


def test_notes_that_are_there_stay(tmp_path):
    what = ValueError("wrong")
    what.add_note("look at the labels")
    error, _ = fail(tmp_path / "run", what)
    assert error.__notes__[0] == "look at the labels" and "treadle replay" in error.__notes__[1]


class Closed(Exception):
    """Takes no notes."""

    def add_note(self, note):
        raise RuntimeError("no notes")


def test_an_exception_that_takes_no_notes_arrives(tmp_path):
    what = Closed("wrong")
    assert fail(tmp_path / "run", what)[0] is what
    assert kept(tmp_path / "run")


class Stateful:
    """Something tracked whose state cannot be had when it is wanted."""

    def __init__(self):
        self.broken = False

    def state_dict(self):
        if self.broken:
            raise RuntimeError("no state now")
        return {}

    def load_state_dict(self, state):
        pass


def own_loop(folder, body, batches=None, **tracked):
    with treadle.Run(config(folder)) as run:
        model, optimizer = run.prepare(build(), SGD)
        run.track(model=model, optimizer=optimizer, **tracked)
        for turn in run.steps(data() if batches is None else batches):
            for batch in turn:
                turn.backward(loss_of(model, batch[:2]))
            turn.update(optimizer)
            if turn.number == BAD:
                body(run)


def raises(error):
    def body(run):
        raise error

    return body


def test_where_it_cannot_be_written_the_exception_arrives_with_a_note(tmp_path):
    part = Stateful()

    def body(run):
        part.broken = True
        raise ValueError("the first")

    with pytest.raises(ValueError, match="the first") as caught:
        own_loop(tmp_path / "run", body, part=part)
    assert caught.value.__notes__ == ["the step could not be kept for treadle replay: RuntimeError: no state now"]


def test_a_disk_that_is_full(tmp_path):
    with full_disk() as limit:

        def body(run):
            limit(100)
            raise ValueError("the first")

        with pytest.raises(ValueError, match="the first") as caught:
            own_loop(tmp_path / "run", body)
        limit()
    assert "could not be kept for treadle replay: CheckpointError: cannot write" in caught.value.__notes__[0]
    assert list((tmp_path / "run" / "capsules").iterdir()) == []


def test_a_folder_that_may_not_be_written_to(tmp_path):
    def body(run):
        Path(run.dir).chmod(0o500)
        raise ValueError("the first")

    with obeying_permissions():
        with pytest.raises(ValueError, match="the first") as caught:
            own_loop(tmp_path / "run", body)
        (tmp_path / "run").chmod(0o700)
    assert "could not be kept" in caught.value.__notes__[0]


def test_a_skip_goes_on_where_it_cannot_be_kept(tmp_path, capsys):
    part = Stateful()
    given = config(tmp_path / "run", "3 steps", skip_non_finite=10, checkpoint=treadle.CheckpointConfig(every="1000 epochs"))
    with treadle.Run(given) as run:
        model, optimizer = run.prepare(build(), SGD)
        run.track(model=model, optimizer=optimizer, part=part)
        for turn in run.steps(data()):
            part.broken = turn.number == 2
            for batch in turn:
                turn.backward(loss_of(model, batch) * (float("nan") if part.broken else 1.0))
            turn.update(optimizer)
            part.broken = False
    assert run.result.status == "finished"
    assert "1 of at most 10 so far; the step could not be kept for treadle replay: RuntimeError" in capsys.readouterr().err


def test_a_batch_that_cannot_be_stored_is_read_again_from_the_data(tmp_path):
    batches = [(*(value[4 * n : 4 * n + 4] for value in data()), object()) for n in range(10)]
    with pytest.raises(ValueError, match="the first"):
        own_loop(tmp_path / "run", raises(ValueError("the first")), treadle.Batches(batches))
    states, info = read_checkpoint(kept(tmp_path / "run"))
    assert "batch" not in states
    assert "'batch' cannot be stored" in info["batch_missing"] and "object" in info["batch_missing"]
    assert info["updates"] == 1  # it is said that the weights are not those before the step


def test_generators_that_are_tracked_are_as_they_were(tmp_path):
    own, drawn = torch.Generator().manual_seed(1), []

    def draws(run):
        raise ValueError

    with pytest.raises(ValueError), treadle.Run(config(tmp_path / "run")) as run:
        model, optimizer = run.prepare(build(), SGD)
        run.track(model=model, optimizer=optimizer, own=own)
        for turn in run.steps(data()):
            drawn.append(torch.rand(1, generator=own))
            for batch in turn:
                turn.backward(loss_of(model, batch))
                if turn.number == BAD:
                    draws(run)
            turn.update(optimizer)
    own.set_state(read_checkpoint(kept(tmp_path / "run"))[0]["own"]["state"])
    assert torch.equal(torch.rand(1, generator=own), drawn[-1])


def test_the_name_of_the_batch_is_taken(tmp_path):
    with treadle.Run(config(tmp_path / "run")) as run, pytest.raises(UsageError, match=r"cannot track 'batch'.*the name is taken"):
        run.track(batch=nn.Linear(1, 1))


def test_a_micro_batch_each(tmp_path):
    fail(tmp_path / "run", float("nan"), machine={"micro_batch": 2})
    states, info = read_checkpoint(kept(tmp_path / "run"))
    assert [len(part[0]) for part in states["batch"]] == info["counts"] == [2, 2]


def test_a_loop_without_data_has_a_capsule_without_samples(tmp_path):
    given = config(tmp_path / "run", checkpoint=treadle.CheckpointConfig(every="5 steps"))
    with pytest.raises(NonFiniteLoss, match="unknown"), treadle.Run(given) as run:
        model, optimizer = run.prepare(nn.Linear(1, 1), SGD)
        run.track(model=model, optimizer=optimizer)
        for turn in run.steps():
            turn.backward(model(torch.ones(1)).sum() * (float("nan") if turn.number == BAD else 1.0))
            turn.update(optimizer)
    assert read_checkpoint(kept(tmp_path / "run"))[1]["ids"] is None


def test_a_folder_with_a_blank_is_named_so_that_a_shell_takes_it(tmp_path):
    error, _ = fail(tmp_path / "a run", ValueError())
    assert f"treadle replay '{kept(tmp_path / 'a run')}'" in error.__notes__[0]


def test_a_bug_of_our_own_is_still_said_to_be_one(tmp_path, monkeypatch):
    """The note of the capsule does not take the place of the one that says where to report."""
    text = f"def broken(self, *given):\n    if self.number == {BAD}:\n        raise AssertionError\n    return plain(self, *given)"
    plain, path = step.Step.backward, Path(step.__file__)
    namespace = {"plain": plain}
    exec(compile(text, path, "exec"), namespace)  # as if it were raised there
    monkeypatch.setattr(step.Step, "backward", namespace["broken"])
    with pytest.raises(AssertionError) as caught:
        treadle.train(build, loss_of, data(), optimizer=SGD, config=config(tmp_path / "run"))
    assert "raised inside Treadle" in caught.value.__notes__[0] and "treadle replay" in caught.value.__notes__[1]


class Counted(torch.utils.data.IterableDataset):
    """A stream that says where it is."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < 24:
            self.at += 1
            yield torch.full((3,), float("nan") if self.at == 14 else float(self.at)), torch.zeros(1)
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_stream_stands_before_the_batch(tmp_path):
    """What goes on from the capsule reads that very batch again, and not the one after it."""
    settings = treadle.Config(run_dir=str(tmp_path / "run"), duration="5 steps", batch_size=4, log=treadle.LogConfig(console="quiet"))
    with pytest.raises(NonFiniteLoss, match="step 4"):
        treadle.train(torch.nn.Linear(3, 1), torch.nn.MSELoss(), Counted(), optimizer=torch.optim.SGD, config=settings)
    states, info = read_checkpoint(tmp_path / "run/capsules/step-000004")
    assert (info["step"], states["run"]["stream"]["state"]) == (4, {"at": 12})
