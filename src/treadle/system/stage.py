"""How a command directs a program that it starts: `treadle prove` runs a user's own program, unchanged, again and again.

The command writes a `Stage` into a file, names the file in the environment variable TREADLE_STAGE, and starts the program. Each
`Run` that the program makes reads it when it is made: it goes below the stage's folder, says nothing, stops early, and is attended
by `treadle.proof.attend`. Nobody sets this by hand; where the variable is not there, a run does nothing of it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from treadle.config.schema import run_config, with_config
from treadle.core.errors import UsageError

VARIABLE = "TREADLE_STAGE"
T = TypeVar("T")


@dataclass(frozen=True)
class Kill:
    """Where a process ends its own life with kill -9.

    Args:
        kind: "after step" `number`; "in save": at file operation `call`, counted from the first save of step `number` or a later one;
            "in step": after `share` of step `number`, from another thread.
        number: a step.
        call: a file operation, from 1.
        share: of a step's time, from 0 to 1.
        run: only in the run of this folder, relative to the stage's; in any run unless told.
    """

    kind: Literal["after step", "in save", "in step"]
    number: int
    call: int = 1
    share: float = 0.5
    run: str = ""


@dataclass(frozen=True)
class Inspect:
    """What to write down for a search for causes.

    Args:
        path: the file that lines are added to.
        saved_step: write down every object at the checkpoint of this step, and end the process there; 0 does not.
        trace_step: write down what each module gives in this step; 0 does not.
        run: the run that it is about, relative to the stage's folder.
    """

    path: str
    saved_step: int = 0
    trace_step: int = 0
    run: str = ""


@dataclass(frozen=True)
class Profiled:
    """How a run is profiled, see `treadle.profile`.

    Args:
        folder: where the report and the trace are written.
        steps: steps that are timed.
        warmup: steps before them.
        device: where it is computed; None leaves that of the config.
    """

    folder: str
    steps: int = 20
    warmup: int = 3
    device: str | None = None


@dataclass(frozen=True)
class Explained:
    """What is to be told of a run before it begins, see `treadle.explain`.

    Args:
        path: where the timeline is written.
        epoch: which one, from 1.
    """

    path: str
    epoch: int = 1


@dataclass(frozen=True)
class Stage:
    """What a directed program does otherwise.

    Args:
        folder: every run folder is placed below it.
        stop_after: steps after which each run is stopped and saved; None leaves its duration.
        interrupt: whether such a stop is one after which the run would go on, as a signal's.
        run_dir: the folder of the run, whatever it asks for; None leaves it to `place`.
        replay: whether the run makes one step of a capsule again.
        capsule: the capsule's folder, where it holds a batch.
        anomaly: whether to find the module that first gives a value that is not finite.
        checkpoint_every: cadence of checkpoints; None leaves that of the config.
        workers: loading processes; None leaves them.
        kill: where it ends its own life.
        witness: whether each step is written down in `witness.jsonl` of the run folder.
        inspect: what to write down for a search for causes.
        profile: how the first run that goes on for long enough is profiled; it ends the process.
        explain: what to tell of the first run, in place of its steps; it ends the process.
        report: a file that says which runs began, where, and what ended them: a JSON object a line.
    """

    folder: str
    stop_after: int | None = None
    interrupt: bool = False
    run_dir: str | None = None
    replay: bool = False
    capsule: str = ""
    anomaly: bool = False
    checkpoint_every: str | None = None
    workers: int | None = None
    kill: Kill | None = None
    witness: bool = False
    inspect: Inspect | None = None
    profile: Profiled | None = None
    explain: Explained | None = None
    report: str | None = None

    def save(self, path: Path) -> None:
        """Write it to a file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def place(self, run_dir: str) -> str:
        """Where a run goes that asks for this folder.

        Example:
            >>> Stage("/tmp/proof").place("/data/results/{n}"), Stage("/tmp/proof").place("../a")
            ('/tmp/proof/data/results/{n}', '/tmp/proof/up/a')
        """
        if self.run_dir is not None:
            return self.run_dir
        asked = Path(run_dir)
        if asked.is_relative_to(self.folder):  # made from the folder of a run before it
            return run_dir
        parts = ["up" if part == ".." else part for part in asked.parts if part != asked.anchor]
        return str(Path(self.folder, *parts))

    def name(self, run_dir: Path) -> str:
        """What a run is called: its folder, relative to the stage's."""
        return str(Path(os.path.relpath(run_dir, self.folder)))

    def directed(self, tree: T) -> T:
        """A user's config as the stage wants it: only places in it are changed."""
        config = run_config(tree)
        checkpoint = config.checkpoint if self.checkpoint_every is None else replace(config.checkpoint, every=self.checkpoint_every)
        machine = config.machine if self.workers is None else replace(config.machine, workers=self.workers)
        log = replace(config.log, console="quiet")
        if self.profile is None:
            log = replace(log, tensorboard=False)
        elif self.profile.device is not None:
            machine = replace(machine, device=self.profile.device)
        place = self.place(config.run_dir)
        return with_config(tree, replace(config, run_dir=place, checkpoint=checkpoint, machine=machine, log=log, time_limit=None))


def current_stage() -> Stage | None:
    """The stage that this process plays on; None where it is nobody's but the user's.

    Raises:
        UsageError: the variable names a file that cannot be read.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        fields["kill"] = fields.get("kill") and Kill(**fields["kill"])
        fields["inspect"] = fields.get("inspect") and Inspect(**fields["inspect"])
        fields["explain"] = fields.get("explain") and Explained(**fields["explain"])
        fields["profile"] = fields.get("profile") and Profiled(**fields["profile"])
        return Stage(**fields)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{VARIABLE} is {path!r}, and that is no stage ({error}); only treadle's own commands set it: unset it") from None
