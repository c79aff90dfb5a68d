"""`treadle find-lr`: table, JSON, picture."""

import json
from pathlib import Path

import pytest

from treadle.cli.main import main

EXPERIMENT = """
import torch, treadle
from functools import partial
from torch import nn

def experiment(config: treadle.Config = treadle.Config(run_dir="results/a", duration="1 epoch", batch_size=16)) -> treadle.Trainer:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    data, sgd = (x, x.sum(1, keepdim=True)), partial(torch.optim.SGD, lr=0.1)
    return treadle.Trainer(lambda: nn.Linear(4, 1), nn.MSELoss(), data, optimizer=sgd, config=config)
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path) -> None:
    (tmp_path / "ex.py").write_text(EXPERIMENT)


def test_a_table_and_where_the_loss_falls_fastest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-lr", "ex.py", "--low", "1e-4", "--plot", "lr.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["the loss on the way up", "lr\tloss\tsmoothed"]
    assert lines[2].startswith("0.0001\t") and len(lines) == 2 + 12 + 2
    assert lines[-2].startswith("the loss falls fastest at lr=0.") and "it exploded at" in lines[-2]
    assert lines[-1] == "drawn in lr.png" and Path("lr.png").stat().st_size > 1000
    assert not Path("results").exists()


def test_json_and_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-lr", "ex.py", "seed=3", "--steps", "20", "--high", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"lrs", "losses", "smoothed", "suggestion", "diverged"} and len(found["lrs"]) <= 20
    assert main(["find-lr", "ex.py", "seed=4", "--steps", "20", "--high", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["losses"] != found["losses"]


def test_what_cannot_be_meant_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-lr", "ex.py", "--low", "2", "--high", "1"]) == 1
    assert "low and high must be positive, and low the smaller one, got 2.0 and 1.0" in capsys.readouterr().err
    assert main(["find-lr", "ex.py", "--optimizer", "G"]) == 1
    assert "there is no optimizer 'G'; this trainer has one, without a name" in capsys.readouterr().err
