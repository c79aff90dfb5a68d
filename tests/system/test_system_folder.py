"""The run folder: one run, one writer, never overwritten."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import nn

import treadle
from faults import full_disk
from treadle.core.errors import RunChanged, RunFinished, RunFolderError, RunLocked, TreadleError

SGD = partial(torch.optim.SGD, lr=0.1)


def config(folder, duration="4 steps", kind=treadle.Config, **given):
    given.setdefault("machine", treadle.MachineConfig(device="cpu"))
    given.setdefault("log", treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"))
    given.setdefault("checkpoint", treadle.CheckpointConfig(every="1 step"))
    return kind(run_dir=str(folder), duration=duration, batch_size=4, **given)


def trainer(settings, model=None, **parts):
    torch.manual_seed(0)
    data = torch.randn(24, 3), torch.randn(24, 1)
    return treadle.Trainer(model or nn.Linear(3, 1), nn.MSELoss(), data, optimizer=SGD, config=settings, **parts)


def fail_at(settings, step):
    """A run that falls over in a step."""
    one = trainer(settings)

    @one.on("step_finished", every=f"{step} steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.fit()


def snapshot(folder):
    """Every file that a run writes for good, with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


# --- the lock ---


def test_two_runs_in_one_folder_at_once_are_refused_in_one_process(tmp_path):
    with treadle.Run(config(tmp_path)):
        with pytest.raises(RunLocked, match="in use by process"), treadle.Run(config(tmp_path)):
            pass
        with pytest.raises(RunLocked):
            trainer(config(tmp_path)).fit()
    trainer(config(tmp_path)).fit()


SECOND = """
import sys, treadle
config = treadle.Config(run_dir=sys.argv[1], duration="1 step", machine=treadle.MachineConfig(device="cpu"),
                        log=treadle.LogConfig(console="quiet", tensorboard=False))
try:
    with treadle.Run(config):
        print("opened")
except treadle.errors.RunLocked as error:
    print(error)
"""


def test_a_second_process_is_refused_while_the_first_holds_the_folder_and_let_in_after(tmp_path):
    def second():
        return subprocess.run([sys.executable, "-c", SECOND, str(tmp_path)], capture_output=True, text=True, check=True).stdout

    with treadle.Run(config(tmp_path)):
        assert f"the run folder {str(tmp_path)!r} is in use by process" in second()
    assert second() == "opened\n"


def test_a_refused_run_leaves_the_running_one_alone(tmp_path):
    waiting = treadle.CheckpointConfig(every="1 step", background=False)  # the files do not move by themselves
    one, seen = trainer(config(tmp_path, checkpoint=waiting)), []

    @one.on("step_finished", every="2 steps")
    def start_another(run):
        before = snapshot(tmp_path)
        with pytest.raises(RunLocked):
            trainer(config(tmp_path)).fit()
        seen.append(snapshot(tmp_path) == before)

    assert one.fit().status == "finished"
    assert seen == [True, True]


@pytest.mark.parametrize("ends", ["well", "with an error", "before its first step"])
def test_the_lock_is_let_go_however_a_run_ends(tmp_path, ends):
    if ends == "well":
        trainer(config(tmp_path)).fit()
    elif ends == "with an error":
        fail_at(config(tmp_path), 2)
    else:
        with pytest.raises(treadle.errors.ConfigError), treadle.Run(config(tmp_path)) as run:
            run.prepare("no model", SGD)
    with treadle.Run(config(tmp_path), accept_changes=True):
        pass


# --- an end, a change ---


def test_a_finished_run_that_is_started_again_gives_its_result_says_so_and_is_left_alone(tmp_path, capsys):
    events = []

    class Watch:
        def on_run_started(self, run):
            events.append("started")

        def on_run_finished(self, run):
            events.append("finished")
            run.log({"test/loss": 0.5})  # after the last checkpoint

    loud = {"log": treadle.LogConfig(console="plain", tensorboard=False, every="1 step")}
    first = trainer(config(tmp_path, **loud), handlers=[Watch()])
    result = first.fit()
    before = snapshot(tmp_path)
    capsys.readouterr()
    again = trainer(config(tmp_path, **loud), handlers=[Watch()])
    assert again.fit() == result and first.fit().metrics["test/loss"] == 0.5
    assert f"{tmp_path} is finished already, at step 4: nothing to train; another run_dir trains anew" in capsys.readouterr().out
    assert torch.equal(first.model.weight, again.model.weight)
    assert events == ["started", "finished"]
    assert snapshot(tmp_path) == before


def test_a_finished_run_whose_last_checkpoint_is_damaged_is_brought_to_the_same_end(tmp_path):
    first = trainer(config(tmp_path))
    result = first.fit()
    (result.last / "manifest.json").unlink()
    again = trainer(config(tmp_path))
    assert (again.fit().status, again.model.weight.tolist()) == ("finished", first.model.weight.tolist())


def test_a_finished_run_without_its_checkpoints_is_refused(tmp_path):
    result = trainer(config(tmp_path)).fit()
    shutil.rmtree(result.last.parent)
    with pytest.raises(RunFinished, match="is over, and its checkpoints are gone; give another run_dir"):
        trainer(config(tmp_path)).fit()


def test_an_unfinished_run_without_its_checkpoints_begins_anew_and_says_so(tmp_path, capsys):
    fail_at(config(tmp_path), 2)
    shutil.rmtree(tmp_path / "checkpoints")
    assert trainer(config(tmp_path)).fit().steps == 4
    assert "has no checkpoint any more; it begins anew" in capsys.readouterr().err


def test_a_finished_run_goes_on_with_a_longer_duration_as_if_it_had_been_asked_for_it_at_once(tmp_path):
    trainer(config(tmp_path / "short", "6 steps")).fit()
    longer = trainer(config(tmp_path / "short", "10 steps"))
    with pytest.raises(RunFinished, match="'6 steps' -> '10 steps'"):
        longer.fit()
    result = longer.fit(accept_changes=True)
    whole = trainer(config(tmp_path / "whole", "10 steps"))
    whole.fit()
    assert (result.status, result.steps) == ("finished", 10)
    assert torch.equal(longer.model.weight, whole.model.weight)
    losses = [[row["train/loss"] for row in treadle.read_journal(tmp_path / name)] for name in ("short", "whole")]
    assert losses[0] == losses[1]


CHANGES = {
    "seed": ({"seed": 7}, "seed: 0 -> 7"),
    "drop_last": ({"drop_last": True}, "drop_last: False -> True"),
    "duration": ({"duration": "9 steps"}, "duration: '4 steps' -> '9 steps'"),
    "nested": ({"data": treadle.DataConfig(sampler="sequential")}, "data.sampler: 'shuffle' -> 'sequential'"),
    "from none": ({"clip": 0.5}, "clip: None -> 0.5"),
}


@pytest.mark.parametrize(("change", "shown"), CHANGES.values(), ids=CHANGES)
def test_another_config_is_refused_with_both_values_and_nothing_is_touched(tmp_path, change, shown):
    fail_at(config(tmp_path), 3)
    before = snapshot(tmp_path)
    with pytest.raises(RunChanged) as caught:
        trainer(config(tmp_path, **change)).fit()
    assert shown in [line.strip() for line in str(caught.value).splitlines()]
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("change", "shown"), CHANGES.values(), ids=CHANGES)
def test_another_config_goes_on_where_changes_are_accepted(tmp_path, change, shown):
    fail_at(config(tmp_path), 3)
    changed = config(tmp_path, **change)
    result = trainer(changed).fit(accept_changes=True)
    assert result.status == "finished"
    steps = [row["step"] for row in treadle.read_journal(tmp_path)]
    assert steps == list(range(1, result.steps + 1))
    assert treadle.load_config(treadle.Config, tmp_path / "config.yaml") == changed


@pytest.mark.parametrize(
    "change",
    [{"machine": treadle.MachineConfig(device="cpu", micro_batch=2, workers=1, deterministic=False)}, {"time_limit": "1 hour"}],
    ids=["machine", "time_limit"],
)
def test_where_it_is_computed_may_change(tmp_path, change):
    fail_at(config(tmp_path), 3)
    assert trainer(config(tmp_path, **change)).fit().status == "finished"


def test_a_run_that_was_moved_goes_on(tmp_path):
    fail_at(config(tmp_path / "here"), 3)
    (tmp_path / "here").rename(tmp_path / "there")
    assert trainer(config(tmp_path / "there")).fit().status == "finished"


@dataclass(frozen=True, kw_only=True)
class Own(treadle.Config):
    """An experiment with fields of its own, some of which begin like those of the run."""

    machine_count: int = 1
    run_dir_of_teacher: str = "a"
    width: int = 3


@pytest.mark.parametrize("change", [{"machine_count": 2}, {"run_dir_of_teacher": "b"}, {"width": 4}], ids=repr)
def test_a_field_of_an_own_config_is_compared_whatever_its_name(tmp_path, change):
    settings = config(tmp_path, kind=Own)
    fail_at(settings, 3)
    with pytest.raises(RunChanged, match=next(iter(change))):
        trainer(replace(settings, **change)).fit()


def test_another_model_is_refused_in_words_and_nothing_is_touched(tmp_path):
    fail_at(config(tmp_path), 3)
    before = snapshot(tmp_path)
    with pytest.raises(TreadleError, match="model"):
        trainer(config(tmp_path), model=nn.Sequential(nn.Linear(3, 1))).fit()
    assert snapshot(tmp_path) == before


def test_a_run_that_failed_before_its_first_step_may_be_started_with_another_config(tmp_path):
    one = trainer(config(tmp_path), model=nn.Linear(2, 1))
    with pytest.raises(RuntimeError):
        one.fit()
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"
    assert trainer(config(tmp_path, seed=3)).fit().status == "finished"


def test_the_config_that_was_used_is_in_the_folder(tmp_path):
    settings = config(tmp_path, seed=5, clip=0.5)
    trainer(settings).fit()
    assert treadle.load_config(treadle.Config, tmp_path / "config.yaml") == settings


# --- a folder that cannot be used ---


def test_a_run_dir_below_a_file_is_an_error_that_says_so(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match=r"cannot write to the run folder .*file.*give another run_dir"):
            trainer(config(folder)).fit()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("room", [0, 50, 1500])
def test_a_start_on_a_full_disk_is_an_error_that_says_so_and_costs_nothing(tmp_path, room):
    fail_at(config(tmp_path), 3)
    with full_disk() as disk, pytest.raises(TreadleError, match="cannot write"):
        disk(room)
        trainer(config(tmp_path)).fit()
    result = trainer(config(tmp_path)).fit()
    assert result.status == "finished"
    assert [row["step"] for row in treadle.read_journal(tmp_path)] == [1, 2, 3, 4]
