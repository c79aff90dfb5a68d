"""The method of these benchmarks: each entrant in a process of its own, in turn with the loop by hand, medians of ratios.

A worker process, pinned to one core and with one thread, runs the base (A) and the entrant (B) as AB, BA, AB, ... on fresh tasks of the same
seed. A round gives one ratio B/A, so that a machine that becomes slower in between changes nothing; the table has the median of the rounds,
with quartiles. The base's own row is what it took beside the first of the others. CPU time stands beside wall time: where others use the
machine, it is the steadier of the two. After each run the trained model is asked for its loss: an entrant that did other work shows.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CORE = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
NEAR = 1e-3
"""Losses that are nearer to each other than this, as a share, come from the same work."""

Run = Callable[[], object]
"""What is timed. It returns the loss, or a function that tells it, or a mapping with further figures; None has nothing to compare.

Where the mapping has `wall` and `cpu`, in seconds, for so much `work`, these count: the run has a clock of its own.
"""


@dataclass(frozen=True)
class Entrant:
    """One way to do the work.

    Args:
        name: its name in the table.
        prepare: from a task to the call that is timed.
        base: the entrant that it is compared with.
        needs: the package without which it is left out.
        pinned: False where it has worker processes, which need cores of their own.
    """

    name: str
    prepare: Callable[[Any], Run]
    base: str
    needs: str = ""
    pinned: bool = True


@dataclass
class Benchmark:
    """A workload and its entrants; a file each.

    Args:
        file: ``__file__`` of the workload: its name is that of the results, its docstring the help.
        task: from a size to a fresh task, the same each time.
        sizes: how much work; of two, the cost is the marginal one, from the smaller to the larger, so that what happens once is left out.
        small: the sizes of a test that it runs at all.
        unit: what the cost is given in, of `scale` seconds and one piece of work.
        base: what entrants are compared with, unless they say otherwise.
        rounds: how many, unless told.
    """

    file: str
    task: Callable[[int], Any]
    sizes: tuple[int, ...]
    small: tuple[int, ...]
    unit: str
    scale: float
    base: str = "by hand"
    rounds: int = 7
    entrants: dict[str, Entrant] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return Path(self.file).stem

    def add(self, name: str, prepare: Callable[[Any], Run], *, base: str = "", needs: str = "", pinned: bool = True) -> None:
        self.entrants[name] = Entrant(name, prepare, base or self.base, needs, pinned)

    def entrant(self, name: str, **options: Any) -> Callable[[Callable[[Any], Run]], Callable[[Any], Run]]:
        """Decorate a function from a task to the call that is timed."""

        def register(prepare: Callable[[Any], Run]) -> Callable[[Any], Run]:
            self.add(name, prepare, **options)
            return prepare

        return register

    # --- one measurement, in a worker process ---

    def once(self, entrant: Entrant, sizes: tuple[int, ...]) -> dict[str, Any]:
        """Wall and CPU time of one piece of work, and what came of it."""
        found = [_timed(lambda size=size: entrant.prepare(self.task(size))) for size in sizes]
        (wall, cpu, result), work = found[-1], sizes[-1]
        if len(sizes) == 2:
            wall, cpu, work = wall - found[0][0], cpu - found[0][1], sizes[1] - sizes[0]
        own = dict(result) if isinstance(result, Mapping) else {"loss": result}
        if "wall" in own:
            wall, cpu, work = own.pop("wall"), own.pop("cpu"), own.pop("work")
        return {"wall": wall / work / self.scale, "cpu": cpu / work / self.scale, **own}

    def measured(self, name: str, rounds: int, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
        """The rounds of an entrant and its base, in turn; one more, the first, warms up."""
        entrant = self.entrants[name]
        pair = [self.entrants[entrant.base], entrant]
        found = []
        for number in range(rounds + 1):
            order = pair if number % 2 else pair[::-1]
            if entrant.name == entrant.base:
                order = [entrant]
            found.append({one.name: self.once(one, sizes) for one in order})
        return [{"base": one[entrant.base], "it": one[name]} for one in found[1:] or found]

    # --- all of them ---

    def main(self) -> None:
        options = _options(self)
        sizes = self.small if options.small else options.sizes or self.sizes
        if options.worker:
            _prepare_worker(self.entrants[options.worker].pinned)
            Path(options.out).write_text(json.dumps(self.measured(options.worker, options.rounds, sizes)), encoding="utf-8")
            return
        names = options.only or [name for name, entrant in self.entrants.items() if name != entrant.base]
        if unknown := [name for name in names if name not in self.entrants]:
            raise SystemExit(f"no entrant {unknown[0]!r}; there are: {' | '.join(self.entrants)}")
        result: dict[str, Any] = {"benchmark": self.name, "unit": self.unit, "rounds": options.rounds, **machine(), "rows": []}
        for name in names:
            result["rows"] += self._rows(name, options, known={row["entrant"] for row in result["rows"]})
            print(" | ".join(cells(result["rows"][-1])).rstrip(" |"), file=sys.stderr, flush=True)
            if options.save:  # one that is cut short has lost nothing
                save(result)
        print(table(result))

    def _rows(self, name: str, options: argparse.Namespace, known: set[str]) -> list[dict[str, Any]]:
        """The row of an entrant; before it that of its base, where there is none yet."""
        entrant = self.entrants[name]
        row: dict[str, Any] = {"entrant": name, "base": entrant.base}
        if entrant.needs and importlib.util.find_spec(entrant.needs) is None:
            return [row | {"skipped": f"{entrant.needs} is not installed"}]
        if entrant.needs:
            row["version"] = _version(entrant.needs)
        rounds = self._in_a_process(name, options)
        if isinstance(rounds, str):
            return [row | {"failed": rounds}]
        base = {"entrant": entrant.base, "base": entrant.base, **summary([{"base": one["base"], "it": one["base"]} for one in rounds])}
        return [*([] if {entrant.base, name} & known or name == entrant.base else [base]), row | summary(rounds)]

    def _in_a_process(self, name: str, options: argparse.Namespace) -> list[dict[str, Any]] | str:
        """The rounds of an entrant, or the last line of what it said."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.json"
            words = [sys.executable, str(Path(self.file).resolve()), "--worker", name, "--out", str(out), "--rounds", str(options.rounds)]
            words += ["--small"] if options.small else []
            words += ["--sizes", *map(str, options.sizes)] if options.sizes else []
            done = subprocess.run(words, check=False, cwd=folder, env=_environment(), capture_output=True, text=True, errors="replace")
            if done.returncode == 0:
                rounds: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
                return rounds
            return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]


# --- the worker ---


def _timed(prepare: Callable[[], Run]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds with those of child processes, and the result of a call; its preparation is not timed."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            run = prepare()
            gc.collect()
            wall, cpu = time.perf_counter(), _cpu_seconds()
            result = run()
            wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
            return wall, cpu, result() if callable(result) else result
        finally:
            os.chdir(here)


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _prepare_worker(pinned: bool) -> None:
    import logging
    import warnings

    import torch

    warnings.filterwarnings("ignore")  # the peers', which would stand in the middle of a table
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if pinned and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {CORE})


def _environment() -> dict[str, str]:
    """One thread, no network, no GPU; and bytecode is cached, as it is wherever people train."""
    fixed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | fixed


# --- figures ---


def quartiles(values: Sequence[float]) -> list[float]:
    """First quartile, median, third quartile."""
    found = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return [round(value, 4) for value in found]


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of an entrant's rounds."""
    its, bases = [one["it"] for one in rounds], [one["base"] for one in rounds]
    pairs = list(zip(its, bases, strict=True))
    loss, expected = its[-1].get("loss"), bases[-1].get("loss")
    figures = {name: round(statistics.median(one[name] for one in its), 4) for name in its[-1] if name not in ("wall", "cpu", "loss")}
    return {
        "cpu_ratio": quartiles([it["cpu"] / base["cpu"] for it, base in pairs]),
        "wall_ratio": quartiles([it["wall"] / base["wall"] for it, base in pairs]),
        "cpu": quartiles([it["cpu"] for it in its]),
        "base_cpu": quartiles([base["cpu"] for base in bases]),
        "added": quartiles([it["cpu"] - base["cpu"] for it, base in pairs]),
        "loss": loss,
        "same": loss is None or expected is None or abs(loss - expected) <= NEAR * abs(expected),
        **({"figures": figures} if figures else {}),
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on, and when."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    versions = {name: _version(name) for name in ("torch", "numpy", "treadle")}
    place = {"cpu": cpu, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version(), **versions}
    return {"date": date.today().isoformat(), "machine": place}


def _version(module: str) -> str:
    names = metadata.packages_distributions().get(module, [module])
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(names[0])
    return "?"


# --- the table ---

HEADER = ("entrant", "CPU", "x base, CPU", "x base, wall", "added", "loss", "")


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as people read it."""
    if why := row.get("skipped") or row.get("failed"):
        return [row["entrant"], "skipped" if "skipped" in row else "failed", why, "", "", "", ""]
    notes = [] if row["same"] else ["OTHER LOSS"]
    notes += [f"{name} {value:g}" for name, value in row.get("figures", {}).items()]
    loss = "" if row["loss"] is None else f"{row['loss']:.5f}"
    ratios = [spread(row["cpu_ratio"]), spread(row["wall_ratio"])]
    return [row["entrant"], f"{row['cpu'][1]:.2f}", *ratios, f"{row['added'][1]:+.2f}", loss, ", ".join(notes)]


def spread(found: Sequence[float]) -> str:
    return f"{found[1]:.3f} [{found[0]:.3f}, {found[2]:.3f}]"


def table(result: Mapping[str, Any]) -> str:
    """All rows, in Markdown."""
    place = result["machine"]
    head = f"{result['date']}, {place['cpu']}, {place['cores']} cores, load {place.get('load', 'unknown')}, Python {place['python']}, "
    head += f"torch {place['torch']}, {result['rounds']} rounds; {result['unit']}"
    rows = [HEADER, ("---",) * len(HEADER), *map(cells, result["rows"])]
    return "\n".join([f"### {result['benchmark']}", "", head, "", *("| " + " | ".join(row) + " |" for row in rows), ""])


def save(result: dict[str, Any]) -> None:
    """Write the results of today; those of entrants that were not run again stay."""
    path = RESULTS / f"{result['date']}-{result['benchmark']}.json"
    if path.exists() and "rows" in result:
        kept = {row["entrant"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
        kept |= {row["entrant"]: row for row in result["rows"] if "skipped" not in row or row["entrant"] not in kept}
        result = result | {"rows": list(kept.values())}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _options(benchmark: Benchmark) -> argparse.Namespace:
    text = sys.modules["__main__"].__doc__
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=benchmark.rounds)
    parser.add_argument("--only", nargs="+", help="entrants: " + " | ".join(benchmark.entrants))
    parser.add_argument("--sizes", type=int, nargs="+", help=f"how much work, in place of {' '.join(map(str, benchmark.sizes))}")
    parser.add_argument("--small", action="store_true", help="as little work as can be, to see that everything runs; its numbers mean nothing")
    parser.add_argument("--save", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    return parser.parse_args()
