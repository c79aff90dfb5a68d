"""`treadle prove`: a sound program is proved, and of each fault that is planted the name is found."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guarantees.zygote import Zygote
from treadle.cli.main import main
from treadle.proof.lives import Program
from treadle.proof.prove import Prover
from treadle.system.stage import Stage

PLANTED = Path(__file__).parent / "planted"
FEW = ["--steps", "4", "--kills", "1", "--json"]
LOOP = [sys.executable, str(PLANTED / "my_loop.py")]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.fixture
def forked(zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of the program that start at once: a fault takes a dozen of them."""

    def run(program: Program, output: Any, environment: dict[str, str]) -> int:
        return zygote.execute(program.command, environment, output.name)

    monkeypatch.setattr(Program, "_run", run)


def proved(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> dict:
    assert main(["prove", *words]) == code
    return json.loads(capsys.readouterr().out)


def experiment(name: str, duration: str = "12 steps", more: tuple[str, ...] = ()) -> list[str]:
    return [f"{PLANTED / 'experiments.py'}:{name}", "run_dir=results/{n}", f"duration={duration}", "batch_size=8", *more]


@pytest.mark.slow  # the recipes are proved with forked processes; this one starts real ones
def test_a_loop_that_tracks_everything_is_proved(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["prove", "--steps", "6", "--kills", "3", "--keep", "kept", "--", *LOOP, "sound"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("PROVED: Two undisturbed runs and a run killed with SIGKILL")
    assert all(f"Kill {number}" in text for number in (1, 2, 3))
    assert "6 steps, 48 samples, 48 sample ids, 6 batches, 6 losses" in text
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"undisturbed-1", "undisturbed-2", "killed", "processes"}
    assert not (tmp_path / "results").exists()  # no run goes where the program itself would put it


def test_an_experiment_with_workers_and_fewer_steps_than_asked(capsys: pytest.CaptureFixture[str]) -> None:
    proof = proved(capsys, *experiment("sound", "3 steps", ("machine.workers=1",)), *FEW, code=0)
    assert proof["runs"] == {"results/001": 3}
    assert proof["notes"][0] == "results/001 has only 3 steps: 3 were asked of it, not 4"
    assert len(proof["kills"]) == 1


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("kind", "where", "what"),
    [
        ("counting", "Counting.count", "the dataset keeps state"),
        ("noisy", "Noisy.rng", "seeded by nobody"),
        ("unseeded_global", "experiments.NOISE", "seeded by nobody"),
        ("seeded_global", "experiments.SEEDED", "not tracked"),
        ("racing", "Sequential.1", "called again with the same input"),
        ("weights", "model: 0.weight", "before the first step"),
        ("order", "", "the order of the samples"),
        ("outside", "", "something outside of the program's state"),
        ("dated", "results", "the name of the run folder"),
    ],
)
def test_a_fault_of_an_experiment_is_named(kind: str, where: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    proof = proved(capsys, *experiment(kind), *FEW, code=1)
    assert not proof["proved"]
    assert where in proof["causes"][0]["where"]
    assert what in proof["causes"][0]["what"]
    assert [cause for cause in proof["causes"] if "experiments.NOISE" in cause["where"]] == (
        [proof["causes"][0]] if kind == "unseeded_global" else []
    )


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("kind", "where", "advice"),
    [("generator", "main.noise", "run.track(noise=noise)"), ("scheduler", "main.scheduler", "run.track(scheduler=scheduler)")]
    + [(kind, f"main.{kind}", f"run.track({kind}={kind})") for kind in ("history", "ema")],
)
def test_what_a_loop_forgets_to_track_is_named(kind: str, where: str, advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    proof = proved(capsys, "--steps", "6", "--kills", "1", "--json", "--", *LOOP, kind, code=1)
    assert proof["between"] == "the killed run and the undisturbed one"
    assert proof["causes"][0]["where"] == where
    assert advice in proof["causes"][0]["advice"]


def test_a_program_that_cannot_be_proved_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("nothing.py").write_text("print('no run here')")
    assert main(["prove", "--", sys.executable, "nothing.py"]) == 1
    assert "made no treadle run" in capsys.readouterr().err
    assert main(["prove", *experiment("failing"), *FEW]) == 1
    assert "ValueError: planted" in capsys.readouterr().err
    assert main(["prove", "--", "no-such-command"]) == 1
    assert "cannot start 'no-such-command'" in capsys.readouterr().err
    Path("endless.py").write_text("import time\nwhile True: time.sleep(1)")
    assert main(["prove", "--timeout", "0.2", "--", sys.executable, "endless.py"]) == 1
    assert "took more than 0.2 seconds" in capsys.readouterr().err


def test_a_command_line_has_a_file_or_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove"]) == 2
    assert main(["prove", "a.py", "--", "python", "b.py"]) == 2
    assert main(["prove", "lr=1", "--", "python", "b.py"]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["prove", "a.py", "--steps", "3"])
    assert "must be at least 4, got 3" in capsys.readouterr().err


def test_ctrl_c_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def interrupted(self: Prover) -> None:
        seen.append(self._folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(Prover, "prove", interrupted)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main(["prove", "--", "python", "a.py"]) == 130
    assert [folder.exists() for folder in seen] == [False]


def test_no_child_outlives_its_process(tmp_path: Path) -> None:
    life = Program(["sh", "-c", "sleep 1000 & echo $!; kill -9 $$"], tmp_path).live(Stage(str(tmp_path)))
    stat = Path(f"/proc/{int(life.said)}/stat")
    assert life.code == -9
    for _ in range(100_000):  # it is killed already; the machine may need a moment to take it away
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
    pytest.fail("the child lives on")


def test_a_stage_that_is_none_is_refused() -> None:
    program = "import treadle; treadle.Run(treadle.Config(run_dir='a', duration='1 epoch'))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TREADLE_STAGE": "none.json"}, capture_output=True, text=True, check=False
    )
    assert "UsageError: TREADLE_STAGE is 'none.json'" in done.stderr
