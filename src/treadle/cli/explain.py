"""`treadle explain FILE[:function] [key=value ...]` and `treadle explain -- python my_loop.py ...`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.cli.experiment import load_experiment
from treadle.cli.program import add_program_arguments, at_least, program_words
from treadle.core.errors import UsageError
from treadle.log.tables import print_json, print_table

if TYPE_CHECKING:
    from treadle.explain.timeline import Row, Timeline

_FEW = 6
"""So many steps are all written down."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_program_arguments(parser, "explain")
    parser.add_argument("--epoch", type=at_least(1), default=1, metavar="N", help="which epoch, from 1; default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "an experiment is built and not trained; a command after -- runs up to its first run.steps(...), in a folder of its own that is "
        "removed at the end; what a handler or the body of a loop of your own does in itself is not told"
    )


def run(options: argparse.Namespace) -> int:
    """Say what will happen."""
    command = program_words("explain", options)
    if command is None:
        return 2
    timeline = _of_program(command, options.epoch) if options.command else _of_experiment(options)
    if options.json:
        print_json(timeline.to_json())
    else:
        _show(timeline)
    return 0


def _of_experiment(options: argparse.Namespace) -> Timeline:
    from treadle.explain.timeline import Timeline

    experiment = load_experiment(options.target)
    config = experiment.config(*options.config, overrides=options.overrides)
    return Timeline.of(experiment.trainer(config)._plan(), options.epoch)


def _of_program(command: list[str], epoch: int) -> Timeline:
    """That of the first run that a program makes.

    Raises:
        UsageError: it makes none.
    """
    from treadle.explain.timeline import Timeline
    from treadle.proof.command import ended_by_signals
    from treadle.proof.lives import Program
    from treadle.system.stage import Explained, Stage

    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="treadle-explain-") as scratch:
        found = Path(scratch, "timeline.json")
        life = Program(command, Path(scratch)).live(Stage(str(Path(scratch, "runs")), explain=Explained(str(found), epoch)))
        if not found.exists():
            raise UsageError(f"the program came to no run.steps(...) and no fit(), so nothing can be told; code {life.code}: {life.last_words}")
        return Timeline.from_json(json.loads(found.read_text(encoding="utf-8")))


def _show(timeline: Timeline) -> None:
    columns = ["when", "what", "condition", "at steps", "from"]
    rows = [[row.moment, row.what.rpartition(":")[2] if row.where else row.what, row.cadence, _at(row), row.where] for row in timeline.rows]
    print_table(timeline.title, columns, rows, text=columns[1:])
    for note in timeline.notes:
        print(note)
    if timeline.schedules:
        values = [[name, _number(first), _number(last), text] for name, first, last, text in timeline.schedules]
        print_table("schedules", ["value", "at the first step", "at the last step", "from"], values, text=["from"])


def _at(row: Row) -> str:
    """The steps of a row, and what else there is to say of when."""
    return "; ".join(filter(None, [_steps(row.steps), row.note]))


def _steps(steps: list[int] | None) -> str:
    """Steps in a few words.

    Example:
        >>> _steps([1, 2, 3, 4, 5, 6, 7]), _steps([100, 200]), _steps(list(range(10, 100, 10))), _steps([]), _steps(None)
        ('1 to 7 (each)', '100, 200', '10, 20, 30, ... 90 (9 times)', 'not in this epoch', '')
    """
    if steps is None:
        return ""
    if not steps:
        return "not in this epoch"
    if len(steps) > 2 and steps[-1] - steps[0] == len(steps) - 1:
        return f"{steps[0]:,} to {steps[-1]:,} (each)"
    if len(steps) <= _FEW:
        return ", ".join(f"{step:,}" for step in steps)
    return f"{steps[0]:,}, {steps[1]:,}, {steps[2]:,}, ... {steps[-1]:,} ({len(steps):,} times)"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
