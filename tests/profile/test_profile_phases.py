"""The clock: what is innermost gets the time, and all of it adds up."""

import itertools
import random

import pytest

from treadle.profile.phases import BACKWARD, CHECKPOINT, EVALUATION, LOGGING, METRICS, OTHER, PHASES, WAIT, Clock, spans, totals
from treadle.profile.times import Stamp, Times


def test_the_innermost_phase_gets_the_time_and_nothing_is_lost() -> None:
    chance, seconds = random.Random(0), itertools.accumulate(itertools.count(1))
    clock = Clock(lambda: float(next(seconds)))
    clock.start()
    depth = 0
    for _ in range(500):
        if depth and chance.random() < 0.5:
            clock.leave()
            depth -= 1
        else:
            clock.enter(chance.choice(list(PHASES)))
            depth += 1
    clock.stop()
    sums = totals(spans(clock.marks))
    assert sum(sums.values()) == clock.marks[-1][1] - clock.marks[0][1]
    assert set(sums) <= set(PHASES)


@pytest.mark.parametrize("whole", [EVALUATION, CHECKPOINT])
def test_an_evaluation_and_a_checkpoint_keep_what_happens_inside(whole: str) -> None:
    seconds = itertools.count()
    clock = Clock(lambda: float(next(seconds)))
    clock.start()
    with clock.phase(whole), clock.phase(WAIT), clock.phase(LOGGING):
        assert clock.top == whole
    with clock.phase(METRICS), clock.phase(LOGGING):
        assert clock.top == LOGGING
    clock.stop()
    assert set(totals(spans(clock.marks))) == {OTHER, whole, METRICS, LOGGING}


def test_the_base_is_what_is_done_where_nothing_else_is() -> None:
    changes: list[tuple[str, str]] = []
    clock = Clock()
    clock.changed = lambda before, after: changes.append((before, after))
    with clock.phase(BACKWARD):
        clock.base(WAIT)
    assert changes == [(OTHER, BACKWARD), (BACKWARD, WAIT)]


class Reached:
    """An event of a device that is late."""

    def __init__(self, at_ms: float) -> None:
        self.at_ms, self.waited = at_ms, False

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, other: "Reached") -> float:
        return other.at_ms - self.at_ms


def test_on_a_device_its_own_times_count_and_only_the_last_event_is_waited_for() -> None:
    import torch

    events = [Reached(5.0), Reached(25.0), Reached(125.0)]
    given = iter(events)
    times = Times(torch.device("cpu"), now=itertools.count().__next__, event=lambda: next(given))
    stamps = [times.stamp() for _ in events]
    assert [stamp.host for stamp in stamps] == [0, 1, 2]
    assert times.seconds(stamps) == [0.0, 0.02, 0.12]
    assert [event.waited for event in events] == [False, False, True]


def test_on_the_host_its_clock_counts() -> None:
    import torch

    assert Times(torch.device("cpu")).seconds([Stamp(2.0), Stamp(2.5)]) == [0.0, 0.5]
    assert Times(torch.device("cpu")).seconds([]) == []
