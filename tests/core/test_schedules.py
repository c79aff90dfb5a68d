from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from treadle.core.errors import ConfigError
from treadle.core.when import Duration, Progress
from treadle.schedules import Schedule, constant, cosine, exponential, linear, one_cycle

STEPS = 100


def at(step: int, duration: str = "100 steps") -> Progress:
    """The moment with so many steps done, ten steps of ten samples an epoch."""
    return Progress(Duration.parse(duration), 100, 10, 100, steps=step, samples=10 * step, epochs=step // 10, into_epoch=step % 10 * 10)


def curve(schedule: Schedule, duration: str = "100 steps", steps: int = STEPS) -> list[float]:
    return [schedule(at(step, duration)) for step in range(steps + 1)]


def rising(values: list[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def falling(values: list[float]) -> bool:
    return rising(values[::-1])


SCHEDULES = [
    constant(0.1),
    linear(1.0, 0.1),
    linear(1.0, 0.1, over="5 epochs"),
    cosine(0.1),
    cosine(0.1, end=0.01, warmup="1 epoch", over="80 steps"),
    exponential(10, 0.5, every="1 epoch"),
    exponential(10, 0.5, every="0.5 epochs"),
    one_cycle(0.1),
    one_cycle(0.1, warmup=0.1, start=0.01, end=0.001, over="500 samples"),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_schedule_is_a_pure_function_of_progress(schedule: Schedule) -> None:
    expected = curve(schedule)
    order = list(range(STEPS + 1))
    random.Random(0).shuffle(order)
    assert {step: schedule(at(step)) for step in order} == dict(enumerate(expected))
    assert curve(schedule) == expected


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_schedule_says_what_it_is_and_cannot_be_changed(schedule: Schedule) -> None:
    assert " at 0x" not in repr(schedule)
    with pytest.raises(AttributeError):
        schedule.peak = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("duration", ["10 epochs", "1000 samples"])
@pytest.mark.parametrize(
    "make", [lambda: linear(1, 0), lambda: cosine(1, warmup="20 steps"), lambda: one_cycle(1)], ids=["linear", "cosine", "one_cycle"]
)
def test_the_same_duration_in_another_unit_is_the_same_curve(make: Any, duration: str) -> None:
    assert curve(make(), duration) == pytest.approx(curve(make()))


def test_constant_is_constant() -> None:
    assert set(curve(constant(0.1))) == {0.1}


def test_linear_is_a_straight_line_between_its_ends() -> None:
    values = curve(linear(1.0, 0.2))
    assert values[0] == 1.0
    assert values[50] == pytest.approx(0.6)
    assert values[-1] == pytest.approx(0.2)
    assert falling(values)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [
        (linear(1.0, 0.2, over="4 epochs"), 0.2),
        (cosine(1.0, 0.2, over="40 steps"), 0.2),
        (cosine(1.0, 0.2, warmup="10 steps", over="400 samples"), 0.2),
        (one_cycle(1.0, end=0.2, over="4 epochs"), 0.2),
    ],
    ids=repr,
)
def test_over_ends_the_curve_early_and_the_value_stays(schedule: Schedule, end: float) -> None:
    values = curve(schedule)
    assert values[39] > end
    assert values[40:] == pytest.approx([end] * 61)


def test_a_curve_over_a_longer_length_than_the_run_is_cut_off() -> None:
    assert linear(1.0, 0.0, over="200 steps")(at(100)) == pytest.approx(0.5)
    assert cosine(1.0, over="20 epochs")(at(100)) == pytest.approx(0.5)


def test_cosine_goes_from_peak_through_the_middle_to_end() -> None:
    values = curve(cosine(0.4, end=0.2))
    assert (values[0], values[50], values[-1]) == pytest.approx((0.4, 0.3, 0.2))
    assert falling(values)


@pytest.mark.parametrize("warmup", ["20 steps", "2 epochs", "200 samples"])
def test_a_warmup_moves_from_the_first_step_and_reaches_the_peak_at_its_last(warmup: str) -> None:
    values = curve(cosine(1.0, warmup=warmup))
    assert values[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert values[19] == values[20] == 1.0
    assert rising(values[:20])
    assert falling(values[20:])
    assert values[-1] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("warmup", "expected"), [("1 step", [1, 1]), ("2 steps", [0.5, 1, 1]), ("0.25 epochs", [0.4, 0.8, 1.0])], ids=["one", "two", "two and a half"]
)
def test_a_short_warmup_is_exact_too(warmup: str, expected: list[float]) -> None:
    assert curve(cosine(1.0, warmup=warmup))[: len(expected)] == pytest.approx(expected)


def test_a_warmup_longer_than_the_run_rises_to_its_end() -> None:
    values = curve(cosine(1.0, warmup="5000 steps"))
    assert values[0] > 0
    assert rising(values[:100])
    assert max(values) <= 1.0


def test_exponential_multiplies_each_time_the_length_has_passed() -> None:
    values = curve(exponential(8, 0.5, every="2 epochs"))
    assert [values[n] for n in (0, 19, 20, 39, 40, 100)] == [8, 8, 4, 4, 2, 0.25]


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.5])
def test_one_cycle_has_its_peak_where_the_warmup_share_ends(warmup: float) -> None:
    values = curve(one_cycle(2.0, warmup=warmup))
    top = round(warmup * STEPS)
    assert values[top] == pytest.approx(2.0) == max(values)
    assert rising(values[: top + 1])
    assert falling(values[top:])
    assert (values[0], values[-1]) == pytest.approx((2.0 / 25, 2.0 / 250_000))


def test_one_cycle_starts_and_ends_where_it_is_told() -> None:
    values = curve(one_cycle(2.0, start=0.0, end=0.5))
    assert (values[0], values[-1]) == pytest.approx((0.0, 0.5))


@pytest.mark.parametrize("schedule", [linear(1, 0), cosine(1)], ids=repr)
def test_a_duration_in_samples_is_half_done_after_half_the_samples_also_where_an_epoch_is_counted_in_batches(schedule: Schedule) -> None:
    progress = Progress(Duration.parse("640 samples"), epoch_size=10, epoch_steps=10, steps=5, samples=320, into_epoch=5)
    assert schedule(progress) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("schedule", "length"),
    [(cosine(0.1, warmup="1 epoch"), "1 epoch"), (cosine(0.1, over="3 epochs"), "3 epochs"), (cosine(0.1, warmup="500 samples"), "500 samples")],
    ids=repr,
)
def test_a_length_that_cannot_be_told_in_steps_is_refused(schedule: Schedule, length: str) -> None:
    with pytest.raises(ConfigError, match=f"'{length}'.* cannot be told .* in steps"):
        schedule(Progress(Duration.parse("100 steps")))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: cosine(0), "peak must be positive, got 0"),
        (lambda: cosine(float("nan")), "peak must be positive, got nan"),
        (lambda: one_cycle(-1), "peak must be positive, got -1"),
        (lambda: one_cycle(1, warmup=0), "warmup must be between 0 and 1"),
        (lambda: one_cycle(1, warmup=1), "warmup must be between 0 and 1"),
        (lambda: cosine(1, warmup="500"), "'500' is not a number of steps"),
        (lambda: linear(1, 0, over="3 parsecs"), "unknown unit 'parsecs'"),
        (lambda: exponential(1, 0.5, every="0 steps"), "'0 steps' must be more than zero"),
    ],
)
def test_a_bad_argument_is_refused_when_the_schedule_is_made(make: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert says in str(caught.value)
