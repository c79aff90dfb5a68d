"""`treadle prove FILE[:function] [key=value ...]` and `treadle prove -- python my_loop.py ...`."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from treadle.core.errors import UsageError
from treadle.log.tables import print_json

_SMALLEST = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.usage = "treadle prove FILE[:function] [key=value ...] [options]\n       treadle prove [options] -- python my_loop.py [arguments]"
    parser.add_argument("target", metavar="FILE[:function]", nargs="?", help="an experiment, as for treadle train; or give a whole command after --")
    parser.add_argument("--config", metavar="FILE", action="append", default=[], help="YAML file of values; of several, the last wins")
    parser.add_argument("--steps", type=_at_least(_SMALLEST), default=30, help="steps after which each run is stopped; default %(default)s")
    parser.add_argument("--kills", type=_at_least(0), default=5, help="how often the program is killed; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="what the places of the kills are drawn from; default %(default)s")
    parser.add_argument("--keep", metavar="DIR", help="a new folder for everything that the runs leave; else it is removed at the end")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="longest time for one process; for ever unless told")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(takes_values=True, takes_command=True, command=[])
    parser.epilog = "exit code 0: proved; 1: not; each process is the whole program, so what it writes outside of its run folder, it writes each time"


def run(options: argparse.Namespace) -> int:
    """Run the program again and again, and compare."""
    from treadle.proof.command import ended_by_signals
    from treadle.proof.prove import Prover
    from treadle.proof.verdict import as_json, verdict

    command = _command(options)
    if command is None:
        return 2
    with ended_by_signals(), _folder(options.keep) as folder, _told() as told:
        prover = Prover(
            command, folder, steps=options.steps, kills=options.kills, seed=options.seed, timeout_s=options.timeout, told=told
        )  # fmt: skip
        proof = prover.prove()
    if options.json:
        from importlib.metadata import version

        print_json(as_json(proof, version("treadle")))
    else:
        print(verdict(proof))
        if options.keep:
            print(f"\nwhat the runs left: {options.keep}")
    return 0 if proof.proved else 1


def _command(options: argparse.Namespace) -> list[str] | None:
    """The words that start the program; None, and a message, where the command line has none or two."""
    if bool(options.target) == bool(options.command) or (options.command and (options.overrides or options.config)):
        given = "both" if options.target and options.command else "values without a file" if options.overrides or options.config else "neither"
        print(f"treadle prove: give a file with its values, or a command after --; got {given}\n  more: treadle prove --help", file=sys.stderr)
        return None
    if options.command:  # the word python means the one that this command runs in
        program, *arguments = options.command
        return [sys.executable if program in ("python", "python3") else program, *arguments]
    file = options.target if Path(options.target).is_file() else options.target.rpartition(":")[0]
    if not Path(file).is_file():
        raise UsageError(f"there is no file {options.target!r}")
    configs = [word for name in options.config for word in ("--config", name)]
    return [sys.executable, "-m", "treadle", "train", options.target, *options.overrides, *configs]


@contextmanager
def _folder(keep: str | None) -> Iterator[Path]:
    """Where the runs go: a new folder that stays, or one that goes whatever happens."""
    if keep is not None:
        place = Path(keep).absolute()
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise UsageError(f"--keep {keep!r} is there already; give a folder that is new or empty")
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--keep {keep!r} cannot be made: {error.strerror}") from None
        yield place
        return
    place = Path(tempfile.mkdtemp(prefix="treadle-prove-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _told() -> Iterator[Any]:
    """A bar with the processes that ended, of those there will be; nothing where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("undisturbed", total=None)

        def told(doing: str, done: int, of: int) -> None:
            bar.update(task, description=doing)
            if of:
                bar.update(task, completed=done, total=of)

        yield told


def _at_least(smallest: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"must be at least {smallest}, got {value}")
        return value

    number.__name__ = "whole number"
    return number
