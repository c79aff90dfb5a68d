from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.errors import ConfigError
from treadle.core.when import Duration, Progress, parse_seconds

LONG = Duration.parse("1e18 steps")
exact = settings(derandomize=True, database=None, deadline=None)


def moments(epoch_size: int, batch: int, epochs: int, known: bool = True) -> Iterator[Progress]:
    """Every moment of a run, the beginning included; the last batch of an epoch may be short."""
    progress = Progress(LONG, epoch_size, -(-epoch_size // batch), epoch_size) if known else Progress(LONG)
    yield progress
    for _ in range(epochs):
        for start in range(0, epoch_size, batch):
            taken = min(batch, epoch_size - start)
            progress = progress.advanced(taken, taken, ends_epoch=start + taken == epoch_size)
            yield progress


def due_at(every: str, run: list[Progress]) -> list[int]:
    return [after.steps for before, after in pairwise(run) if Duration.parse(every).due(before, after)]


# --- reading ---


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("10 epochs", 10, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("0.5 epochs", Fraction(1, 2), "epochs"),
        (".25 epochs", Fraction(1, 4), "epochs"),
        ("0.1 epochs", Fraction(1, 10), "epochs"),
        ("5_000 steps", 5000, "steps"),
        ("1e6 samples", 10**6, "samples"),
        ("1.5e3 steps", 1500, "steps"),
        ("2.0 steps", 2, "steps"),
        ("1000000000000 step", 10**12, "steps"),
        ("  3Epochs ", 3, "epochs"),
    ],
)
def test_a_length_is_read_exactly(text: str, value: int | Fraction, unit: str) -> None:
    assert Duration.parse(text) == Duration(Fraction(value), unit)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10", "'10' is not a number of steps, samples or epochs"),
        ("", "'' is not a number of steps"),
        ("epochs", "'epochs' is not a number of steps"),
        ("ten epochs", "'ten epochs' is not a number of steps"),
        ("-1 epochs", "'-1 epochs' is not a number of steps"),
        ("nan epochs", "'nan epochs' is not a number of steps"),
        ("1,000 steps", "'1,000 steps' is not a number of steps"),
        ("1 2 steps", "'1 2 steps' is not a number of steps"),
        ("1 epoch 2 steps", "'1 epoch 2 steps' is not a number of steps"),
        (10, "10 is not a number of steps"),
        (None, "None is not a number of steps"),
        ("10 parsecs", "'10 parsecs' has the unknown unit 'parsecs'; say '10 epochs'"),
        ("10 hours", "'10 hours' has the unknown unit 'hours'"),
        ("0 steps", "'0 steps' must be more than zero steps"),
        ("0.0 epochs", "'0.0 epochs' must be more than zero epochs"),
        ("0.5 steps", "'0.5 steps' must be a whole number of steps"),
        ("1.5 samples", "'1.5 samples' must be a whole number of samples"),
    ],
)
def test_a_bad_length_says_what_was_given_and_what_is_allowed(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Duration.parse(text)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("text", ["10 epochs", "1 epoch", "1 step", "0.5 epochs", "1e6 samples", "0.00001 epochs", "1_000_000_000_000 steps"])
def test_a_length_printed_and_read_again_is_the_same(text: str) -> None:
    length = Duration.parse(text)
    assert Duration.parse(str(length)) == length
    assert eval(repr(length), {"Duration": Duration}) == length


def test_a_length_is_frozen_and_read_as_itself() -> None:
    length = Duration.parse("1 epoch")
    assert Duration.parse(length) is length
    with pytest.raises(dataclasses.FrozenInstanceError):
        length.unit = "steps"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90 minutes", 5400), ("1 hour", 3600), ("2 h", 7200), ("0.5 hours", 1800), ("30 s", 30), ("1 second", 1), ("3 MIN", 180), (90, 90), (0.5, 0.5)],
)
def test_a_time_is_read_in_seconds(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["90", "", "soon", "-1 hours", "0 hours", "2 fortnights", "1 epoch", 0, -3, None, float("nan"), float("inf")])
def test_a_bad_time_is_refused_with_what_was_given(text: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_seconds(text)  # type: ignore[arg-type]
    assert repr(text) in str(caught.value)


# --- due and count ---


@pytest.mark.parametrize("far", [10**12, 10**18])
def test_steps_and_samples_are_counted_exactly_far_out(far: int) -> None:
    steps, samples = Duration.parse(f"{far} steps"), Duration.parse(f"{far} samples")
    before, at, after = (Progress(LONG, steps=far + d, samples=far + d) for d in (-1, 0, 1))
    assert [d.count(p) for d in (steps, samples) for p in (before, at, after)] == [0, 1, 1] * 2
    assert [d.due(before, at) for d in (steps, samples)] == [True, True]
    assert [d.due(at, after) for d in (steps, samples)] == [False, False]


def test_a_small_cadence_is_exact_at_a_trillion_steps() -> None:
    every = Duration.parse("7 steps")
    steps = range(10**12, 10**12 + 50)
    due = [n for n in steps if every.due(Progress(LONG, steps=n - 1), Progress(LONG, steps=n))]
    assert due == [n for n in steps if n % 7 == 0]


def test_a_tenth_of_an_epoch_is_exact_after_a_trillion_epochs() -> None:
    every = Duration.parse("0.1 epochs")
    run = [Progress(LONG, 1000, 1000, epochs=10**12, into_epoch=n) for n in range(1000)]
    assert [after.into_epoch for before, after in pairwise(run) if every.due(before, after)] == list(range(100, 1000, 100))
    assert every.count(run[300]) == 10**13 + 3


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("1 epoch", [3, 6, 9, 12]),
        ("2 epochs", [6, 12]),
        ("0.5 epochs", [2, 3, 5, 6, 8, 9, 11, 12]),
        ("1.5 epochs", [5, 9]),
        ("5 steps", [5, 10]),
        ("25 samples", [3, 6, 9, 12]),
        ("30 samples", [4, 7, 11]),
    ],
)
def test_a_cadence_is_due_at_the_first_step_that_reaches_it(every: str, steps: list[int]) -> None:
    assert due_at(every, list(moments(epoch_size=25, batch=10, epochs=4))) == steps


def test_whole_epochs_are_due_without_knowing_their_length() -> None:
    assert due_at("2 epochs", list(moments(epoch_size=25, batch=10, epochs=4, known=False))) == [6, 12]


@pytest.mark.parametrize("every", ["1 step", "10 steps", "1 sample", "1 epoch", "0.5 epochs"])
def test_nothing_is_due_where_nothing_was_done(every: str) -> None:
    start = Progress(LONG, 100, 10)
    assert not Duration.parse(every).due(start, start)


cadences = st.one_of(
    st.integers(1, 60).map(lambda n: f"{n} steps"),
    st.integers(1, 200).map(lambda n: f"{n} samples"),
    st.decimals("0.01", "4", places=2).map(lambda n: f"{n} epochs"),
)


@exact
@given(cadences, st.integers(1, 40), st.integers(1, 50), st.integers(1, 6))
def test_a_cadence_is_due_at_exactly_the_steps_at_which_its_count_grows(every: str, epoch_size: int, batch: int, epochs: int) -> None:
    length, run = Duration.parse(every), list(moments(epoch_size, batch, epochs))
    assert due_at(every, run) == [after.steps for before, after in pairwise(run) if length.count(after) > length.count(before)]


@exact
@given(cadences, st.integers(1, 40), st.integers(1, 6))
def test_over_a_run_a_cadence_is_due_as_often_as_it_fits_in(every: str, epoch_size: int, epochs: int) -> None:
    length, run = Duration.parse(every), list(moments(epoch_size, 1, epochs))
    times = len(due_at(every, run))
    if run[0].steps_in(length) >= 1:  # else one step covers several
        done = {"steps": run[-1].steps, "samples": run[-1].samples, "epochs": run[-1].epochs}[length.unit]
        assert times == length.count(run[-1]) == done // length.value
    else:
        assert times == run[-1].steps


@exact
@given(cadences, st.integers(1, 40), st.integers(1, 50), st.integers(1, 6), st.data())
def test_a_resumed_run_is_due_at_the_same_steps(every: str, epoch_size: int, batch: int, epochs: int, data: st.DataObject) -> None:
    run = list(moments(epoch_size, batch, epochs))
    cut = data.draw(st.integers(0, len(run) - 1))
    assert due_at(every, run[: cut + 1]) + due_at(every, run[cut:]) == due_at(every, run)


# --- progress ---


def test_advancing_counts_one_step_and_leaves_the_old_moment_alone() -> None:
    before = Progress(LONG, 25, 3, steps=4, samples=35, epochs=1, into_epoch=10)
    assert before.advanced(10, 10, ends_epoch=False) == Progress(LONG, 25, 3, steps=5, samples=45, epochs=1, into_epoch=20)
    assert before.advanced(5, 5, ends_epoch=True) == Progress(LONG, 25, 3, steps=5, samples=40, epochs=2, into_epoch=0)
    assert before == Progress(LONG, 25, 3, steps=4, samples=35, epochs=1, into_epoch=10)


@pytest.mark.parametrize(
    ("duration", "steps"), [("2 epochs", 6), ("50 samples", 6), ("51 samples", 7), ("4 steps", 4), ("0.4 epochs", 1), ("0.5 epochs", 2)]
)
def test_a_run_is_finished_at_the_first_step_that_reaches_its_duration(duration: str, steps: int) -> None:
    run = [dataclasses.replace(moment, duration=Duration.parse(duration)) for moment in moments(25, 10, 4)]
    assert next(moment.steps for moment in run if moment.finished) == steps


def test_the_fraction_goes_from_zero_to_one_and_never_over_it() -> None:
    run = [dataclasses.replace(moment, duration=Duration.parse("2 epochs")) for moment in moments(25, 10, 3)]
    assert [moment.fraction for moment in run] == [0, 0.2, 0.4, 0.5, 0.7, 0.9, 1, 1, 1, 1]


def test_the_epoch_has_a_fraction_only_where_its_length_is_known() -> None:
    assert Progress(LONG, 40, 4, epochs=2, into_epoch=10).epoch == 2.25
    assert Progress(LONG, epochs=2, into_epoch=10).epoch == 2.0


@pytest.mark.parametrize(("length", "steps"), [("7 steps", 7), ("2 epochs", 10), ("0.5 epochs", 2.5), ("100 samples", 10), ("15 samples", 1.5)])
def test_a_length_is_told_in_steps(length: str, steps: float) -> None:
    assert Progress(LONG, epoch_size=50, epoch_steps=5, epoch_samples=50).steps_in(Duration.parse(length)) == steps


def test_steps_are_told_without_knowing_the_epoch() -> None:
    assert Progress(LONG).steps_in(Duration.parse("7 steps")) == 7


@pytest.mark.parametrize("length", ["2 epochs", "0.5 epochs", "100 samples"])
def test_other_lengths_are_refused_where_the_epoch_is_unknown(length: str) -> None:
    with pytest.raises(ConfigError, match=f"'{length}' cannot be told in steps.*give it in steps"):
        Progress(LONG).steps_in(Duration.parse(length))


@pytest.mark.parametrize(
    ("length", "needs"), [("1 epoch", False), ("2.0 epochs", False), ("1.5 epochs", True), ("10 steps", False), ("10 samples", False)]
)
def test_only_parts_of_an_epoch_need_its_size(length: str, needs: bool) -> None:
    assert Duration.parse(length).needs_epoch_size() is needs
