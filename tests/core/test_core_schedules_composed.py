"""Schedules put one after the other, scaled, and the curves themselves, for any lengths."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle import schedules
from treadle.core.errors import ConfigError
from treadle.core.when import Duration, Progress
from treadle.schedules import (
    Schedule,
    constant,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    inverse_sqrt,
    linear,
    of,
    piecewise,
    polynomial,
    step_decay,
    wsd,
)


def moments(duration: str, size: int | None = None, batch: int = 1, steps: int | None = None) -> list[Progress]:
    """Where a run is before each of its steps, and at its end."""
    known = (size, -(-size // batch), size) if size else (None, None, None)
    found = [Progress(Duration.parse(duration), *known)]
    while not (found[-1].finished or len(found) - 1 == steps):
        left = batch if size is None else min(batch, size - found[-1].into_epoch)
        found.append(found[-1].advanced(left, left, size is not None and found[-1].into_epoch + left == size))
    return found


def curve(schedule: Any, duration: str, size: int | None = None, batch: int = 1) -> list[float]:
    return [schedule(progress) for progress in moments(duration, size, batch)]


SHAPES: dict[str, Schedule] = {
    "constant": constant(0.3),
    "linear": linear(1.0, 0.1),
    "polynomial": polynomial(1.0, 0.1, power=3),
    "cosine": cosine(0.5, warmup="3 steps"),
    "one_cycle": schedules.one_cycle(0.5),
    "inverse_sqrt": inverse_sqrt(0.5, warmup="4 steps"),
    "wsd": wsd(0.5, warmup="2 steps", decay="3 steps"),
    "exponential": exponential(1.0, 0.7, every="2 steps"),
    "step_decay": step_decay(1.0, 0.1, at=["3 steps", "7 steps"]),
    "piecewise": piecewise(0.1, {"3 steps": 1.0, "9 steps": 0.2}, interpolate=True),
    "cyclic": cyclic(0.1, 1.0, every="4 steps", shrink=0.5),
    "cosine_restarts": schedules.cosine_restarts(1.0, every="3 steps", growth=2),
    "of": of(lambda progress: 1 - progress.fraction),
}
shapes = st.sampled_from(list(SHAPES.values()))


def test_a_schedule_as_text_is_what_makes_it():
    text = "constant(value=0).then(0.5 * cosine(peak=0.1, end=0, warmup='5 steps'), at='2 epochs')"
    made = constant(0.0).then(0.5 * cosine(0.1, warmup="5 steps"), at="2 epochs")
    assert str(made) == text and eval(text, vars(schedules)) == made
    for other in (
        step_decay(0.1, 0.5, ["3 steps", "6 steps"]),
        wsd(0.1, warmup="2 steps", decay="4 steps"),
        cosine_restarts(1.0, every="2 steps", growth=2),
    ):
        assert eval(str(other), vars(schedules)) == other


def test_every_public_schedule_is_in_these_tests() -> None:
    assert set(SHAPES) == set(schedules.__all__) - {"Schedule", "from_torch", "plot"}


# --- then ---


@given(first=shapes, second=shapes, at=st.integers(1, 30), length=st.integers(2, 40))
def test_each_part_is_the_run_that_it_would_be_alone(first: Schedule, second: Schedule, at: int, length: int) -> None:
    both = curve(first.then(second, at=f"{at} steps"), f"{length} steps")
    alone = curve(first, f"{at} steps")[:-1] + (curve(second, f"{length - at} steps") if length > at else [])
    assert both[:length] == alone[:length]


@given(first=shapes, second=shapes, third=shapes, one=st.integers(1, 10), two=st.integers(1, 10))
def test_it_does_not_matter_which_two_are_put_together_first(first: Schedule, second: Schedule, third: Schedule, one: int, two: int) -> None:
    left = first.then(second, at=f"{one} steps").then(third, at=f"{one + two} steps")
    right = first.then(second.then(third, at=f"{two} steps"), at=f"{one} steps")
    assert curve(left, "25 steps")[:25] == curve(right, "25 steps")[:25]


@given(first=shapes, second=shapes, epochs=st.integers(1, 5), size=st.integers(5, 40), batch=st.integers(1, 9))
def test_in_epochs_each_part_is_the_run_that_it_would_be_alone_too(first: Schedule, second: Schedule, epochs: int, size: int, batch: int) -> None:
    both = curve(first.then(second, at=f"{epochs} epochs"), f"{epochs + 2} epochs", size, batch)
    alone = curve(first, f"{epochs} epochs", size, batch)[:-1] + curve(second, "2 epochs", size, batch)
    assert both == alone


@given(
    size=st.integers(5, 60),
    batch=st.integers(1, 9),
    at=st.fractions(Fraction(1, 4), 3, max_denominator=4),
    unit=st.sampled_from(["steps", "samples", "epochs"]),
)
def test_a_part_stays_within_its_bounds_wherever_it_begins(size: int, batch: int, at: Fraction, unit: str) -> None:
    """The second falls from 1 to 0 over the rest of the run, whatever the units, also where the last batch of an epoch is short."""
    whole = {"steps": -(-size // batch), "samples": size, "epochs": 1}[unit]
    start = at * whole if unit == "epochs" else Fraction(max(1, int(at * whole)))
    text = f"{float(start)} epochs" if unit == "epochs" else f"{int(start)} {unit}"
    values = curve(constant(2.0).then(linear(1.0, 0.0), at=text), "4 epochs", size, batch)
    second = values[values.count(2.0) :]
    assert set(values[: values.count(2.0)]) == {2.0}
    assert second[0] >= 1 - 1.01 * batch / size * 2
    assert all(a >= b for a, b in pairwise(second))
    assert second[-1] == pytest.approx(0.0, abs=1e-9)


def test_the_second_counts_from_where_it_begins() -> None:
    seen: list[Progress] = []

    def look(progress: Progress) -> float:
        seen.append(progress)
        return 0.0

    curve(constant(1.0).then(look, at="1 epoch"), "3 epochs", size=10, batch=4)
    alone = moments("2 epochs", size=10, batch=4)
    assert seen == alone


def test_past_the_end_of_the_run_the_second_never_comes() -> None:
    assert set(curve(constant(1.0).then(constant(2.0), at="11 steps"), "10 steps")) == {1.0}
    assert curve(constant(1.0).then(constant(2.0), at="10 steps"), "10 steps")[:10] == [1.0] * 10


def test_a_scheduled_value_does_not_depend_on_what_was_asked_before() -> None:
    whole = linear(0.0, 1.0).then(cosine(1.0), at="3 steps") * 0.5
    there = moments("10 steps")
    forward = [whole(progress) for progress in there]
    assert [whole(progress) for progress in reversed(there)] == forward[::-1]


STREAM = "100 steps"


def test_data_without_a_length_takes_parts_in_steps() -> None:
    values = curve(linear(0.0, 1.0).then(cosine(1.0, warmup="2 steps"), at="50 steps"), STREAM)
    assert values[49] == pytest.approx(0.98)
    assert values[50] == 0.5


def test_samples_of_a_part_of_data_without_a_length_are_counted_by_the_step() -> None:
    values = curve(constant(0.0).then(exponential(1.0, 0.5, every="20 samples"), at="50 steps"), STREAM, batch=10)
    assert values[49:54] == [0.0, 1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (constant(1.0).then(constant(2.0), at="1 epoch"), "'1 epoch' cannot be told in steps"),
        (constant(1.0).then(exponential(1.0, 0.5, every="1 epoch"), at="50 steps"), "cannot be told in epochs for data without a length"),
        (linear(1.0, 0.0, over="1 epoch").then(constant(2.0), at="50 steps"), "'1 epoch' is done cannot be told"),
        (constant(1.0).then(cosine(1.0, warmup="1 epoch"), at="50 steps"), "'1 epoch' cannot be told in steps"),
    ],
)
def test_a_part_that_cannot_be_told_is_seen_before_the_first_step(schedule: Schedule, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        schedule.check(Progress(Duration.parse(STREAM)))
    with pytest.raises(ConfigError, match=says):
        (2 * schedule).check(Progress(Duration.parse(STREAM)))


def test_what_is_left_of_a_duration_in_another_unit_cannot_be_told_without_a_length() -> None:
    with pytest.raises(ConfigError, match="what is left of '2 epochs' cannot be told"):
        constant(1.0).then(constant(2.0), at="50 steps").check(Progress(Duration.parse("2 epochs")))


# --- times a number ---


@given(schedule=shapes, scale=st.floats(-1e6, 1e6))
def test_scaled_is_every_value_times_the_number(schedule: Schedule, scale: float) -> None:
    values = curve(schedule, "12 steps")
    assert curve(schedule * scale, "12 steps") == curve(scale * schedule, "12 steps") == [value * scale for value in values]


@given(schedule=shapes)
def test_a_composed_schedule_says_what_it_is(schedule: Schedule) -> None:
    assert repr(schedule) in repr(schedule.then(schedule, at="3 steps") * 2)


@pytest.mark.parametrize("scale", ["2", None, [1.0], constant(1.0)])
def test_a_schedule_is_scaled_by_numbers_only(scale: Any) -> None:
    with pytest.raises(TypeError):
        constant(1.0) * scale
    with pytest.raises(ConfigError, match="must be a number, got nan"):
        constant(1.0) * float("nan")


# --- the curves ---


@given(power=st.floats(0.2, 5), start=st.floats(0.1, 10), end=st.floats(0, 0.1))
def test_polynomial_falls_from_its_start_to_its_end(power: float, start: float, end: float) -> None:
    values = curve(polynomial(start, end, power), "20 steps")
    assert (values[0], values[-1]) == pytest.approx((start, end))
    assert all(a >= b for a, b in pairwise(values))


@given(warmup=st.integers(1, 40), peak=st.floats(1e-6, 10))
def test_inverse_sqrt_is_the_formula_of_the_paper(warmup: int, peak: float) -> None:
    """lrate = d_model^-0.5 * min(step^-0.5, step * warmup^-1.5), with d_model^-0.5 = peak * warmup^0.5."""
    values = curve(inverse_sqrt(peak, warmup=f"{warmup} steps"), "100 steps")[:100]
    assert values == pytest.approx([peak * warmup**0.5 * min(n**-0.5, n * warmup**-1.5) for n in range(1, 101)])


@given(shape=st.sampled_from(["linear", "cosine", "sqrt"]), warmup=st.integers(1, 10), decay=st.integers(1, 10), end=st.floats(0, 0.5))
def test_wsd_rises_stays_and_falls(shape: str, warmup: int, decay: int, end: float) -> None:
    values = curve(wsd(1.0, f"{warmup} steps", f"{decay} steps", end=end, shape=shape), "30 steps")
    assert values[:warmup] == pytest.approx([(n + 1) / warmup for n in range(warmup)])
    assert values[warmup : 30 - decay + 1] == pytest.approx([1.0] * (31 - decay - warmup))
    assert all(a >= b - 1e-12 for a, b in pairwise(values[30 - decay :]))
    assert values[-1] == pytest.approx(end)


def test_wsd_of_a_longer_run_begins_alike() -> None:
    schedule = wsd(1.0, "5 steps", "10 steps")
    assert curve(schedule, "50 steps")[:41] == pytest.approx(curve(schedule, "90 steps")[:41])


def test_wsd_with_a_run_too_short_for_both_is_the_lower_of_the_two() -> None:
    values = curve(wsd(1.0, "10 steps", "10 steps"), "10 steps")
    assert values[:10] == pytest.approx([min((n + 1) / 10, 1 - n / 10) for n in range(10)])


@given(points=st.dictionaries(st.integers(1, 30), st.floats(-5, 5), min_size=1, max_size=5), first=st.floats(-5, 5))
def test_piecewise_has_each_value_at_its_point_with_lines_or_without(points: dict[int, float], first: float) -> None:
    points = dict(sorted(points.items()))
    named = {f"{step} steps": value for step, value in points.items()}
    level, lines = curve(piecewise(first, named), "35 steps"), curve(piecewise(first, named, interpolate=True), "35 steps")
    for values in (level, lines):
        assert [values[0], *(values[step] for step in points)] == pytest.approx([first, *points.values()])
        assert values[-1] == pytest.approx(list(points.values())[-1])
    assert set(level) <= {first, *points.values()}
    corners = [(0, first), *points.items()]
    for (left, low), (right, high) in pairwise(corners):
        for step in range(left, right + 1):
            assert lines[step] == pytest.approx(low + (high - low) * (step - left) / (right - left))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: piecewise(1.0, {}), "points must map lengths to values"),
        (lambda: piecewise(1.0, {"3 steps": 1.0, "2 steps": 2.0}), "must be in order and in one unit, got 3 steps, 2 steps"),
        (lambda: piecewise(1.0, {"3 steps": 1.0, "2 epochs": 2.0}), "in one unit"),
        (lambda: piecewise(1.0, {"3 steps": "1"}), "piecewise: a value must be a number, got '1'"),  # type: ignore[dict-item]
        (lambda: step_decay(1.0, 0.1, at="30 epochs"), r"a list of points, such as \['30 epochs'"),
        (lambda: step_decay(1.0, 0.1, at=["30"]), "'30' is not a number of steps"),
        (lambda: step_decay(1.0, 0.1, at=[]), "a list of points"),
        (lambda: cyclic(0.0, 1.0, every="1 epoch", shrink=0), "shrink must be positive, got 0"),
        (lambda: schedules.cosine_restarts(1.0, every="1 epoch", growth=0.5), "growth must be 1 or more, got 0.5"),
        (lambda: wsd(1.0, "1 step", "1 step", shape="liner"), "unknown shape 'liner'; did you mean 'linear'"),
        (lambda: polynomial(1.0, power=0), "power must be positive, got 0"),
        (lambda: inverse_sqrt(0.0, "1 step"), "peak must be positive, got 0.0"),
        (lambda: linear(None, 1.0), "linear: start must be a number, got None"),  # type: ignore[arg-type]
        (lambda: constant(1.0).then(2.0, at="1 epoch"), r"must be a callable of the run's progress.*got 2.0"),  # type: ignore[arg-type]
        (lambda: constant(1.0).then(constant(2.0), at="10"), "'10' is not a number of steps"),
        (lambda: of(float), "must be a callable"),
    ],
)
def test_a_bad_argument_is_named_when_the_schedule_is_made(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
