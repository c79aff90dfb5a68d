"""Writers: views of the journal that cannot hurt the run, fed with values that were fetched late."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import treadle

SGD = partial(torch.optim.SGD, lr=0.1)


class Kept:
    """A writer that keeps everything it is told."""

    def __init__(self):
        self.calls, self.rows, self.before = [], [], []

    def open(self, folder, rows):
        self.calls.append("open")
        self.before = list(rows)

    def write(self, row):
        self.calls.append("write")
        self.rows.append(dict(row))

    def close(self):
        self.calls.append("close")


class Broken(Kept):
    """A writer that raises in one of its methods."""

    def __init__(self, method):
        super().__init__()

        def fail(*args):
            self.calls.append(method)
            raise ZeroDivisionError(f"in {method}")

        setattr(self, method, fail)


def config(folder, duration="6 steps", every="2 steps", save="1 step"):
    return treadle.Config(
        run_dir=str(folder),
        duration=duration,
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every=every),
        checkpoint=treadle.CheckpointConfig(every=save),
    )


def trainer(folder, writers=(), **given):
    torch.manual_seed(0)
    data = torch.randn(24, 3), torch.randn(24, 1)
    return treadle.Trainer(nn.Linear(3, 1), nn.MSELoss(), data, optimizer=SGD, writers=writers, config=config(folder, **given))


def test_every_writer_gets_every_row_of_the_journal_from_one_log_call(tmp_path):
    writers = [Kept(), Kept()]
    one = trainer(tmp_path, writers)
    one.on("step_finished")(lambda run: run.log({"weight": torch.tensor(run.progress.steps * 0.5), "note": "text"}, prefix="mine"))
    one.fit()
    rows = list(treadle.read_journal(tmp_path))
    assert [row["mine/weight"] for row in rows] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert [row["mine/note"] for row in rows] == ["text"] * 6
    for writer in writers:
        assert writer.rows == rows
        assert writer.calls == ["open", *["write"] * 6, "close"]


@pytest.mark.parametrize("method", ["open", "write", "close"])
def test_a_writer_that_raises_is_reported_and_dropped_and_the_run_goes_on(tmp_path, capsys, method):
    broken, good = Broken(method), Kept()
    result = trainer(tmp_path, [broken, good]).fit()
    assert result.status == "finished"
    assert good.rows == list(treadle.read_journal(tmp_path)) and good.calls[-1] == "close"
    assert broken.calls.count(method) == 1 and broken.calls[-1] == method
    assert capsys.readouterr().err.count(f"the writer Broken raised ZeroDivisionError: in {method}; the run goes on without it") == 1


@pytest.mark.parametrize("ends", ["by an error", "before the first step"])
def test_a_writer_is_closed_after_a_failure_if_it_was_opened(tmp_path, capsys, ends):
    writer = Kept()
    one = trainer(tmp_path, [writer])
    if ends == "before the first step":
        one.optimizer = lambda params: "no optimizer"

    @one.on("step_finished", every="3 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises((ZeroDivisionError, treadle.errors.ConfigError)):
        one.fit()
    assert writer.calls == (["open", "write", "close"] if ends == "by an error" else [])
    assert "the writer" not in capsys.readouterr().err


def test_a_writer_of_a_run_that_goes_on_is_given_the_rows_before_and_no_others(tmp_path):
    one = trainer(tmp_path, every="1 step")

    @one.on("step_finished", every="4 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.fit()
    writer = Kept()
    trainer(tmp_path, [writer], every="1 step").fit()
    assert [row["step"] for row in writer.before] == [1, 2, 3]
    assert [row["step"] for row in writer.rows] == [4, 5, 6]
    assert writer.before + writer.rows == list(treadle.read_journal(tmp_path))


class Fetches(TorchDispatchMode):
    """Counts how often a tensor becomes a Python number."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_values_stay_where_they_are_until_a_row_is_due(tmp_path):
    counts = []
    with treadle.Run(config(tmp_path, every="5 steps", save="100 steps")) as run, Fetches() as fetches:
        for step in run.steps(total="10 steps"):
            counts.append(fetches.count)
            run.log({"value": torch.tensor(float(step.number)), "twice": torch.tensor(2.0)})
    rows = [row for row in treadle.read_journal(tmp_path) if "value" in row]
    assert [row["value"] for row in rows] == [float(step) for step in range(1, 11)]
    assert counts == [0, 0, 0, 0, 0, 10, 10, 10, 10, 10]
    assert fetches.count == 20


def test_a_value_that_changes_while_it_waits_is_logged_as_it_was(tmp_path):
    value = torch.zeros(())
    with treadle.Run(config(tmp_path, every="5 steps", save="100 steps")) as run:
        for _ in run.steps(total="5 steps"):
            value += 1
            run.log({"value": value})
    assert [row["value"] for row in treadle.read_journal(tmp_path)] == [1.0, 2.0, 3.0, 4.0, 5.0]


VALUES = {
    "int": (3, 3),
    "bool": (True, True),
    "text": ("a", "a"),
    "none": (None, None),
    "int tensor": (torch.tensor(7), 7),
    "bf16 tensor": (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    "tensor of one": (torch.tensor([2.0]), 2.0),
    "parameter": (nn.Parameter(torch.tensor(1.5)), 1.5),
    "tensor of several": (torch.tensor([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    "numpy number": (np.float32(0.25), 0.25),
    "numpy int": (np.int64(2), 2),
    "numpy array": (np.array([1.0, 2.0]), [1.0, 2.0]),
}


@pytest.mark.parametrize(("value", "expected"), VALUES.values(), ids=VALUES)
def test_every_usual_kind_of_value_can_be_logged(tmp_path, value, expected):
    with treadle.Run(config(tmp_path)) as run:
        for _ in run.steps(total="1 step"):
            run.log({"value": value})
    (row,) = treadle.read_journal(tmp_path)
    assert row["value"] == expected


def test_a_value_that_cannot_be_logged_is_named(tmp_path):
    with pytest.raises((TypeError, treadle.errors.TreadleError), match="mine/odd"), treadle.Run(config(tmp_path)) as run:
        for _ in run.steps(total="1 step"):
            run.log({"mine/odd": object()})


def test_the_newest_value_can_be_asked_for_while_it_waits(tmp_path):
    seen = []
    with treadle.Run(config(tmp_path, every="5 steps", save="100 steps")) as run:
        for step in run.steps(total="6 steps"):
            run.log({"value": torch.tensor(float(step.number))})
            seen.append(run.latest("value"))
    assert seen == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert run.latest("never") is None
