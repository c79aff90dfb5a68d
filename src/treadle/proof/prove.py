"""Prove: a program is run twice in peace and once under fire, and all that it leaves is compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.config.build import flatten, plain
from treadle.config.schema import PLACES
from treadle.config.yaml_file import read_yaml
from treadle.core.errors import ConfigError, UsageError
from treadle.proof.causes import Cause, Search
from treadle.proof.compare import Comparison, Difference, compare
from treadle.proof.lives import KILLED, Ended, Life, Program, runs_in
from treadle.proof.plan import planned
from treadle.system.stage import Kill, Stage

Told = Callable[[str, int, int], object]
"""Told what is being done, the number of processes that ended, and how many there will be."""


_FIXED_NAME = "keep the clock, process number and chance out of run_dir"


@dataclass(frozen=True)
class Struck:
    """A kill that happened.

    Args:
        run: the run's name.
        step: steps that were done by then.
        how: where it struck.
        resumed: the step from which the next process went on; None where nothing was left to do.
    """

    run: str
    step: int
    how: str
    resumed: int | None


@dataclass
class Proof:
    """What came of it.

    Args:
        program: the command.
        proved: whether no difference was found in all that was compared.
        runs: the runs that the program made, and their steps.
        facts: versions, device, threads, seed, parameters, config digest.
        kills: where it was killed.
        counts: what was compared between peace and fire.
        weights: SHA-256 of the final weights, by run.
        notes: what a reader has to know about how far this goes.
        between: what differs: "two undisturbed runs", or "the killed run and the undisturbed one".
        difference: the first one.
        run: in which run it is.
        causes: the likely ones, the likeliest first.
    """

    program: list[str]
    proved: bool = False
    runs: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    kills: list[Struck] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    between: str = ""
    difference: Difference | None = None
    run: str = ""
    causes: list[Cause] = field(default_factory=list)


class Prover:
    """Proves one program.

    Args:
        command: the words that start it.
        folder: an empty folder, for everything that the program leaves.
        steps: after so many steps each of its runs is stopped.
        kills: how often it is killed.
        seed: what the places of the kills are drawn from.
        timeout_s: how long one process may take.
        told: told how far it is.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, *, steps: int, kills: int, seed: int, timeout_s: float | None = None, told: Told = lambda *_: None
    ) -> None:
        self._folder, self._steps, self._kills, self._seed, self._told = folder, steps, kills, seed, told
        self._program = Program(command, _made(folder / "processes"), timeout_s)
        self._done, self._of = 0, 2 + kills + 1
        self.proof = Proof(list(command))

    def prove(self) -> Proof:
        """Do all of it.

        Raises:
            UsageError: the program makes no run, or does not reach its end by itself.
        """
        proof = self.proof
        first = self._in_peace("undisturbed-1")
        self._in_peace("undisturbed-2")
        found = self._compared("undisturbed-1", "undisturbed-2")
        if found:
            proof.between = "two undisturbed runs"
        elif self._under_fire():
            found = self._compared("undisturbed-1", "killed")
            proof.between = "the killed run and the undisturbed one" if found else ""
        if found:
            proof.run, proof.difference = found
            proof.causes = self._search(first)
        else:
            proof.proved = proof.difference is None and self._counts_something()
        return proof

    def _stage(self, name: str, kill: Kill | None = None) -> Stage:
        every = f"{max(1, self._steps // 6)} steps"
        return Stage(str(_made(self._folder / name)), stop_after=self._steps, checkpoint_every=every, kill=kill, witness=True)

    def _live(self, stage: Stage, doing: str) -> Life:
        self._told(doing, self._done, self._of)
        life = self._program.live(stage)
        self._done += 1
        self._told(doing, self._done, self._of)
        return life

    # --- in peace ---

    def _in_peace(self, name: str) -> Life:
        life = self._live(self._stage(name), "undisturbed")
        runs = runs_in(self._folder / name)
        if not runs:
            raise UsageError(f"the program made no treadle run, so there is nothing to prove; it ended with code {life.code}: {life.last_words}")
        for run, ended in runs.items():
            if not ended.is_over:
                raise UsageError(
                    f"the program does not reach its end by itself: {run} is {ended.status!r} after step {ended.steps}, "
                    f"and the process ended with code {life.code}: {life.last_words}"
                )
        if not self.proof.runs:
            self._remember(life, runs)
        return life

    def _remember(self, life: Life, runs: dict[str, Ended]) -> None:
        proof = self.proof
        proof.runs = {run: ended.steps for run, ended in runs.items()}
        began = life.of("began")
        facts = {name: began[0].get(name) for name in ("seed", "device", "gpu", "threads", "python", "torch", "deterministic")} if began else {}
        facts["parameters"] = sum(item.get("parameters", 0) for item in began)
        proof.facts = {**facts, "config": {run: config_digest(self._folder / "undisturbed-1" / run) for run in runs}}
        if sum(proof.runs.values()) == 0:
            raise UsageError("the program's run makes no step, so there is nothing to prove")
        for run, steps in proof.runs.items():
            if steps < self._steps:
                proof.notes.append(f"{run} has only {steps} steps: {steps} were asked of it, not {self._steps}")
        if life.code:
            proof.notes.append(
                f"after its runs, which were cut to {self._steps} steps, the program ended with code {life.code} ({life.last_words}); "
                "what it does then was not proved"
            )

    # --- under fire ---

    def _under_fire(self) -> bool:
        """Kill it again and again; whether it came to an end that can be compared."""
        folder = self._folder / "killed"
        for kill in planned(self.proof.runs, self._kills, self._seed):
            if self._is_over(folder):
                break
            life = self._live(self._stage("killed", kill), f"kill {kill.kind} {kill.number}")
            self._went_on(life)
            for struck in life.of("killed"):
                self.proof.kills.append(Struck(struck["run"], struck["step"], struck["how"], None))
            if not life.of("killed") and not self._is_over(folder):
                return self._broken(life)
        life = self._live(self._stage("killed"), "to the end")
        self._went_on(life)
        missed = self._kills - len(self.proof.kills)
        if missed:
            self.proof.notes.append(f"{missed} of {self._kills} kills did not strike: the program was over before")
        return self._broken(life) if not self._is_over(folder) else True

    def _is_over(self, folder: Path) -> bool:
        runs = runs_in(folder)
        return set(runs) >= set(self.proof.runs) and all(ended.is_over for ended in runs.values())

    def _went_on(self, life: Life) -> None:
        """Where the process after a kill went on."""
        kills = self.proof.kills
        if kills and kills[-1].resumed is None:
            for item in life.of("began", kills[-1].run)[:1]:
                kills[-1] = Struck(kills[-1].run, kills[-1].step, kills[-1].how, item["step"])

    def _broken(self, life: Life) -> bool:
        """The program did not go on after a kill."""
        proof, runs = self.proof, runs_in(self._folder / "killed")
        proof.between = "the killed run and the undisturbed one"
        if missing := sorted(set(runs) - set(proof.runs)):
            proof.run = missing[0]
            proof.difference = Difference("folder", None, "the run folder", ", ".join(proof.runs), ", ".join(runs))
            proof.causes = [Cause("the same command does not find its run again", missing[0], _FIXED_NAME)]
            return False
        proof.run = next((run for run in proof.runs if not runs.get(run, Ended("", 0)).is_over), next(iter(proof.runs)))
        stands = runs.get(proof.run, Ended("not begun", 0))
        ended = f"code {life.code}: {life.last_words}" if life.code != KILLED else "killed by somebody else"
        proof.difference = Difference("end", stands.steps, "the end of the program", "reached", f"not reached, {ended}")
        proof.causes = [
            Cause("the program does not go on after a kill", life.last_words, "see the message; a second start must do what the first did")
        ]
        return False

    # --- comparing ---

    def _compared(self, one: str, other: str) -> tuple[str, Difference] | None:
        """The first run with a difference, and the difference."""
        proof, first, second = self.proof, runs_in(self._folder / one), runs_in(self._folder / other)
        if set(first) != set(second):
            only = sorted({*first} ^ {*second})[0]
            return only, Difference("folder", None, "the run folder", ", ".join(first), ", ".join(second))
        proof.counts = {}
        for run in first:
            found: Comparison = compare(self._folder / one / run, self._folder / other / run)
            proof.counts = {name: proof.counts.get(name, 0) + count for name, count in found.counts.items()}
            proof.weights[run] = found.weights
            proof.notes += [note for line in found.notes if (note := f"{run}: {line}") not in proof.notes]
            if found.difference is not None:
                return run, found.difference
        return None

    def _counts_something(self) -> bool:
        return self.proof.counts.get("tensors", 0) + self.proof.counts.get("losses", 0) + self.proof.counts.get("journal rows", 0) > 0

    # --- why ---

    def _search(self, first: Life) -> list[Cause]:
        proof = self.proof
        assert proof.difference is not None
        if proof.difference.what == "folder":
            return [Cause("the name of the run folder differs", proof.difference.other, _FIXED_NAME)]
        trainer = any(item.get("trainer") for item in first.of("began", proof.run))
        resumed = None
        if proof.between != "two undisturbed runs":
            step = proof.difference.step or self._steps
            before = [kill.resumed for kill in proof.kills if kill.run == proof.run and kill.resumed is not None and kill.resumed < step]
            resumed = max(before, default=0) or max(1, min(step, proof.runs[proof.run]) // 2)
        search = Search(self._program, self._folder / "search", proof.run, proof.difference, resumed, trainer, lambda: self._told("searching", 0, 0))
        return search.causes(bool(proof.facts.get("deterministic")))


def config_digest(run: Path) -> str:
    """A digest of what a run's config asks for, without the places; the same wherever the run lies."""
    try:
        values = dict(flatten(plain(read_yaml(run / "config.yaml"))))
    except ConfigError:
        return ""
    held = next((key.removesuffix("run_dir") for key in values if key == "run_dir" or key.endswith(".run_dir")), "")
    places = tuple(f"{held}{place}" for place in PLACES)
    kept = sorted(f"{key}={value!r}" for key, value in values.items() if key not in places and not key.startswith(tuple(f"{p}." for p in places)))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
