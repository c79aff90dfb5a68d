"""`treadle profile FILE[:function] [key=value ...]` and `treadle profile -- python my_loop.py ...`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.cli.program import add_program_arguments, at_least, program_words
from treadle.core.errors import UsageError
from treadle.log.tables import print_json

if TYPE_CHECKING:
    from treadle.profile.measured import Measured
    from treadle.profile.verdict import Verdict

PICTURE = "timeline.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_program_arguments(parser, "profile")
    parser.add_argument("--steps", type=at_least(1), default=20, help="steps that are timed; default %(default)s")
    parser.add_argument("--warmup", type=at_least(1), default=3, help="steps before them that are not; default %(default)s")
    parser.add_argument("--device", help="where to compute, in place of machine.device")
    parser.add_argument("--out", metavar="DIR", default="profile", help="a folder for profile.json, trace.json and timeline.png; default %(default)s")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="longest time for the program; for ever unless told")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "the program runs in a folder of its own that is removed at the end, and is ended after these steps; trace.json is for ui.perfetto.dev"
    )


def run(options: argparse.Namespace) -> int:
    """Run the program for some steps, and say where its time went."""
    from treadle.profile.profiler import REPORT, TRACE
    from treadle.profile.verdict import judge
    from treadle.proof.command import ended_by_signals

    command = program_words("profile", options)
    if command is None:
        return 2
    out = _made(options.out)
    with ended_by_signals(), _scratch(out) as scratch:
        measured = _measured(command, options, scratch)
        os.replace(scratch / "found" / TRACE, out / TRACE)
    verdict = judge(measured)
    found = {"verdict": asdict(verdict), **asdict(measured)}
    (out / REPORT).write_text(json.dumps(found, indent=1), encoding="utf-8")
    drawn = _draw(measured, verdict, out / PICTURE)
    if options.json:
        print_json({**found, "out": str(out)})
        return 0
    from treadle.profile.tables import show

    show(measured, verdict)
    print(
        f"in {out}: profile.json, trace.json (open it in ui.perfetto.dev)"
        + (f", {PICTURE}" if drawn else f"; no {PICTURE}: pip install 'treadle[plot]'")
    )
    return 0


def _measured(command: list[str], options: argparse.Namespace, scratch: Path) -> Measured:
    """What came of the program.

    Raises:
        UsageError: it made no run that went on for long enough.
    """
    from treadle.profile.measured import Measured
    from treadle.profile.profiler import AFTER, REPORT
    from treadle.proof.lives import Program, runs_in
    from treadle.system.stage import Profiled, Stage

    found, runs = scratch / "found", scratch / "runs"
    wish = Profiled(str(found), options.steps, options.warmup, options.device)
    life = Program(command, scratch, options.timeout).live(Stage(str(runs), profile=wish))
    if (found / REPORT).exists():
        return Measured.load(found / REPORT)
    made = runs_in(runs)
    if not made:
        raise UsageError(f"the program made no treadle run, so there is nothing to profile; it ended with code {life.code}: {life.last_words}")
    longest = max(ended.steps for ended in made.values())
    if life.code:
        raise UsageError(f"the program ended with code {life.code} after step {longest}: {life.last_words}")
    raise UsageError(
        f"the run was over after {longest} steps; a profile needs {options.warmup} to warm up, {options.steps} to be timed and {AFTER} to be "
        "looked into: give it a longer duration, or fewer --steps"
    )


def _draw(measured: Measured, verdict: Verdict, path: Path) -> bool:
    """The picture; whether there is what draws it."""
    from treadle.log.figure import figure_class, save
    from treadle.profile.picture import draw

    try:
        figure_class()
    except UsageError:
        path.unlink(missing_ok=True)  # that of an earlier profile would be taken for this one's
        return False
    save(draw(measured, verdict), path)
    return True


def _made(name: str) -> Path:
    place = Path(name)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {name!r} cannot be made: {error.strerror}") from None
    return place


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder for what the program leaves, beside where the results go: on one file system; it goes whatever happens."""
    place = Path(tempfile.mkdtemp(prefix=".treadle-profile-", dir=out)).absolute()
    try:
        (place / "found").mkdir()
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
