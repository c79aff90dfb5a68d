"""Faults while a checkpoint is written: training goes on, what was there stays, and nobody is left in the dark."""

import errno
import json
import os
import signal
import threading
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

import treadle
from faults import full_disk, obeying_permissions
from guarantees.remains import bits, first_difference
from treadle.checkpoint import store
from treadle.checkpoint.restore import read_checkpoint, verify
from treadle.core.errors import CheckpointError
from treadle.system.background import Job

WRITER = "treadle-background"
STEPS = 8
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
modes = pytest.mark.parametrize("background", [True, False], ids=["background", "foreground"])


def trainer(folder, background=True, data=None, every="2 steps", best=True, optimizer=SGD, **given):
    torch.manual_seed(0)
    data = data or (torch.randn(32, 64), torch.randn(32, 64))
    config = treadle.Config(
        run_dir=str(folder),
        duration=f"{STEPS} steps",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        checkpoint=treadle.CheckpointConfig(every=every, keep_last=2, best="score" if best else None, mode="max", background=background),
        log=treadle.LogConfig(console="plain", tensorboard=False, every="1 step"),
    )
    model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5))
    one = treadle.Trainer(model, nn.MSELoss(), data, optimizer=optimizer, config=config, **given)
    if best:

        @one.on("step_finished", every="2 steps")
        def measure(run):
            run.log({"score": run.progress.steps})

    return one


def settled():
    """Wait until nothing is being written."""
    for thread in threading.enumerate():
        if thread.name == WRITER:
            thread.join()


def on_disk(folder):
    """The steps whose checkpoints are there; all are whole, and there is nothing else."""
    found = sorted((folder / "checkpoints").glob("*"))
    for path in found:
        verify(path)
    return [int(path.name.removeprefix("step-")) for path in found]


def assert_names_what_is_there(folder):
    record = json.loads((folder / "run.json").read_text())
    named = [record["best"], record["last"]]
    if (folder / "best.json").exists():
        named += [row["checkpoint"] for row in json.loads((folder / "best.json").read_text())["best"]]
    for name in named:
        if name is not None:
            verify(folder / name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    one = trainer(tmp_path_factory.mktemp("undisturbed"))
    result = one.fit()
    return read_checkpoint(result.last)[0]


def assert_like(undisturbed, folder):
    """The whole state of the end, but for clocks and the length of the journal, whose rows have clocks in them."""
    found, info = read_checkpoint(folder / "checkpoints" / f"step-{STEPS:06d}")
    assert info["step"] == STEPS and found.keys() == undisturbed.keys()
    for name in ("model", "optimizer"):
        assert first_difference(bits(undisturbed[name]), bits(found[name])) is None
    assert first_difference(bits(undisturbed["run"]["rng"]), bits(found["run"]["rng"])) is None
    assert found["run"]["progress"] == undisturbed["run"]["progress"]
    assert [row["step"] for row in treadle.read_journal(folder)] == list(range(1, STEPS + 1))


# --- faults ---


@contextmanager
def read_only(path):
    before = path.stat().st_mode
    path.chmod(0o555)
    try:
        yield
    finally:
        path.chmod(before)


@contextmanager
def checkpoints_read_only(folder):
    with read_only(folder / "checkpoints"):
        yield errno.EACCES


@contextmanager
def refused(folder, name, code):
    """One file cannot be opened for writing."""
    with pytest.MonkeyPatch.context() as patch:
        opened = os.open

        def refuse(path, *args, **kwargs):
            if str(path).endswith(name):
                raise OSError(code, os.strerror(code), str(path))
            return opened(path, *args, **kwargs)

        patch.setattr(os, "open", refuse)
        yield code


@contextmanager
def disk_full_for(folder, room):
    with full_disk() as disk:
        disk(room)
        yield errno.EFBIG


FAULTS = {
    "checkpoints read only": checkpoints_read_only,
    "one file refused": partial(refused, name="optimizer.safetensors", code=errno.EACCES),
    "disk full at the state": partial(refused, name="state.json", code=errno.ENOSPC),
    "disk broken at the manifest": partial(refused, name="manifest.json", code=errno.EIO),
    "disk full in the weights": partial(disk_full_for, room=10_000),
    "disk full for everything": partial(disk_full_for, room=0),
}
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


def during(one, folder, fault, first, last=None):
    """Let a fault begin at the safe point of a step, before it is saved, and be over before that of another is."""
    stack, said = ExitStack(), []

    @one.on("step_finished")
    def come_and_go(run):
        if run.progress.steps == last:
            settled()
            stack.close()
        if run.progress.steps == first:
            settled()
            said.append(stack.enter_context(fault(folder)))

    return stack, said


@faults
@modes
def test_a_checkpoint_that_cannot_be_written_is_reported_and_everything_else_stays(tmp_path, capsys, undisturbed, background, fault):
    one = trainer(tmp_path, background)
    _, reasons = during(one, tmp_path, fault, first=4, last=5)
    there = {}

    @one.on("step_finished")
    def look(run):
        settled()
        assert_names_what_is_there(tmp_path)
        there[run.progress.steps] = on_disk(tmp_path)

    with obeying_permissions():
        result = one.fit()
    assert there[3] == there[5] == [0, 2], "nothing was lost, and nothing half is left"
    assert on_disk(tmp_path) == [6, 8] and result.status == "finished"
    err = capsys.readouterr().err
    warnings = [line for line in err.splitlines() if "warning: no checkpoint of step 4" in line]
    assert len(warnings) == 1 and os.strerror(reasons[0]) in warnings[0] and "the run goes on" in warnings[0]
    assert_names_what_is_there(tmp_path)
    assert_like(undisturbed, tmp_path)


def test_the_warning_comes_at_the_next_safe_point(tmp_path, capsys):
    one, heard = trainer(tmp_path), {}
    with obeying_permissions():
        during(one, tmp_path, checkpoints_read_only, first=4)

        @one.on("step_finished")
        def listen(run):
            if run.progress.steps in (5, 6):
                heard[run.progress.steps] = "no checkpoint of step 4" in capsys.readouterr().err
                settled()
            if run.progress.steps == 6:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            one.fit()
    assert heard == {5: False, 6: True}
    (tmp_path / "checkpoints").chmod(0o755)


@modes
def test_in_a_run_folder_that_became_read_only_checkpoints_are_still_written_and_no_name_goes_stale(tmp_path, capsys, undisturbed, background):
    one = trainer(tmp_path, background)
    during(one, tmp_path, read_only, first=3, last=7)

    @one.on("step_finished")
    def look(run):
        settled()
        assert_names_what_is_there(tmp_path)

    with obeying_permissions():
        result = one.fit()
    err = capsys.readouterr().err
    for name in ("best.json", "run.json"):
        assert f"warning: {name} cannot be written: {os.strerror(errno.EACCES)}" in err
    assert result.status == "finished" and on_disk(tmp_path) == [6, 8]
    assert_names_what_is_there(tmp_path)
    assert_like(undisturbed, tmp_path)


@modes
def test_a_best_json_that_cannot_be_written_names_what_is_there_all_the_same(tmp_path, capsys, background):
    """Its checkpoints stay until it names others."""
    one = trainer(tmp_path, background)
    in_the_way = tmp_path / ".best.json.tmp"

    @one.on("step_finished")
    def block(run):
        settled()
        assert_names_what_is_there(tmp_path)
        if run.progress.steps == 3:
            in_the_way.mkdir()
        if run.progress.steps == 7:
            in_the_way.rmdir()

    one.fit()
    assert f"warning: best.json cannot be written: {os.strerror(errno.EISDIR)}" in capsys.readouterr().err
    assert on_disk(tmp_path) == [6, 8]
    assert_names_what_is_there(tmp_path)


@faults
@modes
def test_a_run_whose_end_cannot_be_saved_fails_and_the_same_command_goes_on_later(tmp_path, undisturbed, background, fault):
    one = trainer(tmp_path, background)
    stack, reasons = during(one, tmp_path, fault, first=7)
    with obeying_permissions(), pytest.raises(CheckpointError, match=f"step {STEPS} cannot be saved") as caught:
        one.fit()
    stack.close()
    assert os.strerror(reasons[0]) in str(caught.value)
    assert on_disk(tmp_path) == [4, 6]
    record = json.loads((tmp_path / "run.json").read_text())
    if fault is not FAULTS["disk full for everything"]:
        assert record["status"] == "failed" and os.strerror(reasons[0]) in record["reason"] and record["last"] == "checkpoints/step-000006"
    assert_names_what_is_there(tmp_path)
    assert trainer(tmp_path, background).fit().status == "finished"
    assert_like(undisturbed, tmp_path)


@modes
def test_a_run_whose_first_state_cannot_be_written_does_not_begin(tmp_path, background):
    steps, one = [], trainer(tmp_path, background)
    one.on("step_finished")(lambda run: steps.append(run.progress.steps))
    with disk_full_for(tmp_path, 10_000), pytest.raises(CheckpointError, match="step 0 cannot be saved"):
        one.fit()
    assert steps == [] and on_disk(tmp_path) == []
    assert trainer(tmp_path, background).fit().status == "finished"


# --- bugs, and states that cannot be stored ---


class Bug(Exception):
    pass


def buggy_from(monkeypatch, step):
    write, bug = store.write_checkpoint, Bug("in the writing thread")

    def fall_over(parent, at, *args):
        if at >= step:
            raise bug
        return write(parent, at, *args)

    monkeypatch.setattr(store, "write_checkpoint", fall_over)
    return bug


@modes
def test_a_bug_in_the_writing_thread_arrives_as_itself(tmp_path, monkeypatch, background):
    bug, steps = buggy_from(monkeypatch, 4), []
    one = trainer(tmp_path, background)

    @one.on("step_finished")
    def count(run):
        settled()
        steps.append(run.progress.steps)

    with pytest.raises(Bug) as caught:
        one.fit()
    assert caught.value is bug
    assert steps == ([1, 2, 3, 4, 5] if background else [1, 2, 3, 4])
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"
    assert on_disk(tmp_path) == [0, 2]


def test_the_users_exception_arrives_also_where_the_writing_thread_has_a_bug(tmp_path, monkeypatch):
    buggy_from(monkeypatch, 4)
    one = trainer(tmp_path)

    @one.on("step_finished", every="5 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.fit()
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


class Hoarder:
    """A handler whose state cannot be stored from some step on."""

    def __init__(self, first):
        self.first, self.steps = first, 0

    def on_step_finished(self, run):
        self.steps += 1

    def state_dict(self):
        return {"kept": [0, {1, 2} if self.steps >= self.first else 0]}

    def load_state_dict(self, state):
        pass


class OddSGD(torch.optim.SGD):
    """An optimizer with state that cannot be stored, from the first step on."""

    def step(self, closure=None):
        super().step(closure)
        self.state[self.param_groups[0]["params"][0]]["odd"] = {1, 2}


@pytest.mark.parametrize("first", [0, 2])
@modes
def test_a_state_that_cannot_be_stored_is_refused_by_its_path_at_the_first_save_that_meets_it(tmp_path, background, first):
    handler = Hoarder(first)
    with pytest.raises(CheckpointError, match=r"'Hoarder' cannot be stored: Hoarder\.kept\.1 is a set"):
        trainer(tmp_path, background, handlers=[handler]).fit()
    assert handler.steps == first
    assert on_disk(tmp_path) == ([0] if first else [])


@modes
def test_state_of_an_optimizer_that_appears_with_the_first_step_is_refused_before_the_run_goes_on(tmp_path, background):
    steps, one = [], trainer(tmp_path, background, optimizer=partial(OddSGD, lr=0.1))
    one.on("step_finished")(lambda run: steps.append(run.progress.steps))
    with pytest.raises(CheckpointError, match=r"'optimizer' cannot be stored: optimizer\.state\.0\.odd is a set"):
        one.fit()
    assert steps == [1, 2] and on_disk(tmp_path) == [0]


class OddStream(IterableDataset):
    """A stream whose state cannot be stored from some sample on."""

    def __init__(self, first):
        self.first, self.given = first, 0

    def __iter__(self):
        for _ in range(32):
            self.given += 1
            yield torch.ones(64), torch.ones(64)

    def state_dict(self):
        return {"seen": {1} if self.given >= self.first else None}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize(("first", "trained"), [(0, []), (6, [1, 2])], ids=["always", "from the sixth sample"])
@modes
def test_a_state_of_a_stream_that_cannot_be_stored_is_refused(tmp_path, background, first, trained):
    steps, one = [], trainer(tmp_path, background, data=OddStream(first))
    one.on("step_finished")(lambda run: steps.append(run.progress.steps))
    with pytest.raises(CheckpointError, match=r"state\.seen is a set|seen is a set"):
        one.fit()
    assert steps == trained and on_disk(tmp_path) == [0]


# --- while a checkpoint is being written ---


class Gate:
    """Holds the writing thread at its n-th fsync, once; it opens when told, or as soon as somebody waits for the thread."""

    def __init__(self, monkeypatch, number):
        self.entered, self.opened, self.waits = threading.Event(), threading.Event(), 0
        fsync, wait = os.fsync, Job.wait
        left = number

        def held_up(handle):
            nonlocal left
            if threading.current_thread().name == WRITER and self.armed:
                left -= 1
                if left == 0:
                    self.entered.set()
                    assert self.opened.wait(60)
            fsync(handle)

        def wait_for_it(job):
            self.waits += self.entered.is_set() and not self.opened.is_set()
            if self.armed and not self.opened.is_set():
                assert self.entered.wait(60)
                self.opened.set()
            wait(job)

        self.armed = False
        monkeypatch.setattr(os, "fsync", held_up)
        monkeypatch.setattr(Job, "wait", wait_for_it)


JOURNAL, WEIGHTS, STATE, PARENT = 1, 2, 5, 8
"""The fsyncs of a save, in their order: the journal, three files of tensors, state.json, manifest.json, their folder, the folder above."""
places = pytest.mark.parametrize("number", [JOURNAL, WEIGHTS, STATE, PARENT], ids=["journal", "weights", "state", "parent"])


def held(monkeypatch, folder, number, step=2, **given):
    """A trainer whose save of a step is held up."""
    one, gate = trainer(folder, **given), Gate(monkeypatch, number)

    @one.on("step_finished")
    def arm(run):
        gate.armed = run.progress.steps >= step
        if run.progress.steps == step + 1:
            assert gate.entered.wait(60)

    return one, gate


@places
def test_training_goes_on_meanwhile_and_a_second_save_waits(tmp_path, monkeypatch, undisturbed, number):
    one, gate = held(monkeypatch, tmp_path, number)
    seen = {}

    @one.on("step_finished")
    def look(run):
        seen[run.progress.steps] = (gate.entered.is_set(), gate.opened.is_set(), sum(t.name == WRITER for t in threading.enumerate()))

    one.fit()
    assert seen[3] == (True, False, 1), "step 3 was trained while step 2 was written"
    assert seen[4] == (True, False, 1), "and the safe point of step 4 was reached"
    assert seen[5][1] and gate.waits == 1, "there it waited"
    assert max(threads for *_, threads in seen.values()) == 1
    assert on_disk(tmp_path) == [6, 8]
    assert_like(undisturbed, tmp_path)


@places
def test_a_users_exception_waits_for_it_and_arrives_unchanged(tmp_path, monkeypatch, undisturbed, number):
    one, gate = held(monkeypatch, tmp_path, number)
    error = ZeroDivisionError("mine")

    @one.on("step_finished", every="3 steps")
    def fall_over(run):
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        one.fit()
    assert caught.value is error and gate.waits == 1
    assert on_disk(tmp_path) == [0, 2]
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["status"], record["last"], record["steps"]) == ("failed", "checkpoints/step-000002", 3)
    assert_names_what_is_there(tmp_path)
    assert trainer(tmp_path).fit().status == "finished"
    assert_like(undisturbed, tmp_path)


@places
def test_ctrl_c_twice_cancels_it_and_leaves_nothing_half(tmp_path, monkeypatch, undisturbed, number):
    one, _ = held(monkeypatch, tmp_path, number)

    @one.on("step_finished", every="3 steps")
    def asked_twice(run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.fit()
    assert not any(thread.name == WRITER for thread in threading.enumerate())
    assert on_disk(tmp_path) == ([0, 2] if number == PARENT else [0])
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"
    assert_names_what_is_there(tmp_path)
    assert trainer(tmp_path).fit().status == "finished"
    assert_like(undisturbed, tmp_path)


def test_ctrl_c_while_the_run_waits_for_it_is_heard(tmp_path, monkeypatch, undisturbed):
    """In the middle of the wait: as from a signal, which Python lets arrive there."""
    one, wait = trainer(tmp_path), Job.wait
    asked = []

    def interrupted(job):
        if len(asked) == 1:
            asked.append(True)
            raise KeyboardInterrupt
        wait(job)

    monkeypatch.setattr(Job, "wait", interrupted)
    one.on("step_finished", every="4 steps")(lambda run: asked.append(True) if not asked else None)
    with pytest.raises(KeyboardInterrupt):
        one.fit()
    assert on_disk(tmp_path)[0] == 0 and not any(thread.name == WRITER for thread in threading.enumerate())
    assert_names_what_is_there(tmp_path)
    assert trainer(tmp_path).fit().status == "finished"
    assert_like(undisturbed, tmp_path)


def test_a_signal_that_comes_in_the_middle_of_the_wait_does_not_end_it(tmp_path, monkeypatch, undisturbed):
    """A Thread.join that is interrupted takes the thread for ended, in Python up to 3.12."""
    one, calls, again = trainer(tmp_path), [], threading.Event()
    waiting, fsync, wait = threading.Event(), os.fsync, Job.wait

    def held_up(handle):
        if threading.current_thread().name == WRITER and asked and not again.is_set():
            assert waiting.wait(60)
            os.kill(os.getpid(), signal.SIGINT)
            assert again.wait(60)
        fsync(handle)

    def wait_for_it(job):
        if asked and (calls or not job.done):
            calls.append(job)
            (again if len(calls) > 1 else waiting).set()
        wait(job)

    asked = []

    @one.on("step_finished", every="4 steps")
    def ask_once(run):
        settled()
        asked.append(True)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(os, "fsync", held_up)
    monkeypatch.setattr(Job, "wait", wait_for_it)
    with pytest.raises(KeyboardInterrupt):
        one.fit()
    asked.clear()
    assert not any(thread.name == WRITER for thread in threading.enumerate())
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"
    assert on_disk(tmp_path) == [0, 2]
    assert trainer(tmp_path).fit().status == "finished"
    assert_like(undisturbed, tmp_path)


@pytest.mark.parametrize("number", [JOURNAL, WEIGHTS])
def test_what_is_saved_is_the_moment_of_the_safe_point_bit_for_bit(tmp_path, monkeypatch, number):
    one, _ = held(monkeypatch, tmp_path, number)
    moment = {}

    @one.on("step_finished")
    def keep(run):
        if run.progress.steps == 2:
            moment.update({key: value.clone() for key, value in one.model.state_dict().items()})
            moment.update(momentum=next(iter(one.optimizer.state.values()))["momentum_buffer"].clone(), rng=torch.get_rng_state())
        if run.progress.steps == 3:
            with torch.no_grad():
                for value in [*one.model.parameters(), *(state["momentum_buffer"] for state in one.optimizer.state.values())]:
                    value.fill_(7)
            torch.rand(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.fit()
    states, _ = read_checkpoint(tmp_path / "checkpoints" / "step-000002")
    for key, value in states["model"].items():
        assert torch.equal(value, moment[key])
    assert torch.equal(states["optimizer"]["state"][0]["momentum_buffer"], moment["momentum"])
    assert torch.equal(states["run"]["rng"]["torch"], moment["rng"])


# --- who is told ---


def test_handlers_are_told_at_the_same_steps_in_both_modes_and_find_the_checkpoint(tmp_path):
    told = {True: [], False: []}
    for background, heard in told.items():
        folder = tmp_path / str(background)
        one = trainer(folder, background)

        @one.on("checkpoint_saved")
        def look(run, heard=heard, folder=folder):
            verify(run.result.last)
            assert run.result.last.name == f"step-{run.progress.steps:06d}"
            assert_names_what_is_there(folder)
            heard.append(run.progress.steps)

        one.fit()
    assert told == {True: [2, 4, 6, 8], False: [2, 4, 6, 8]}


@modes
def test_nobody_is_told_of_a_checkpoint_that_is_not_there(tmp_path, background):
    one, heard = trainer(tmp_path, background), []
    during(one, tmp_path, FAULTS["one file refused"], first=4, last=5)
    one.on("checkpoint_saved")(lambda run: heard.append(run.progress.steps))
    one.fit()
    assert heard == [2, 6, 8]


@modes
def test_the_journal_says_what_checkpoints_took(tmp_path, background):
    trainer(tmp_path, background, every="1 step").fit()
    for row in treadle.read_journal(tmp_path):
        for name in ("time/checkpoint_stall_s", "time/checkpoint_s"):
            assert isinstance(row[name], float) and row[name] >= 0
