"""`treadle rerun RUN`: make a run again from its record, and say whether it is the same."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.cli.show import run_folder
from treadle.core.errors import UsageError
from treadle.log.tables import print_json

if TYPE_CHECKING:
    from treadle.proof.again import Again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or an archive that treadle pack made")
    parser.add_argument("--at", metavar="COMMIT", help="make it from another commit, without the uncommitted changes")
    parser.add_argument("--repo", metavar="DIR", help="where the commit is to be found; the run's own repository unless told")
    parser.add_argument("--into", metavar="DIR", help="the new run's folder; RUN-again unless told")
    parser.add_argument("--anyway", action="store_true", help="go on where code, packages or files are not as they were; the verdict says so")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "it runs the code of the run; exit code 0: identical to the bit; 1: not, or it cannot be made again"


def run(options: argparse.Namespace) -> int:
    """Make it, compare, and judge."""
    from treadle.log.console import watching
    from treadle.proof.again import make_again
    from treadle.proof.command import ended_by_signals
    from treadle.provenance.unpack import unpack

    given = Path(options.run)
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="treadle-rerun-", ignore_cleanup_errors=True) as scratch:
        folder = unpack(given, Path(scratch, "unpacked")) if given.is_file() else run_folder(options.run)
        target = _target(options.into, given.with_suffix("") if given.is_file() else folder)
        repository = Path(options.repo) if options.repo else None
        if repository is not None and not repository.is_dir():
            raise UsageError(f"--repo: there is no folder {options.repo!r}")
        try:
            with watching("making the run again", "quiet" if options.json else "auto"):
                result = make_again(
                    folder, target, Path(scratch).resolve(), repository=repository, at=options.at, anyway=options.anyway, name=options.run
                )
        except OSError as error:
            raise UsageError(f"{options.run!r} cannot be made again: {error.filename or target}: {error.strerror or error}") from None
    if options.json:
        print_json(as_json(result, options))
    else:
        print(verdict(result, options.run, options.at))
    return 0 if result.identical else 1


def _target(asked: str | None, run: Path) -> Path:
    if asked is not None:
        if Path(asked).exists():
            raise UsageError(f"--into: {asked!r} is there already; give a new folder")
        return Path(asked)
    number, target = 1, run.with_name(f"{run.name}-again")
    while target.exists():
        number += 1
        target = run.with_name(f"{run.name}-again-{number}")
    return target


def verdict(result: Again, name: str, at: str | None) -> str:
    """What came of it, in words."""
    counts = {kind: number for kind, number in result.counts.items() if number and kind in ("journal rows", "checkpoints", "tensors", "state values")}
    compared = ", ".join(f"{number:,} {kind if number > 1 else kind[:-1]}" for kind, number in counts.items()) or "nothing"
    although = ", although not everything is as it was" if result.problems else ""
    if result.identical:
        lines = [f"{name}: identical to the bit{although}", f"  compared   {compared}"]
        lines += [f"  weights    sha256 {result.weights[:16]}"] if result.weights else []
    elif (first := result.difference) is not None:
        at_step = "" if first.step is None else f" at step {first.step}"
        lines = [f"{name}: not the same", f"  first      {first.where}{at_step}: {first.one} then, {first.other} now", f"  compared   {compared}"]
    else:
        why = "it could not be made again" if result.again is None else "there is nothing in it that could be compared"
        lines = [f"{name}: {why}", f"  it said    {result.last_words}"]
    if at:
        lines.append(f"  code       commit {result.commit[:12]}, without the run's uncommitted changes")
    if result.again is not None:
        ended = f"; the program ended with: {result.last_words}" if result.last_words else ""
        lines.append(f"  new run    {result.again}, in {result.seconds:.1f} s{ended}")
    lines += [f"  although   {problem}" for problem in result.problems]
    lines += [f"  note       {note}" for note in result.notes]
    return "\n".join(lines)


def as_json(result: Again, options: argparse.Namespace) -> dict[str, object]:
    """The same as JSON."""
    difference = None if result.difference is None else vars(result.difference)
    facts = {name: value for name, value in vars(result).items() if name not in ("run", "again", "difference")}
    return {"run": options.run, "at": options.at, "again": result.again and str(result.again), "difference": difference, **facts}
