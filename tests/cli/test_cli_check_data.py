"""`treadle check-data`: tables, JSON, exit codes."""

import json
from pathlib import Path

import pytest

from treadle.cli.main import main

EXPERIMENT = """
import torch, treadle
from functools import partial
from torch import nn

def rows(start, count):
    x = torch.arange(float(start), start + count)[:, None].expand(-1, 16) * torch.linspace(-1, 1, 16).sin()
    return x.clone(), torch.zeros(count, dtype=torch.int64)

def test_set():
    return rows(95, 10)

def raw():
    return rows(500, 3)

def stream():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            raise AssertionError("must not be read")
    return Stream()

def experiment(config: treadle.Config = treadle.Config(run_dir="results/a", duration="1 epoch")) -> treadle.Trainer:
    return treadle.Trainer(lambda: nn.Linear(16, 2), nn.CrossEntropyLoss(), rows(1, 99), valid=rows(200, 20),
                           optimizer=partial(torch.optim.SGD, lr=0.1), config=config)

def alone(config: treadle.Config = treadle.Config(run_dir="results/a", duration="1 epoch")) -> treadle.Trainer:
    return treadle.Trainer(lambda: nn.Linear(16, 2), nn.CrossEntropyLoss(), rows(1, 99),
                           optimizer=partial(torch.optim.SGD, lr=0.1), config=config)
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path) -> None:
    (tmp_path / "ex.py").write_text(EXPERIMENT)


def test_splits_that_are_apart_are_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "ex.py"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["splits", "split\tdata\titem\titems\tread\trandom\trepeated inside"]
    assert lines[2] == "train\ttensors\t(float32[16], int64[])\t99\t99\tno\t0"
    assert lines[-1].startswith("no item is in two splits; read 99 of 99 train, 20 of 20 valid items in ")
    assert not Path("results").exists(), "nothing is trained, and no folder made"


def test_leaks_are_code_1_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "ex.py", "seed=3", "--test", "test_set", "--test", "raw"]) == 1
    out = capsys.readouterr().out
    assert "in two splits\nsplits\twhat\titems\tsuch as\ntrain = test_set\tsame item\t5\t94 = 0, 95 = 1, 96 = 2, 97 = 3, 98 = 4\n" in out
    assert "\nraw\ttensors\t" in out


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "ex.py", "--test", "test_set", "--near", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] is True
    assert found["pairs"][0]["matches"][0] == [94, 0]
    assert found["coverage"]["test_set"] == {"read": 10, "total": 10, "random": False, "repeated": 0}
    assert found["fingerprints"]["train"]["length"] == 99
    assert found["near"]["pairs"][0]["score"] > 0.99


def test_near_has_a_table_of_its_own_and_is_no_leak(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "ex.py", "--near"]) == 0
    assert "nearly the same\nitem\titem\tcorrelation\ntrain " in capsys.readouterr().out


def test_quiet_shows_leaks_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "ex.py", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_what_cannot_be_compared_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "ex.py", "--test", "stream", "--near"]) == 0
    out = capsys.readouterr().out
    assert "stream cannot be compared: Stream is streamed" in out
    assert "no item was found in two splits, of those that could be compared" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["ex.py:alone"], 1, "nothing to compare the training data with"),
        (["ex.py", "--test", "test_st"], 1, "has no function 'test_st'; did you mean 'test_set'?"),
        (["ex.py", "--limit", "soon"], 2, "'90 minutes' or '2 hours'"),
        (["ex.py", "data.leaks=wrn"], 1, "must be 'warn', 'refuse' or 'off'"),
        (["nowhere.py"], 1, "there is no file 'nowhere.py'"),
    ],
)
def test_a_mistake_is_a_message(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found = main(["check-data", *words])
    except SystemExit as end:
        found = int(end.code or 0)
    assert (found, message in capsys.readouterr().err) == (code, True)


def test_a_limit_may_be_given() -> None:
    assert main(["check-data", "ex.py", "--limit", "60 seconds", "--quiet"]) == 0
