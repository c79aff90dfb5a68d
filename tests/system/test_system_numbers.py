"""Numbered run folders: what was cut short goes on, everything else begins beside it, and nothing is written over."""

import importlib
import json
import shutil
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import treadle
from treadle.config.schema import run_config
from treadle.core.errors import ConfigError, RunChanged, RunLocked
from treadle.system import folder as folders
from treadle.system.numbers import numbered

SGD = partial(torch.optim.SGD, lr=0.1)


def config(run_dir="results/{n}", kind=treadle.Config, **given):
    given = {"machine": treadle.MachineConfig(device="cpu"), "log": treadle.LogConfig(console="plain", tensorboard=False)} | given
    return kind(run_dir=run_dir, duration="4 steps", batch_size=4, checkpoint=treadle.CheckpointConfig(every="1 step"), **given)


def train(settings, fail_at=None, inputs=3, **given):
    """A run of four steps, or one that falls over in a step."""
    data = torch.zeros(24, inputs), torch.zeros(24, 1)
    trainer = treadle.Trainer(lambda: nn.Linear(3, 1), nn.MSELoss(), data, optimizer=SGD, config=settings)
    if fail_at is None:
        return trainer.fit(**given)

    @trainer.on("step_finished", every=f"{fail_at} steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    return None


def chosen(settings):
    """The name that a run of this config would get."""
    return run_config(numbered(settings)[0]).run_dir


def runs(folder="results"):
    return sorted(path.name for path in Path(folder).iterdir())


def test_the_first_run_is_001_and_each_finished_run_is_followed_by_the_next():
    results = [train(config()) for _ in range(3)]
    assert [str(result.run_dir) for result in results] == ["results/001", "results/002", "results/003"]
    assert runs() == ["001", "002", "003"]
    saved = treadle.load_config(treadle.Config, "results/002/config.yaml")
    assert saved == config("results/002"), "with the folder's own name in it"


def test_a_run_that_was_cut_short_goes_on_in_its_folder():
    train(config())
    train(config(), fail_at=3)
    result = train(config())
    assert (str(result.run_dir), result.status, runs()) == ("results/002", "finished", ["001", "002"])
    assert [path.name for path in Path("results/002/checkpoints").iterdir() if path.name.endswith("4")] == ["step-000004"]


def test_an_older_run_that_was_cut_short_goes_on_also_where_another_began_after_it(capsys):
    train(config(), fail_at=3)
    train(config(seed=1))
    assert runs() == ["001", "002"]
    capsys.readouterr()
    assert str(train(config()).run_dir) == "results/001"
    assert "results/001; going on after step 2" in capsys.readouterr().out


def test_another_config_is_another_run():
    train(config(), fail_at=3)
    assert str(train(config(seed=1)).run_dir) == "results/002"
    assert json.loads(Path("results/001/run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    "change",
    [
        {"machine": treadle.MachineConfig(device="cpu", micro_batch=2, deterministic=False)},
        {"time_limit": "1 hour"},
        {"log": treadle.LogConfig(console="quiet", tensorboard=False)},
    ],
    ids=["machine", "time limit", "console"],
)
def test_where_it_is_computed_and_shown_does_not_make_another_run(change):
    train(config(), fail_at=3)
    assert str(train(config(**change)).run_dir) == "results/001"


def test_a_run_that_failed_before_its_first_step_makes_way():
    with pytest.raises(RuntimeError):
        train(config(), inputs=2)  # fits no model
    assert str(train(config(seed=1)).run_dir) == "results/001"


# --- code ---


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A file of the user's that is imported; gives its path."""
    file = tmp_path / "own_code_of_this_test.py"
    file.write_text("WIDTH = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module(file.stem)
    yield file
    sys.modules.pop(file.stem, None)


def test_another_code_is_another_run_and_the_unfinished_one_is_named(own_module, capsys):
    train(config(), fail_at=3)
    own_module.write_text("WIDTH = 4\n")
    capsys.readouterr()
    assert str(train(config()).run_dir) == "results/002"
    out = capsys.readouterr().out
    assert "results/001 is unfinished, with this config and other code: run_dir=results/001 --accept-changes goes on there\n" in out
    own_module.write_text("WIDTH = 3\n")
    assert str(train(config()).run_dir) == "results/001"
    assert "is unfinished" not in capsys.readouterr().out


def test_the_run_that_is_named_goes_on_where_it_is_asked_for_and_the_other_code_is_accepted(own_module):
    train(config(), fail_at=3)
    own_module.write_text("WIDTH = 4\n")
    importlib.reload(sys.modules[own_module.stem])  # as a new process would have it
    with pytest.raises(RunChanged, match=r"code, own_code_of_this_test.py: \w+ -> \w+"):
        train(config("results/001"))
    result = train(config("results/001"), accept_changes=True)
    assert (str(result.run_dir), result.steps, runs()) == ("results/001", 4, ["001"])


def test_of_several_runs_of_other_code_the_newest_is_named(monkeypatch):
    for number in range(3):
        monkeypatch.setattr(folders, "code_digest", lambda number=number: f"code {number}")
        train(config(), fail_at=3)
    monkeypatch.setattr(folders, "code_digest", lambda: "another")
    given, notes = numbered(config())
    assert given.run_dir == "results/004" and len(notes) == 1 and notes[0].startswith("results/003 is unfinished")


# --- folders in use ---


def test_a_folder_that_another_run_has_just_taken_is_passed_over():
    with treadle.Run(config(seed=1)) as other:
        assert str(other.dir) == "results/001"
        assert str(train(config()).run_dir) == "results/002"
    assert chosen(config()) == "results/001", "nothing was begun in it"


def test_of_a_run_of_another_config_that_goes_on_now_the_folder_is_left_alone():
    with treadle.Run(config(seed=1)) as other:
        for _ in other.steps(total="1 step"):
            assert str(train(config()).run_dir) == "results/002"


def test_the_same_run_twice_at_the_same_time_is_refused():
    """Two runs of the same config and code would only compute the same twice."""
    with treadle.Run(config()) as first:
        for _ in first.steps(total="1 step"):
            with pytest.raises(RunLocked, match="'results/001' is in use by process"):
                train(config())


def test_runs_that_are_started_at_the_same_moment_get_a_folder_each():
    """As a shell does that starts a run for each seed in the background."""
    one, other = treadle.Run(config(seed=1)), treadle.Run(config(seed=2))
    with one, other:
        assert {str(one.dir), str(other.dir)} == {"results/001", "results/002"}


# --- names ---


def test_a_config_without_a_place_for_a_number_is_left_as_it_is():
    assert numbered(config("results/a")) == (config("results/a"), [])
    assert not Path("results").exists()


def test_two_places_for_a_number_are_refused():
    with pytest.raises(ConfigError, match=r"run_dir: got '\{n\}/\{n\}'; \{n\} may stand in it once"):
        train(config("{n}/{n}"))


@pytest.mark.parametrize("run_dir", ["{n}", "./{n}", "a/b-{n}-c", "deep/{n}/run", "odd [1] *?/{n}"])
def test_a_number_may_stand_anywhere_in_the_name(run_dir):
    assert str(train(config(run_dir)).run_dir) == str(Path(run_dir.replace("{n}", "001")))
    assert chosen(config(run_dir)) == run_dir.replace("{n}", "002")


def test_runs_are_sorted_by_their_number_also_beyond_999():
    for name in ("998", "999", "1000", "0007"):
        shutil.copytree(train(config("done")).run_dir, f"results/{name}")
    assert chosen(config()) == "results/1001"


def test_what_lies_beside_and_is_no_number_is_ignored():
    done = train(config("done")).run_dir
    for name in ("009-old", "x010", "best", "-3", "1.5", "٣"):
        shutil.copytree(done, f"results/{name}")
    Path("results/notes.txt").write_text("mine")
    assert chosen(config()) == "results/001"


def test_a_file_that_is_named_like_a_run_is_left_alone():
    Path("results").mkdir()
    Path("results/007").write_text("mine")
    assert str(train(config()).run_dir) == "results/008"
    assert Path("results/007").read_text() == "mine"


@dataclass(frozen=True, kw_only=True)
class Holds:
    """An own config that holds a Config."""

    width: int = 3
    run: treadle.Config = field(default_factory=config)


def test_an_own_config_that_holds_a_config_gets_its_number_too():
    train(Holds())
    train(Holds(), fail_at=3)
    assert str(train(Holds(width=4)).run_dir) == "results/003"
    assert str(train(replace(Holds(), run=config(time_limit=100))).run_dir) == "results/002"
    assert treadle.load_config(Holds, "results/003/config.yaml") == Holds(width=4, run=config("results/003"))


def test_a_later_run_that_failed_does_not_take_the_place_of_one_that_was_cut_short():
    train(config(), fail_at=3)
    with pytest.raises(ConfigError), treadle.Run(config(seed=1)) as other:
        other.prepare("no model", SGD)
    assert runs() == ["001", "002"]
    assert chosen(config()) == "results/001" and chosen(config(seed=1)) == "results/002"


def test_a_run_that_cannot_be_read_is_left_alone(monkeypatch):
    train(config(), fail_at=3)
    Path("results/001/run.json").unlink()
    Path("results/001/run.json").mkdir()  # as unreadable as one of somebody else's
    assert chosen(config()) == "results/002"


def test_a_value_that_is_not_a_number_does_not_make_another_run():
    @dataclass(frozen=True, kw_only=True)
    class Own(treadle.Config):
        margins: tuple[float, ...] = (float("nan"), 1.0)

    train(config(kind=Own), fail_at=3)
    assert str(train(config(kind=Own)).run_dir) == "results/001"
