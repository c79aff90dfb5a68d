"""The plot: curves that grow with the run, in a file or below a notebook's cell, drawn as seldom as they must."""

import sys
from base64 import b64decode
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import treadle
from treadle.core.errors import UsageError
from treadle.log import figure, plot

SGD = partial(torch.optim.SGD, lr=0.1)
PNG = b"\x89PNG"


def trainer(folder, writers, duration="4 epochs", **given):
    torch.manual_seed(0)
    data = torch.randn(24, 3), torch.randn(24, 1)
    settings = treadle.Config(
        run_dir=str(folder),
        duration=duration,
        batch_size=8,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"),
    )
    return treadle.Trainer(nn.Linear(3, 1), nn.MSELoss(), data, valid=data, optimizer=SGD, writers=writers, config=settings, **given)


def picture(folder):
    return (folder / "plots" / "curves.png").read_bytes()


@pytest.fixture
def drawn(monkeypatch):
    """The curves of each picture that is drawn, by name with their number of points."""
    found = []

    def watched(runs):
        found.append({name: len(curve.steps) for panels in runs.values() for curves in panels.values() for name, curve in curves.items()})
        return figure.draw(runs)

    monkeypatch.setattr(plot, "draw", watched)
    return found


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    one = SimpleNamespace(now=100.0)
    monkeypatch.setattr(plot, "time", SimpleNamespace(monotonic=lambda: one.now))
    monkeypatch.setattr(plot, "save", lambda figure, path: None)
    return one


@pytest.fixture
def cells(monkeypatch):
    """A notebook: the outputs, each with everything that was shown in it."""
    found = []

    class Output:
        def __init__(self):
            self.shown = []
            found.append(self.shown)

        def show(self, bundle):
            self.shown.append(bundle)

    monkeypatch.setattr(plot, "in_notebook", lambda: True)
    monkeypatch.setattr(plot, "Display", Output)
    return found


def row(step, **values):
    return {"step": step, "epoch": 1.0, "samples": 8, "wall": 0.0, "valid/loss" if step % 3 == 0 else "train/loss": 1 / step} | values


def opened(folder, rows=(), **given):
    one = plot.Plot(**given)
    one.open(folder, iter(rows))
    return one


def test_a_run_leaves_a_picture_of_its_whole_curves(tmp_path, drawn):
    trainer(tmp_path, [treadle.Plot()]).fit()
    assert picture(tmp_path).startswith(PNG)
    assert drawn[-1] == {"train/loss": 12, "valid/loss": 4}
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["curves.png"]


def test_names_pick_what_is_drawn(tmp_path, drawn):
    trainer(tmp_path, [treadle.Plot(names=["valid/loss", "time/epoch_s"])]).fit()
    assert drawn[-1] == {"valid/loss": 4, "time/epoch_s": 4}


def test_the_picture_of_a_run_that_went_on_is_that_of_one_that_was_never_stopped(tmp_path):
    def fall_over(run):
        raise ZeroDivisionError

    stopped = trainer(tmp_path / "stopped", [treadle.Plot()])
    stopped.on("step_finished", every="8 steps")(fall_over)
    with pytest.raises(ZeroDivisionError):
        stopped.fit()
    before = picture(tmp_path / "stopped")
    trainer(tmp_path / "stopped", [treadle.Plot()]).fit()
    trainer(tmp_path / "whole", [treadle.Plot()]).fit()
    assert picture(tmp_path / "stopped") == picture(tmp_path / "whole") != before


def test_a_finished_run_that_is_started_again_leaves_its_picture_alone(tmp_path, drawn):
    trainer(tmp_path, [treadle.Plot()]).fit()
    before, times = picture(tmp_path), (tmp_path / "plots" / "curves.png").stat().st_mtime_ns
    drawn.clear()
    trainer(tmp_path, [treadle.Plot()]).fit()
    assert [one for one in drawn if one] == []
    assert (picture(tmp_path), (tmp_path / "plots" / "curves.png").stat().st_mtime_ns) == (before, times)


def test_without_anything_to_draw_there_is_no_picture(tmp_path):
    trainer(tmp_path, [treadle.Plot(names=["never/logged"])]).fit()
    assert not (tmp_path / "plots").exists()


def test_without_matplotlib_it_is_refused_when_it_is_made(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="pip install"):
        treadle.Plot()


def test_a_notebook_shows_it_below_the_cell_and_writes_no_file(tmp_path, cells):
    trainer(tmp_path, [treadle.Plot()]).fit()
    shown = cells[-1]
    assert b64decode(shown[-1]["image/png"]).startswith(PNG)
    assert shown[-1]["text/plain"].startswith("curves of ") and "valid/loss" in shown[-1]["text/plain"]
    assert not (tmp_path / "plots").exists()


def test_a_cell_that_is_run_again_has_an_output_of_its_own_also_for_a_finished_run(tmp_path, cells):
    one = trainer(tmp_path, [treadle.Plot()])
    one.fit()
    first = cells[-1]
    pictures = len(first)
    one.fit()
    assert len(first) == pictures, "nothing more is shown below the first"
    assert len(cells[-1]) == 1 and cells[-1][-1] == first[-1]


def test_drawing_takes_at_most_a_twentieth_of_the_time(tmp_path, clock, drawn, monkeypatch):
    """Each picture takes one second here, so the next one waits for twenty."""
    opened_plot = opened(tmp_path)
    watched = plot.draw

    def slow(runs):
        clock.now += 1
        return watched(runs)

    monkeypatch.setattr(plot, "draw", slow)
    drawn.clear()
    for step in range(3, 303, 3):  # a hundred evaluations, a second apart
        clock.now += 1
        opened_plot.write(row(step))
    assert len(drawn) == 5
    opened_plot.close()
    assert len(drawn) == 6 and drawn[-1] == {"valid/loss": 100}, "the last picture has everything"
    opened_plot.close()
    assert len(drawn) == 6, "and is not drawn twice"


def test_a_file_is_drawn_after_an_evaluation_and_a_notebook_also_between_them(tmp_path, clock, drawn, request):
    one = opened(tmp_path)
    drawn.clear()
    for step in (1, 2, 3, 4):
        one.write(row(step))
    assert [sum(points.values()) for points in drawn] == [3]
    request.getfixturevalue("cells")
    one = opened(tmp_path)
    drawn.clear()
    for step in (1, 2, 3, 4):
        one.write(row(step))
    assert [sum(points.values()) for points in drawn] == [1, 2, 3, 4]


def test_the_picture_of_a_run_that_goes_on_begins_with_the_rows_before(tmp_path, clock, drawn):
    one = opened(tmp_path, rows=[row(1), row(2), row(3)])
    assert drawn[-1] == {"train/loss": 2, "valid/loss": 1}
    one.write(row(6))
    assert drawn[-1] == {"train/loss": 2, "valid/loss": 2}
