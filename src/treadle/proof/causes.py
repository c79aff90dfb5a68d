"""Causes: which object, module or generator makes two runs differ. More processes are started, which write down what they see."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from treadle.proof.compare import Difference, compare
from treadle.proof.lives import Program
from treadle.system.stage import Inspect, Kill, Stage

Entries = dict[str, dict[str, Any]]
_MOST, _NEVER = 5, 10**9
_RANK = {"generator": 0, "object": 2, "value": 3, "data": 4}
_ROOTS = {"data": 0, "model": 1, "objective": 1, "handler": 2, "global": 2, "local": 3}
_BY_CLOCK = "something outside of the program's state (clock, process number, environment)"


@dataclass(frozen=True)
class Cause:
    """A likely cause.

    Args:
        what: in words.
        where: its path, such as ``Counting.count``.
        advice: what to do.
    """

    what: str
    where: str
    advice: str


class Search:
    """A search for the causes of a difference.

    Args:
        program: the program.
        folder: where its runs go.
        run: the run that differs.
        difference: how.
        resumed: the step from which a process went on that differed; None where two undisturbed runs differ.
        trainer: whether the run is a `Trainer`'s.
        told: called before each process.
    """

    def __init__(
        self, program: Program, folder: Path, run: str, difference: Difference, resumed: int | None, trainer: bool, told: Callable[[], object]
    ) -> None:
        self._program, self._folder, self._run, self._difference = program, folder, run, difference
        self._resumed, self._trainer, self._told = resumed, trainer, told
        self._warnings: dict[str, None] = {}

    def causes(self, deterministic: bool) -> list[Cause]:
        """The likely causes, the likeliest first; never none.

        Args:
            deterministic: whether the run asks torch for deterministic kernels.
        """
        found = self._of_a_resume() if self._resumed is not None else self._of_two_starts(deterministic)
        if self._warnings:
            words = ", ".join(self._warnings)
            found.append(Cause("torch warned of operations that have no deterministic implementation", words, "use others in their place"))
        return found[:_MOST] or self._last_resort()

    # --- two undisturbed runs ---

    def _of_two_starts(self, deterministic: bool) -> list[Cause]:
        step = self._difference.step or 1
        look, kill = Inspect("", trace_step=step, run=self._run), Kill("after step", step, run=self._run)
        one, other = (self._looked(name, look, kill) for name in ("a", "b"))
        if (initial := self._initial_weights()) is not None:
            return [initial]
        begin = _entries(one, "begin")
        differ, moved = changed(begin, _entries(other, "begin")), changed(begin, _entries(one, "traced"))
        generators = [path for path in differ if differ[path]["kind"] == "generator" and path in moved]  # one that nobody draws from is innocent
        if generators:
            return [self._unseeded(path, differ[path]) for path in sorted(generators, key=lambda path: self._weight(path, differ))]
        if self._difference.what in ("ids", "batch"):
            return self._of_data(differ)
        doubts = [self._doubt(path, differ[path]) for path in differ if _may_be(differ[path])]
        return self._kernels(one, other, deterministic) or self._hashes() or doubts

    def _of_data(self, differ: Entries) -> list[Cause]:
        data = [path for path in differ if differ[path]["root"] == "data" and differ[path]["kind"] in ("data", "object")]
        if self._difference.what == "batch" and data:
            return [
                Cause("the data is not the same from one start to the next", path, "read or make it from a fixed seed; sort what a folder lists")
                for path in data
            ]
        if self._difference.what == "ids":
            return [
                Cause(
                    "the order of the samples has a randomness of its own", _first(differ, "sampler"),
                    "make the order a function of (seed, epoch, position): see treadle.Samples and config.data.sampler",
                )
            ]  # fmt: skip
        return self._hashes() or [
                Cause(
                    "the dataset or its collate function gives other items for the same indices", _first(differ, "data"),
                    "draw from torch's, NumPy's or Python's own generators, which are seeded before each sample, and not from one made "
                    "without a seed, the clock or the process number",
                )
            ]  # fmt: skip

    def _initial_weights(self) -> Cause | None:
        """Whether the very first checkpoint differs already, which is the only one that the two have."""
        found = compare(self._folder / "a" / self._run, self._folder / "b" / self._run).difference
        if found is None or found.what != "state" or found.step != 0:
            return None
        return Cause(
            "the weights differ before the first step: the model was built from numbers of another source than the run's seed",
            found.where.removeprefix("the state of "),
            "give the Trainer a callable that builds the model, or call treadle.seed(...) before building it",
        )

    def _kernels(self, one: list[dict[str, Any]], other: list[dict[str, Any]], deterministic: bool) -> list[Cause]:
        """The module that gives other bits first, in the step that differs first."""
        first, second = _traced(one), _traced(other)
        switch = "" if deterministic else "machine.deterministic=true asks torch for deterministic kernels; it is false here. "
        for key, line in first.items():
            repeats = line.get("repeat_differs") or second.get(key, {}).get("repeat_differs")
            differs = key in second and second[key]["digest"] != line["digest"] and second[key].get("given") == line.get("given")
            if repeats and line["what"] == "gradient":
                return [
                    Cause(
                        "computed again from the same graph, its gradient has other bits: a backward that is not deterministic",
                        line["where"], f"{switch}Use an operation with a deterministic backward",
                    )
                ]  # fmt: skip
            if repeats:
                return [
                    Cause(
                        f"called again with the same input, weights and random numbers, the {line['what']} has other bits: a kernel that is not "
                        "deterministic, or a clock or os.urandom in forward", line["where"], f"{switch}Use an operation with a deterministic "
                        "implementation, and draw random numbers from torch's generators",
                    )
                ]  # fmt: skip
            if differs and line["what"] == "gradient" and self._difference.what == "loss":
                return []  # it only follows the loss
            if differs and line["what"] == "gradient":
                return [
                    Cause(
                        "its gradient is the first thing to differ, where every module gave the same before: a backward that is not "
                        "deterministic", line["where"], f"{switch}Use an operation with a deterministic backward",
                    )
                ]  # fmt: skip
            if differs:
                what = f"its {line['what'].rpartition(', ')[2]} is the first to differ, for the same input: {_BY_CLOCK}"
                return [Cause(what, line["where"], _OUTSIDE)]
        return []

    def _hashes(self) -> list[Cause]:
        """Whether the order of sets makes the difference, which is another one in each process."""
        fixed = {"PYTHONHASHSEED": "0"}
        step = self._difference.step or 1
        for name in ("hash-a", "hash-b"):
            stage = Stage(str(self._folder / name), stop_after=step, checkpoint_every=f"{_NEVER} steps", witness=True, workers=0)
            self._start(name, stage, fixed)
        one, other = (self._folder / name / self._run for name in ("hash-a", "hash-b"))
        if not one.exists() or not other.exists() or compare(one, other).difference is not None:
            return []
        return [
            Cause("the order of a set, or hash() of a text: it is another one in each process", "with PYTHONHASHSEED=0 the runs agree", "sort it")
        ]

    # --- a run that went on ---

    def _of_a_resume(self) -> list[Cause]:
        assert self._resumed is not None
        inspect = Inspect("", saved_step=self._resumed, run=self._run)
        one, other = (_entries(self._looked(name, inspect, None), "saved") for name in ("a", "b"))
        again = self._looked("a", Inspect("", run=self._run), Kill("after step", self._resumed + 1, run=self._run))
        entries = _entries(again, "begin")
        by_chance = set(changed(one, other))  # the two agree in all that counts, so this does not count
        differ = {path: entry for path, entry in (changed(one, entries) | gone(one, entries)).items() if path not in by_chance}
        found = [path for path in differ if not (differ[path]["root"] == "local" and differ[path]["kind"] == "data" and "." not in path[1:])]
        return [
            self._untracked(path, one[path], entries.get(path, _ABSENT)) for path in sorted(_roots(found), key=lambda path: self._weight(path, one))
        ]

    def _weight(self, path: str, entries: Entries) -> tuple[int, int, int, str]:
        entry, what = entries[path], self._difference.what
        innocent = what in ("loss", "weights", "random", "state", "journal") and entry["root"] == "data"
        return (_RANK[entry["kind"]] > 0 and innocent, _RANK[entry["kind"]] and 1, _ROOTS[entry["root"]], path)

    # --- words ---

    def _unseeded(self, path: str, entry: dict[str, Any]) -> Cause:
        return Cause(
            f"a generator that is seeded by nobody ({entry['type']}): it begins elsewhere in each process",
            path,
            self._generator_advice(path, entry, True),
        )

    def _untracked(self, path: str, before: dict[str, Any], after: dict[str, Any]) -> Cause:
        kind, root, name = before["kind"], before["root"], _variable(path)
        if kind == "generator":
            advice = self._generator_advice(path, before, False)
            return Cause(f"a generator that is not tracked ({before['type']}): after a kill it begins at its seed again", path, advice)
        values = f": {before['value']} in the run that was not killed, {after['value']} after going on" if before["value"] != after["value"] else ""
        if root == "data":
            return Cause(
                f"the dataset keeps state that no checkpoint has{values}", path,
                "make an item a function of its index and of the random generators, which are seeded before each sample",
            )  # fmt: skip
        if root in ("model", "objective"):
            where = "in a buffer (register_buffer), which is part of state_dict()" if root == "model" else "in an object that is tracked"
            return Cause(f"an attribute that no checkpoint has{values}", path, f"keep it {where}")
        return Cause(f"an object that is not tracked{values}", path, self._track_advice(name, before))

    def _track_advice(self, name: str, entry: dict[str, Any]) -> str:
        wrap = "" if entry["value"] == "its state_dict()" else "keep it in an object with state_dict() and load_state_dict(state), and "
        if self._trainer:
            return f"{wrap or 'keep it in a handler with state_dict() and load_state_dict(state), and '}give it to the Trainer in handlers=[...]"
        return f"{wrap}run.track({name.lower()}={name})"

    def _generator_advice(self, path: str, entry: dict[str, Any], unseeded: bool) -> str:
        seeded = "seed it from the config's seed, and " if unseeded else ""
        if entry["root"] == "data":
            return "draw from torch's, NumPy's or Python's own generators, which are seeded before each sample"
        if self._trainer:
            return "draw from torch's, NumPy's or Python's own generators, which every run seeds and keeps"
        return f"{seeded}run.track({_variable(path).lower()}={_variable(path)}); or draw from torch's own generator, which every run seeds and keeps"

    def _doubt(self, path: str, entry: dict[str, Any]) -> Cause:
        return Cause(f"this differs between two starts already ({entry['value']} in one)", path, _OUTSIDE)

    def _last_resort(self) -> list[Cause]:
        return [Cause(_BY_CLOCK, "no object, module or generator that could be reached shows it", _OUTSIDE)]

    # --- processes ---

    def _looked(self, name: str, inspect: Inspect, kill: Kill | None) -> list[dict[str, Any]]:
        """What a process wrote down."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}-{len(list(self._folder.glob('*.jsonl')))}.jsonl"
        path.touch()
        every = f"{self._resumed or _NEVER} steps"
        stage = Stage(str(self._folder / name), checkpoint_every=every, workers=0, kill=kill, inspect=replace(inspect, path=str(path)))
        self._start(name, stage)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def _start(self, name: str, stage: Stage, variables: dict[str, str] | None = None) -> None:
        self._told()
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        stop = max(self._difference.step or 0, (self._resumed or 0)) + 2
        life = self._program.live(stage if stage.stop_after else replace(stage, stop_after=stop), variables)
        self._warnings |= dict.fromkeys(life.warnings)


_ABSENT = {"value": "absent"}
_OUTSIDE = "look for time, os.getpid, os.urandom, uuid, os.environ and os.listdir in what the step calls"


def changed(one: Entries, other: Entries) -> Entries:
    """The entries of both whose content is not the same."""
    return {path: entry for path, entry in one.items() if path in other and other[path]["digest"] != entry["digest"]}


def gone(one: Entries, other: Entries) -> Entries:
    """Attributes of data, models and objectives that the first has and the second has not yet."""
    return {path: entry for path, entry in one.items() if path not in other and entry["root"] in ("data", "model", "objective")}


def _entries(lines: Iterable[dict[str, Any]], at: str) -> Entries:
    return next((line["entries"] for line in lines if line["at"] == at), {})


def _traced(lines: Iterable[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """What modules gave, in order, by place, kind and how often it came before."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for line in lines:
        if line["at"] == "trace":
            number = 0
            while (line["where"], line["what"], number) in found:
                number += 1
            found[line["where"], line["what"], number] = line
    return found


def _may_be(entry: dict[str, Any]) -> bool:
    return entry["root"] != "local" and entry["kind"] in ("value", "object", "data")


def _first(entries: Entries, root: str) -> str:
    return next(
        (path for path, entry in entries.items() if path.startswith(root) or entry["root"] == root), "no object that could be reached shows it"
    )


def _roots(paths: list[str]) -> list[str]:
    """Paths without those that lie inside another one of them."""
    return [path for path in paths if not any(path != other and path.startswith((f"{other}.", f"{other}[")) for other in paths)]


def _variable(path: str) -> str:
    """The name of the variable at the end of a path, or of the attribute."""
    return path.split("[")[0].rpartition(".")[2]
