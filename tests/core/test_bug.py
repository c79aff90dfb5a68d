"""A bug of Treadle's says that it is one, and where to report it; nobody else's error does."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import treadle
from treadle.cli.experiment import load_experiment
from treadle.core.bug import add_report_note
from treadle.log.curves import Curve
from treadle.system.files import write_json
from treadle.system.folder import RunFolder


def caught(call, folder=None):
    """What a call raises, with the note where it gets one."""
    with pytest.raises(Exception) as found:
        call()
    add_report_note(found.value, folder)
    return getattr(found.value, "__notes__", [])


def test_an_exception_raised_inside_treadle_says_where_and_what_to_send():
    def through_us():
        Curve(None, None).thinned()

    (note,) = caught(through_us, folder="results/007")
    assert note.startswith("raised inside Treadle (log/curves.py, line ")
    assert "please report it" in note and "with this traceback and, of results/007, run.json, config.yaml and the last rows of metrics.jsonl" in note


def test_without_a_run_folder_none_is_named():
    (note,) = caught(lambda: Curve(None, None).thinned())
    assert note.endswith("with this traceback")


def test_frames_of_the_standard_library_below_ours_do_not_hide_it(tmp_path):
    (note,) = caught(lambda: RunFolder(tmp_path).write_record({"status": {1, 2}}))  # raised by the json module
    assert note.startswith("raised inside Treadle (system/seal.py, line ")


def broken_file():
    Path("broken.py").write_text("def experiment(config)\n    pass\n")
    load_experiment("broken.py")


MINE = {
    "one's own": lambda: {}["mine"],
    "one's own in the standard library": lambda: json.loads("{"),
    "a library's": lambda: nn.Linear(3, 1)(torch.zeros(2, 2)),
    "meant by Treadle": lambda: treadle.load_config(treadle.Config, {"run_dir": "a"}),
    "of the disk": lambda: open("nowhere/file"),
    "of a file that is no Python": broken_file,
}


@pytest.mark.parametrize("call", MINE.values(), ids=MINE)
def test_any_other_error_is_left_as_it_is(call):
    assert caught(call) == []


def test_an_error_of_the_disk_that_arose_inside_treadle_is_left_as_it_is(tmp_path):
    with pytest.raises(OSError) as found:
        write_json(tmp_path / "nowhere" / "file", {})
    add_report_note(found.value)
    assert not hasattr(found.value, "__notes__")


def test_the_note_is_added_once_and_what_ends_the_process_gets_none():
    with pytest.raises(TypeError) as found:
        Curve(None, None).thinned()
    for _ in range(3):
        add_report_note(found.value, "a")
    assert len(found.value.__notes__) == 1
    stop = KeyboardInterrupt()
    add_report_note(stop)
    assert not hasattr(stop, "__notes__")


@pytest.fixture
def start():
    """Gives a function that trains with an objective, and gives what is raised."""

    def fit(objective):
        settings = treadle.Config(run_dir="results/a", duration="2 steps", log=treadle.LogConfig(console="quiet", tensorboard=False))
        data = torch.zeros(8, 3), torch.zeros(8, 1)
        trainer = treadle.Trainer(lambda: nn.Linear(3, 1), objective, data, optimizer=torch.optim.SGD, config=settings)
        with pytest.raises(Exception) as found:
            trainer.fit()
        return found.value

    return fit


def test_a_run_adds_it_with_its_folder(start, monkeypatch):
    monkeypatch.setattr("treadle.loop.Loop._log_window", lambda loop: Curve(None, None).thinned())
    (note,) = start(nn.MSELoss()).__notes__
    assert "(log/curves.py" in note and "of results/a, run.json" in note


def test_a_run_leaves_the_users_error_as_it_is(start):
    mine = KeyError("mine")

    def objective(model, batch):
        raise mine

    assert start(objective) is mine and not any("report it" in note for note in getattr(mine, "__notes__", []))


def test_a_run_leaves_an_error_that_is_meant_as_it_is(start):
    error = start(lambda model, batch: "no loss")
    assert isinstance(error, treadle.errors.ObjectiveError) and not any("report it" in note for note in getattr(error, "__notes__", []))
