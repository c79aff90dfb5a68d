"""The check of a run: warned, refused, kept in the run folder, and not done twice."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import treadle
from treadle.core.errors import DataError, UsageError
from treadle.data import check as check_module


def data(start, count, noise=False):
    x = torch.arange(float(start), start + count)[:, None].expand(-1, 3).clone()
    return x, (x.sum(1) > 30).long()


def fit(run_dir="run", train=None, valid=None, test=None, duration="2 epochs", handlers=(), **values):
    config = treadle.Config(
        run_dir=run_dir, duration=duration, batch_size=8, log=treadle.LogConfig(tensorboard=False, console="plain"), data=treadle.DataConfig(**values)
    )
    return treadle.train(
        lambda: nn.Linear(3, 2), nn.CrossEntropyLoss(), data(0, 24) if train is None else train, valid=valid, test=test,
        optimizer=partial(torch.optim.SGD, lr=0.01), config=config, handlers=handlers,
    )  # fmt: skip


@pytest.fixture
def looks(monkeypatch):
    """How often leaks were looked for."""
    calls, find = [], check_module.find_leaks
    monkeypatch.setattr(check_module, "find_leaks", lambda *args, **kwargs: calls.append(1) or find(*args, **kwargs))
    return calls


def kept(run_dir="run"):
    return json.loads(Path(run_dir, "provenance", "leaks.json").read_text())


def test_a_leak_is_a_warning_with_the_first_indices(capsys):
    assert fit(valid=data(20, 12), test=data(31, 3)).status == "finished"
    err = capsys.readouterr().err.splitlines()
    assert err == [
        "warning: 4 of the 12 valid items are in the train data too (train 20 = valid 0, train 21 = valid 1, train 22 = valid 2, ...)",
        "warning: 1 of the 3 test items is in the valid data too (valid 11 = test 0)",
    ]
    assert [pair["count"] for pair in kept()["leaks"]["pairs"]] == [4, 1]


def test_another_label_is_said(capsys):
    x, y = data(20, 2)
    fit(valid=(x, 1 - y))
    assert "warning: 2 of the 2 valid items have their input, with another target, in the train data too" in capsys.readouterr().err


def test_splits_that_are_apart_are_passed_over_in_silence(capsys):
    fit(valid=data(100, 12), test=data(200, 3))
    out = capsys.readouterr()
    assert out.err == "" and "leak" not in out.out
    assert kept()["leaks"]["pairs"] == []


def test_refused_before_any_training_and_again_from_what_is_kept(looks):
    for _ in range(2):
        with pytest.raises(DataError, match=r"(?s)not apart: 4 of the 12 valid items.*data.leaks=warn"):
            fit(valid=data(20, 12), leaks="refuse")
    assert len(looks) == 1
    assert not Path("run", "run.json").exists() and not Path("run", "checkpoints").exists()
    assert fit(valid=data(20, 12)).status == "finished", "a place: the same folder, without refusing"


def test_off_does_not_look(looks, capsys):
    fit(valid=data(20, 12), leaks="off")
    assert looks == [] and capsys.readouterr().err == "" and not Path("run", "provenance", "leaks.json").exists()


def test_a_resume_does_not_look_again_and_warns_again(looks, capsys):
    class Stop:
        def on_step_finished(self, run):
            raise KeyError("stopped")

    with pytest.raises(KeyError):
        fit(valid=data(20, 12), handlers=[Stop()])
    capsys.readouterr()
    fit(valid=data(20, 12))
    assert len(looks) == 1
    assert "warning: 4 of the 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"data": {"train": 3}, "leaks": {}}'),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_damaged_memory_is_looked_for_again(looks, damage):
    with pytest.raises(DataError):
        fit(valid=data(20, 12), leaks="refuse")
    damage(Path("run", "provenance", "leaks.json"))
    assert fit(valid=data(20, 12)).status == "finished"
    assert len(looks) == 2


def test_other_data_in_the_same_folder_is_looked_at(looks):
    for valid in (data(20, 12), data(21, 12)):
        with pytest.raises(DataError):
            fit(valid=valid, leaks="refuse")
    assert len(looks) == 2


def test_a_run_that_is_over_reads_nothing():
    class Counted:
        reads = 0

        def __len__(self):
            return 24

        def __getitem__(self, index):
            Counted.reads += 1
            return torch.full((3,), float(index)), index % 2

    fit(train=Counted(), valid=data(50, 4))
    before = Counted.reads
    assert fit(train=Counted(), valid=data(50, 4)).status == "finished"
    assert Counted.reads == before


def test_what_was_not_read_in_time_is_said(capsys, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(check_module, "find_leaks", partial(check_module.find_leaks, clock=lambda: next(ticks)))
    monkeypatch.setattr(check_module, "Viewer", partial(check_module.Viewer, clock=lambda: next(ticks)))
    rows = [(torch.full((3,), float(i)), i % 2) for i in range(1000)]
    fit(train=rows, valid=rows[:0] + [(torch.full((3,), -1.0), 0)] * 3, leaks_limit=50, duration="2 steps")
    out = capsys.readouterr().out
    assert "leaks between splits: read " in out and "of 1,000 train, 3 of 3 valid items" in out and "`treadle check-data FILE` reads all" in out


def test_level_three_may_call_it_before_the_loop(capsys):
    config = treadle.Config(run_dir="own", duration="2 steps", batch_size=4, log=treadle.LogConfig(console="quiet", tensorboard=False))
    with treadle.Run(config) as run:
        loader = run.loader(data(0, 24))
        run.check_data(train=loader, valid=data(20, 5), test=None)
        assert set(run._home.fingerprints) == {"train", "valid"}
        for _ in run.steps(loader):
            with pytest.raises(UsageError, match=r"before run\.steps"):
                run.check_data(train=loader)
    assert "4 of the 5 valid items" in capsys.readouterr().err


def test_without_it_the_loop_takes_the_fingerprint_of_its_data():
    config = treadle.Config(run_dir="own", duration="2 steps", batch_size=4, log=treadle.LogConfig(console="quiet", tensorboard=False))
    with treadle.Run(config) as run:
        for _ in run.steps(data(0, 24)):
            pass
        assert run._home.fingerprints["train"]["length"] == 24


def test_where_the_folder_cannot_be_written_the_run_goes_on(monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(check_module, "write_json", full)
    assert fit(valid=data(20, 12)).status == "finished"


def test_the_bits_are_those_of_a_run_that_did_not_look():
    class Own:
        """Augmented by the process's generators, and by one of its own."""

        def __init__(self, start):
            self.start, self.own = start, torch.Generator().manual_seed(1)

        def __len__(self):
            return 24

        def __getitem__(self, index):
            return torch.rand(3) + torch.rand(3, generator=self.own) + self.start, index % 2

    weights = []
    for leaks in ("warn", "off"):
        result = fit(run_dir=leaks, train=Own(0), valid=Own(9), leaks=leaks)
        weights.append(treadle.load_weights(result.last, nn.Linear(3, 2)).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
