"""Asked to stop, a run stops at its next safe point; only a person who asks again stops it at once."""

import os
import signal

import pytest

from treadle.system.signals import StopRequest


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def test_a_scheduler_may_say_it_more_than_once():
    with StopRequest(None).listening() as request:
        send(signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
        assert request.reason == "SIGTERM"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_at_once_where_the_run_was_asked_before(first):
    with StopRequest(None).listening() as request:
        send(first)
        assert request.reason == first.name
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_sigterm_after_ctrl_c_changes_nothing():
    with StopRequest(None).listening() as request:
        send(signal.SIGINT, signal.SIGTERM)
        assert request.reason == "SIGINT"


def test_the_handlers_that_were_there_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(None).listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
