"""The journal: rows are whole, in order, and none is lost because a disk was full for a while."""

import json
from functools import partial

import pytest
import torch
from torch import nn

import treadle
from faults import full_disk
from treadle.log.journal import Journal, read_journal

SGD = partial(torch.optim.SGD, lr=0.1)


def row(step, **values):
    return {"step": step, "epoch": 0.0, "samples": step, "wall": 0.0, **values}


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [row(1, a=0.1 + 0.2), row(2, text="é\n", many=[1, [2]], nothing=None, yes=True), row(3, huge=float("inf"))]
    journal = Journal(tmp_path / "metrics.jsonl", 0)
    for one in rows:
        journal.write(one)
    journal.close()
    assert list(read_journal(tmp_path)) == list(read_journal(tmp_path / "metrics.jsonl")) == rows
    assert journal.length == (tmp_path / "metrics.jsonl").stat().st_size


def test_a_last_line_torn_by_a_crash_is_left_out(tmp_path):
    whole = json.dumps(row(1, a=1.0)) + "\n"
    for length in range(len(whole)):
        (tmp_path / "metrics.jsonl").write_text(whole + whole[:length])
        assert list(read_journal(tmp_path)) == [row(1, a=1.0)]


def test_a_folder_without_a_journal_has_no_rows(tmp_path):
    assert list(read_journal(tmp_path)) == []


def test_a_journal_is_cut_back_to_the_length_of_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, 0)
    journal.write(row(1))
    length = journal.settled()
    journal.write(row(2))
    journal.close()
    again = Journal(path, length)
    again.write(row(20))
    again.close()
    assert list(read_journal(path)) == [row(1), row(20)]


def test_a_journal_shorter_than_its_checkpoint_says_is_not_filled_with_zeros(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(row(1)) + "\n")
    journal = Journal(path, 1000)
    journal.write(row(2))
    journal.close()
    assert list(read_journal(path)) == [row(1), row(2)]
    assert journal.length == path.stat().st_size


@pytest.mark.parametrize("room", [0, 1, 10, 40])
@pytest.mark.parametrize("failures", [1, 2, 3])
def test_rows_that_found_no_room_are_written_with_the_next_one(tmp_path, room, failures):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, 0)
    journal.write(row(0))
    with full_disk() as disk:
        disk(journal.length + room)
        for step in range(1, failures + 1):
            with pytest.raises(OSError):
                journal.write(row(step))
    assert list(read_journal(path)) == [row(0)]
    journal.write(row(failures + 1))
    journal.close()
    assert list(read_journal(path)) == [row(step) for step in range(failures + 2)]
    assert journal.length == path.stat().st_size


@pytest.mark.parametrize("end", ["settled", "close"])
def test_rows_that_wait_are_not_forgotten_at_a_checkpoint_or_at_the_end(tmp_path, end):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, 0)
    with full_disk() as disk, pytest.raises(OSError):
        disk(10)
        journal.write(row(1))
    getattr(journal, end)()
    journal.close()
    assert list(read_journal(path)) == [row(1)]
    assert journal.length == path.stat().st_size


def config(folder, duration="12 steps", every="1 step", **given):
    return treadle.Config(
        run_dir=str(folder),
        duration=duration,
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every=every),
        **given,
    )


def data(samples=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, 3, generator=generator), torch.randn(samples, 1, generator=generator)


def trainer(folder, **given):
    torch.manual_seed(0)
    return treadle.Trainer(nn.Linear(3, 1), nn.MSELoss(), data(), optimizer=SGD, config=config(folder, **given))


def test_a_run_reports_a_full_disk_goes_on_and_writes_every_row_later(tmp_path, capsys):
    one = trainer(tmp_path, checkpoint=treadle.CheckpointConfig(every="100 steps"))

    @one.on("step_finished")
    def fill_the_disk_for_a_while(run):
        if run.progress.steps == 3:
            disk((tmp_path / "metrics.jsonl").stat().st_size + 5)
        if run.progress.steps == 7:
            disk()

    with full_disk() as disk:
        result = one.fit()
    assert result.status == "finished"
    assert [row["step"] for row in read_journal(tmp_path)] == list(range(1, 13))
    assert capsys.readouterr().err.count("warning: metrics.jsonl cannot be written (") == 1


def test_every_row_has_its_step_epoch_samples_and_time(tmp_path):
    trainer(tmp_path).fit()
    rows = list(read_journal(tmp_path))
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["samples"] for row in rows] == list(range(4, 52, 4))
    assert [row["epoch"] for row in rows] == pytest.approx([step / 10 for step in range(1, 13)])
    assert [row["wall"] for row in rows] == sorted(row["wall"] for row in rows)
    assert all({"train/loss", "time/step_s", "time/data_s", "throughput/samples_per_s"} <= set(row) for row in rows)


@pytest.mark.parametrize("name", ["step", "epoch", "samples", "wall", 3])
def test_a_name_that_every_row_has_cannot_be_logged(tmp_path, name):
    one = trainer(tmp_path)
    one.on("step_finished")(lambda run: run.log({name: 1.0}))
    with pytest.raises(treadle.errors.UsageError, match=f"{name!r}.*every row has"):
        one.fit()


def test_the_journal_of_an_interrupted_run_is_that_of_the_whole_run(tmp_path):
    def values(folder):
        timed = ("wall", "time/", "throughput/")
        return [{key: value for key, value in row.items() if not key.startswith(timed)} for row in read_journal(folder)]

    trainer(tmp_path / "whole", every="3 steps").fit()
    cut = trainer(tmp_path / "cut", every="3 steps", checkpoint=treadle.CheckpointConfig(every="4 steps"))

    @cut.on("step_finished", every="7 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cut.fit()
    whole_every = treadle.CheckpointConfig(every="4 steps")
    trainer(tmp_path / "cut", every="3 steps", checkpoint=whole_every).fit()
    assert values(tmp_path / "cut") == values(tmp_path / "whole")
