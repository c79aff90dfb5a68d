"""The command line: verbs, overrides, exit codes, and messages in place of tracebacks."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from treadle.cli.main import exit_code, main

EXPERIMENT = """
from dataclasses import dataclass
from functools import partial
from typing import Annotated
import os, signal
import torch, treadle
from annotated_types import Gt
from torch import nn
from treadle.metrics import Accuracy

@dataclass(frozen=True, kw_only=True)
class MyConfig:
    lr: Annotated[float, Gt(0)] = 0.1
    kill: str = ""
    run: treadle.Config = treadle.Config(run_dir="results/a", duration="2 epochs", batch_size=16)

def data(start=0):
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(start))
    return x, (x.sum(1) > 0).long()

def other():
    return data(1)

def experiment(config: MyConfig) -> treadle.Trainer:
    trainer = treadle.Trainer(
        lambda: nn.Linear(4, 2), nn.CrossEntropyLoss(), data(), valid=data(2), config=config,
        optimizer=partial(torch.optim.SGD, lr=config.lr), metrics={"accuracy": Accuracy()},
    )
    if config.kill:
        @trainer.on("step_finished", once=True)
        def ask(run):
            os.kill(os.getpid(), getattr(signal, config.kill))
    return trainer

def without_annotation(config):
    return None

def not_a_trainer(config: MyConfig):
    return 3

def raising(config: MyConfig):
    raise KeyError("mine")
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path) -> Path:
    path = tmp_path / "main_file.py"
    path.write_text(EXPERIMENT)
    return path


def test_train_makes_a_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "main_file.py"]) == 0
    out = capsys.readouterr().out
    assert "finished at epoch 2, step 8; run folder: results/a" in out
    assert "\x1b" not in out, "no colours where there is no terminal"
    record = json.loads(Path("results/a/run.json").read_text())
    assert (record["status"], record["steps"]) == ("finished", 8)
    assert record["origin"].endswith("main_file.py:experiment")


def test_values_come_from_defaults_then_the_file_then_the_line(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("lr: 2e-1\nrun:\n  seed: 5\n  batch_size: 8\n")
    assert main(["train", "main_file.py", "run.seed=6", "--config", "f.yaml", "--quiet", "run.run_dir=results/b"]) == 0
    saved = Path("results/b/config.yaml").read_text()
    assert "lr: 0.2" in saved and "seed: 6" in saved and "batch_size: 8" in saved and "duration: 2 epochs" in saved


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "main_file.py", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_stops_at_the_next_safe_point_and_the_same_command_goes_on(name: str, code: int) -> None:
    assert main(["train", "main_file.py", f"kill={name}", "--quiet"]) == code
    assert json.loads(Path("results/a/run.json").read_text())["reason"] == name
    assert main(["train", "main_file.py", f"kill={name}", "--quiet"]) in (0, code)


def test_the_time_limit_has_its_own_code_and_the_same_command_goes_on() -> None:
    codes = []
    while not codes or codes[-1] != 0:
        codes.append(main(["train", "main_file.py", "run.time_limit=0.000001", "--quiet"]))
        assert len(codes) <= 9
    assert codes == [75] * 7 + [0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "main_file.py", "run.batchsize=3"], "command line: unknown key 'run.batchsize'; did you mean 'run.batch_size'?"),
        (["train", "main_file.py", "lr=-1"], "command line: lr: got -1, must be greater than 0"),
        (["train", "main_file.py", "run.machine.precision=fp17"], "run.machine.precision: got 'fp17', must be 'fp32', 'tf32', 'bf16' or 'fp16'"),
        (["train", "nowhere.py"], "there is no file 'nowhere.py'"),
        (["train", "main_file.py:experimnt"], "has no function 'experimnt'; did you mean 'experiment'?"),
        (["train", "main_file.py:without_annotation"], "must take its config first, annotated with its type"),
        (["train", "main_file.py:not_a_trainer"], "must return a treadle.Trainer, it returned int"),
        (["train", "main_file.py", "--config", "none.yaml"], "cannot read the config file 'none.yaml'"),
        (["evaluate", "nowhere"], "there is no folder 'nowhere'"),
    ],
)
def test_a_mistake_is_a_message_and_not_a_traceback(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_an_exception_of_the_users_code_arrives_unchanged() -> None:
    with pytest.raises(KeyError, match="mine"):
        main(["train", "main_file.py:raising"])


def test_a_misspelt_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


def test_a_finished_run_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "main_file.py", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["train", "main_file.py"]) == 0
    assert "results/a is finished already, at step 8: nothing to train" in capsys.readouterr().out
    assert main(["train", "main_file.py", "run.seed=1", "--quiet"]) == 1
    assert "is over: finished at step 8, with another config" in capsys.readouterr().err
    assert main(["train", "main_file.py", "run.duration=3 epochs", "--quiet", "--accept-changes"]) == 0
    assert json.loads(Path("results/a/run.json").read_text())["steps"] == 12


def test_evaluate_gives_what_training_logged_and_takes_other_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "main_file.py", "--quiet"]) == 0
    logged = json.loads(Path("results/a/metrics.jsonl").read_text().splitlines()[-1])
    assert main(["evaluate", "results/a", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["loss"], scores["accuracy"]) == (logged["valid/loss"], logged["valid/accuracy"])
    assert main(["evaluate", "results/a", "--data", "other", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["loss"] != scores["loss"] and other["data"] == "other"
    assert main(["evaluate", "results/a", "--data", "othr"]) == 1
    assert "did you mean 'other'?" in capsys.readouterr().err


def test_weights_of_a_part_of_the_model_are_evaluated_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "main_file.py", "--quiet"]) == 0
    weights = load_file(sorted(Path("results/a/checkpoints").iterdir())[-1] / "model.safetensors")
    save_file({"bias": weights["bias"]}, "part.safetensors")
    for strict in ([], ["--strict"]):
        assert main(["evaluate", "results/a", "--weights", "part.safetensors", *strict]) == 1
        assert "weight [2, 4]: missing in the checkpoint" in capsys.readouterr().err
    assert main(["evaluate", "results/a", "--weights", "part.safetensors", "--partial", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == "part.safetensors"


AVERAGED = """
def averaged(config: MyConfig) -> treadle.Trainer:
    return treadle.Trainer(
        lambda: nn.Linear(4, 2), nn.CrossEntropyLoss(), data(), valid={"one": data(2), "two": data(3)}, config=config,
        optimizer=partial(torch.optim.SGD, lr=config.lr), handlers=[treadle.EMA(0.9)],
    )
"""


def test_averaged_weights_and_sets_by_name_are_evaluated_and_predicted_with(capsys: pytest.CaptureFixture[str]) -> None:
    Path("main_file.py").write_text(EXPERIMENT + AVERAGED)
    assert main(["train", "main_file.py:averaged", "--quiet"]) == 0
    logged = json.loads(Path("results/a/metrics.jsonl").read_text().splitlines()[-1])
    for weights, prefix in (("last", ""), ("ema", "ema/"), ("last:ema", "ema/")):
        assert main(["evaluate", "results/a", "--weights", weights, "--json"]) == 0
        scores = json.loads(capsys.readouterr().out)
        assert (scores["one/loss"], scores["two/loss"]) == (logged[f"valid/one/{prefix}loss"], logged[f"valid/two/{prefix}loss"])
        assert main(["predict", "results/a", "--weights", weights, "--data", "other", "--to", "out.safetensors"]) == 0
        assert "out.safetensors: outputs of" in capsys.readouterr().out
        found = load_file("out.safetensors")
        state = load_file(sorted(Path("results/a/checkpoints").iterdir())[-1] / f"{'ema' if prefix else 'model'}.safetensors")
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(found["output"], x @ state["weight"].T + state["bias"])
    assert logged["valid/one/ema/loss"] != logged["valid/one/loss"]
    assert main(["evaluate", "results/a", "--weights", "emma"]) == 1
    assert "has no state named 'emma'; did you mean 'ema'?" in capsys.readouterr().err
    assert main(["predict", "results/a", "--to", "out.txt"]) == 1
    assert "unknown ending '.txt'" in capsys.readouterr().err
    assert main(["predict", "results/a", "--to", "out.npy"]) == 1
    assert "there are several datasets (one, two); give one of them" in capsys.readouterr().err
    assert main(["check-data", "main_file.py:averaged"]) == 0
    assert "valid/two" in capsys.readouterr().out


def test_help_and_a_config_error_wait_for_no_torch() -> None:
    code = (
        "import sys\nfrom treadle.cli.main import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
        "from treadle import Config, load_config, errors\n"
        "try: load_config(Config, {'run_dir': 'a'})\nexcept errors.ConfigError: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_ctrl_c_twice_stops_at_once_without_a_traceback() -> None:
    """The second one does not wait for the safe point."""
    slow = "\n@dataclass(frozen=True, kw_only=True)\nclass Own(treadle.Config):\n    run_dir: str = 'results/slow'\n    duration: str = '1 epoch'\n"
    slow += "def slow(config: Own) -> treadle.Trainer:\n"
    slow += "    def objective(model, batch):\n"
    slow += "        if model.training and hasattr(objective, 'checked'):\n"
    slow += "            os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)\n"
    slow += "        objective.checked = True\n"
    slow += "        return nn.functional.cross_entropy(model(batch[0]), batch[1])\n"
    slow += "    return treadle.Trainer(lambda: nn.Linear(4, 2), objective, data(), optimizer=torch.optim.SGD, config=config)\n"
    Path("main_file.py").write_text(EXPERIMENT + slow)
    command = [sys.executable, "-c", "import sys; from treadle.cli.main import main; sys.exit(main(['train', 'main_file.py:slow']))"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("status", "code"),
    [("finished", 0), ("stopped: enough", 0), ("interrupted: SIGINT", 130), ("interrupted: SIGTERM", 143), ("interrupted: time limit", 75)],
)
def test_exit_codes(status: str, code: int) -> None:
    assert exit_code(status) == code
