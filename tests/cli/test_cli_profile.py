"""`treadle profile`: files, tables, JSON, exit codes; and what the user trained stays as it was."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guarantees.zygote import Zygote
from treadle.cli.main import main
from treadle.log import figure
from treadle.proof.lives import Program

EXPERIMENT = """
import torch, treadle
from torch import nn

class Busy:
    def __len__(self):
        return 400

    def __getitem__(self, place):
        x = torch.randn(16)
        for _ in range(4000):
            place = (place * 31 + 7) % 1009
        return x, x.sum()

def build():
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1), nn.Flatten(0))

def experiment(config: treadle.Config = treadle.Config(run_dir="results/a", duration="1 epoch", batch_size=8)) -> treadle.Trainer:
    return treadle.Trainer(build, nn.MSELoss(), Busy(), optimizer=torch.optim.Adam, config=config)

def failing(config: treadle.Config = treadle.Config(run_dir="results/a", duration="1 epoch", batch_size=8)) -> treadle.Trainer:
    class Failing(Busy):
        def __getitem__(self, place):
            raise ValueError("a bad sample")
    return treadle.Trainer(build, nn.MSELoss(), Failing(), optimizer=torch.optim.Adam, config=config)
"""
LOOP = """
import sys, torch, treadle
from torch import nn

config = treadle.Config(run_dir="../elsewhere/{n}", duration="20 steps", batch_size=8)
with treadle.Run(config) as run:
    model, optimizer = run.prepare(nn.Linear(4, 1), torch.optim.SGD)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps((torch.ones(32, 4), torch.ones(32, 1))):
        for x, y in step:
            step.backward(nn.functional.mse_loss(model(x), y))
        step.update(optimizer)
print("never reached", open("reached", "w"))
"""
FEW = ["--steps", "6", "--warmup", "1"]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(autouse=True)
def files(zygote: Zygote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The programs, in processes that start at once."""
    monkeypatch.setattr(Program, "_run", lambda self, output, environment: zygote.execute(self.command, environment, output.name))
    (tmp_path / "ex.py").write_text(EXPERIMENT)
    (tmp_path / "my_loop.py").write_text(LOOP)
    (tmp_path / "no_run.py").write_text("print('hello')")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_slow_dataset_is_found_and_three_files_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "ex.py", "seed=3", *FEW]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("6 steps of ") and "on cpu, 1 thread: batches of 8, " in lines[0]
    assert lines[2] == "phase\tms\t%\tpeak MiB"
    assert any(line.startswith("data-bound: ") and "one process takes" in line for line in lines)
    assert lines[-1] == "in profile: profile.json, trace.json (open it in ui.perfetto.dev), timeline.png"
    assert {path.name for path in Path("profile").iterdir()} == {"profile.json", "trace.json", "timeline.png"}
    assert not Path("results").exists()
    found = json.loads(Path("profile/profile.json").read_text())
    assert found["verdict"]["bound"] == "data-bound"
    assert sum(found["phases"].values()) == pytest.approx(found["wall_s"])


def test_the_trace_names_phases_and_operators(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "ex.py", *FEW, "--out", "deep/er"]) == 0
    names = {event.get("name") for event in json.loads(Path("deep/er/trace.json").read_text())["traceEvents"]}
    assert {"treadle: forward", "treadle: backward", "treadle: optimizer", "treadle: waiting for data", "aten::addmm"} <= names
    assert "in deep/er: " in capsys.readouterr().out


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "ex.py", *FEW, "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["warmup"], found["samples"], found["device"], found["out"]) == (6, 1, 48, "cpu", "profile")
    assert [one["name"] for one in found["modules"]] == ["Sequential", "0", "1", "2", "3", "4"]
    assert found["data"]["kind"] == "indexed" and found["data"]["load_s"] > 0


def test_a_loop_of_ones_own_is_ended_where_enough_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(Path())
    assert main(["profile", *FEW, "--json", "--", "python", "my_loop.py"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["kind"] == "tensors"
    assert {name for name in contents(Path()) if not name.startswith("profile/")} == set(before)
    assert not Path("../elsewhere").exists()


def test_a_run_that_was_begun_goes_on_with_the_same_bits(capsys: pytest.CaptureFixture[str]) -> None:
    def train(run_dir: str, duration: str, *more: str) -> Any:
        assert main(["train", "ex.py", f"run_dir={run_dir}", f"duration={duration}", "--json", *more]) == 0
        return contents(Path(json.loads(capsys.readouterr().out)["last"]))

    straight = train("results/straight", "10 steps")
    train("results/cut", "4 steps")
    before = contents(Path("results"))
    assert main(["profile", "ex.py", "run_dir=results/cut", "duration=40 steps", *FEW, "--json"]) == 0
    capsys.readouterr()
    assert contents(Path("results")) == before
    after = train("results/cut", "10 steps", "--accept-changes")
    weights = [name for name in straight if name.endswith(".safetensors")]
    assert weights and [name for name in weights if straight[name] != after[name]] == []


def test_without_matplotlib_an_older_picture_does_not_stay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from treadle.core.errors import UsageError

    def missing() -> None:
        raise UsageError("drawing needs matplotlib")

    monkeypatch.setattr(figure, "figure_class", missing)
    Path("profile").mkdir()
    Path("profile/timeline.png").write_text("old")
    assert main(["profile", "ex.py", *FEW]) == 0
    assert capsys.readouterr().out.endswith("; no timeline.png: pip install 'treadle[plot]'\n")
    assert {path.name for path in Path("profile").iterdir()} == {"profile.json", "trace.json"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "give a file with its values, or a command after --; got neither"),
        (["ex.py", "--steps", "0"], 2, "must be at least 1, got 0"),
        (["nowhere.py"], 1, "there is no file 'nowhere.py'"),
        (
            ["ex.py", "duration=10 steps", *FEW],
            1,
            "the run was over after 10 steps; a profile needs 1 to warm up, 6 to be timed and 5 to be looked into",
        ),
        (["ex.py:failing"], 1, "the program ended with code 1 after step 0: ValueError: a bad sample"),
        (["--", "python", "no_run.py"], 1, "the program made no treadle run"),
        (["ex.py", "--out", "ex.py"], 1, "--out 'ex.py' cannot be made: File exists"),
        (["ex.py", "--device", "cuda:7"], 1, "cuda:7"),
    ],
)
def test_a_mistake_is_a_message(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found = main(["profile", *words])
    except SystemExit as end:
        found = int(end.code or 0)
    err = capsys.readouterr().err
    assert (found, message in err) == (code, True), err
    assert not list(Path().rglob(".treadle-profile-*"))
