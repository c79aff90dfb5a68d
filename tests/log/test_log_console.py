"""The console: a table for people, plain where nobody watches, silent where it is asked to be."""

import io
import re
from functools import partial

import pytest
import rich
import torch
from rich.console import Console as Terminal
from torch import nn

import treadle
from treadle.log.words import least
from treadle.metrics import Accuracy

SGD = partial(torch.optim.SGD, lr=0.1)


def run(folder, console, duration="3 epochs", handler=None, valid=True, **given):
    torch.manual_seed(0)
    data = torch.randn(24, 3), torch.randint(0, 2, (24,))
    config = treadle.Config(
        run_dir=str(folder),
        duration=duration,
        batch_size=8,
        data=treadle.DataConfig(leaks="off"),  # it is validated on what it learns from
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console=console, tensorboard=False, every="1 step"),
    )
    trainer = treadle.Trainer(
        nn.Linear(3, 2),
        nn.CrossEntropyLoss(),
        data,
        valid=data if valid else None,
        optimizer=SGD,
        metrics={"accuracy": Accuracy()},
        config=config,
        **given,
    )
    if handler:
        trainer.on("step_finished")(handler)
    return trainer.fit()


def table(out):
    """The lines of the table, from its head on."""
    lines = out.splitlines()
    return lines[next(place for place, line in enumerate(lines) if line.split()[:2] == ["epoch", "step"]) :]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 120 columns that keeps what is drawn on it."""
    screen = Terminal(file=io.StringIO(), force_terminal=True, width=120, color_system="standard", legacy_windows=False, _environ={})
    monkeypatch.setattr(rich, "_console", screen)
    return screen.file


@pytest.mark.parametrize("console", ["plain", "auto"])
def test_plain_output_is_a_head_and_a_line_for_each_epoch_without_escape_codes(tmp_path, capsys, console):
    result = run(tmp_path, console)
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out and "\r" not in out
    head, *lines = table(out)
    assert head.split() == ["epoch", "step", "train/epoch_loss", "train/accuracy", "valid/loss", "valid/accuracy", "seconds"]
    assert [line.split()[:2] for line in lines] == [["1", "3"], ["2", "6"], ["3", "9"]]
    last = lines[-1].split()
    shown = [result.metrics[name] for name in ("train/epoch_loss", "train/accuracy", "valid/loss", "valid/accuracy")]
    assert [float(cell) for cell in last[2:6]] == pytest.approx(shown, abs=1e-4)


def test_columns_stand_under_their_heads(tmp_path, capsys):
    run(tmp_path, "plain")
    assert len({len(line) for line in table(capsys.readouterr().out)}) == 1


def test_quiet_shows_nothing(tmp_path, capsys):
    run(tmp_path, "quiet")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("console", ["plain", "quiet"])
def test_a_warning_goes_to_stderr_and_is_shown_even_when_quiet(tmp_path, capsys, console):
    run(tmp_path, console, handler=lambda run: run.say("warning: look at this") if run.progress.steps == 1 else None)
    out, err = capsys.readouterr()
    assert err == "warning: look at this\n" and "warning:" not in out


def test_a_line_that_is_said_is_shown_unless_quiet(tmp_path, capsys):
    for console in ("plain", "quiet"):
        run(tmp_path / console, console, handler=lambda run: run.say("[bold] as it is") if run.progress.steps == 1 else None)
        assert ("[bold] as it is\n" in capsys.readouterr().out) == (console == "plain")


def test_a_terminal_shows_the_table_and_a_bar_that_ends_full(tmp_path, terminal, capsys):
    run(tmp_path, "rich", handler=lambda run: run.say("[bold] as it is") if run.progress.steps == 1 else None)
    drawn = terminal.getvalue()
    assert "\x1b[" in drawn
    assert "train/epoch_loss" in drawn and "valid/accuracy" in drawn and "[bold] as it is" in drawn
    assert "epoch 3/3" in drawn and "100%" in drawn and "loss 0." in drawn
    assert drawn.count("train/epoch_loss") == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("duration", "place"), [("5 steps", "step 5/5"), ("40 samples", "sample 40/40"), ("1.5 epochs", "epoch 1.50/1.5")])
def test_the_bar_counts_in_the_unit_of_the_duration(tmp_path, terminal, duration, place):
    run(tmp_path, "rich", duration=duration)
    assert place in terminal.getvalue()


def test_the_cursor_comes_back_after_an_exception(tmp_path, terminal):
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, "rich", handler=fall_over)
    drawn = terminal.getvalue()
    assert drawn.count("\x1b[?25h") == drawn.count("\x1b[?25l") == 1  # shown as often as hidden
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")


def test_a_run_that_goes_on_says_so_and_does_not_repeat_its_table(tmp_path, capsys):
    def fall_over(run):
        if run.progress.steps == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, "plain", handler=fall_over)
    capsys.readouterr()
    run(tmp_path, "plain")
    out = capsys.readouterr().out
    assert any("after step 3" in line and str(tmp_path) in line for line in out.splitlines())
    assert [line.split()[:2] for line in table(out)[1:]] == [["2", "6"], ["3", "9"]]


def test_with_evaluations_between_the_epochs_the_training_columns_are_there(tmp_path, capsys):
    torch.manual_seed(0)
    data = torch.randn(24, 3), torch.randint(0, 2, (24,))
    config = treadle.Config(
        run_dir=str(tmp_path / "run"), duration="2 epochs", batch_size=8, evaluate=treadle.EvaluateConfig(every="2 steps"),
        log=treadle.LogConfig(console="plain", tensorboard=False),
    )  # fmt: skip
    treadle.train(lambda: nn.Linear(3, 2), nn.CrossEntropyLoss(), data, valid=data, optimizer=SGD, config=config)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["epoch"]]
    assert rows == [["epoch", "step", "valid/loss"], ["epoch", "step", "train/epoch_loss", "valid/loss", "seconds"]]


def test_what_a_handler_logs_now_and_then_gets_no_column_and_takes_none_away(tmp_path, capsys):
    def now_and_then(run):
        if run.progress.steps == 6:
            run.log({"train/grad_norm": 1.0})

    run(tmp_path, "plain", handler=now_and_then)
    heads = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["epoch"]]
    assert heads == [["epoch", "step", "train/epoch_loss", "train/accuracy", "valid/loss", "valid/accuracy", "seconds"]]


@pytest.mark.parametrize(("width", "kept"), [(100, 5), (80, 4), (64, 3), (50, 2)])
def test_columns_that_do_not_fit_are_named_and_the_losses_stay_longest(tmp_path, monkeypatch, width, kept):
    screen = Terminal(file=io.StringIO(), force_terminal=True, width=width, color_system=None, legacy_windows=False, _environ={})
    monkeypatch.setattr(rich, "_console", screen)
    run(tmp_path, "rich")
    lines = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.file.getvalue()).replace("\r", "\n").splitlines()
    head = next(line for line in lines if line.split()[:2] == ["epoch", "step"]).split()[2:]
    by_worth = ["valid/loss", "train/epoch_loss", "valid/accuracy", "train/accuracy", "seconds"]
    assert set(head) == set(by_worth[:kept])
    told = " ".join(lines)
    assert all(name in told for name in by_worth[kept:]) and ("not shown, for lack of columns" in told) == (kept < 5)


def test_what_is_of_averaged_weights_goes_before_what_is_of_the_raw_ones():
    columns = ["train/epoch_loss", "valid/loss", "valid/ema/loss", "valid/accuracy", "valid/ema/accuracy"]
    gone = []
    while len(columns) > 1:
        gone.append(least(columns))
        columns.remove(gone[-1])
    assert gone == ["valid/ema/accuracy", "valid/ema/loss", "valid/accuracy", "valid/loss"]
