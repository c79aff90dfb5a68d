"""Each recipe learns on real data; killed and started again, it leaves the same bits. A new recipe is a new row of the table."""

import json
import runpy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import treadle
from guarantees.zygote import Zygote
from treadle.cli.main import main
from treadle.proof.lives import Program

RECIPES = Path(__file__).parents[2] / "recipes"
QUIET = ("run_dir=run", "log.console=quiet", "log.tensorboard=false")


@dataclass(frozen=True)
class Learns:
    """What a recipe reaches in a short run.

    Args:
        value: a name in the journal.
        least: the last such value is at least this; None where it has to become small.
        most: the last such value is at most this.
        words: overrides that make the run short.
        proof: overrides for the run that is killed.
        leaves: a file in the run folder.
        own_loop: it is a program with a `main`, and no experiment.
    """

    value: str
    words: tuple[str, ...]
    least: float = float("-inf")
    most: float = float("inf")
    proof: tuple[str, ...] = ()
    leaves: str = "metrics.jsonl"
    own_loop: bool = False


TABLE = {
    "dcgan": Learns("valid/frechet", most=15.0, words=("duration=60 steps", "width=8", "lr=2e-3"), proof=("batch_size=8",), leaves="samples.png"),
    "vae": Learns("valid/nll", most=180.0, words=("duration=200 steps", "warmup=60 steps"), leaves="samples.png"),
    "siamese": Learns("valid/right", least=0.93, words=("duration=5 epochs",)),
    "distill": Learns("valid/accuracy", least=0.75, words=("duration=10 epochs", "teacher_duration=5 epochs", "soft=1.0")),
    "finetune": Learns(
        "valid/accuracy", least=0.7, words=("duration=12 epochs", "pretraining=3 epochs", "unfreeze=3 epochs"), proof=("unfreeze=3 steps",)
    ),
    "sam": Learns("valid/accuracy", least=0.85, words=("duration=20 epochs",)),
    "mixup": Learns("valid/accuracy", least=0.8, words=("duration=6 epochs",)),
    "char_lm": Learns("valid/bits", most=3.8, words=("duration=200 steps", "batch_size=16", "context=64", "width=64", "layers=1", "lr=1e-2")),
    "reinforce": Learns("train/reward", least=100.0, words=("duration=22 steps",), own_loop=True),
    "lbfgs": Learns("train/grad_norm", most=1e-4, words=()),
    "tbptt": Learns("train/bits", most=3.8, words=("duration=150 steps", "width=64")),
}


def train(name: str, *words: str) -> int:
    """Run a recipe in this process, as its command line does; gives the exit code."""
    path = str(RECIPES / f"{name}.py")
    if not TABLE[name].own_loop:
        return main(["train", path, *words])
    with pytest.raises(SystemExit) as end:
        treadle.main(runpy.run_path(path)["main"], words)
    return int(end.value.code or 0)


@pytest.mark.parametrize("name", TABLE)
def test_it_learns(name: str) -> None:
    learns = TABLE[name]
    assert train(name, *QUIET, *learns.words) == 0
    last = [row[learns.value] for row in treadle.read_journal("run") if learns.value in row][-1]
    print(f"{name}: {learns.value} {last:.4f}")
    assert learns.least <= last <= learns.most
    assert (Path("run") / learns.leaves).stat().st_size > 0


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote("PIL.Image", "sklearn.datasets", "treadle_mnist", "gymnasium", "treadle.cli.train") as zygote:
        yield zygote


@pytest.mark.parametrize("name", TABLE)
def test_killed_and_started_again_it_leaves_the_same_bits(
    name: str, zygote: Zygote, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(program: Program, output: Any, environment: dict[str, str]) -> int:
        return zygote.execute(program.command, environment, output.name)

    monkeypatch.setattr(Program, "_run", run)
    program = [str(RECIPES / f"{name}.py"), *TABLE[name].words, *TABLE[name].proof, "duration=6 steps"]
    program = ["--", sys.executable, *program] if TABLE[name].own_loop else program
    assert main(["prove", "--steps", "6", "--kills", "1", "--json", *program]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof["proved"] and len(proof["kills"]) == 1


def test_without_the_game_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(SystemExit, match="gymnasium is not installed, and the game is in there: pip install gymnasium"):
        runpy.run_path(str(RECIPES / "reinforce.py"))


def test_the_state_of_truncated_backpropagation_goes_on_and_is_in_the_checkpoint() -> None:
    recipe = runpy.run_path(str(RECIPES / "tbptt.py"))
    assert train("tbptt", *QUIET, "duration=3 steps", "width=8", "batch_size=4", "window=16") == 0
    reader = recipe["Reader"](4, 8)
    treadle.load_weights(Path("run/checkpoints/step-000003"), reader)
    windows, stream, goes_on = recipe["streams"](recipe["TRAIN"], 4, 16).dataset
    assert goes_on.tolist()[:12] == 4 * [False] + 8 * [True] and stream.tolist()[:12] == 3 * [0, 1, 2, 3]
    assert torch.equal(windows[4:8, 0], windows[0:4, -1])  # each stream goes on where its last window ended
    saved = reader.state.clone()
    assert saved.abs().min() > 0
    _ = reader(windows[12:16, :-1], stream[12:16], goes_on[12:16])
    assert not torch.equal(saved, reader.state)
