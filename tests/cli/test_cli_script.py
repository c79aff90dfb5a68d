"""`treadle.main` and `treadle train`: a function with a config is a command line, with its keys, its messages and its exit codes."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated

import pytest
import torch
from annotated_types import Gt
from torch import nn

import treadle
from treadle.cli.main import main as program


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    width: int = 3
    """How wide it is."""


@dataclass(frozen=True, kw_only=True)
class MyConfig(treadle.Config):
    run_dir: str = "results/a"
    duration: str = "2 epochs"
    batch_size: int = 8
    lr: Annotated[float, Gt(0)] = 0.1
    """How fast it learns."""
    kill: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)


def fit(config: MyConfig) -> treadle.Result:
    """Train something small.

    More than one line."""
    data = torch.zeros(24, 3), torch.zeros(24, 1)
    trainer = treadle.Trainer(
        lambda: nn.Sequential(nn.Linear(3, config.model.width), nn.Linear(config.model.width, 1)), nn.MSELoss(), data,
        optimizer=partial(torch.optim.SGD, lr=config.lr), config=config,
    )  # fmt: skip
    if config.kill:
        trainer.on("step_finished", once=True)(lambda run: os.kill(os.getpid(), getattr(signal, config.kill)))
    return trainer.fit()


def end(function, *words):
    """The exit code of a script."""
    with pytest.raises(SystemExit) as caught:
        treadle.main(function, list(words))
    return caught.value.code


def config_of(*words):
    """The config with which a script calls its function."""
    seen = []

    def keep(config: MyConfig):
        seen.append(config)

    assert end(keep, *words) == 0
    return seen[0]


@pytest.fixture(autouse=True)
def called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["src/main.py"])


# --- values ---


def test_defaults_give_way_to_files_and_files_to_the_line():
    Path("one.yaml").write_text("lr: 0.2\nseed: 1\nmodel:\n  width: 4\n")
    Path("two.yaml").write_text("seed: 2\nclip: 1e-1\n")
    assert config_of() == MyConfig()
    config = config_of("clip=0.5", "--config", "one.yaml", "machine.workers=1", "--config", "two.yaml", "model.width=5")
    assert config == MyConfig(lr=0.2, seed=2, clip=0.5, model=ModelConfig(width=5), machine=treadle.MachineConfig(workers=1))


def test_a_default_of_the_parameter_takes_the_place_of_the_types_own():
    seen = []

    def train(config: treadle.Config = treadle.Config(run_dir="mine", duration="3 steps", seed=4)):  # noqa: B008
        seen.append(config)

    assert end(train, "seed=5") == 0
    assert (seen[0].run_dir, seen[0].duration, seen[0].seed) == ("mine", "3 steps", 5)


def test_the_words_of_the_process_are_taken_unless_others_are_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["src/main.py", "lr=0.3"])
    seen = []

    def keep(config: MyConfig):
        seen.append(config.lr)

    for words in (None, []):
        with pytest.raises(SystemExit):
            treadle.main(keep, words)
    assert seen == [0.3, 0.1]


# --- how it ends ---


def test_a_run_that_finishes_says_so_and_ends_with_0(capsys):
    assert end(fit, "lr=0.2") == 0
    assert "finished at epoch 2, step 6; run folder: results/a\n" in capsys.readouterr().out
    assert "lr: 0.2" in Path("results/a/config.yaml").read_text()


def test_quiet_is_quiet(capsys):
    assert end(fit, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_has_its_own_code_and_the_same_command_goes_on(name, code, capsys):
    assert end(fit, f"kill={name}") == code
    assert f"interrupted: {name} at epoch 0, step 1; run folder: results/a; start the same command again to go on" in capsys.readouterr().out
    assert end(fit, f"kill={name}") == 0 and "going on after step 1" in capsys.readouterr().out


def test_the_time_limit_has_its_own_code_and_the_same_command_goes_on():
    assert [end(fit, "time_limit=1e-6", "--quiet") for _ in range(6)] == [75, 75, 75, 75, 75, 0]


def test_an_experiment_that_is_returned_is_trained(capsys):
    def experiment(config: MyConfig):
        data = (torch.randn(48, 4), torch.randn(48, 1))
        return treadle.Trainer(partial(nn.Linear, 4, 1), nn.MSELoss(), data, optimizer=partial(torch.optim.SGD, lr=config.lr), config=config)

    assert end(experiment) == 0
    assert "finished at epoch 2" in capsys.readouterr().out


@pytest.mark.parametrize("returned", [None, 3, "text"])
def test_what_a_function_returns_is_its_own_business(returned):
    def other(config: MyConfig):
        return returned

    assert end(other) == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["batchsize=3"], 1, "main.py: command line: unknown key 'batchsize'; did you mean 'batch_size'?"),
        (["model.widht=3"], 1, "unknown key 'model.widht'; did you mean 'model.width'?"),
        (["lr=-1"], 1, "main.py: command line: lr: got -1, must be greater than 0"),
        (["--config", "none.yaml"], 1, "cannot read the config file 'none.yaml'"),
        (["--lr", "0.1"], 2, "main.py: unrecognized '--lr'; a value of the config is given as lr=...\n  more: main.py --help"),
        (["--lr=0.1"], 2, "a value of the config is given as lr=..."),
        (["--quite"], 2, "unrecognized '--quite'; did you mean '--quiet'?"),
        (["lr"], 2, "unrecognized 'lr'; a value of the config is given as lr=..."),
    ],
)
def test_a_mistake_is_a_message_before_the_function_is_called(words, code, message, capsys):
    def never(config: MyConfig):
        raise AssertionError("called")

    assert end(never, *words) == code
    out, err = capsys.readouterr()
    assert message in err and out == "" and "Traceback" not in err


def test_a_run_that_is_refused_ends_with_1_and_a_message(capsys):
    assert end(fit, "--quiet") == 0
    assert end(fit, "seed=1") == 1
    err = capsys.readouterr().err
    assert "main.py: the run in 'results/a' is over: finished at step 6, with another config\n  seed: 0 -> 1" in err and "Traceback" not in err


@pytest.mark.parametrize("function", [lambda config: None, lambda: None, lambda config=3: None], ids=["bare", "nothing", "default"])
def test_a_function_without_a_config_type_is_told_how_to_write_it(function, capsys):
    assert end(function) == 1
    assert "main.py must take its config first, annotated with its type: `def <lambda>(config: treadle.Config)`" in capsys.readouterr().err


def test_an_exception_of_ones_own_arrives_as_it_is():
    mine = KeyError("mine")

    def raising(config: MyConfig):
        raise mine

    with pytest.raises(KeyError) as caught:
        treadle.main(raising, [])
    assert caught.value is mine and not hasattr(mine, "__notes__")


def test_ctrl_c_twice_ends_at_once_without_a_traceback():
    Path("twice.py").write_text(
        "import os, signal, torch, treadle\n"
        "def train(config: treadle.Config):\n"
        "    with treadle.Run(config) as run:\n"
        "        for step in run.steps():\n"
        "            os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)\n"
        "            raise AssertionError('the second one was not heard')\n"
        "treadle.main(train)\n"
    )
    done = subprocess.run(
        [sys.executable, "twice.py", "run_dir=run", "duration=5 steps", "checkpoint.every=1 step", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "twice.py: stopped at once\n")
    assert json.loads(Path("run/run.json").read_text())["status"] == "interrupted"


# --- help ---


def key_lines(page):
    """Each key of a help page with what follows its name."""
    return {
        line.split("=")[0].strip(): line.split("=", 1)[1]
        for line in page.partition("as key=value:")[2].splitlines()
        if line.startswith("  ") and "(" in line and "=" in line.split()[0]
    }


def test_help_lists_every_key_with_what_it_may_be_its_default_and_its_meaning(capsys):
    def never(config: MyConfig):
        """Train something small."""
        raise AssertionError("called")

    assert end(never, "lr=0.1", "--help") == 0
    page = capsys.readouterr().out
    assert page.startswith("usage: main.py [key=value ...] [options]\n\nTrain something small.\n")
    keys = key_lines(page)
    assert keys["lr"] == "number > 0   (default 0.1)" and "\n      How fast it learns.\n" in page
    assert keys["model.width"] == "integer   (default 3)" and "\n      How wide it is.\n" in page
    assert keys["run_dir"] == "text   (default results/a)" and keys["kill"] == "text   (default '')"
    assert keys["machine.device"] == "text   (default auto)"
    saved = treadle.load_config(MyConfig)
    sections = ("machine", "data", "evaluate", "checkpoint", "log", "model")
    expected = {entry.name for entry in fields(saved) if entry.name not in sections}
    expected |= {f"{section}.{entry.name}" for section in sections for entry in fields(getattr(saved, section))}
    assert set(keys) == expected


def test_help_says_which_keys_must_be_given(capsys):
    def train(config: treadle.Config):
        raise AssertionError("called")

    assert end(train, "-h") == 0
    keys = key_lines(capsys.readouterr().out)
    assert [name for name, rest in keys.items() if rest.endswith("(must be given)")] == ["run_dir", "duration"]


FILE = """
import torch, treadle
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Own(treadle.Config):
    run_dir: str = "results/b"
    duration: str = "2 steps"
    depth: int = 4
    '''How deep it is.'''

def experiment(config: Own) -> treadle.Trainer:
    data = torch.zeros(24, 3), torch.zeros(24, 1)
    return treadle.Trainer(lambda: torch.nn.Linear(3, 1), torch.nn.MSELoss(), data, optimizer=torch.optim.SGD, config=config)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """An experiment's file; what importing it leaves behind is cleared away."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_experiment.py").write_text(FILE)
    yield "own_experiment.py"
    sys.modules.pop("own_experiment", None)


@pytest.mark.parametrize("before", [[], ["seed=1"], ["--config", "some.yaml"]], ids=["alone", "after a value", "after an option"])
def test_train_file_help_lists_the_keys_of_its_config(file, before, capsys):
    Path("some.yaml").write_text("seed: 3\n")
    assert program(["train", *before, file, "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("usage: treadle train FILE[:function] [key=value ...] [options]")
    assert key_lines(page)["depth"] == "integer   (default 4)" and "How deep it is." in page
    assert key_lines(page)["duration"] == "length   (default 2 steps)"
    assert not Path("results").exists()


@pytest.mark.parametrize("again", [False, True], ids=["a run", "a finished run"])
def test_train_file_json_prints_exactly_one_object(file, again, capsys):
    for _ in range(1 + again):
        capsys.readouterr()
        assert program(["train", file, "--json", "log.every=1 step"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == "" and out.count("\n") == 1
    assert (result["status"], result["steps"], result["run_dir"], result["best"]) == ("finished", 2, "results/b", None)
    assert result["last"].endswith("checkpoints/step-000002") and result["metrics"]["train/loss"] >= 0
