"""What the console says of waiting for data; from rows, so that no clock is asked."""

import pytest

from treadle.config.schema import LogConfig
from treadle.log.console import Console
from treadle.log.log import default_writers
from treadle.log.waiting import Waiting
from treadle.system import cores

LINE = "data: 40 % of the time was waiting for it (0:04 of 0:10); more machine.workers, or items that are cheaper to make, take that off"


def row(step, data_s, step_s=0.01, **values):
    return {"step": step, "epoch": step / 1000, "time/step_s": step_s, "time/data_s": data_s, **values}


@pytest.mark.parametrize(("workers", "advised"), [(0, True), (3, True), (4, False), ("auto", False)])
def test_more_workers_are_advised_only_where_cores_are_free(workers, advised, monkeypatch, capsys):
    monkeypatch.setattr(cores, "cores", lambda: 4)
    console = default_writers(LogConfig(console="plain", tensorboard=False), workers)[0]
    console.write(row(1000, 0.004, **{"train/epoch_loss": 1.0}))
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == LINE if advised else said.endswith("; no core is free for more workers; cheaper items take that off")


def test_a_single_core_is_not_free():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cores, "cores", lambda: 1)
        assert not cores.are_free(0)


@pytest.mark.parametrize(
    ("data_s", "step_s", "steps"),
    [(4e-4, 0.0100, 1000), (3e-4, 0.0006, 100_000), (0.009, 0.0100, 100)],
    ids=["4 %", "microseconds", "less than a second"],
)
def test_little_waiting_is_not_worth_a_word(data_s, step_s, steps):
    waiting = Waiting()
    waiting.add(row(steps, data_s, step_s))
    assert waiting.line() == ""


def test_windows_are_weighted_by_their_steps():
    waiting = Waiting()
    waiting.add(row(900, 0.0))
    waiting.add({"step": 950, "epoch": 0.95, "valid/loss": 1.0})
    waiting.add(row(1000, 0.01))
    waiting.add(row(2000, 0.009))
    assert waiting.line().startswith("data: 50 % of the time was waiting for it (0:10 of 0:20)")


def test_the_console_says_it_with_the_first_epoch_and_again_at_the_end(capsys):
    console = Console("plain")
    for epoch in range(1, 4):
        console.write(row(1000 * epoch, 0.004 if epoch < 3 else 0.010, **{"train/epoch_loss": 1.0}))
    assert capsys.readouterr().out.splitlines().count(LINE) == 1
    console.close()
    assert capsys.readouterr().out.startswith("data: 60 % of the time was waiting for it (0:18 of 0:30)")


def test_a_run_of_one_epoch_says_it_once(capsys):
    console = Console("plain")
    console.write(row(1000, 0.004, **{"train/epoch_loss": 1.0}))
    console.close()
    assert capsys.readouterr().out.splitlines()[2:] == [LINE]


def test_a_run_without_an_epoch_says_it_at_the_end(capsys):
    console = Console("plain")
    console.write(row(1000, 0.004))
    assert capsys.readouterr().out == ""
    console.close()
    assert capsys.readouterr().out.splitlines() == [LINE]


def test_a_quiet_console_stays_quiet(capsys):
    console = Console("quiet")
    console.write(row(1000, 0.004, **{"train/epoch_loss": 1.0}))
    console.close()
    assert capsys.readouterr().out == ""
