"""`treadle prove FILE[:function] [key=value ...]` and `treadle prove -- python my_loop.py ...`."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from treadle.cli.program import add_program_arguments, at_least, program_words
from treadle.core.errors import UsageError
from treadle.log.tables import print_json

_SMALLEST = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_program_arguments(parser, "prove")
    parser.add_argument("--steps", type=at_least(_SMALLEST), default=30, help="steps after which each run is stopped; default %(default)s")
    parser.add_argument("--kills", type=at_least(0), default=5, help="how often the program is killed; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="what the places of the kills are drawn from; default %(default)s")
    parser.add_argument("--keep", metavar="DIR", help="a new folder for everything that the runs leave; else it is removed at the end")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="longest time for one process; for ever unless told")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "exit code 0: proved; 1: not; each process is the whole program, so what it writes outside of its run folder, it writes each time"


def run(options: argparse.Namespace) -> int:
    """Run the program again and again, and compare."""
    from treadle.proof.command import ended_by_signals
    from treadle.proof.prove import Prover
    from treadle.proof.verdict import as_json, verdict

    command = program_words("prove", options)
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
