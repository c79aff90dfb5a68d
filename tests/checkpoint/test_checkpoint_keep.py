"""Keeping: the best, the last and the one resumed from are never removed."""

import json
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import treadle
from treadle.checkpoint.keep import Record, best_first, kept
from treadle.checkpoint.restore import verify

examples = partial(settings, derandomize=True, deadline=None, database=None, max_examples=200)
values = st.one_of(st.none(), st.just(math.nan), st.integers(-3, 3).map(float), st.sampled_from([math.inf, -math.inf]))
records = st.dictionaries(st.integers(0, 50), values, max_size=12).map(lambda found: [Record(step, value) for step, value in found.items()])
modes = st.sampled_from(["min", "max"])


def measured(records):
    return [record for record in records if record.value is not None and not math.isnan(record.value)]


@examples()
@given(records=records, mode=modes)
def test_the_best_is_first_and_what_was_not_measured_is_never_among_them(records, mode):
    ranked = best_first(records, mode)
    assert sorted(record.step for record in ranked) == sorted(record.step for record in measured(records))
    sign = 1 if mode == "min" else -1
    assert [(sign * record.value, record.step) for record in ranked] == sorted((sign * record.value, record.step) for record in ranked)


@examples()
@given(records=records, mode=modes, last=st.integers(1, 4), best=st.integers(1, 4), protected=st.sets(st.integers(0, 50), max_size=3))
def test_last_best_and_protected_stay_and_nothing_else(records, mode, last, best, protected):
    found = kept(records, last, best, mode, protected)
    steps = {record.step for record in records}
    wanted = set(sorted(steps)[-last:]) | {record.step for record in best_first(records, mode)[:best]} | (protected & steps)
    assert found == wanted


@examples()
@given(records=records, mode=modes)
def test_the_last_and_the_best_stay_even_when_nothing_is_asked_for(records, mode):
    found = kept(records, 0, 0, mode)
    assert not records or max(record.step for record in records) in found
    if measured(records):
        extreme = min if mode == "min" else max
        assert any(record.step in found and record.value == extreme(r.value for r in measured(records)) for record in measured(records))


@examples()
@given(records=records, mode=modes, last=st.integers(1, 4), best=st.integers(1, 4))
def test_removing_in_one_go_or_after_each_save_keeps_the_same_best_and_last(records, mode, last, best):
    alive = []
    for record in sorted(records, key=lambda record: record.step):
        alive.append(record)
        stay = kept(alive, last, best, mode)
        alive = [one for one in alive if one.step in stay]
    assert {record.step for record in alive} == kept(records, last, best, mode)


# --- in a run ---


class Scripted:
    """A metric that gives the values it was told, one for each evaluation."""

    def __init__(self, values, done=0):
        self.values = iter(values[done:])

    def update(self, output, target):
        pass

    def compute(self):
        return next(self.values)

    def reset(self):
        pass


def run(
    folder,
    script,
    *,
    done=0,
    mode="max",
    keep_last=2,
    keep_best=1,
    fail_at=None,
    best="valid/score",
    accept=False,
    epochs=None,
    name=None,
    each_step=None,
):
    torch.manual_seed(0)
    data = torch.randn(8, 2), torch.randn(8, 1)
    config = treadle.Config(
        run_dir=str(folder),
        duration=f"{epochs or len(script)} epochs",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        checkpoint=treadle.CheckpointConfig(keep_last=keep_last, keep_best=keep_best, best=best, mode=mode),
        log=treadle.LogConfig(console="quiet", tensorboard=False, train_metrics=False),
    )
    trainer = treadle.Trainer(
        nn.Linear(2, 1),
        nn.MSELoss(),
        data,
        valid=data,
        optimizer=partial(torch.optim.SGD, lr=0.01),
        metrics={name or (best or "score").removeprefix("valid/"): Scripted(script, done)},
        config=config,
    )
    if each_step is not None:
        trainer.on("step_finished")(lambda run: each_step(run, trainer))
    if fail_at is not None:

        @trainer.on("epoch_started")
        def fall_over(run):
            if run.progress.epochs == fail_at:
                raise ZeroDivisionError

    return trainer.fit(accept_changes=accept)


def on_disk(folder):
    found = sorted((folder / "checkpoints").iterdir())
    for path in found:
        verify(path)
    return [int(path.name.removeprefix("step-")) // 2 for path in found]  # as epochs


SCRIPTS = {
    "best in the middle": ([0.1, 0.9, 0.3, 0.4, 0.5], 2, 1, [2, 4, 5]),
    "best is the last": ([0.1, 0.2, 0.3], 1, 1, [3]),
    "three best": ([0.9, 0.1, 0.8, 0.2, 0.7, 0.0], 1, 3, [1, 3, 5, 6]),
    "nan is never best": ([0.1, math.nan, math.nan, math.nan], 1, 1, [1, 4]),
    "of equals the earlier": ([0.5, 0.5, 0.5, 0.5], 1, 1, [1, 4]),
    "nan first": ([math.nan, 0.1, 0.05], 1, 1, [2, 3]),
    "nothing but nan": ([math.nan, math.nan, math.nan], 2, 1, [2, 3]),
}


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(("script", "last", "best", "expected"), SCRIPTS.values(), ids=SCRIPTS)
def test_the_folder_holds_the_last_and_the_best_and_best_json_agrees(tmp_path, script, last, best, expected, mode):
    sign = 1 if mode == "max" else -1
    script = [sign * value for value in script]
    result = run(tmp_path, script, mode=mode, keep_last=last, keep_best=best)
    assert on_disk(tmp_path) == expected
    ranked = sorted((record for record in measured(Record(e + 1, v) for e, v in enumerate(script))), key=lambda r: (-sign * r.value, r.step))[:best]
    listed = json.loads((tmp_path / "best.json").read_text())
    assert (listed["name"], listed["mode"]) == ("valid/score", mode)
    assert [(row["step"], row["value"], row["checkpoint"]) for row in listed["best"]] == [
        (2 * record.step, record.value, f"checkpoints/step-{2 * record.step:06d}") for record in ranked
    ]
    assert result.best == (tmp_path / listed["best"][0]["checkpoint"] if ranked else None)
    assert result.last == tmp_path / "checkpoints" / f"step-{2 * len(script):06d}"
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["last"] == str(result.last.relative_to(tmp_path))
    assert record["best"] == (str(result.best.relative_to(tmp_path)) if ranked else None)


def test_the_best_and_the_one_resumed_from_stay_over_a_resume(tmp_path):
    script = [0.9, 0.1, 0.2, 0.3, 0.4, 0.5]
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, script, keep_last=1, fail_at=3)
    assert on_disk(tmp_path) == [1, 3]
    result = run(tmp_path, script, done=3, keep_last=1)
    assert on_disk(tmp_path) == [1, 3, 6]
    assert result.best.name == "step-000002"
    assert [row["step"] for row in json.loads((tmp_path / "best.json").read_text())["best"]] == [2]


def test_what_need_not_stay_goes_when_a_run_goes_on_and_not_only_when_it_saves(tmp_path):
    """A disk that is almost full has no room for a save that would make room."""
    script = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, script, keep_last=1, best=None, fail_at=1)
    with pytest.raises(ZeroDivisionError):  # goes on from epoch 1, which it keeps for as long as it lives
        run(tmp_path, script, done=1, keep_last=1, best=None, fail_at=3)
    assert on_disk(tmp_path) == [1, 3]
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, script, done=3, keep_last=1, best=None, fail_at=3)
    assert on_disk(tmp_path) == [3]


def test_another_value_to_choose_by_is_not_compared_with_the_old_one(tmp_path):
    """A loss of 5 and a score of 0.5 have nothing to say about each other."""
    run(tmp_path, [5.0, 4.0], keep_last=1, best="valid/other")
    result = run(tmp_path, [0.1, 0.2, 0.7, 0.6], done=2, keep_last=1, best="valid/score", accept=True, epochs=4)
    assert result.best.name == "step-000006"  # of the scores that were measured, 0.7 and 0.6
    listed = json.loads((tmp_path / "best.json").read_text())
    assert (listed["name"], [row["value"] for row in listed["best"]]) == ("valid/score", [0.7])


def test_without_a_name_there_is_no_best(tmp_path):
    result = run(tmp_path, [0.1, 0.2, 0.3], best=None, keep_last=2)
    assert result.best is None and not (tmp_path / "best.json").exists()
    assert on_disk(tmp_path) == [2, 3]


def test_a_name_that_is_never_logged_is_an_error_before_the_first_step(tmp_path):
    with pytest.raises(treadle.errors.ConfigError, match=r"checkpoint.best.*'valid/scor'.*did you mean 'valid/score'"):
        run(tmp_path, [0.1], best="valid/scor", name="score")
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 0


def test_an_evaluation_of_something_else_may_come_before_the_one_that_measures_the_best(tmp_path):
    def probe(run, trainer):
        run.log(run.evaluate(trainer.model, trainer.objective, trainer.data), prefix="probe")

    result = run(tmp_path, [0.1, 0.3, 0.2], each_step=probe)
    assert result.best.name == "step-000004"
    assert sum("probe/loss" in row for row in treadle.read_journal(tmp_path)) == 6


# --- keep_every ---

milestones = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), values), max_size=12).map(
    lambda found: [
        Record(sum(step for step, *_ in found[: place + 1]), value, sum(more for _, more, _ in found[: place + 1]))
        for place, (_, _, value) in enumerate(found)
    ]
)
"""Records as a run makes them: the milestones that it has passed only grow."""


def firsts(records):
    return {min(r.step for r in records if r.milestone == reached) for reached in {r.milestone for r in records} - {0}}


@examples()
@given(records=milestones, mode=modes, last=st.integers(1, 4), best=st.integers(1, 4))
def test_the_first_that_reaches_each_milestone_stays_and_nothing_else_on_its_account(records, mode, last, best):
    without = kept([Record(r.step, r.value) for r in records], last, best, mode)
    assert kept(records, last, best, mode) == without | firsts(records)


@examples()
@given(records=milestones, mode=modes, last=st.integers(1, 4), best=st.integers(1, 4), shuffle=st.randoms())
def test_with_milestones_too_removing_in_one_go_or_after_each_save_keeps_the_same(records, mode, last, best, shuffle):
    alive = []
    for record in records:
        alive.append(record)
        stay = kept(alive, last, best, mode)
        alive = [one for one in alive if one.step in stay]
    shuffle.shuffle(records)
    assert {record.step for record in alive} == kept(records, last, best, mode)


def saving(folder, epochs, keep_every, *, every="1 epoch", fail_at=None, accept=False, background=True, data=None):
    """A run of two steps an epoch that keeps its last checkpoint only, and those of keep_every; what stays, by step."""
    torch.manual_seed(0)
    config = treadle.Config(
        run_dir=str(folder),
        duration=f"{epochs} epochs",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        checkpoint=treadle.CheckpointConfig(every=every, keep_last=1, keep_every=keep_every, background=background),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    data = data or (torch.randn(8, 2), torch.randn(8, 1))
    trainer = treadle.Trainer(nn.Linear(2, 1), nn.MSELoss(), data, optimizer=partial(torch.optim.SGD, lr=0.01), config=config)

    @trainer.on("step_finished")
    def fall_over(run):
        if run.progress.steps == fail_at:
            raise ZeroDivisionError

    if fail_at is None:
        trainer.fit(accept_changes=accept)
    else:
        with pytest.raises(ZeroDivisionError):
            trainer.fit()
    for path in (folder / "checkpoints").iterdir():
        verify(path)
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("background", [True, False])
def test_every_second_epoch_stays(tmp_path, background):
    assert saving(tmp_path, 7, "2 epochs", background=background) == [4, 8, 12, 14]


EVERY = {
    "off": (None, "1 epoch", [14]),
    "longer than the run": ("8 epochs", "1 epoch", [14]),
    "the whole run": ("7 epochs", "1 epoch", [14]),
    "steps between two saves": ("3 steps", "1 epoch", [4, 6, 10, 12, 14]),
    "samples": ("20 samples", "1 epoch", [6, 10, 14]),
    "shorter than the time between two saves": ("1 step", "2 epochs", [4, 8, 12, 14]),
    "parts of an epoch": ("1.5 epochs", "1 step", [3, 6, 9, 12, 14]),
}


@pytest.mark.parametrize(("keep_every", "every", "expected"), EVERY.values(), ids=EVERY)
def test_the_first_checkpoint_that_reaches_each_multiple_stays(tmp_path, keep_every, every, expected):
    assert saving(tmp_path, 7, keep_every, every=every) == expected


def test_what_was_kept_stays_over_a_resume(tmp_path):
    assert saving(tmp_path, 7, "2 epochs", fail_at=11) == [4, 8, 10]
    assert saving(tmp_path, 7, "2 epochs") == [4, 8, 10, 12, 14]  # 10 is the one resumed from


def test_the_multiples_are_those_of_the_run_and_not_of_the_process(tmp_path):
    assert saving(tmp_path, 7, "3 epochs", fail_at=5) == [4]
    assert saving(tmp_path, 7, "3 epochs", fail_at=9) == [4, 6, 8]
    assert saving(tmp_path, 7, "3 epochs") == [6, 8, 12, 14]


def test_another_keep_every_is_no_other_run_and_counts_for_what_is_there(tmp_path):
    assert saving(tmp_path, 12, "2 epochs", fail_at=13) == [4, 8, 12]
    assert saving(tmp_path, 12, "4 epochs", fail_at=19) == [8, 12, 16, 18]  # 12 is the one resumed from
    assert saving(tmp_path, 12, None) == [18, 24]


def test_keep_every_for_the_first_time_keeps_from_there_on(tmp_path):
    assert saving(tmp_path, 7, None, fail_at=7) == [6]
    assert saving(tmp_path, 7, "2 epochs") == [6, 8, 12, 14]
