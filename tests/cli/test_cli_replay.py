"""`treadle replay`: the step that failed is made again from its capsule, and the module where it went wrong is named."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from treadle.cli.main import main
from treadle.cli.replay import _capsule, _rows
from treadle.proof.replay import Replay

PROGRAM = '''\
import os, sys
import torch
from torch import nn
import treadle

KIND = sys.argv[1]

class Last(nn.Module):
    """Goes wrong the third time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("times", torch.zeros(()))

    def forward(self, x):
        self.times += 1
        if self.times < 3 or KIND == "data":
            return x
        if KIND == "raises":
            raise RuntimeError(f"too hot: {object()}")
        return torch.log(x - 1e6) if KIND == "forward" else x + torch.sqrt(x * 0)

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        x = torch.full((3,), float(index))
        if KIND == "data":
            x += int.from_bytes(os.urandom(4), "big") / 2**32
            x[1] = float("nan") if index == 5 else 0.0
        return x, torch.ones(1)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), Last()

    def forward(self, x):
        return self.last(self.first(x))

config = treadle.Config(
    run_dir=f"results/{KIND}", duration="1 epoch", batch_size=2, machine=treadle.MachineConfig(device="cpu"),
    log=treadle.LogConfig(console="quiet", tensorboard=False), skip_non_finite=10 if KIND == "data" else 0,
)
with treadle.Run(config) as run:
    net, other = nn.Sequential(Block(), nn.Dropout(0.5), nn.Linear(3, 1)), nn.Linear(1, 1)
    optimizer = torch.optim.SGD([*net.parameters(), *other.parameters()], lr=1e-3)
    run.track(net=net, other=other, optimizer=optimizer)
    for step in run.steps(Data()):
        for x, y in step:
            step.backward(nn.functional.mse_loss(other(net(x)), y))
        step.update(optimizer)
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    (root / "loop.py").write_text(PROGRAM)
    for kind in ("forward", "backward", "raises", "data"):
        subprocess.run([sys.executable, "loop.py", kind], cwd=root, check=False, capture_output=True)
    return root


@pytest.fixture
def project(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def told(capsys, *words, code=0):
    assert main(["replay", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_module_that_first_gave_nan_is_named(project, capsys):
    found = told(capsys, "results/forward", "--anomaly")
    assert found["step"] == 3 and found["same"] and found["now"] == found["before"] and found["batch"] == "the same" and found["changed"] == []
    assert found["found"][0].startswith("forward: net.0.last (Last) is the first to give NaN; its input was finite")


def test_the_module_whose_gradient_went_wrong_is_named(project, capsys):
    found = told(capsys, "results/backward", "--anomaly")
    assert found["same"] and "gradient" in found["now"] and found["gradients"] == ["net.0.first.weight", "net.0.first.bias"]
    assert found["found"] == ["backward: net.0.last (Last) is the first to give back, to its input, NaN"]


def test_the_batch_of_the_capsule_is_used_where_the_data_gives_another(project, capsys):
    found = told(capsys, "results/data", "--anomaly")
    assert found["same"] and found["batch"] == "another" and 5 in found["ids"]
    assert found["found"][0] == "batch: it holds values that are not finite itself, in sample 5"
    assert found["found"][1].startswith("forward: net.0.first (Linear)")


def test_an_error_of_the_programs_own_fails_as_it_did_and_goes_through_where_it_was_mended(project, capsys):
    assert main(["replay", "results/raises"]) == 0
    text = capsys.readouterr().out
    assert "step 3 of results/raises: it fails as it did" in text and "loop.py:20, in forward" in text
    (project / "loop.py").write_text(PROGRAM.replace("self.times < 3", "self.times < 99"))
    try:
        assert main(["replay", "results/raises"]) == 1
        text = capsys.readouterr().out
    finally:
        (project / "loop.py").write_text(PROGRAM)
    assert "it goes through this time" in text and "no error" in text and "the code is not that of the run: loop.py" in text


def test_the_newest_capsule_is_the_one_that_was_written_last(tmp_path):
    for number, step in enumerate((4, 40, 7)):  # steps were made again after an older checkpoint
        place = tmp_path / f"capsules/step-{step:06d}"
        place.mkdir(parents=True)
        os.utime(place, (number, number))
    assert _capsule(str(tmp_path)).name == "step-000007"


def test_generators_and_buffers_that_are_not_certain_are_both_named():
    rows = _rows(Replay(3, "NonFiniteLoss: x", doubtful=["torch"], doubtful_buffers=["net.0.times"]), searched=False)
    uncertain = [words for name, words in rows if name == "not certain"]
    assert "torch" in uncertain[0] and "net.0.times" in uncertain[1]


def test_what_is_no_capsule_is_a_message_and_nothing_runs(project, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(project / "results/forward", run)
    (capsule,) = (run / "capsules").iterdir()
    alone = tmp_path / "alone/capsules" / capsule.name
    shutil.copytree(capsule, alone)
    os.truncate(capsule / "batch.safetensors", 20)
    wrong = {
        "results/nix": "is no capsule, and no run with one",
        "results": "is no capsule, and no run with one",
        str(alone): "is not in the folder of its run",
        str(run): "batch.safetensors",
    }
    for name, words in wrong.items():
        assert main(["replay", name]) == 1
        out, err = capsys.readouterr()
        assert out == "" and words in err and "Traceback" not in err, (name, err)
