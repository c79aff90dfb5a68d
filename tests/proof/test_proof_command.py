"""A program is started as it was: variables that were not set then are not set, and no signal leaves anything behind."""

import os
import signal
from pathlib import Path

import pytest

from records import environment, record
from treadle.cli.main import main
from treadle.proof.command import ended_by_signals, variables_of
from treadle.proof.lives import Program
from treadle.proof.prove import Prover
from treadle.system.stage import Stage


def test_a_computing_variable_of_today_is_taken_away_and_places_stay(monkeypatch):
    for name in ("NVIDIA_TF32_OVERRIDE", "TORCH_HOME", "MKL_CBWR", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "9")
    facts = record(environment=environment(threads=3, variables={"MKL_CBWR": "COMPATIBLE", "KMP_KEY": "(withheld)"}))
    found = variables_of(facts, str)
    assert found["NVIDIA_TF32_OVERRIDE"] is None and found["MKL_CBWR"] == "COMPATIBLE" and found["OMP_NUM_THREADS"] == "3"
    assert "TORCH_HOME" not in found
    assert "NVIDIA_TF32_OVERRIDE" not in variables_of(record(environment={}), str)  # nobody knows what was set then


def test_a_variable_that_is_none_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "1")
    life = Program(["sh", "-c", "echo ${MKL_CBWR-gone}"], tmp_path).live(Stage(str(tmp_path)), {"MKL_CBWR": None})
    assert life.said == "gone\n"


@pytest.fixture
def handlers():
    """Those of the tests themselves, put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_puts_everything_back_and_a_second_one_does_not_disturb(handlers, number):
    seen = []
    with pytest.raises(SystemExit) as ended, ended_by_signals():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            seen.append("put back")
    assert ended.value.code == 128 + number and seen == ["put back"]
    assert {one: signal.getsignal(one) for one in handlers} == handlers


def test_under_nohup_a_hangup_is_nobodys_business(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ended_by_signals():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_prove_that_keeps_its_folder_ends_by_a_signal_as_without(monkeypatch, number):
    monkeypatch.setattr(Prover, "prove", lambda self: os.kill(os.getpid(), number))
    for words in ([], ["--keep", "kept"]):
        with pytest.raises(SystemExit) as ended:
            main(["prove", *words, "--", "python", "a.py"])
        assert ended.value.code == 128 + number
    assert Path("kept").is_dir()
