"""Kill training runs, hundreds of times, and see that each ends as if nothing had happened.

    python tests/campaign.py [--kills 300] [--seed S] [--jobs 2] [--case NAME ...]

Every case of `guarantees.program` is trained once in peace. Then again and again it is killed with SIGKILL, at instants
drawn from its whole life and at chosen places, started again with the same command until it ends, and compared in
everything it left. And a run's file operations are recorded, and it goes on from every folder that a crash between any two
of them can leave, a power cut included. Exit code 0: there was no difference.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from guarantees.crash_run import every_crash, record
from guarantees.program import CASES, STEPS, STEPS_AN_EPOCH, Case
from guarantees.remains import KILLED, everything, first_difference, remains
from guarantees.zygote import Zygote
from treadle.errors import TreadleError

PLACES = ("start", "training", "save", "evaluation", "resume")
"""Where a run can be killed; at its start, it has no checkpoint of a step yet."""
MOST_KILLS = 6
"""How often one run is killed, before it is left alone."""
KILL_AGAIN = 0.7
ENOUGH_DIFFERENCES = 10
"""After so many of one case there is nothing to learn from more."""


@dataclass(frozen=True)
class Attempt:
    """One start of the command.

    Args:
        arguments: added to the command.
        share: the share of the life ahead after which it is killed from without; None leaves it alone.
    """

    arguments: tuple[str, ...] = ()
    share: float | None = None


@dataclass
class Tally:
    """What came of a case."""

    runs: int = 0
    at_random: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Peace:
    """The run that nobody killed: how long it took, and what it left."""

    seconds: float
    left: dict[str, Any]


class Hunt:
    """All runs of one case.

    Args:
        name: the case.
        folder: where its runs go.
        chance: what instants and places are drawn from.
        zygote: starts the runs.
    """

    def __init__(self, name: str, folder: Path, chance: random.Random, zygote: Zygote) -> None:
        self.name, self.case, self.folder, self.chance, self.zygote = name, CASES[name], folder, chance, zygote
        self.tally = Tally()

    def hunt(self, kills: int) -> Iterator[int]:
        """Go on until there were enough kills at random instants; gives how many each run added."""
        self.folder.mkdir()
        plans, peace = self._plans(), self._in_peace()
        while peace and (before := self.tally.at_random) < kills and len(self.tally.differences) < ENOUGH_DIFFERENCES:
            self._run(next(plans), peace)
            yield self.tally.at_random - before

    def _in_peace(self) -> Peace | None:
        """The case without a kill, twice: the first child of a zygote is slow, and they must not differ."""
        first, second = self.folder / "peace-1", self.folder / "peace-2"
        for folder in (first, second):
            began = time.monotonic()
            if code := self.zygote.run(self.name, folder):
                self.tally.differences.append(f"{folder} (not killed): {_failed(folder, code)}")
                return None
        peace = Peace(time.monotonic() - began, everything(second))
        if wrong := first_difference(peace.left, everything(first)):
            self.tally.differences.append(f"{first} (not killed): {wrong}")
        return peace

    def _plans(self) -> Iterator[list[Attempt]]:
        """Places first, then instants without end."""
        yield from aimed(self.case, self.chance)
        while True:
            attempts = [Attempt(share=self.chance.random())]
            while len(attempts) < MOST_KILLS and self.chance.random() < KILL_AGAIN:
                attempts.append(Attempt(share=self.chance.random()))
            yield attempts

    def _run(self, attempts: list[Attempt], peace: Peace) -> None:
        """One run: its attempts, and a last one that is left alone."""
        self.tally.runs += 1
        folder = self.folder / f"run-{self.tally.runs:03d}"
        elsewhere = any(self.case.elsewhere in attempt.arguments for attempt in attempts)
        try:
            wrong = self._attempts(folder, attempts, peace)
            wrong = wrong or first_difference(peace.left, everything(folder), rounding=elsewhere and self.case.rounding)
        except (TimeoutError, FileNotFoundError, TreadleError, ValueError, KeyError) as error:  # a run that hangs, or left something unreadable
            wrong = f"{type(error).__name__}: {error}"
        self.zygote.bury()
        if wrong:
            told = ", ".join(" ".join(attempt.arguments) or f"after {attempt.share:.3f} of its life" for attempt in attempts)
            self.tally.differences.append(f"{folder} (killed {told}): {wrong}")
        else:
            shutil.rmtree(folder)

    def _attempts(self, folder: Path, attempts: list[Attempt], peace: Peace) -> str | None:
        for attempt in attempts:
            began = time.time()
            Path(f"{folder}.doing").unlink(missing_ok=True)
            life = None if attempt.share is None else attempt.share * life_ahead(folder, peace.seconds)
            code = self.zygote.run(self.name, folder, *attempt.arguments, kill_after_s=life)
            if code == KILLED:
                self.tally.kills[found_dead(folder, began)] += 1
                self.tally.at_random += attempt.share is not None
            elif code:
                return _failed(folder, code)
        code = self.zygote.run(self.name, folder)
        return _failed(folder, code) if code else None


def _failed(folder: Path, code: int) -> str:
    said = Path(f"{folder}.out").read_text().strip().splitlines()
    return f"exit code {code}: {said[-1] if said else 'no word'}"


def aimed(case: Case, chance: random.Random) -> Iterator[list[Attempt]]:
    """Runs that are killed where an instant seldom hits."""
    step = chance.randrange(4, STEPS)
    yield [Attempt((f"--kill-at={end}",)) for end in (STEPS_AN_EPOCH, STEPS)]
    yield [Attempt((f"--kill-in=save:{chance.randrange(1, 50)}",)) for _ in range(4)]
    yield [Attempt((f"--kill-at={step}",)), Attempt((f"--kill-in=resume:{chance.randrange(1, 4)}",))]
    if case.body != "play":
        yield [Attempt((f"--kill-in=evaluation:{number}",)) for number in (2, 3)]
    if case.elsewhere:
        yield [Attempt((f"--kill-at={step}",)), Attempt((case.elsewhere,), chance.random()), Attempt((case.elsewhere,))]


def life_ahead(folder: Path, seconds: float) -> float:
    """How long an attempt will go on, judged by the checkpoint that it begins from."""
    steps = [int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*")]
    return seconds * (0.2 + 0.8 * (1 - max(steps, default=0) / STEPS))


def found_dead(folder: Path, began: float) -> str:
    """Where a run was killed, as far as its folder tells: one of `PLACES`."""
    checkpoints, doing = folder / "checkpoints", Path(f"{folder}.doing")
    if any(path.stat().st_ctime >= began for path in checkpoints.glob(".step-*.tmp")):
        return "save"
    if not any(checkpoints.glob("step-*[1-9]*")):
        return "start"
    return doing.read_text() or "training" if doing.exists() else "resume"


# --- the whole ---


def campaign(names: list[str], kills: int, seed: int, jobs: int, folder: Path, console: Console) -> dict[str, Tally]:
    """Hunt each case, several side by side; gives a tally for each."""
    quota = -(-kills // len(names))
    tallies: dict[str, Tally] = {}
    with progress_on(console) as bar, ThreadPoolExecutor(jobs) as pool:
        task = bar.add_task("kills", total=quota * len(names))

        def work(name: str) -> None:
            with Zygote() as zygote:
                hunt = Hunt(name, folder / name, random.Random(f"{seed} {name}"), zygote)
                for more in hunt.hunt(quota):
                    bar.advance(task, more)
            tallies[name] = hunt.tally
            if not console.is_terminal:
                console.print(f"{name}: {hunt.tally.runs} runs, {hunt.tally.kills.total()} kills, {len(hunt.tally.differences)} differences")

        list(pool.map(work, names))
    return {name: tallies[name] for name in names}


def crash_states(folder: Path, console: Console) -> dict[str, Tally]:
    """Go on after every crash of a whole run that saves while it waits, and of one that saves while it trains; gives a tally for each."""
    tallies = {}
    with progress_on(console) as bar:
        for background in (False, True):
            inside = folder / f"crashes-{'background' if background else 'waiting'}"
            inside.mkdir()
            log = record(inside / "whole", background=background)
            whole, tally = remains(inside / "whole"), Tally()
            task = bar.add_task(f"crash states of {len(log)} operations", total=None)
            for where, wrong in every_crash(inside / "states", log, whole):
                tally.runs += 1
                tally.differences += [f"{inside}, {where}: {wrong}"] if wrong else []
                bar.advance(task)
            how = "in the background" if background else "while training waits"
            tallies[f"{len(log)} file operations of a run that saves {how}"] = tally
    return tallies


def progress_on(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def table_of(tallies: dict[str, Tally]) -> Table:
    table = Table("case", "runs", "kills", "at random", *PLACES, "differences", box=None)
    for name, tally in tallies.items():
        counts = (tally.runs, tally.kills.total(), tally.at_random, *(tally.kills[place] for place in PLACES), len(tally.differences))
        table.add_row(name, *map(str, counts))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="at least so many at random instants; those at chosen places come on top")
    parser.add_argument("--seed", type=int, default=0, help="what instants and places are drawn from")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--case", nargs="*", default=list(CASES), choices=CASES, help="only these")
    options = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=150)
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    tallies = campaign(options.case, options.kills, options.seed, options.jobs, folder, console)
    crashed = crash_states(folder, console)
    differences = [difference for tally in [*tallies.values(), *crashed.values()] for difference in tally.differences]
    console.print(table_of(tallies))
    for what, tally in crashed.items():
        console.print(f"{what}: {tally.runs} crash states, {len(tally.differences)} differences")
    for difference in differences:
        console.print(difference, highlight=False, soft_wrap=True)
    if not differences:
        shutil.rmtree(folder)
    runs, kills, at_random = (
        sum(one) for one in zip(*((tally.runs, tally.kills.total(), tally.at_random) for tally in tallies.values()), strict=True)
    )
    console.print(f"{runs} runs, {kills} kills, {at_random} of them at random instants; {len(differences)} differences in all")
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
